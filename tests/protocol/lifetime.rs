//! Sessions age: renewed in time by the end that started them, refused and wiped at their end.

use veil_proto::time::{MILLISECOND, SECOND};

use crate::sim::{World, assert_recovers};

#[test]
fn renewals_under_load_lose_no_packet() {
    let mut world = World::pair(51);
    world.send(0, 1);
    world.run(SECOND);
    for _ in 0..4_000 {
        world.send(0, 1);
        world.send(1, 0);
        world.run(100 * MILLISECOND);
    }
    world.run(SECOND);
    assert_eq!(world.undelivered(), 0);
    // 400 s of traffic: the first session and three renewals, all started by the same end.
    let started: Vec<u64> = world.ends.iter().map(|end| end.handshake_datagrams()).collect();
    assert_eq!(started.iter().sum::<u64>(), 8, "{started:?}");
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn an_idle_session_is_wiped_when_its_time_is_over() {
    let mut world = World::pair(52);
    world.send(0, 1);
    world.run(SECOND);
    assert!(world.ends.iter().all(|end| end.sessions.session_count() == 1));
    world.run(178 * SECOND);
    assert!(world.ends.iter().all(|end| end.sessions.session_count() == 1));
    world.run(2 * SECOND);
    assert!(world.ends.iter().all(|end| end.sessions.session_count() == 0));
    assert_recovers(&mut world, 0, 1);
}
