//! Paths that drop large datagrams and say nothing: probes find out, and what is sent follows.

use std::sync::atomic::Ordering::Relaxed;

use veil_proto::session::MIN_DATAGRAM;
use veil_proto::time::{MILLISECOND, SECOND};

use crate::sim::World;

/// A datagram of a full tunnel packet.
const FULL: usize = 1416 + 4 + MIN_DATAGRAM;

fn limit(world: &World, end: usize) -> Option<usize> {
    world.ends[end].sessions.path_limit(world.peer(end, 1 - end))
}

/// End 0 sends as large as it may, a datagram each 10 ms. Returns the longest time in which none arrived.
fn transfer(world: &mut World, nanos: u64) -> u64 {
    let (until, mut arrived_at, mut stall) = (world.mono + nanos, world.mono, 0);
    while world.mono < until {
        let opened = world.ends[1].opened();
        let size = limit(world, 0).map_or(FULL, |limit| limit.min(FULL));
        world.send_large(0, 1, FULL);
        world.run(10 * MILLISECOND);
        let fits = world.ends[0].widest.is_none_or(|widest| size <= widest);
        if fits && world.ends[1].opened() > opened {
            stall = stall.max(world.mono - arrived_at);
            arrived_at = world.mono;
        }
    }
    stall.max(world.mono - arrived_at)
}

#[test]
fn a_path_that_shrinks_mid_transfer_stalls_less_than_two_seconds() {
    for seed in 700..720 {
        let mut world = World::talking(seed);
        transfer(&mut world, 3 * SECOND + (seed - 700) * 25 * MILLISECOND);
        assert_eq!(limit(&world, 0), None);
        world.ends[0].widest = Some(1352);
        let stall = transfer(&mut world, 20 * SECOND);
        assert!(stall < 2 * SECOND, "{} ms", stall / MILLISECOND);
        assert!(
            limit(&world, 0).is_some_and(|limit| (1336..=1352).contains(&limit)),
            "{:?}",
            limit(&world, 0)
        );
        assert_eq!(world.ends[0].sessions.counters().black_holes.load(Relaxed), 1);
        assert_eq!(limit(&world, 1), None, "the way back is another path");
    }
}

#[test]
fn a_wide_path_is_confirmed_and_never_limited() {
    let mut world = World::talking(730);
    transfer(&mut world, 30 * SECOND);
    let counters = world.ends[0].sessions.counters();
    let (sent, answered) = (counters.probes_sent.load(Relaxed), counters.probes_answered.load(Relaxed));
    assert!((40..=70).contains(&sent) && answered + 1 >= sent, "{answered} of {sent}");
    assert_eq!((limit(&world, 0), counters.black_holes.load(Relaxed)), (None, 0));
}

#[test]
fn a_peer_that_moves_is_on_another_path() {
    let mut world = World::talking(731);
    world.ends[0].widest = Some(1352);
    transfer(&mut world, 10 * SECOND);
    assert!(limit(&world, 0).is_some());
    world.ends[0].widest = None;
    world.roam(1, crate::sim::address(7));
    world.send(1, 0);
    world.run(SECOND);
    assert_eq!(limit(&world, 0), None);
}

#[test]
fn ordinary_loss_does_not_narrow_a_path_for_long() {
    let mut world = World::talking(732);
    let lossy = crate::sim::Link { loss: 10, delay: 10 * MILLISECOND, ..Default::default() };
    world.set_links(lossy);
    transfer(&mut world, 120 * SECOND);
    world.whole_again();
    transfer(&mut world, 10 * SECOND);
    assert_eq!(limit(&world, 0), None);
}

#[test]
fn a_path_that_is_idle_again_is_left_alone() {
    for widest in [None, Some(1352)] {
        let mut world = World::talking(740);
        world.ends[0].widest = widest;
        transfer(&mut world, 30 * SECOND);
        world.run(30 * SECOND);
        let sent = |world: &World| world.ends[0].sessions.counters().probes_sent.load(Relaxed);
        let before = sent(&world);
        world.run(900 * SECOND);
        assert!(sent(&world) <= before + 1, "{} probes", sent(&world) - before);
        assert_eq!(world.ends[0].sessions.session_count(), 0, "nothing keeps the session alive");
    }
}
