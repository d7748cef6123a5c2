//! What any loader must find: the table's verdicts, each counted once, packets unchanged.

use std::borrow::Cow;

use anyhow::{Context, Result, ensure};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};
use socket2::{Domain, Socket, Type};
use veil_ebpf::{OBJECT, Verdict};

use crate::classify::classify;
use crate::frames::{damaged, table, truncated};

/// Names a file to test instead of the committed object: the one that CI has just built.
const OTHER_OBJECT: &str = "VEIL_STEER_OBJECT";

/// Values of `enum xdp_action`, linux/bpf.h.
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
/// The kernel refuses to run a program on less than an Ethernet header.
const SHORTEST: usize = 14;

/// The object under test.
pub fn object() -> Result<Cow<'static, [u8]>> {
    match std::env::var_os(OTHER_OBJECT) {
        None => Ok(OBJECT.into()),
        Some(path) => Ok(std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?.into()),
    }
}

/// The program in the kernel.
pub trait Loaded: Sized {
    /// Its maps as the kernel makes them.
    fn new() -> Result<Self>;
    /// Tells it whose packets to take.
    fn configure(&mut self) -> Result<()>;
    /// Puts a socket into the map for queue 0, which test runs come by. It is there until it is closed.
    fn register(&mut self, socket: &Socket) -> Result<()>;
    /// Packets by verdict.
    fn counts(&self) -> Result<Vec<u64>>;
    /// The program's action on `frame`, and how much of `out` is the packet after it.
    fn run(&mut self, frame: &[u8], out: &mut [u8]) -> Result<(u32, usize)>;
}

fn socket(loaded: &mut impl Loaded) -> Result<Socket> {
    let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None).context("an AF_XDP socket")?;
    loaded.register(&socket)?;
    Ok(socket)
}

/// Runs the program on `frame` and checks everything it did against `verdict`.
fn check(loaded: &mut impl Loaded, what: &str, frame: &[u8], verdict: Verdict) -> Result<()> {
    let before = loaded.counts()?;
    let mut out = vec![0; frame.len() + 256];
    let (action, length) = loaded.run(frame, &mut out)?;
    let after = loaded.counts()?;
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

pub fn gives_every_verdict_of_the_table<L: Loaded>() -> Result<()> {
    let mut loaded = L::new()?;
    loaded.configure()?;
    let _socket = socket(&mut loaded)?;
    for (what, frame, verdict) in table() {
        check(&mut loaded, what, &frame, verdict)?;
    }
    for frame in truncated().filter(|frame| frame.len() >= SHORTEST) {
        check(&mut loaded, &format!("cut to {} bytes", frame.len()), &frame, Verdict::Malformed)?;
    }
    Ok(())
}

pub fn agrees_with_classify_on_damaged_frames<L: Loaded>() -> Result<()> {
    let mut loaded = L::new()?;
    loaded.configure()?;
    let _socket = socket(&mut loaded)?;
    let mut runner = TestRunner::new(Config::default());
    let mut redirected = 0;
    for _ in 0..2000 {
        let frame = damaged().new_tree(&mut runner).map_err(anyhow::Error::msg)?.current();
        let verdict = classify(&frame);
        redirected += u32::from(verdict == Verdict::Redirect);
        check(&mut loaded, &format!("{frame:02x?}"), &frame, verdict)?;
    }
    ensure!(redirected > 0, "none of the frames was good");
    Ok(())
}

pub fn passes_what_is_veils_without_a_socket<L: Loaded>() -> Result<()> {
    let mut loaded = L::new()?;
    loaded.configure()?;
    let socket = socket(&mut loaded)?;
    let good = || table().into_iter().filter(|(_, _, verdict)| *verdict == Verdict::Redirect);
    for (what, frame, verdict) in good() {
        check(&mut loaded, what, &frame, verdict)?;
    }
    // A socket leaves the map when it closes, as when its process is killed.
    drop(socket);
    for (what, frame, _) in good() {
        check(&mut loaded, what, &frame, Verdict::NoSocket)?;
    }
    Ok(())
}

pub fn passes_everything_when_just_loaded<L: Loaded>() -> Result<()> {
    let mut loaded = L::new()?;
    let _socket = socket(&mut loaded)?;
    for (what, frame, _) in table() {
        check(&mut loaded, what, &frame, Verdict::NotConfigured)?;
    }
    Ok(())
}
