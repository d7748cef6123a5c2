//! The program loaded by aya, frames run by `BPF_PROG_TEST_RUN`.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, XskMap};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use socket2::Socket;
use veil_ebpf::{PROGRAM, Verdict, maps};
use veil_lab::require_privileges;

use crate::frames::{CONFIG, local};
use crate::verdicts::{
    Loaded, agrees_with_classify_on_damaged_frames, gives_every_verdict_of_the_table, object,
    passes_everything_when_just_loaded, passes_what_is_veils_without_a_socket,
};

/// By aya, as `veil` does it.
pub struct ByAya {
    ebpf: Ebpf,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
}

impl Loaded for ByAya {
    fn new() -> Result<ByAya> {
        let mut ebpf = Ebpf::load(&object()?).context("loading the object")?;
        let program: &mut Xdp = ebpf.program_mut(PROGRAM).context("no program")?.try_into()?;
        program.load().context("the verifier's answer")?;
        let sockets = XskMap::try_from(ebpf.take_map(maps::XSKS).context("no XSKS")?)?;
        let counters = PerCpuArray::try_from(ebpf.take_map(maps::COUNTERS).context("no COUNTERS")?)?;
        Ok(ByAya { ebpf, sockets, counters })
    }

    fn configure(&mut self) -> Result<()> {
        let mut config: Array<_, [u8; size_of::<veil_ebpf::SteeringConfig>()]> =
            self.ebpf.map_mut(maps::CONFIG).context("no CONFIG")?.try_into()?;
        config.set(0, CONFIG.to_bytes(), 0)?;
        let mut addresses: HashMap<_, [u8; 16], u8> =
            self.ebpf.map_mut(maps::LOCAL).context("no LOCAL")?.try_into()?;
        local().into_iter().try_for_each(|key| addresses.insert(key, 1, 0)).context("an address in LOCAL")
    }

    fn register(&mut self, socket: &Socket) -> Result<()> {
        self.sockets.set(0, socket.as_raw_fd(), 0).context("an AF_XDP socket in XSKS")
    }

    fn counts(&self) -> Result<Vec<u64>> {
        (0..Verdict::ALL.len() as u32).map(|at| Ok(self.counters.get(&at, 0)?.iter().sum())).collect()
    }

    fn run(&mut self, frame: &[u8], out: &mut [u8]) -> Result<(u32, usize)> {
        let program: &Xdp = self.ebpf.program(PROGRAM).context("no program")?.try_into()?;
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(out), ..TestRunOptions::default() };
        let ran = program.test_run(options).context("BPF_PROG_TEST_RUN")?;
        Ok((ran.return_value, ran.data_size_out as usize))
    }
}

#[test]
fn the_loaded_program_gives_every_verdict_of_the_table() -> Result<()> {
    match require_privileges("the_loaded_program_gives_every_verdict_of_the_table") {
        true => gives_every_verdict_of_the_table::<ByAya>(),
        false => Ok(()),
    }
}

#[test]
fn the_loaded_program_agrees_with_classify_on_damaged_frames() -> Result<()> {
    match require_privileges("the_loaded_program_agrees_with_classify_on_damaged_frames") {
        true => agrees_with_classify_on_damaged_frames::<ByAya>(),
        false => Ok(()),
    }
}

#[test]
fn a_queue_without_a_socket_passes_what_is_veils() -> Result<()> {
    match require_privileges("a_queue_without_a_socket_passes_what_is_veils") {
        true => passes_what_is_veils_without_a_socket::<ByAya>(),
        false => Ok(()),
    }
}

#[test]
fn a_program_just_loaded_passes_everything() -> Result<()> {
    match require_privileges("a_program_just_loaded_passes_everything") {
        true => passes_everything_when_just_loaded::<ByAya>(),
        false => Ok(()),
    }
}
