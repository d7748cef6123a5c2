//! What is not VEIL's goes its ordinary way while the program is attached and its sockets are registered.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use veil_ebpf::Verdict;
use veil_lab::{Transfer, require_privileges, uninterrupted};
use veil_xdp::AttachMode;

use crate::station::{PORT, Station};
use crate::wire::{PAIRS, Wire, until};

fn unharmed(title: &str, mode: AttachMode) -> Result<()> {
    let wire = Wire::new(title, 2)?;
    let station = Station::new(&wire, mode, 2)?;
    wire.alive()?;
    for (ours, theirs) in PAIRS {
        for (from, into, to) in [(&wire.theirs, &wire.ours, ours), (&wire.ours, &wire.theirs, theirs)] {
            let transfer = Transfer::start(from, into, &to.to_string())?;
            until("TCP", || Ok(transfer.arrived() > 4 << 20))?;
            transfer.finish()?;
        }
        let socket = {
            let _inside = wire.ours.enter()?;
            UdpSocket::bind((ours, PORT + 1))?
        };
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let _inside = wire.theirs.enter()?;
        UdpSocket::bind((theirs, 0))?.send_to(b"other", (ours, PORT + 1))?;
        let mut buffer = [0; 16];
        let length = uninterrupted(|| socket.recv(&mut buffer)).context("a datagram to another port")?;
        ensure!(&buffer[..length] == b"other");
    }
    ensure!(station.count(Verdict::Redirect)? == 0);
    ensure!(station.count(Verdict::NotUdp)? > 0 && station.count(Verdict::WrongPort)? == 2);
    station.close()
}

#[test]
fn ping_tcp_and_other_udp_are_unharmed_native() -> Result<()> {
    if !require_privileges("ping_tcp_and_other_udp_are_unharmed_native") {
        return Ok(());
    }
    unharmed("unharmed-native", AttachMode::Native)
}

#[test]
fn ping_tcp_and_other_udp_are_unharmed_generic() -> Result<()> {
    if !require_privileges("ping_tcp_and_other_udp_are_unharmed_generic") {
        return Ok(());
    }
    unharmed("unharmed-generic", AttachMode::Generic)
}

#[test]
fn a_queue_without_a_socket_leaves_its_datagrams_to_the_ordinary_socket() -> Result<()> {
    if !require_privileges("a_queue_without_a_socket_leaves_its_datagrams_to_the_ordinary_socket") {
        return Ok(());
    }
    let wire = Wire::new("hole", 1)?;
    let mut station = Station::new(&wire, AttachMode::Native, 1)?;
    let (ours, theirs) = PAIRS[0];
    let socket = {
        let _inside = wire.ours.enter()?;
        UdpSocket::bind((ours, PORT))?
    };
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let client = {
        let _inside = wire.theirs.enter()?;
        UdpSocket::bind((theirs, 0))?
    };
    client.send_to(b"first", (ours, PORT))?;
    station.receive(1)?;
    station.program.unregister(0)?;
    station.program.unregister(0).context("a queue without a socket is fine")?;
    client.send_to(b"second", (ours, PORT))?;
    let mut buffer = [0; 16];
    let length = uninterrupted(|| socket.recv(&mut buffer)).context("what steering passes")?;
    ensure!(&buffer[..length] == b"second");
    // An address that is no longer local passes too, though the queue has its socket again.
    station.program.register(0, std::os::fd::AsFd::as_fd(&station.sockets[0].rx))?;
    station.program.set_local(&[PAIRS[1].0])?;
    client.send_to(b"third", (ours, PORT))?;
    let length = uninterrupted(|| socket.recv(&mut buffer)).context("what is not for a local address")?;
    ensure!(&buffer[..length] == b"third");
    station.program.set_local(&PAIRS.map(|(ours, _)| ours))?;
    client.send_to(b"fourth", (ours, PORT))?;
    station.receive(2)?;
    ensure!(station.received[1].1 == b"fourth");
    station.close()
}
