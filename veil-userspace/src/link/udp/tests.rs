//! The UDP link over the loopback interface: real sockets, no privileges.

use super::*;
use crate::frame::{Bounded, Outbox, Sealed, SetName, WideSet};
use crate::link::{LinkRx, LinkTx, SendResult};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use veil_proto::DropReason;

/// Long enough for a machine busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// The discard service's, which nobody runs. Unlike a port that was in use, it is given to no other test.
const CLOSED: u16 = 9;

#[test]
fn sockets_are_polled_for_where_the_kernel_lets_us_and_refusals_are_counted() {
    let (rx, _tx, _) = UdpLink::open("127.0.0.1:0".parse().unwrap(), 0).unwrap();
    let set = |name| {
        let sockets = rx.fds().into_iter().flatten();
        sockets.filter(|&fd| socket::option(fd, libc::SOL_SOCKET, name).is_ok_and(|value| value != 0)).count()
    };
    let both = || set(libc::SO_BUSY_POLL) + set(libc::SO_PREFER_BUSY_POLL);
    let before = both();
    rx.busy_poll();
    let refused = rx.counters().busy_poll_refused.load(Relaxed);
    assert_eq!((before, both() as u64 + refused), (0, 2));
}

struct Side {
    rx: UdpRx,
    tx: UdpTx,
    port: u16,
    receive: WideSet,
    transmit: WideSet,
    queue: Bounded<Sealed>,
    out: Bounded<Sealed>,
}

impl Side {
    fn new() -> Self {
        Self::listening("[::]:0")
    }

    fn listening(listen: &str) -> Self {
        let (rx, tx, port) = UdpLink::open(listen.parse().unwrap(), 0).unwrap();
        Side {
            rx,
            tx,
            port,
            receive: WideSet::new(SetName::LinkReceive, 64),
            transmit: WideSet::new(SetName::LinkTransmit, 64),
            queue: Bounded::new(64),
            out: Bounded::new(64),
        }
    }

    fn queue(&mut self, path: Path, bytes: &[u8], segment: u16, tos: u8) {
        let mut frame = self.transmit.take().unwrap();
        frame.buffer_mut()[..bytes.len()].copy_from_slice(bytes);
        frame.set_len(bytes.len());
        self.queue.push(Sealed { frame: frame.into(), segment, tos, path }).unwrap();
    }

    fn send(&mut self) -> SendResult {
        self.tx.send(&mut self.queue, &mut self.transmit)
    }

    /// Receives until `count` datagrams have come, or patience is over: (bytes, segment, tos, path) of each run.
    fn hear(&mut self, count: usize) -> Vec<(Vec<u8>, u16, u8, Path)> {
        let (mut heard, mut datagrams) = (Vec::new(), 0);
        let deadline = Instant::now() + PATIENCE;
        while datagrams < count && Instant::now() < deadline {
            datagrams += self.rx.receive(&mut self.receive, &mut self.out, 64).unwrap().datagrams;
            while let Some(run) = crate::frame::Inbox::pop(&mut self.out) {
                heard.push((run.frame.bytes().to_vec(), run.segment, run.tos, run.path));
                run.frame.home(&mut self.receive);
            }
        }
        heard
    }

