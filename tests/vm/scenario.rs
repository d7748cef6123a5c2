//! What is played on one cable: first what the NICs can do without VEIL, then a tunnel between two daemons.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use veil_lab::{Daemon, Lab, Namespace, Node, Transfer, ping};
use veil_tests::{assert_conserved, show};

use crate::probe::{self, Bound, Rung};
use crate::{machine, say};

/// An emulated processor is slow, and a network card takes seconds to find its link.
const PATIENCE: Duration = Duration::from_secs(60);
const TRANSFER: u64 = 4 << 20;
/// Emulated NICs lose what comes too fast: each burst waits for the last one to come home.
const BURSTS: u32 = 50;
const BURST: u32 = 16;
const PAYLOAD: usize = 1200;
/// What a daemon logs when it ends and a frame did not come home.
const FRAMES_MISSING: &str = "frames missing";

/// Plays everything on the two NICs with these addresses, which can do `best`.
pub fn play(best: Rung, macs: &[String; 2], link: &str) -> Result<()> {
    let interfaces = [machine::interface(&macs[0])?, machine::interface(&macs[1])?];
    let probes = [probe(&interfaces[0], best)?, probe(&interfaces[1], best)?];
    let lab = Lab::new("vm")?;
    let igb = machine::driver(&interfaces[0])? == "igb";
    let (mut left, mut right) = two_hosts(&lab, &interfaces)?;
    for node in [&mut left, &mut right] {
        // QEMU's igb sends what is to be cut into datagrams as one datagram in fragments.
        node.config += if igb { "\n[link]\ngso = false\n" } else { "" };
    }
    // Still bound when the NICs moved, because moving unbinds at once; a closed socket leaves its queue some time later.
    drop(probes);
    let daemons = [start(&left, link)?, start(&right, link)?];
    for (daemon, node) in daemons.iter().zip([&left, &right]) {
        check_rung(daemon, link, best).with_context(|| node.interface.clone())?;
    }
    traffic(&left, &right).map_err(|error| anyhow!("{error:#}\n{}", evidence(&daemons, [&left, &right])))?;
    for (daemon, node) in daemons.iter().zip([&left, &right]) {
        assert_conserved(daemon)
            .with_context(|| format!("{}; it said:\n{}", node.interface, daemon.log()))?;
        // Whatever happened meanwhile, it did not step down.
        check_rung(daemon, link, best).with_context(|| node.interface.clone())?;
    }
    for daemon in daemons {
        stop(daemon)?;
    }
    Ok(())
}

/// What each side knows, for a reader who was not there.
fn evidence(daemons: &[Daemon; 2], nodes: [&Node; 2]) -> String {
    let mut told = String::new();
    for (daemon, node) in daemons.iter().zip(nodes) {
        let link = node.namespace.exec(["ip", "-s", "-s", "link", "show", "eth0"]);
        let shown = daemon.show(&[]);
        for part in [link, shown] {
            told += &part.unwrap_or_else(|error| format!("{error:#}\n"));
        }
        told += &daemon.log();
    }
    told
}

/// The first check: what the kernel gives a bare socket on this NIC. The socket is returned bound.
fn probe(interface: &str, best: Rung) -> Result<Bound> {
    let driver = machine::driver(interface)?;
    if driver == "igb" {
        probe::one_queue(interface)?;
    }
    veil_lab::run(std::process::Command::new("ip").args(["link", "set", "dev", interface, "up"]))?;
    let bound = match probe::bind(interface, Rung::ZeroCopy)? {
        Ok(bound) => {
            ensure!(best == Rung::ZeroCopy, "{interface} ({driver}) can do zero-copy, and should not");
            bound
        }
        Err(error) => {
            ensure!(best == Rung::Copy, "this guest cannot do zero-copy on {interface} ({driver}): {error}");
            say(&format!("{interface} ({driver}) refuses zero-copy, as it should: {error}"));
            probe::bind(interface, Rung::Copy)?.context("nor can it copy")?
        }
    };
    let got = bound.rung().context("asking what it became")?;
    ensure!(got == best, "bound for {}, got {}", best.name(), got.name());
    say(&format!("this guest can do {} on {interface} ({driver}): yes", got.name()));
    Ok(bound)
}

fn two_hosts(lab: &Lab, interfaces: &[String; 2]) -> Result<(Node, Node)> {
    let mut left = lab.node("l", &["10.8.0.1/24", "fd08::1/64"])?;
    let mut right = lab.node("r", &["10.8.0.2/24", "fd08::2/64"])?;
    for ((node, interface), address) in
        [&left, &right].into_iter().zip(interfaces).zip(["10.99.0.1/24", "10.99.0.2/24"])
    {
        let name = node.namespace.name();
        let mut moving = std::process::Command::new("ip");
        veil_lab::run(moving.args(["link", "set", "dev", interface, "netns", name, "name", "eth0"]))?;
        node.namespace.address("eth0", address)?;
        node.namespace.exec(["ip", "link", "set", "dev", "eth0", "up"])?;
    }
    left.add_peer(&right, Some("10.99.0.2:4433"));
    right.add_peer(&left, None);
    Ok((left, right))
}

