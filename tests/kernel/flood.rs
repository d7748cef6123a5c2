//! Twenty thousand initiations a second from ten thousand addresses that are nobody's, against a real daemon: a known
//! peer gets in all the same, nobody is sent more than was sent in his name, and memory stays flat.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use veil_lab::{Daemon, Ear, Heard, Lab, Namespace, Node, Spoofer, ping, require_privileges};
use veil_proto::Entropy;
use veil_proto::crypto::{HeaderKey, NetworkSecret, PublicKey};
use veil_proto::handshake::envelope::EnvelopeKey;
use veil_proto::handshake::message::{
    Header, MAX_HANDSHAKE, MIN_INITIATION, TYPE_COOKIE, TYPE_INITIATION, seal_initiation,
};
use veil_tests::{assert_conserved, number, show};
use veil_userspace::host::SystemEntropy;

use crate::tunnel::PATIENCE;

const RATE: u64 = 20_000;
const SOURCES: u32 = 10_000;
/// The first of them, in a network set aside for such tests (RFC 2544).
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const NETWORK: &str = "198.18.0.0/15";
const SOURCE_PORT: u16 = 1000;
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 1, 1), 4433);
/// Datagrams the server receives before its memory is measured, and those between the client's coming and the second time.
const WARM: u64 = 20_000;
const MEASURED: u64 = 150_000;
/// The smallest piece of memory kept for each of them would be more, at 64 bytes 9.2 MiB. There is room for the client's session, and
/// for an allocator that gives back late, in pages of any size.
const GROWTH: u64 = 8 << 20;

#[test]
fn a_flood_that_knows_the_servers_key_keeps_no_known_peer_out() -> Result<()> {
    if !require_privileges("a_flood_that_knows_the_servers_key_keeps_no_known_peer_out") {
        return Ok(());
    }
    let (flooded, outcome) = survive("flood-key", Knows::Key)?;
    let counters = &flooded["counters"];
    ensure!(outcome.replies > 1000, "only {} replies were heard", outcome.replies);
    ensure!(number(counters, "cookies_sent")? >= outcome.replies, "{flooded:#}");
    ensure!(number(counters, "initiations_under_load")? > WARM, "{flooded:#}");
    ensure!(number(&flooded["drops"], "no-cookie")? > WARM, "{flooded:#}");
    // Nobody who answers to no cookie makes the server work on curves once it is under load.
    let worked_on = flooded["drops"]["bad-noise"].as_u64().unwrap_or(0);
    ensure!(worked_on < WARM / 10, "{worked_on} of the flood led to curve work");
    Ok(())
}

#[test]
fn a_flood_that_does_not_know_the_servers_key_gets_no_answer_at_all() -> Result<()> {
    if !require_privileges("a_flood_that_does_not_know_the_servers_key_gets_no_answer_at_all") {
        return Ok(());
    }
    let (flooded, outcome) = survive("flood-blind", Knows::Nothing)?;
    let counters = &flooded["counters"];
    ensure!(outcome.replies == 0, "{} replies", outcome.replies);
    ensure!(number(counters, "cookies_sent")? == 0, "{flooded:#}");
    ensure!(number(counters, "initiations_under_load")? == 0, "{flooded:#}");
    ensure!(number(&flooded["drops"], "bad-header")? > WARM, "{flooded:#}");
    Ok(())
}

