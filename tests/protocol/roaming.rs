//! The endpoint follows the newest authentic datagram, and nothing else.

use veil_proto::time::SECOND;

use crate::sim::{World, address, assert_recovers};

#[test]
fn once_the_new_address_is_known_nothing_is_lost() {
    let mut world = World::pair(41);
    world.send(0, 1);
    world.send(1, 0);
    world.run(SECOND);
    // End 0 moves: its old address leads nowhere.
    world.routes.remove(&address(0));
    world.routes.insert(address(7), 0);
    world.addresses[0] = address(7);
    let first = world.send(0, 1);
    world.run(SECOND);
    assert!(world.delivered(first));
    let after: Vec<u64> = (0..50).map(|_| world.send(1, 0)).collect();
    world.run(SECOND);
    assert!(after.iter().all(|&id| world.delivered(id)));
    let peer = world.peer(1, 0);
    assert_eq!(world.ends[1].endpoint(peer), Some(address(7)));
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn an_older_datagram_and_a_replayed_one_from_elsewhere_move_nothing() {
    let mut world = World::pair(42);
    world.send(0, 1);
    world.run(SECOND);
    world.hold = true;
    world.send(0, 1);
    let mut held_back = world.held.pop().expect("a datagram");
    world.hold = false;
    world.tap = Some(Vec::new());
    world.send(0, 1);
    world.run(SECOND);
    let mut replayed = world.tap.take().and_then(|mut sent| sent.pop()).expect("a datagram");
    let peer = world.peer(1, 0);
    for datagram in [&mut held_back, &mut replayed] {
        datagram.from = address(8);
        world.arrive(datagram.clone());
        assert_eq!(world.ends[1].endpoint(peer), Some(address(0)));
    }
    world.run(SECOND);
    assert_recovers(&mut world, 0, 1);
}