fn start(node: &Node, link: &str) -> Result<Daemon> {
    node.start_with(&["--link", link, "--iface", "eth0"])
}

/// The daemon must stand on the best rung there is: the one its socket says it has (`XDP_OPTIONS`).
fn check_rung(daemon: &Daemon, link: &str, best: Rung) -> Result<()> {
    let expected = match best {
        _ if link == "udp" => "udp",
        Rung::ZeroCopy => "zero-copy",
        Rung::Copy => "native copy",
    };
    let shown = show(daemon)?;
    let got = rung(&shown).with_context(|| format!("no rung in {shown:#}"))?;
    ensure!(got == expected, "it stands on {got}, not on {expected}; it said:\n{}", daemon.log());
    Ok(())
}

/// The rung it stands on.
fn rung(shown: &Value) -> Option<&str> {
    shown["rung"].as_str()
}

fn traffic(left: &Node, right: &Node) -> Result<()> {
    let start = Instant::now();
    for (from, to) in [(left, right), (right, left)] {
        for target in to.hosts() {
            ping(&from.namespace, target, PATIENCE)?;
        }
    }
    say(&format!("ping both ways, IPv4 and IPv6: {:.1} s", start.elapsed().as_secs_f64()));
    for (from, to) in [(left, right), (right, left)] {
        let start = Instant::now();
        let target = to.hosts().next().context("a host without an address")?;
        let transfer = Transfer::start(&from.namespace, &to.namespace, target)?;
        let arrived = transfer.wait_for(TRANSFER, PATIENCE);
        let bytes = transfer.finish()?;
        arrived?;
        say(&format!("TCP to {target}: {bytes} bytes in {:.1} s", start.elapsed().as_secs_f64()));
    }
    for (from, to) in [(left, right), (right, left)] {
        let start = Instant::now();
        echo(&from.namespace, to)?;
        say(&format!("{} datagrams there and back: {:.1} s", BURSTS * BURST, start.elapsed().as_secs_f64()));
    }
    Ok(())
}

/// Bursts of datagrams to `to` and back: every single one comes home, whole.
fn echo(from: &Namespace, to: &Node) -> Result<()> {
    let host = to.hosts().next().context("a host without an address")?;
    let server = {
        let _inside = to.namespace.enter()?;
        UdpSocket::bind((host, 0)).with_context(|| format!("binding to {host}"))?
    };
    server.set_read_timeout(Some(PATIENCE))?;
    let address = server.local_addr()?;
    let answering = thread::spawn(move || answer(&server));
    let client = {
        let _inside = from.enter()?;
        UdpSocket::bind("0.0.0.0:0")?
    };
    client.connect(address)?;
    client.set_read_timeout(Some(PATIENCE))?;
    for burst in 0..BURSTS {
        // Made before the first is sent: a burst is sent at once.
        let mut outstanding: Vec<Vec<u8>> =
            (0..BURST).map(|number| datagram(burst * BURST + number)).collect();
        for sent in &outstanding {
            client.send(sent)?;
        }
        let mut buffer = [0; PAYLOAD + 1];
        while !outstanding.is_empty() {
            let missing = outstanding.len();
            let received = client.recv(&mut buffer);
            let length = received.with_context(|| format!("burst {burst}: {missing} did not come back"))?;
            let position = outstanding.iter().position(|sent| buffer[..length] == sent[..]);
            outstanding.swap_remove(position.context("one came back that was not sent, or twice")?);
        }
    }
    // An empty one is the end.
    client.send(&[])?;
    let answered = answering.join().map_err(|_| anyhow!("the answering thread panicked"))??;
    ensure!(answered == BURSTS * BURST, "{answered} datagrams were answered");
    Ok(())
}

fn answer(server: &UdpSocket) -> Result<u32> {
    let mut buffer = [0; PAYLOAD + 1];
    let mut answered = 0;
    loop {
        match server.recv_from(&mut buffer) {
            Ok((0, _)) => return Ok(answered),
            Ok((length, from)) => {
                server.send_to(&buffer[..length], from)?;
                answered += 1;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("after {answered} datagrams")),
        }
    }
}

/// A datagram unlike any other one.
fn datagram(number: u32) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(PAYLOAD).collect()
}

fn stop(daemon: Daemon) -> Result<()> {
    let stopped = daemon.stop()?;
    let clean = stopped.status.success() && !stopped.log.contains(FRAMES_MISSING);
    ensure!(clean, "a daemon ended with {}; it said:\n{}", stopped.status, stopped.log);
    Ok(())
}