    fn assert_at_rest(&self, handed_in: u64) {
        assert!(self.receive.is_whole() && self.transmit.is_whole());
        let counters = self.tx.counters();
        let dropped = counters.send_drops.total() + counters.datagram_drops.total();
        assert_eq!(counters.datagrams_sent.load(Relaxed) + dropped, handed_in);
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

fn to(ip: impl Into<IpAddr>, port: u16) -> Path {
    Path::to(SocketAddr::new(ip.into(), port))
}

const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Ten datagrams of 1000 bytes and one of 333.
fn eleven() -> Vec<u8> {
    (0..10_333u32).map(|i| (i * 7 + i / 1000) as u8).collect()
}

#[test]
fn a_gso_run_arrives_as_the_same_bytes_over_both_families() {
    let (mut a, mut b) = (Side::new(), Side::new());
    for ip in LOOPBACKS {
        a.queue(to(ip, b.port), &eleven(), 1000, 2);
        assert_eq!(a.send(), SendResult::Drained);
        let heard = b.hear(11);
        assert_eq!(heard.iter().flat_map(|h| h.0.clone()).collect::<Vec<_>>(), eleven(), "over {ip}");
        for (_, segment, tos, path) in &heard {
            assert!(*segment == 1000 || heard.len() > 1);
            assert_eq!(*tos, 2);
            assert_eq!(path.remote(), SocketAddr::new(ip, a.port));
            assert_eq!(path.local(), Some(ip));
        }
    }
    a.assert_at_rest(22);
    b.assert_at_rest(0);
    assert_eq!(read(&b.rx.counters().datagrams_received), 22);
    assert_eq!(read(&b.rx.counters().bytes_received), 2 * 10_333);
    assert_eq!(read(&a.tx.counters().send_calls), 2);
    // Each of both families' sockets was asked, though only one had something.
    assert!(read(&b.rx.counters().receive_calls) > 2);
    assert_eq!(b.rx.counters().receive_drops.total(), 0);
}

#[test]
fn without_gso_and_gro_a_run_is_its_datagrams() {
    let (mut a, mut b) = (Side::new(), Side::new());
    a.tx.set_max_segments(1);
    b.rx.set_gro(false);
    for ip in LOOPBACKS {
        a.queue(to(ip, b.port), &eleven(), 1000, 0);
        a.send();
        let heard = b.hear(11);
        assert_eq!(heard.len(), 11);
        assert_eq!(heard.iter().flat_map(|h| h.0.clone()).collect::<Vec<_>>(), eleven());
        assert_eq!(heard[10].1, 333);
    }
    a.assert_at_rest(22);
    assert_eq!(read(&a.tx.counters().gso_step_downs), 0);
}

#[test]
fn many_runs_to_both_families_keep_their_order_per_path() {
    let (mut a, mut b) = (Side::new(), Side::new());
    for i in 0..60u8 {
        a.queue(to(LOOPBACKS[usize::from(i) / 3 % 2], b.port), &[i; 40], 40, 0);
    }
    assert_eq!(a.send(), SendResult::Drained);
    let heard = b.hear(60);
    assert_eq!(heard.iter().map(|h| h.0.len()).sum::<usize>(), 60 * 40);
    for v4 in [true, false] {
        let order: Vec<u8> = heard.iter().filter(|h| h.3.is_ipv4() == v4).map(|h| h.0[0]).collect();
        assert!(order.is_sorted(), "{order:?}");
    }
    a.assert_at_rest(60);
    b.assert_at_rest(0);
}

#[test]
fn a_run_longer_than_one_message_is_sent_in_several() {
    let (mut a, mut b) = (Side::new(), Side::new());
    let bytes: Vec<u8> = (0..65_900u32).map(|i| (i / 700) as u8).collect();
    a.queue(to(Ipv4Addr::LOCALHOST, b.port), &bytes, 700, 0);
    assert_eq!(a.send(), SendResult::Drained);
    let heard = b.hear(95);
    assert_eq!(heard.iter().flat_map(|h| h.0.clone()).collect::<Vec<_>>(), bytes);
    a.assert_at_rest(95);
}

#[test]
fn the_answer_leaves_from_the_address_that_was_asked() {
    let (mut a, mut b) = (Side::new(), Side::new());
    a.queue(to(Ipv4Addr::new(127, 0, 0, 9), b.port), b"question", 8, 0);
    a.send();
    let (_, _, _, path) = b.hear(1)[0].clone();
    assert_eq!(path.local(), Some("127.0.0.9".parse().unwrap()));
    b.tx.send_datagram(&path, b"answer", 1).unwrap();
    let (bytes, _, tos, back) = a.hear(1)[0].clone();
    assert_eq!(
        (&bytes[..], tos, back.remote()),
        (&b"answer"[..], 1, SocketAddr::new([127, 0, 0, 9].into(), b.port))
    );
}

#[test]
fn a_source_address_that_went_away_is_replaced_by_the_kernels_choice() {
    let (mut a, mut b) = (Side::new(), Side::new());
    let gone = ["198.51.100.77", "2001:db8::77"];
    for (ip, gone) in LOOPBACKS.into_iter().zip(gone) {
        let path = to(ip, b.port).from_local(gone.parse().unwrap());
        a.queue(path, &eleven(), 1000, 0);
        assert_eq!(a.send(), SendResult::Drained);
        a.tx.send_datagram(&path, b"hello", 0).unwrap();
        let heard = b.hear(12);
        assert_eq!(heard.iter().map(|h| h.0.len()).sum::<usize>(), 10_333 + 5);
        assert_eq!(heard[0].3.remote().ip(), ip);
    }
    a.assert_at_rest(24);
    assert!(a.tx.counters().gso.load(Relaxed), "GSO was not at fault");
}

/// A socket without checksums cannot do GSO (udp_send_skb, net/ipv4/udp.c): a step-down that any machine can show.
#[test]
fn gso_that_is_refused_is_switched_off_once_and_nothing_is_lost() {
    let (mut a, mut b) = (Side::new(), Side::new());
    let v4 = a.rx.fds()[0].unwrap();
    socket::set_option(v4, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    for _ in 0..3 {
        a.queue(to(Ipv4Addr::LOCALHOST, b.port), &eleven(), 1000, 0);
    }
    assert_eq!(a.send(), SendResult::Drained);
    let heard = b.hear(33);
    assert_eq!(heard.iter().flat_map(|h| h.0.clone()).collect::<Vec<_>>(), eleven().repeat(3));
    assert_eq!(read(&a.tx.counters().gso_step_downs), 1);
    assert!(!a.tx.counters().gso.load(Relaxed) && a.tx.max_segments() == 1);
    a.assert_at_rest(33);
    assert_eq!(a.tx.counters().send_drops.total(), 0);
}

#[test]
fn a_refused_port_costs_only_its_own_peer_and_is_named() {
    let (mut a, mut b) = (Side::new(), Side::new());
    let closed = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), CLOSED);
    a.queue(Path::to(closed), b"anybody", 7, 0);
    a.send();
    for i in 0..5u8 {
        a.queue(to(Ipv4Addr::LOCALHOST, b.port), &[i; 100], 100, 0);
        assert_eq!(a.send(), SendResult::Drained);
    }
    assert_eq!(b.hear(5).iter().map(|h| h.0.len()).sum::<usize>(), 500);
    a.assert_at_rest(6);
    let error = a.rx.take_path_error().expect("an entry from the error queue");
    assert_eq!((error.remote, error.errno, error.local), (closed, libc::ECONNREFUSED, false));
    assert_eq!(a.rx.take_path_error(), None);
}

#[test]
fn the_receiving_end_hears_of_errors_and_goes_on() {
    let mut a = Side::new();
    let closed = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), CLOSED);
    a.tx.send_datagram(&Path::to(closed), b"anybody", 0).unwrap();
    a.tx.send_datagram(&to(Ipv4Addr::LOCALHOST, a.port), b"myself", 0).unwrap();
    assert_eq!(a.hear(1)[0].0, b"myself");
    a.rx.drain_errors();
    assert_eq!(a.rx.take_path_error().map(|e| e.remote), Some(closed));
}

