//! Packets that really move, both ways, in both modes, both families.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use veil_ebpf::Verdict;
use veil_lab::{require_privileges, uninterrupted};
use veil_xdp::AttachMode;

use crate::station::{PORT, Station};
use crate::wire::{PAIRS, Wire};

/// As many as a veth's queue takes without loss.
const BURST: usize = 64;
const BURSTS: usize = 10;

/// A payload that no other number has, of a length that differs from its neighbours'.
fn payload(number: usize) -> Vec<u8> {
    let length = 8 + number * 131 % 1400;
    (0..length).map(|at| if at < 8 { number.to_be_bytes()[at] } else { (number + at) as u8 }).collect()
}

fn socket_of(wire: &Wire, address: IpAddr) -> Result<UdpSocket> {
    let _inside = wire.theirs.enter()?;
    let socket = UdpSocket::bind((address, 0)).context("an ordinary UDP socket")?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(socket)
}

fn arrives(title: &str, mode: AttachMode) -> Result<()> {
    let wire = Wire::new(title, 1)?;
    let mut station = Station::new(&wire, mode, 1)?;
    let mut expected = Vec::new();
    for (ours, theirs) in PAIRS {
        let socket = socket_of(&wire, theirs)?;
        for _ in 0..BURSTS {
            for _ in 0..BURST {
                let payload = payload(expected.len());
                socket.send_to(&payload, (ours, PORT))?;
                expected.push((0, payload));
            }
            station.receive(expected.len())?;
        }
    }
    ensure!(station.received == expected, "datagrams were changed, doubled or reordered");
    ensure!(station.count(Verdict::Redirect)? == expected.len() as u64);
    let statistics = station.sockets[0].rx.statistics()?;
    ensure!(
        statistics.rx_dropped + statistics.rx_ring_full + statistics.rx_invalid_descs == 0,
        "{statistics:?}"
    );
    station.close()
}

fn leaves(title: &str, mode: AttachMode) -> Result<()> {
    let wire = Wire::new(title, 1)?;
    let mut station = Station::new(&wire, mode, 1)?;
    let mut sent = 0;
    for (_, theirs) in PAIRS {
        let socket = socket_of(&wire, theirs)?;
        let to = socket.local_addr()?;
        for _ in 0..BURSTS {
            for number in sent..sent + BURST {
                // Every other one does not begin behind the headroom and has to be moved.
                station.send(&wire, 0, to, &payload(number), number % 2 * 8)?;
            }
            station.flush()?;
            let mut buffer = [0; 2048];
            for number in sent..sent + BURST {
                let (length, from) =
                    uninterrupted(|| socket.recv_from(&mut buffer)).context("a datagram sent by AF_XDP")?;
                ensure!(buffer[..length] == payload(number), "datagram {number} was changed or overtaken");
                ensure!(from.port() == PORT);
            }
            sent += BURST;
        }
    }
    let counters = station.sockets[0].tx.shared_counters().clone();
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    ensure!(read(&counters.tx.sent) == sent as u64 && read(&counters.tx.completed) == sent as u64);
    ensure!(read(&counters.tx.moved) == sent as u64 / 2, "{counters:?}");
    ensure!(station.sockets[0].rx.statistics()?.tx_invalid_descs == 0);
    station.close()
}

#[test]
fn datagrams_arrive_by_af_xdp_native() -> Result<()> {
    if !require_privileges("datagrams_arrive_by_af_xdp_native") {
        return Ok(());
    }
    arrives("arrive-native", AttachMode::Native)
}

#[test]
fn datagrams_arrive_by_af_xdp_generic() -> Result<()> {
    if !require_privileges("datagrams_arrive_by_af_xdp_generic") {
        return Ok(());
    }
    arrives("arrive-generic", AttachMode::Generic)
}

#[test]
fn datagrams_leave_by_af_xdp_native() -> Result<()> {
    if !require_privileges("datagrams_leave_by_af_xdp_native") {
        return Ok(());
    }
    leaves("leave-native", AttachMode::Native)
}

#[test]
fn datagrams_leave_by_af_xdp_generic() -> Result<()> {
    if !require_privileges("datagrams_leave_by_af_xdp_generic") {
        return Ok(());
    }
    leaves("leave-generic", AttachMode::Generic)
}

#[test]
fn four_queues_share_the_work_over_one_umem() -> Result<()> {
    if !require_privileges("four_queues_share_the_work_over_one_umem") {
        return Ok(());
    }
    let wire = Wire::new("queues", 4)?;
    let mut station = Station::new(&wire, AttachMode::Native, 4)?;
    let (ours, theirs) = PAIRS[0];
    // A flow per socket; the sender's kernel spreads flows over the queues.
    let sockets: Vec<UdpSocket> = (0..64).map(|_| socket_of(&wire, theirs)).collect::<Result<_>>()?;
    for (number, socket) in sockets.iter().enumerate() {
        socket.send_to(&payload(number), (ours, PORT))?;
    }
    station.receive(sockets.len())?;
    let arrived: BTreeSet<Vec<u8>> = station.received.iter().map(|(_, payload)| payload.clone()).collect();
    ensure!(arrived == (0..sockets.len()).map(payload).collect(), "not each datagram once");
    let used: BTreeSet<usize> = station.received.iter().map(|(queue, _)| *queue).collect();
    ensure!(used.len() == 4, "only queues {used:?} were used");
    // And back: each queue's socket sends, from frames that any queue may have had.
    for (number, socket) in sockets.iter().enumerate() {
        let to: SocketAddr = socket.local_addr()?;
        station.send(&wire, number % 4, to, &payload(number), 0)?;
    }
    station.flush()?;
    for (number, socket) in sockets.iter().enumerate() {
        let mut buffer = [0; 2048];
        let length = uninterrupted(|| socket.recv(&mut buffer))?;
        ensure!(buffer[..length] == payload(number));
    }
    station.close()
}
