//! `veil-raw-xdp`: what AF_XDP alone carries between two processes, native mode, copying. `cargo xtask bench` runs one end
//! in each namespace, so that a tunnel over AF_XDP is compared with what it stands on.
//!
//! ```text
//! veil-raw-xdp receive INTERFACE ADDRESS:PORT            says "ready", and counts until its input is closed
//! veil-raw-xdp send INTERFACE FROM TO MAC BYTES SECONDS  from and to ADDRESS:PORT, BYTES of UDP payload
//! ```
//!
//! Each prints one line at its end: packets, and the nanoseconds between its first and its last.

mod receive;
mod send;

use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use veil_xdp::{BindMode, XskSocket};

/// The queue; a veth pair has one unless it was made with more.
const QUEUE: u32 = 0;
/// Packets that go over a ring at once.
const BURST: usize = 64;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(moved) => {
            println!("{} {}", moved.packets, moved.elapsed().as_nanos());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<Moved> {
    match words {
        ["receive", interface, at] => receive::receive(interface, parse(at)?),
        ["send", interface, from, to, to_mac, bytes, seconds] => send::send(&send::Stream {
            interface,
            from: parse(from)?,
            to: parse(to)?,
            to_mac: mac(to_mac)?,
            payload: parse(bytes)?,
            length: Duration::from_secs_f64(parse(seconds)?),
        }),
        _ => bail!("usage: receive INTERFACE ADDRESS:PORT | send INTERFACE FROM TO MAC BYTES SECONDS"),
    }
}

/// Packets, and when the first and the last of them were seen.
#[derive(Default)]
struct Moved {
    packets: u64,
    span: Option<(Instant, Instant)>,
}

impl Moved {
    fn add(&mut self, packets: usize) {
        if packets > 0 {
            let now = Instant::now();
            self.packets += packets as u64;
            self.span = Some((self.span.map_or(now, |(first, _)| first), now));
        }
    }

    fn elapsed(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(first, last)| last - first)
    }
}

/// The socket, if it is what its name says.
fn checked(socket: XskSocket) -> Result<XskSocket> {
    ensure!(
        socket.mode == BindMode::Copy,
        "the kernel gave a {} socket, not a copying one",
        socket.mode.name()
    );
    Ok(socket)
}

/// The interface's own Ethernet address.
fn mac_of(interface: &str) -> Result<[u8; 6]> {
    let path = format!("/sys/class/net/{interface}/address");
    mac(std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?.trim())
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?.try_into().ok().with_context(|| format!("{text:?} is no Ethernet address"))
}

fn parse<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(word: &str) -> Result<T> {
    word.parse().with_context(|| format!("cannot read {word:?}"))
}