#[test]
fn a_datagram_no_path_takes_is_dropped_and_counted() {
    let (mut a, b) = (Side::new(), Side::new());
    let path = to(Ipv4Addr::LOCALHOST, b.port);
    a.queue(path, &vec![7; 65_520], 65_520, 0);
    assert_eq!(a.send(), SendResult::Drained);
    assert!(a.tx.send_datagram(&path, &vec![7; 65_520], 0).is_err());
    let dropped = [&a.tx.counters().send_drops, &a.tx.counters().datagram_drops];
    assert_eq!(dropped.map(|drops| drops.of(DropReason::LinkSend)), [1, 1]);
    a.assert_at_rest(2);
}

#[test]
fn a_run_for_a_family_without_a_socket_is_dropped_and_counted() {
    let mut a = Side::listening("127.0.0.1:0");
    a.queue(to(Ipv6Addr::LOCALHOST, CLOSED), &eleven(), 1000, 0);
    assert_eq!(a.send(), SendResult::Drained);
    assert_eq!(a.tx.counters().send_drops.of(DropReason::LinkSend), 11);
    a.assert_at_rest(11);
}

#[test]
fn an_empty_datagram_is_counted_and_goes_no_further() {
    let mut b = Side::new();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"", ("127.0.0.1", b.port)).unwrap();
    sender.send_to(b"x", ("127.0.0.1", b.port)).unwrap();
    assert_eq!(b.hear(1).len(), 1);
    assert_eq!(b.rx.counters().receive_drops.of(DropReason::TooShort), 1);
    assert_eq!(read(&b.rx.counters().datagrams_received), 2);
    b.assert_at_rest(0);
}

