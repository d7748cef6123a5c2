//! Captured initiations: worth nothing again, not even to a responder that has forgotten everything.

use veil_proto::DropReason;
use veil_proto::handshake::message::{TYPE_INITIATION, TYPE_RESPONSE};
use veil_proto::time::{MILLISECOND, SECOND};

use crate::checks::assert_recovers;
use crate::sim::{Datagram, World, address};

fn captured_initiation(world: &mut World) -> Datagram {
    world.tap = Some(Vec::new());
    world.send(0, 1);
    world.run(SECOND);
    let initiation = world.tapped(TYPE_INITIATION)[0].clone();
    world.tap = None;
    initiation
}

#[test]
fn a_replayed_initiation_is_not_answered() {
    let mut world = World::pair(21);
    let initiation = captured_initiation(&mut world);
    world.hold = true;
    for _ in 0..10 {
        world.arrive(initiation.clone());
        world.run(SECOND / 10);
    }
    assert!(world.held.is_empty(), "a replay was answered");
    world.hold = false;
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn an_initiation_held_back_until_a_newer_one_was_answered_is_refused_as_old() {
    // The responder has never seen it: only the timestamp tells.
    let mut world = World::pair(27);
    world.hold = true;
    world.send(0, 1);
    world.run(0);
    let held_back = world.held.remove(0);
    world.whole_again();
    world.run(6 * SECOND);
    assert!(world.agree(0, 1), "by a retry");
    let current = world.current(1, 0);
    world.hold = true;
    world.arrive(held_back);
    world.run(0);
    assert_eq!(world.ends[1].handshakes.drops().of(DropReason::OldTimestamp), 1);
    assert!(world.held.is_empty(), "it was answered");
    assert_eq!((world.current(1, 0), world.ends[1].sessions.session_count()), (current, 1));
    world.whole_again();
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn after_a_restart_a_replayed_initiation_moves_nothing_but_next() {
    let mut world = World::hub(22, 1);
    world.tap = Some(Vec::new());
    world.send(1, 0);
    world.run(SECOND);
    let sent = world.tap.take().expect("the tap was open");
    let mut initiation = sent.into_iter().next().expect("an initiation");
    world.restart(0);
    // The hub has forgotten the timestamp; the thief sends from an address of its own.
    initiation.from = address(9);
    world.arrive(initiation);
    world.run(SECOND);
    let peer = world.peer(0, 1);
    assert_eq!(world.ends[0].sessions.current_indices(peer), None, "nothing is sealed under it");
    assert_eq!(world.ends[0].endpoint(peer), None, "the endpoint stays unknown");
    // The true peer is not kept out by it.
    for _ in 0..3 {
        world.send(1, 0);
        world.run(20 * SECOND);
    }
    let last = world.send(1, 0);
    world.run(SECOND);
    assert!(world.delivered(last));
    assert_eq!(world.ends[0].endpoint(peer), Some(address(1)));
}

/// A pair's first initiation, of end 0, captured; then end 1 forgets everything, its last timestamp too.
fn thief_and_forgetful(seed: u64) -> (World, Datagram) {
    let mut world = World::pair(seed);
    let mut initiation = captured_initiation(&mut world);
    world.restart(1);
    initiation.from = address(9);
    (world, initiation)
}

#[test]
fn under_a_session_that_the_forgetful_end_started_anew_a_replay_moves_nothing_but_next() {
    let (mut world, initiation) = thief_and_forgetful(23);
    world.send(1, 0);
    world.run(SECOND);
    let (current, peer) = (world.current(1, 0), world.peer(1, 0));
    assert!(current.is_some() && world.agree(0, 1));
    let sessions = world.ends[1].sessions.session_count();

    world.arrive(initiation);
    world.run(SECOND);
    assert_eq!(world.ends[1].sessions.session_count(), sessions + 1, "it was taken for genuine");
    for _ in 0..50 {
        world.send(0, 1);
        world.send(1, 0);
        world.run(SECOND / 10);
    }
    assert_eq!(world.undelivered(), 0);
    assert_eq!((world.current(1, 0), world.ends[1].endpoint(peer)), (current, Some(address(0))));
    // Nor does it hold up the next genuine one.
    world.run(130 * SECOND);
    world.send(1, 0);
    world.run(SECOND);
    assert_ne!(world.current(1, 0), current);
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn a_replay_at_any_moment_of_the_forgetful_ends_own_handshake_costs_no_packet() {
    // It may land in next just before that handshake is done, and look like a crossing.
    for at in 0..6 {
        for seed in [24, 25] {
            let (mut world, initiation) = thief_and_forgetful(seed);
            let first = world.send(1, 0);
            world.run(at * 7 * MILLISECOND);
            world.arrive(initiation);
            world.run(SECOND);
            assert!(world.delivered(first), "{at}");
            for _ in 0..50 {
                world.send(0, 1);
                world.send(1, 0);
                world.run(SECOND / 10);
            }
            assert_eq!(world.undelivered(), 0, "{at}");
            assert!(world.agree(0, 1));
            let peer = world.peer(1, 0);
            assert_eq!(world.ends[1].endpoint(peer), Some(address(0)), "{at}");
        }
    }
}

#[test]
fn a_replayed_response_is_dropped() {
    let mut world = World::pair(26);
    world.tap = Some(Vec::new());
    world.send(0, 1);
    world.run(SECOND);
    let response = world.tapped(TYPE_RESPONSE)[0].clone();
    let current = world.current(0, 1);
    let dropped = world.ends[0].handshakes.drops().of(DropReason::NotPending);
    world.arrive(response.clone());
    world.run(0);
    assert_eq!(world.ends[0].handshakes.drops().of(DropReason::NotPending), dropped + 1);
    // Nor does it answer an initiation that is pending now.
    world.run(130 * SECOND);
    world.hold = true;
    world.send(0, 1);
    world.run(0);
    world.arrive(response);
    world.run(0);
    assert_eq!(world.current(0, 1), current);
    world.whole_again();
    assert_recovers(&mut world, 0, 1);
}
