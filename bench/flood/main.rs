//! `veil-flood`: initiations from ten thousand addresses that are nobody's, each with a good envelope and a good Noise
//! message by a key that the server does not know. `cargo xtask bench` runs it beside a transfer.
//!
//! ```text
//! veil-flood SERVER-KEY ADDRESS:PORT RATE    says "ready", and sends so many a second until its input is closed
//! ```
//!
//! At its end it prints one line: datagrams, and the nanoseconds they took.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use veil_bench::{Seeded, watch_input};
use veil_lab::Spoofer;
use veil_proto::crypto::{NetworkSecret, Psk, PublicKey, Suites, generate_x25519_keypair};
use veil_proto::handshake::{Attempt, HandshakeInitiator, Identity};
use veil_proto::{Path, PeerId, Tai64n};

/// Made before the flood, and sent over and over: to make one costs more than to refuse it.
const INITIATIONS: u32 = 4096;
const SOURCES: u32 = 10_000;
/// The first of them, in a network set aside for such tests (RFC 2544).
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const SOURCE_PORT: u16 = 1000;
const PAUSE: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok((sent, elapsed)) => {
            println!("{sent} {}", elapsed.as_nanos());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<(u64, Duration)> {
    let [key, to, rate] = words else { bail!("usage: SERVER-KEY ADDRESS:PORT RATE") };
    let key = PublicKey::from_base64(key).context("the server's public key")?;
    let to: SocketAddrV4 = to.parse().with_context(|| format!("cannot read {to:?}"))?;
    let rate: f64 = rate.parse().with_context(|| format!("cannot read {rate:?}"))?;
    flood(&initiations(&key, to)?, to, rate)
}

fn initiations(server: &PublicKey, to: SocketAddrV4) -> Result<Vec<Vec<u8>>> {
    let mut entropy = Seeded(5);
    let nobody = Identity::new(generate_x25519_keypair(&mut entropy), NetworkSecret::default());
    let (psk, path) = (Psk::from_bytes([0; 32]), Path::to(to.into()));
    let mut timestamp = Tai64n::from_unix_nanos(0);
    let one = |number: u32| {
        timestamp = timestamp.next();
        let attempt = Attempt {
            peer: PeerId(0),
            remote: server,
            psk: &psk,
            suites: Suites::supported(),
            timestamp,
            local_index: number,
            path,
            number: number.into(),
            cookie: None,
        };
        let (_, datagram) =
            HandshakeInitiator::start(&nobody, attempt, &mut entropy).ok().context("no good public key")?;
        Ok(datagram)
    };
    (1..=INITIATIONS).map(one).collect()
}

fn flood(datagrams: &[Vec<u8>], to: SocketAddrV4, rate: f64) -> Result<(u64, Duration)> {
    let mut wire = Spoofer::new()?;
    let over = watch_input();
    println!("ready");
    let (start, mut sent) = (Instant::now(), 0_u64);
    let mut datagrams = datagrams.iter().cycle();
    while !over.load(Relaxed) {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        for datagram in datagrams.by_ref().take(due.saturating_sub(sent) as usize) {
            let from = Ipv4Addr::from_bits(FIRST.to_bits() + (sent % u64::from(SOURCES)) as u32);
            wire.send(SocketAddrV4::new(from, SOURCE_PORT), to, datagram)
                .context("sending from a borrowed address")?;
            sent += 1;
        }
        thread::sleep(PAUSE);
    }
    Ok((sent, start.elapsed()))
}
