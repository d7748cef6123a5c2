//! Receiver indices that change while a session lives: nothing is lost by it, and no index stays for long.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use veil_proto::handshake::message::TYPE_DATA;
use veil_proto::time::{MILLISECOND, SECOND};

use crate::checks::assert_recovers;
use crate::sim::{Link, World, address};

fn indices(world: &mut World, end: usize) -> (u32, u32) {
    let peer = world.peer(end, 1 - end);
    world.ends[end].sessions.current_indices(peer).expect("a session")
}

fn rotate(world: &mut World, end: usize) -> bool {
    let (peer, now) = (world.peer(end, 1 - end), world.now());
    let rotated = world.ends[end].sessions.rotate_session(peer, now);
    world.settle(end);
    world.run(0);
    rotated
}

/// Rotates once spare indices have come, which are asked for by the first try.
fn rotate_stocked(world: &mut World, end: usize) {
    assert!(rotate(world, end) || rotate(world, end));
}

fn rotations(world: &World) -> Vec<u64> {
    world.ends.iter().map(|end| end.sessions.counters().rotations.load(Relaxed)).collect()
}

#[test]
fn an_index_changes_about_every_thirty_seconds_of_traffic_and_no_packet_is_lost() {
    let mut world = World::talking(800);
    world.tap = Some(Vec::new());
    for _ in 0..1100 {
        world.send(0, 1);
        world.send(1, 0);
        world.run(100 * MILLISECOND);
    }
    world.run(SECOND);
    assert_eq!(world.undelivered(), 0);
    for (end, count) in rotations(&world).into_iter().enumerate() {
        assert!((2..=4).contains(&count), "end {end}: {count} in 110 s");
    }
    let sent = world.tapped(TYPE_DATA);
    let to_end_0: BTreeSet<u32> =
        sent.iter().filter(|d| d.to == address(0)).map(|d| world.header(d).index).collect();
    assert_eq!(to_end_0.len() as u64, 1 + rotations(&world)[0], "all of them were used, and no other");
    assert!(world.agree(0, 1));
}

#[test]
fn keys_counters_and_window_go_on() {
    let mut world = World::talking(801);
    world.tap = Some(Vec::new());
    let session = world.current(0, 1);
    for _ in 0..200 {
        world.send(0, 1);
        world.run(500 * MILLISECOND);
    }
    assert!(rotations(&world)[1] >= 2 && world.current(0, 1) == session);
    let sent = world.tapped(TYPE_DATA);
    let counters: Vec<u64> =
        sent.iter().filter(|d| d.to == address(1)).map(|d| world.header(d).counter).collect();
    assert!(counters.windows(2).all(|pair| pair[1] == pair[0] + 1), "one count over all indices");
    // What was sent under the first index cannot be repeated under any.
    let first = sent.iter().find(|d| d.to == address(1)).map(|d| (*d).clone()).unwrap();
    let delivered = world.packets.iter().filter(|packet| packet.2).count();
    world.arrive(first);
    world.run(SECOND);
    assert_eq!(world.packets.iter().filter(|packet| packet.2).count(), delivered);
}

#[test]
fn an_idle_session_keeps_its_index_and_sends_nothing_for_it() {
    let mut world = World::talking(802);
    world.run(20 * SECOND);
    world.tap = Some(Vec::new());
    world.run(90 * SECOND);
    assert_eq!(rotations(&world), [0, 0]);
    assert_eq!(world.tapped(TYPE_DATA).len(), 0);
    world.send(0, 1);
    world.run(SECOND);
    assert_eq!(rotations(&world), [0, 1], "the end that hears traffic again");
}

#[test]
fn the_old_index_is_accepted_until_ten_seconds_after_the_first_datagram_under_the_new_one() {
    let mut world = World::talking(803);
    let old = indices(&mut world, 1).0;
    // A datagram that has not arrived yet when the index changes, three times.
    world.hold = true;
    let late = [world.send(0, 1), world.send(0, 1), world.send(0, 1)];
    let mut held = std::mem::take(&mut world.held).into_iter();
    world.hold = false;
    world.links.insert((0, 1), Link { loss: 100, ..Link::default() });
    rotate_stocked(&mut world, 1);
    world.run(30 * SECOND);
    assert_eq!(indices(&mut world, 1).0, indices(&mut world, 0).1, "end 0 knows");
    assert_ne!(indices(&mut world, 1).0, old);
    world.arrive(held.next().unwrap());
    assert!(world.delivered(late[0]), "no datagram has come under the new one: the old one is good");
    assert!(!rotate(&mut world, 1), "one change at a time");
    world.links.clear();
    world.send(0, 1);
    world.run(10 * MILLISECOND + 9 * SECOND);
    world.arrive(held.next().unwrap());
    assert!(world.delivered(late[1]), "within the 10 s");
    world.run(2 * SECOND);
    world.arrive(held.next().unwrap());
    assert!(!world.delivered(late[2]), "after them");
    assert!(rotate(&mut world, 1), "now there can be another");
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn a_lost_announcement_is_repeated_and_the_old_index_is_good_until_then() {
    let mut world = World::talking(804);
    let old = indices(&mut world, 1).0;
    world.links.insert((1, 0), Link { loss: 100, ..Link::default() });
    rotate_stocked(&mut world, 1);
    for _ in 0..8 {
        let id = world.send(0, 1);
        world.run(SECOND);
        assert!(world.delivered(id));
    }
    assert_eq!(indices(&mut world, 0).1, old, "it cannot know");
    world.whole_again();
    world.run(10 * SECOND);
    assert_eq!(indices(&mut world, 0).1, indices(&mut world, 1).0);
}

#[test]
fn rotation_goes_on_over_a_wire_that_loses_and_reorders() {
    for seed in 810..830 {
        let mut world = World::talking(seed);
        world.set_links(Link { loss: 25, doubled: 10, delay: 5 * MILLISECOND, jitter: 2 * SECOND });
        world.message_delay = 50 * MILLISECOND;
        for _ in 0..600 {
            world.send(0, 1);
            world.send(1, 0);
            world.run(500 * MILLISECOND);
        }
        assert!(rotations(&world).iter().all(|&count| count >= 4), "seed {seed}: {:?}", rotations(&world));
        world.whole_again();
        assert_recovers(&mut world, 0, 1);
    }
}

#[test]
fn every_index_comes_back_when_its_session_ends() {
    let mut world = World::talking(840);
    for _ in 0..60 {
        world.send(0, 1);
        world.send(1, 0);
        world.run(10 * SECOND);
    }
    assert!(rotations(&world).iter().all(|&count| count >= 5));
    world.run(400 * SECOND);
    for end in &world.ends {
        assert_eq!(end.sessions.session_count(), 0);
        // What is still given out are the spares.
        let spares = end.sessions.spare_indices();
        assert_eq!(end.handshakes.indices_in_use(), spares);
    }
}