/// A flood from its beginning to its end, in the middle of which a client that the server knows comes up and wants in.
/// What the server shows afterwards, and what the attacker heard.
fn survive(title: &str, knows: Knows) -> Result<(Value, Outcome)> {
    let scene = Scene::new(title)?;
    let server = scene.server.start()?;
    let flood = Flood::start(&scene, knows)?.until_received(&server, WARM)?;
    let before = resident(&server)?;

    let client = scene.client.start()?;
    let took = ping(&scene.client.namespace, "10.8.0.2", PATIENCE)?;
    let cookies = number(&show(&client)?["counters"], "cookies_received")?;
    // The design wants two seconds; a busy machine may need more, so it is printed, not asserted.
    println!("{title}: first reply {:.3} s after the first packet, {cookies} cookies", took.as_secs_f64());

    // It was not over by then.
    let flood = flood.until_received(&server, received(&server)? + MEASURED)?;
    let after = resident(&server)?;
    println!("{title}: {} KiB resident, then {} KiB", before >> 10, after >> 10);
    ensure!(after < before + GROWTH, "the server grew from {before} to {after} bytes");
    ping(&scene.client.namespace, "10.8.0.2", PATIENCE)?;

    let outcome = flood.stop()?;
    println!("{title}: {outcome:?}");
    assert_conserved(&client)?;
    Ok((assert_conserved(&server)?, outcome))
}

/// A server with two wires: one to a client it knows, one to the attacker, behind whom it believes the flood's sources.
struct Scene {
    server: Node,
    client: Node,
    attacker: Namespace,
    // Last, so that what runs in it is dropped first.
    _lab: Lab,
}

impl Scene {
    fn new(title: &str) -> Result<Scene> {
        let lab = Lab::new(title)?;
        let mut server = lab.node("s", &["10.8.0.2/24"])?;
        let mut client = lab.node("c", &["10.8.0.1/24"])?;
        let attacker = lab.namespace("attacker")?;
        server.add_peer(&client, None);
        client.add_peer(&server, Some("10.99.2.1:4433"));
        for (wire, other, net) in [("eth1", &attacker, 1), ("eth2", &client.namespace, 2)] {
            lab.veth(&server.namespace, wire, other, "eth0")?;
            server.namespace.address(wire, &format!("10.99.{net}.1/24"))?;
            other.address("eth0", &format!("10.99.{net}.2/24"))?;
        }
        server.namespace.exec(["ip", "route", "add", NETWORK, "via", "10.99.1.2"])?;
        Ok(Scene { server, client, attacker, _lab: lab })
    }
}

/// What the attacker knows.
#[derive(Clone, Copy)]
enum Knows {
    /// The server's public key: all of an initiation is in order but Noise inside.
    Key,
    /// Nothing: random bytes, as long as an initiation may be.
    Nothing,
}

/// What came of a flood.
#[derive(Debug, Default)]
struct Outcome {
    sent: u64,
    sent_bytes: u64,
    replies: u64,
    reply_bytes: u64,
    seconds: f64,
}

/// A thread that floods until this is gone.
struct Flood {
    stop: StopOnDrop,
    thread: JoinHandle<Result<Outcome>>,
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Flood {
    fn start(scene: &Scene, knows: Knows) -> Result<Flood> {
        let key = PublicKey::from_base64(&scene.server.keys.public)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = scene.attacker.spawn(move || Attacker::new(&key, knows)?.flood(&stopped));
        Ok(Flood { stop: StopOnDrop(stop), thread })
    }

    /// Goes on until the server has received so many datagrams.
    fn until_received(self, server: &Daemon, datagrams: u64) -> Result<Flood> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let received = received(server)?;
            if received >= datagrams {
                return Ok(self);
            }
            // However slow the machine: it is over only when nothing comes any more.
            if received > last {
                (last, since) = (received, Instant::now());
            }
            if self.thread.is_finished() {
                bail!("the flood ended by itself: {:?}", self.stop()?);
            }
            ensure!(since.elapsed() < PATIENCE, "after {received} datagrams no more came");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(self) -> Result<Outcome> {
        drop(self.stop);
        self.thread.join().expect("flooding does not panic")
    }
}

struct Attacker {
    wire: Spoofer,
    ear: Ear,
    knows: Knows,
    envelope: EnvelopeKey,
    header: HeaderKey,
    entropy: SystemEntropy,
    /// The length of every datagram sent; its place is its number, and the sender index it names.
    lengths: Vec<u16>,
    outcome: Outcome,
}

impl Attacker {
    fn new(server: &PublicKey, knows: Knows) -> Result<Attacker> {
        let secret = NetworkSecret::default();
        Ok(Attacker {
            wire: Spoofer::new()?,
            ear: Ear::new()?,
            knows,
            envelope: EnvelopeKey::derive(server, &secret),
            header: HeaderKey::derive(server, &secret),
            entropy: SystemEntropy::new(),
            lengths: Vec::new(),
            outcome: Outcome::default(),
        })
    }

