//! The committed program as the kernel runs it: loaded by aya, frames by `BPF_PROG_TEST_RUN`.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, XskMap};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};
use socket2::{Domain, Socket, Type};
use veil_ebpf::{OBJECT, PROGRAM, Verdict, maps};
use veil_lab::require_privileges;

use crate::classify::classify;
use crate::frames::{CONFIG, damaged, local, table, truncated};

/// Values of `enum xdp_action`, linux/bpf.h.
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
/// The kernel refuses to run a program on less than an Ethernet header.
const SHORTEST: usize = 14;

struct Loaded {
    ebpf: Ebpf,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
}

impl Loaded {
    /// The program in the kernel, its maps as the kernel makes them.
    fn new() -> Result<Loaded> {
        let mut ebpf = Ebpf::load(OBJECT).context("loading the object")?;
        let program: &mut Xdp = ebpf.program_mut(PROGRAM).context("no program")?.try_into()?;
        program.load().context("the verifier's answer")?;
        let sockets = XskMap::try_from(ebpf.take_map(maps::XSKS).context("no XSKS")?)?;
        let counters = PerCpuArray::try_from(ebpf.take_map(maps::COUNTERS).context("no COUNTERS")?)?;
        Ok(Loaded { ebpf, sockets, counters })
    }

    /// The same, told whose packets to take.
    fn configured() -> Result<Loaded> {
        let mut loaded = Loaded::new()?;
        let mut config: Array<_, [u8; 8]> =
            loaded.ebpf.map_mut(maps::CONFIG).context("no CONFIG")?.try_into()?;
        config.set(0, CONFIG.to_bytes(), 0)?;
        let mut addresses: HashMap<_, [u8; 16], u8> =
            loaded.ebpf.map_mut(maps::LOCAL).context("no LOCAL")?.try_into()?;
        for key in local() {
            addresses.insert(key, 1, 0)?;
        }
        Ok(loaded)
    }

    /// An AF_XDP socket for queue 0, which test runs come by. It is in the map until it is dropped.
    fn socket(&mut self) -> Result<Socket> {
        let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None).context("an AF_XDP socket")?;
        self.sockets.set(0, socket.as_raw_fd(), 0).context("an AF_XDP socket in XSKS")?;
        Ok(socket)
    }

    fn counts(&self) -> Result<Vec<u64>> {
        (0..Verdict::ALL.len() as u32).map(|at| Ok(self.counters.get(&at, 0)?.iter().sum())).collect()
    }

    /// Runs the program on `frame` and checks everything it did against `verdict`.
    fn check(&self, what: &str, frame: &[u8], verdict: Verdict) -> Result<()> {
        let before = self.counts()?;
        let mut out = vec![0; frame.len() + 256];
        let (action, length) = self.run(frame, &mut out)?;
        let after = self.counts()?;
        let counted: Vec<&str> = Verdict::ALL
            .iter()
            .filter(|verdict| after[**verdict as usize] != before[**verdict as usize])
            .map(|verdict| verdict.name())
            .collect();
        ensure!(counted == [verdict.name()], "{what}: counted {counted:?}, not {}", verdict.name());
        ensure!(after.iter().sum::<u64>() == before.iter().sum::<u64>() + 1, "{what}: not counted once");
        let expected = if verdict == Verdict::Redirect { XDP_REDIRECT } else { XDP_PASS };
        ensure!(action == expected, "{what}: action {action}, not {expected}");
        ensure!(out[..length] == *frame, "{what}: the packet was changed");
        Ok(())
    }

    /// The program's action on `frame`, and how much of `out` is the packet after it.
    fn run(&self, frame: &[u8], out: &mut [u8]) -> Result<(u32, usize)> {
        let program: &Xdp = self.ebpf.program(PROGRAM).context("no program")?.try_into()?;
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(out), ..TestRunOptions::default() };
        let ran = program.test_run(options).context("BPF_PROG_TEST_RUN")?;
        Ok((ran.return_value, ran.data_size_out as usize))
    }
}

#[test]
fn the_loaded_program_gives_every_verdict_of_the_table() -> Result<()> {
    if !require_privileges("the_loaded_program_gives_every_verdict_of_the_table") {
        return Ok(());
    }
    let mut loaded = Loaded::configured()?;
    let _socket = loaded.socket()?;
    for (what, frame, verdict) in table() {
        loaded.check(what, &frame, verdict)?;
    }
    for frame in truncated().filter(|frame| frame.len() >= SHORTEST) {
        loaded.check(&format!("cut to {} bytes", frame.len()), &frame, Verdict::Malformed)?;
    }
    Ok(())
}

#[test]
fn the_loaded_program_agrees_with_classify_on_damaged_frames() -> Result<()> {
    if !require_privileges("the_loaded_program_agrees_with_classify_on_damaged_frames") {
        return Ok(());
    }
    let mut loaded = Loaded::configured()?;
    let _socket = loaded.socket()?;
    let mut runner = TestRunner::new(Config::default());
    let mut redirected = 0;
    for _ in 0..2000 {
        let frame = damaged().new_tree(&mut runner).map_err(anyhow::Error::msg)?.current();
        let verdict = classify(&frame);
        redirected += u32::from(verdict == Verdict::Redirect);
        loaded.check(&format!("{frame:02x?}"), &frame, verdict)?;
    }
    ensure!(redirected > 0, "none of the frames was good");
    Ok(())
}

#[test]
fn a_queue_without_a_socket_passes_what_is_veils() -> Result<()> {
    if !require_privileges("a_queue_without_a_socket_passes_what_is_veils") {
        return Ok(());
    }
    let mut loaded = Loaded::configured()?;
    let socket = loaded.socket()?;
    let good = || table().into_iter().filter(|(_, _, verdict)| *verdict == Verdict::Redirect);
    for (what, frame, verdict) in good() {
        loaded.check(what, &frame, verdict)?;
    }
    // A socket leaves the map when it closes, as when its process is killed.
    drop(socket);
    for (what, frame, _) in good() {
        loaded.check(what, &frame, Verdict::NoSocket)?;
    }
    Ok(())
}

#[test]
fn a_program_just_loaded_passes_everything() -> Result<()> {
    if !require_privileges("a_program_just_loaded_passes_everything") {
        return Ok(());
    }
    let mut loaded = Loaded::new()?;
    let _socket = loaded.socket()?;
    for (what, frame, _) in table() {
        loaded.check(what, &frame, Verdict::NotConfigured)?;
    }
    Ok(())
}