#[test]
fn empty_datagrams_use_the_budget_up_like_any_other() {
    let mut b = Side::new();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..100 {
        sender.send_to(b"", ("127.0.0.1", b.port)).unwrap();
    }
    let got = b.rx.receive(&mut b.receive, &mut b.out, 64).unwrap();
    assert_eq!((got.runs, got.more), (0, true));
    assert_eq!(b.rx.counters().receive_drops.of(DropReason::TooShort), 64);
}

#[test]
fn receiving_stops_at_the_budget_and_says_that_there_is_more() {
    let (mut a, mut b) = (Side::new(), Side::new());
    b.rx.set_gro(false);
    a.queue(to(Ipv4Addr::LOCALHOST, b.port), &eleven(), 1000, 0);
    a.send();
    let got = b.rx.receive(&mut b.receive, &mut b.out, 3).unwrap();
    assert_eq!((got.runs, got.datagrams, got.more), (3, 3, true));
    while let Some(run) = crate::frame::Inbox::pop(&mut b.out) {
        run.frame.home(&mut b.receive);
    }
    assert_eq!(b.hear(8).len(), 8);
    let got = b.rx.receive(&mut b.receive, &mut b.out, 3).unwrap();
    assert_eq!((got.runs, got.more), (0, false));
}

#[test]
fn full_runs_come_one_by_one_and_short_ones_together() {
    let (mut a, mut b) = (Side::new(), Side::new());
    let path = to(Ipv4Addr::LOCALHOST, b.port);
    let mut brought = |len: usize, runs: usize| {
        for _ in 0..runs {
            a.queue(path, &vec![7; len], 1000, 0);
        }
        assert_eq!(a.send(), SendResult::Drained);
        let (mut brought, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        while brought.iter().sum::<usize>() < runs {
            assert!(Instant::now() < deadline, "only these came: {brought:?}");
            let came = b.rx.receive(&mut b.receive, &mut b.out, 64).unwrap().runs;
            // A receiver that is ahead of the kernel is brought nothing.
            brought.extend((came > 0).then_some(came));
            while let Some(run) = crate::frame::Inbox::pop(&mut b.out) {
                run.frame.home(&mut b.receive);
            }
        }
        brought
    };
    let full = brought(60_000, 9);
    assert!(
        full.len() >= 6 && full[1..].iter().all(|&runs| runs == 1),
        "nothing was known before the first: {full:?}"
    );
    assert_eq!(brought(100, 20), [20]);
}

#[test]
fn a_port_in_use_is_named_with_the_cure() {
    let taken = Side::new();
    let Err(error) = UdpLink::open(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), taken.port), 0) else {
        panic!("opened twice")
    };
    let text = format!("{error:#}");
    assert!(text.contains(&taken.port.to_string()) && text.contains("already in use"), "{text}");
}