    fn flood(mut self, stop: &AtomicBool) -> Result<Outcome> {
        let start = Instant::now();
        while !stop.load(Relaxed) {
            let due = (start.elapsed().as_secs_f64() * RATE as f64) as u64;
            while self.outcome.sent < due && !stop.load(Relaxed) {
                self.send()?;
                self.listen()?;
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.listen()?;
        self.outcome.seconds = start.elapsed().as_secs_f64();
        Ok(self.outcome)
    }

    fn send(&mut self) -> Result<()> {
        let number = self.outcome.sent as u32;
        let datagram = match self.knows {
            Knows::Key => {
                // Noise message 1 of an initiation without TLVs is so long.
                let mut noise = [0; 113];
                self.entropy.fill(&mut noise);
                seal_initiation(&self.envelope, &self.header, number, &noise, None, &mut self.entropy)
            }
            Knows::Nothing => {
                let lengths = MAX_HANDSHAKE - MIN_INITIATION + 1;
                let mut bytes = vec![0; MIN_INITIATION + self.entropy.next_u32() as usize % lengths];
                self.entropy.fill(&mut bytes);
                bytes
            }
        };
        self.wire.send(source(number), SERVER, &datagram).context("sending from a borrowed address")?;
        self.lengths.push(datagram.len() as u16);
        self.outcome.sent += 1;
        self.outcome.sent_bytes += datagram.len() as u64;
        Ok(())
    }

    /// Looks at all that has come back by now.
    fn listen(&mut self) -> Result<()> {
        while let Some(heard) = self.ear.hear()? {
            let length = check(&heard, &self.header, &self.lengths)?;
            self.outcome.replies += 1;
            self.outcome.reply_bytes += length;
        }
        Ok(())
    }
}

/// Where datagram `number` pretends to come from.
fn source(number: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from_bits(FIRST.to_bits() + number % SOURCES), SOURCE_PORT)
}

/// That what was heard is a cookie reply to one of the initiations, no longer than it and sent to where that came from.
/// Its length.
fn check(heard: &Heard<'_>, key: &HeaderKey, lengths: &[u16]) -> Result<u64> {
    let Some((from, to, payload)) = heard.udp() else { bail!("the server answered by {heard:?}") };
    ensure!(SocketAddrV4::new(heard.from, from) == SERVER, "{heard:?}");
    // A cookie reply is masked as what comes to the server is.
    let mut unmasked = payload.to_vec();
    key.mask(&mut unmasked);
    let header = Header::parse(&unmasked).ok().context("an answer without a header")?;
    ensure!(header.kind == TYPE_COOKIE, "an answer of kind {}, not to kind {TYPE_INITIATION}", header.kind);
    let length = *lengths.get(header.index as usize).context("an answer to no initiation")?;
    ensure!(payload.len() <= length.into(), "{} bytes answer {length}", payload.len());
    ensure!(SocketAddrV4::new(heard.to, to) == source(header.index), "{heard:?} answers somebody else");
    Ok(payload.len() as u64)
}

fn received(daemon: &Daemon) -> Result<u64> {
    number(&show(daemon)?["counters"], "datagrams_received")
}

/// A daemon's resident memory in bytes (proc_pid_status(5)).
fn resident(daemon: &Daemon) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(kib.context("no VmRSS")?.parse::<u64>()? << 10)
}
