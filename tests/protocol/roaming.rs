//! The endpoint follows the newest authentic datagram, and nothing else.

use veil_proto::handshake::message::{TYPE_DATA, TYPE_INITIATION, TYPE_RESPONSE};
use veil_proto::time::{MILLISECOND, SECOND};

use crate::checks::assert_recovers;
use crate::sim::{Datagram, Link, World, address};

/// A pair with a session that end 0 started.
fn established(seed: u64) -> World {
    let mut world = World::pair(seed);
    world.send(0, 1);
    world.run(SECOND);
    world.send(1, 0);
    world.run(12 * SECOND); // nobody owes anything
    assert!(world.agree(0, 1));
    world
}

/// What end 0 or 1 believes of the other's address.
fn endpoint(world: &World, end: usize) -> Option<std::net::SocketAddr> {
    world.ends[end].endpoint(world.peer(end, 1 - end))
}

/// Takes the held datagram of this kind that was sent last.
fn take(world: &mut World, kind: u8) -> Datagram {
    let at = (0..world.held.len()).rev().find(|&at| world.header(&world.held[at]).kind == kind);
    world.held.remove(at.expect("such a datagram is under way"))
}

#[test]
fn once_the_new_address_is_known_nothing_is_lost() {
    for moving in [0, 1] {
        let mut world = established(41);
        world.set_links(Link { delay: 5 * MILLISECOND, jitter: 20 * MILLISECOND, ..Link::default() });
        for hop in 5..12 {
            world.roam(moving, address(hop));
            let before = world.ends[1 - moving].opened();
            while world.ends[1 - moving].opened() == before {
                world.send(moving, 1 - moving);
                world.run(MILLISECOND);
            }
            // The far end has opened the first datagram from there: from now on all arrive, both ways.
            for _ in 0..50 {
                let both = [world.send(0, 1), world.send(1, 0)];
                world.run(SECOND / 10);
                assert!(both.iter().all(|&id| world.delivered(id)), "end {moving} at hop {hop}");
            }
            assert_eq!(endpoint(&world, 1 - moving), Some(address(hop)));
        }
        assert_recovers(&mut world, 0, 1);
    }
}

#[test]
fn an_older_datagram_and_a_replayed_one_from_elsewhere_move_nothing() {
    let mut world = established(42);
    world.hold = true;
    world.send(0, 1);
    let mut held_back = world.held.pop().expect("a datagram");
    world.hold = false;
    world.tap = Some(Vec::new());
    world.send(0, 1);
    world.run(SECOND);
    let mut replayed = world.tap.take().and_then(|mut sent| sent.pop()).expect("a datagram");
    for datagram in [&mut held_back, &mut replayed] {
        datagram.from = address(8);
        world.arrive(datagram.clone());
        assert_eq!(endpoint(&world, 1), Some(address(0)));
    }
    world.run(SECOND);
    assert_eq!(world.undelivered(), 0, "the older one was taken all the same");
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn a_forged_datagram_from_elsewhere_moves_nothing() {
    let mut world = established(43);
    world.hold = true;
    world.send(0, 1);
    let genuine = world.held.pop().expect("a datagram");
    for at in 0..genuine.bytes.len() {
        let mut forged = genuine.clone();
        forged.from = address(8);
        forged.bytes[at] ^= 1;
        world.arrive(forged);
        assert_eq!(endpoint(&world, 1), Some(address(0)), "byte {at}");
    }
    world.arrive(Datagram { from: address(7), ..genuine });
    assert_eq!(endpoint(&world, 1), Some(address(7)), "and the genuine one does");
    world.whole_again();
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn a_datagram_of_the_session_before_moves_nothing() {
    let mut world = established(44);
    let before = world.current(0, 1);
    world.hold = true;
    world.mono += 110 * SECOND;
    world.send(0, 1); // in the old session, whose highest counter this is, and a new one is asked for
    world.run(0);
    let mut late = take(&mut world, TYPE_DATA);
    let initiation = take(&mut world, TYPE_INITIATION);
    world.whole_again();
    world.arrive(initiation);
    world.run(SECOND);
    assert!(world.agree(0, 1) && world.current(0, 1) != before);
    late.from = address(8);
    world.arrive(late);
    assert_eq!(world.undelivered(), 0, "it opens in the previous session");
    assert_eq!(endpoint(&world, 1), Some(address(0)));
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn an_initiation_from_elsewhere_moves_nothing_before_data_come_from_there() {
    let mut world = established(45);
    world.mono += 110 * SECOND;
    world.hold = true;
    world.send(0, 1);
    world.run(0);
    let mut initiation = take(&mut world, TYPE_INITIATION);
    initiation.from = address(8);
    world.routes.insert(address(8), 0);
    world.arrive(initiation);
    world.run(0);
    assert_eq!(
        take(&mut world, TYPE_RESPONSE).to,
        address(8),
        "a response goes to where the initiation came from"
    );
    assert_eq!(endpoint(&world, 1), Some(address(0)));
    world.whole_again();
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn a_response_that_was_overtaken_by_data_from_a_new_address_does_not_move_the_endpoint_back() {
    let mut world = established(46);
    world.mono += 110 * SECOND;
    world.hold = true;
    world.send(0, 1);
    world.run(0);
    let initiation = take(&mut world, TYPE_INITIATION);
    world.arrive(initiation);
    world.run(0);
    let response = take(&mut world, TYPE_RESPONSE);
    // End 1 moves on after its answer; its data are faster.
    world.roam(1, address(7));
    world.send(1, 0);
    let data = take(&mut world, TYPE_DATA);
    world.arrive(data);
    assert_eq!(endpoint(&world, 0), Some(address(7)));
    world.whole_again();
    let before = world.current(0, 1);
    world.arrive(response);
    world.run(0);
    assert_ne!(world.current(0, 1), before, "the response is taken");
    assert_eq!(endpoint(&world, 0), Some(address(7)));
    let after: Vec<u64> = (0..50).map(|_| world.send(0, 1)).collect();
    world.run(SECOND);
    assert!(after.iter().all(|&id| world.delivered(id)), "lost after the new address was known");
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn a_peer_that_answers_only_at_its_configured_address_is_sent_to_there() {
    let mut world = established(47);
    world.roam(1, address(7));
    world.send(1, 0);
    world.run(SECOND);
    assert_eq!(endpoint(&world, 0), Some(address(7)));
    // It is back where it was, without a memory, and says nothing of itself: end 0 must find it.
    world.roam(1, address(1));
    world.restart(1);
    world.send(0, 1);
    world.run(40 * SECOND);
    assert_eq!(endpoint(&world, 0), Some(address(1)));
    assert_recovers(&mut world, 0, 1);
}
