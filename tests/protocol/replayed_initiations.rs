//! Captured initiations: worth nothing again, not even to a responder that has forgotten everything.

use veil_proto::handshake::message::MIN_INITIATION;
use veil_proto::time::SECOND;

use crate::sim::{Datagram, World, address, assert_recovers};

fn captured_initiation(world: &mut World) -> Datagram {
    world.tap = Some(Vec::new());
    world.send(0, 1);
    world.run(SECOND);
    let sent = world.tap.take().expect("the tap was open");
    let initiation = sent.into_iter().find(|datagram| datagram.bytes.len() >= MIN_INITIATION);
    initiation.expect("the first datagram is an initiation")
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
