//! The program loaded by libbpf: another loader must read the object alike, and find the same verdicts.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, Object, ObjectBuilder, ProgramInput};
use socket2::Socket;
use veil_ebpf::{PROGRAM, Verdict, maps};
use veil_lab::require_privileges;

use crate::frames::{CONFIG, local};
use crate::verdicts::{
    Loaded, agrees_with_classify_on_damaged_frames, gives_every_verdict_of_the_table, object,
    passes_everything_when_just_loaded, passes_what_is_veils_without_a_socket,
};

struct ByLibbpf(Object);

impl ByLibbpf {
    fn map(&self, name: &str) -> Result<impl MapCore> {
        self.0.maps().find(|map| map.name() == name).with_context(|| format!("no {name}"))
    }

    fn set(&self, map: &str, key: &[u8], value: &[u8]) -> Result<()> {
        self.map(map)?.update(key, value, MapFlags::ANY).with_context(|| format!("an entry of {map}"))
    }
}

impl Loaded for ByLibbpf {
    fn new() -> Result<ByLibbpf> {
        let open = ObjectBuilder::default().open_memory(&object()?).context("opening the object")?;
        Ok(ByLibbpf(open.load().context("loading the object")?))
    }

    fn configure(&mut self) -> Result<()> {
        self.set(maps::CONFIG, &0u32.to_ne_bytes(), &CONFIG.to_bytes())?;
        local().into_iter().try_for_each(|key| self.set(maps::LOCAL, &key, &[1]))
    }

    fn register(&mut self, socket: &Socket) -> Result<()> {
        self.set(maps::XSKS, &0u32.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
    }

    fn counts(&self) -> Result<Vec<u64>> {
        let counters = self.map(maps::COUNTERS)?;
        let count = |at: u32| -> Result<u64> {
            let values = counters.lookup_percpu(&at.to_ne_bytes(), MapFlags::ANY)?.context("no counter")?;
            let value = |bytes: Vec<u8>| bytes.try_into().map(u64::from_ne_bytes).ok();
            values.into_iter().map(value).sum::<Option<u64>>().context("a counter has eight bytes")
        };
        (0..Verdict::ALL.len() as u32).map(count).collect()
    }

    fn run(&mut self, frame: &[u8], out: &mut [u8]) -> Result<(u32, usize)> {
        let program = self.0.progs_mut().find(|program| program.name() == PROGRAM).context("no program")?;
        let input = ProgramInput { data_in: Some(frame), data_out: Some(out), ..ProgramInput::default() };
        let ran = program.test_run(input).context("BPF_PROG_TEST_RUN")?;
        Ok((ran.return_value, ran.data.map_or(0, |data| data.len())))
    }
}

#[test]
fn libbpf_gets_every_verdict_of_the_table() -> Result<()> {
    match require_privileges("libbpf_gets_every_verdict_of_the_table") {
        true => gives_every_verdict_of_the_table::<ByLibbpf>(),
        false => Ok(()),
    }
}

#[test]
fn libbpf_gets_classifys_verdicts_on_damaged_frames() -> Result<()> {
    match require_privileges("libbpf_gets_classifys_verdicts_on_damaged_frames") {
        true => agrees_with_classify_on_damaged_frames::<ByLibbpf>(),
        false => Ok(()),
    }
}

#[test]
fn libbpf_sees_a_queue_without_a_socket_pass() -> Result<()> {
    match require_privileges("libbpf_sees_a_queue_without_a_socket_pass") {
        true => passes_what_is_veils_without_a_socket::<ByLibbpf>(),
        false => Ok(()),
    }
}

#[test]
fn libbpf_sees_a_program_just_loaded_pass_everything() -> Result<()> {
    match require_privileges("libbpf_sees_a_program_just_loaded_pass_everything") {
        true => passes_everything_when_just_loaded::<ByLibbpf>(),
        false => Ok(()),
    }
}
