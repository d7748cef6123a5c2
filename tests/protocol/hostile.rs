//! Datagrams that nobody honest sent: a session takes no harm, nothing is answered, everything is counted.

use veil_proto::handshake::message::TYPE_INITIATION;
use veil_proto::time::SECOND;
use veil_proto::{DropReason, Entropy};

use crate::checks::assert_recovers;
use crate::end::Rng;
use crate::sim::{Datagram, World, address};

/// A pair with a session, and every datagram that made it.
fn established(seed: u64) -> (World, Vec<Datagram>) {
    let mut world = World::pair(seed);
    world.tap = Some(Vec::new());
    for _ in 0..20 {
        world.send(0, 1);
        world.send(1, 0);
        world.run(SECOND / 10);
    }
    world.run(SECOND);
    let sent = world.tap.take().expect("the tap was open");
    (world, sent)
}

/// Has `count` datagrams made from the captured ones arrive at both ends; none may open, none may be answered.
fn attack(count: usize, seed: u64, forge: impl Fn(&mut Rng, &mut Vec<u8>)) -> World {
    let (mut world, captured) = established(seed);
    let opened: Vec<u64> = world.ends.iter().map(|end| end.opened()).collect();
    let current = [world.current(0, 1), world.current(1, 0)];
    let before_attack: u64 = world.ends.iter().map(|end| end.received).sum();
    world.hold = true;
    let mut rng = Rng(seed);
    for _ in 0..count {
        let mut datagram = captured[rng.below(captured.len() as u64) as usize].clone();
        forge(&mut rng, &mut datagram.bytes);
        world.arrive(datagram);
    }
    world.run(0);
    // An initiation whose envelope still opens may be asked for proof of its address while there is a flood: each one
    // at most the burst of its bucket, and never with more bytes than it sent.
    let longest = captured.iter().map(|datagram| datagram.bytes.len()).max().unwrap_or(0);
    let is_initiation = |datagram: &&Datagram| world.header(datagram).kind == TYPE_INITIATION;
    let initiations = captured.iter().filter(is_initiation).count();
    assert!(world.held.len() <= initiations * 5, "{} answers to forgeries", world.held.len());
    assert!(world.held.iter().all(|answer| answer.bytes.len() <= longest));
    world.held.clear();
    for (end, before) in world.ends.iter().zip(opened) {
        assert_eq!(end.opened(), before, "a forgery opened");
    }
    assert_eq!([world.current(0, 1), world.current(1, 0)], current, "the session moved");
    assert!((0..2).all(|n| world.ends[n].endpoint(world.peer(n, 1 - n)) == Some(address(1 - n))));
    let received: u64 = world.ends.iter().map(|end| end.received).sum();
    assert_eq!(received, before_attack + count as u64, "every one of them came to an end");
    world.check_conservation();
    world.hold = false;
    assert_recovers(&mut world, 0, 1);
    world
}

#[test]
fn half_a_million_bit_flips_leave_a_session_unharmed() {
    attack(500_000, 11, |rng, bytes| {
        let bit = rng.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
    });
}

#[test]
fn a_quarter_of_a_million_truncations_leave_a_session_unharmed() {
    attack(250_000, 12, |rng, bytes| {
        let len = rng.below(bytes.len() as u64) as usize;
        bytes.truncate(len);
    });
}

#[test]
fn a_quarter_of_a_million_replays_are_dropped_and_counted() {
    let world = attack(250_000, 13, |_, _| {});
    let replayed: u64 = world.ends.iter().map(|end| end.dropped(DropReason::Replayed)).sum();
    assert!(replayed > 200_000, "{replayed} replays counted");
}

#[test]
fn one_forgery_of_every_kind_is_refused_by_its_name() {
    let (mut world, captured) = established(15);
    world.hold = true;
    world.send(0, 1);
    let fresh = world.held.pop().expect("a datagram");
    let len = fresh.bytes.len();
    let flipped = |at: usize| {
        let mut forged = fresh.clone();
        forged.bytes[at] ^= 0x10;
        forged
    };
    let cut = |to: usize| Datagram { bytes: fresh.bytes[..to].to_vec(), ..fresh.clone() };
    let replayed = captured.iter().rev().find(|old| old.to == fresh.to).expect("older ones").clone();
    let unharmed = world.current(1, 0);
    for (forged, reason) in [
        (flipped(0), DropReason::BadHeader),    // the type
        (flipped(2), DropReason::BadHeader),    // reserved
        (flipped(5), DropReason::UnknownIndex), // the receiver index
        (flipped(9), DropReason::BadTag),       // the counter
        (flipped(40), DropReason::BadTag),      // the body
        (flipped(len - 1), DropReason::BadTag), // the tag
        (cut(len - 1), DropReason::BadTag),     // the tag's end is missing
        (cut(31), DropReason::TooShort),        // no room for a tag
        (cut(0), DropReason::TooShort),         // nothing
        (replayed, DropReason::Replayed),       // nothing wrong but its age
    ] {
        let before = world.ends[1].dropped(reason);
        world.arrive(forged);
        assert_eq!(world.ends[1].dropped(reason), before + 1, "{}", reason.name());
        assert_eq!(world.current(1, 0), unharmed);
    }
    world.run(0);
    assert!(world.held.is_empty(), "answered");
    // None of it has used up the genuine one's counter.
    let before = world.ends[1].opened();
    world.arrive(fresh);
    assert_eq!(world.ends[1].opened(), before + 1);
    world.whole_again();
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn noise_from_where_an_initiation_is_pending_changes_nothing_about_it() {
    // Such datagrams go to the handshakes: they might be cookie replies.
    let mut world = World::pair(16);
    world.hold = true;
    let id = world.send(0, 1);
    world.run(0);
    let initiation = world.held.remove(0);
    let mut rng = Rng(16);
    for len in 0..=2000 {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        world.arrive(Datagram { from: address(1), to: address(0), bytes });
        world.run(0);
    }
    assert!(world.held.is_empty(), "noise was answered");
    assert!(world.ends[0].handshake_datagrams() > 1000);
    assert!(world.current(0, 1).is_none());
    world.whole_again();
    world.arrive(initiation);
    world.run(SECOND);
    assert!(world.delivered(id), "the answer to the first initiation still counts");
}

#[test]
fn random_datagrams_of_every_length_are_neither_answered_nor_a_cause_of_panic() {
    let (mut world, _) = established(14);
    world.hold = true;
    let mut rng = Rng(14);
    for len in 0..=2000 {
        for _ in 0..5 {
            let mut bytes = vec![0; len];
            rng.fill(&mut bytes);
            world.arrive(Datagram { from: address(9), to: address(0), bytes });
        }
    }
    world.run(0);
    assert!(world.held.is_empty(), "noise was answered");
    world.hold = false;
    assert_recovers(&mut world, 0, 1);
}
