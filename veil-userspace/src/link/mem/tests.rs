//! The link in memory by itself: what it carries, holds, refuses and counts.

use super::*;
use crate::frame::{Bounded, SetName};

fn sides(limit: usize) -> (MemLink, MemLink) {
    pair("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap(), limit).unwrap()
}

fn run(set: &mut WideSet, bytes: &[u8], segment: u16) -> Sealed {
    let mut frame = set.take().unwrap();
    frame.buffer_mut()[..bytes.len()].copy_from_slice(bytes);
    frame.set_len(bytes.len());
    let path = Path::to("192.0.2.2:2".parse().unwrap());
    Sealed { frame: frame.into(), segment, tos: 3, path }
}

#[test]
fn a_run_arrives_as_it_was_sent_and_every_set_is_whole_again() {
    let (mut a, mut b) = sides(8);
    let (mut send, mut receive) =
        (WideSet::new(SetName::LinkTransmit, 2), WideSet::new(SetName::LinkReceive, 2));
    let (mut queue, mut out) = (Bounded::new(4), Bounded::new(4));
    queue.push(run(&mut send, b"aaabbbc", 3)).unwrap();
    assert_eq!(a.tx.send(&mut queue, &mut send), SendResult::Drained);
    assert!(send.is_whole());

    let got = b.rx.receive(&mut receive, &mut out, 9).unwrap();
    assert_eq!(got, Received { runs: 1, datagrams: 3, more: false });
    let item = out.pop().unwrap();
    assert_eq!((item.frame.bytes(), item.segment, item.tos), (&b"aaabbbc"[..], 3, 3));
    assert_eq!(item.path.remote(), "192.0.2.1:1".parse().unwrap());
    assert_eq!(item.path.local(), Some("192.0.2.2".parse().unwrap()));
    item.frame.home(&mut receive);
    assert!(receive.is_whole());
    assert_eq!(a.tx.counters().datagrams_sent.load(Relaxed), 3);
    assert_eq!(b.rx.counters().bytes_received.load(Relaxed), 7);
    assert_eq!(b.rx.counters().run_lengths.summary().buckets, [(3, 1)]);
}

#[test]
fn a_full_queue_keeps_the_run_and_sends_it_first_afterwards() {
    let (mut a, mut b) = sides(1);
    let (mut send, mut receive) =
        (WideSet::new(SetName::LinkTransmit, 3), WideSet::new(SetName::LinkReceive, 3));
    let (mut queue, mut out) = (Bounded::new(4), Bounded::new(4));
    for text in [&b"one"[..], b"two", b"three"] {
        queue.push(run(&mut send, text, 8)).unwrap();
    }
    assert_eq!(a.tx.send(&mut queue, &mut send), SendResult::Blocked);
    assert!(a.tx.blocked_on().is_some());
    let mut heard = Vec::new();
    for _ in 0..3 {
        b.rx.receive(&mut receive, &mut out, 9).unwrap();
        while let Some(item) = out.pop() {
            heard.push(item.frame.bytes().to_vec());
            item.frame.home(&mut receive);
        }
        a.tx.send(&mut queue, &mut send);
    }
    assert_eq!(heard, [&b"one"[..], b"two", b"three"]);
    assert!(send.is_whole() && receive.is_whole());
}

#[test]
fn what_is_abandoned_is_counted() {
    let (mut a, _b) = sides(0);
    let mut send = WideSet::new(SetName::LinkTransmit, 1);
    let mut queue = Bounded::new(1);
    queue.push(run(&mut send, b"aabb", 2)).unwrap();
    assert_eq!(a.tx.send(&mut queue, &mut send), SendResult::Blocked);
    a.tx.abandon(&mut send);
    assert!(send.is_whole() && !a.tx.holds_runs());
    assert_eq!(a.tx.counters().send_drops.of(DropReason::LinkSend), 2);
}

#[test]
fn a_way_that_has_become_narrow_refuses_what_is_too_large_and_says_so() {
    let (mut a, mut b) = sides(4);
    b.rx.narrow(1300);
    let mut send = WideSet::new(SetName::LinkTransmit, 2);
    let mut queue = Bounded::new(2);
    queue.push(run(&mut send, &[1; 2602], 1301)).unwrap();
    queue.push(run(&mut send, &[2; 2601], 1300)).unwrap();
    assert_eq!(a.tx.send(&mut queue, &mut send), SendResult::Drained);
    assert!(send.is_whole());
    assert_eq!(a.tx.counters().send_drops.of(DropReason::LinkSend), 2);
    assert_eq!(a.tx.counters().datagrams_sent.load(Relaxed), 3);
    let told = a.rx.take_path_error().unwrap();
    assert_eq!((told.remote, told.mtu, told.local), ("192.0.2.2:2".parse().unwrap(), Some(1328), true));
    assert!(a.rx.take_path_error().is_none() && b.rx.take_path_error().is_none());
    assert!(a.tx.send_datagram(&Path::to(told.remote), &[3; 1301], 0).is_err());
    assert!((a.rx.path_errors())().is_some());
}

#[test]
fn who_has_moved_sends_from_the_new_address() {
    let (mut a, mut b) = sides(4);
    let (mut receive, mut out) = (WideSet::new(SetName::LinkReceive, 1), Bounded::new(1));
    let new = "198.51.100.1:7".parse().unwrap();
    a.tx.move_to(new);
    a.tx.send_datagram(&Path::to("192.0.2.2:2".parse().unwrap()), b"hello", 0).unwrap();
    b.rx.receive(&mut receive, &mut out, 1).unwrap();
    let item = out.pop().unwrap();
    assert_eq!(item.path.remote(), new);
    item.frame.home(&mut receive);
}
