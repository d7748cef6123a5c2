//! An end that forgets everything is talking again within two seconds of its first packet.

use veil_proto::time::{MILLISECOND, SECOND};

use crate::checks::assert_recovers;
use crate::sim::World;

#[test]
fn either_end_restarted_talks_again_at_once_however_often() {
    for restarted in [0, 1] {
        for slow in [0, 50] {
            let mut world = World::pair(61);
            world.message_delay = slow * MILLISECOND;
            world.send(0, 1);
            world.send(1, 0);
            world.run(5 * SECOND);
            for life in 1..=10 {
                world.restart(restarted);
                let first = world.send(restarted, 1 - restarted);
                world.run(2 * SECOND);
                assert!(world.delivered(first), "life {life} of end {restarted}");
                let answer = world.send(1 - restarted, restarted);
                world.run(SECOND);
                assert!(world.delivered(answer), "life {life} of end {restarted}");
                assert!(world.agree(0, 1));
                // Previous and current: older ones are wiped although their time is not over.
                assert!(world.ends.iter().all(|end| end.sessions.session_count() <= 2));
            }
            assert_recovers(&mut world, 0, 1);
        }
    }
}

#[test]
fn both_ends_restarted_at_once_talk_again() {
    let mut world = World::pair(62);
    world.send(0, 1);
    world.run(SECOND);
    world.restart(0);
    world.restart(1);
    let both = [world.send(0, 1), world.send(1, 0)];
    world.run(2 * SECOND);
    assert!(both.iter().all(|&id| world.delivered(id)));
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn a_spoke_restarted_is_served_by_the_hub_and_its_neighbours_notice_nothing() {
    let mut world = World::hub(63, 3);
    for spoke in 1..=3 {
        world.send(spoke, 0);
    }
    world.run(SECOND);
    let neighbours = [world.current(0, 2), world.current(0, 3)];
    world.restart(1);
    let first = world.send(1, 0);
    world.run(2 * SECOND);
    let answer = world.send(0, 1);
    world.run(SECOND);
    assert!(world.delivered(first) && world.delivered(answer));
    assert_eq!([world.current(0, 2), world.current(0, 3)], neighbours);
}

#[test]
fn a_hub_restarted_hears_its_spokes_again_once_their_data_go_unanswered() {
    let mut world = World::hub(64, 3);
    for spoke in 1..=3 {
        world.send(spoke, 0);
    }
    world.run(12 * SECOND);
    world.restart(0);
    // It knows no address of theirs, and they do not know that it has forgotten them.
    for spoke in 1..=3 {
        world.send(spoke, 0);
        world.send(0, spoke);
    }
    assert_eq!(world.ends[0].unsent, 3, "nowhere to go");
    world.run(15 * SECOND - MILLISECOND);
    assert!((1..=3).all(|spoke| !world.agree(0, spoke)));
    world.run(SECOND);
    for spoke in 1..=3 {
        assert!(world.agree(0, spoke));
        assert_recovers(&mut world, 0, spoke);
    }
}

#[test]
fn what_was_sent_to_an_earlier_life_is_refused_and_counted() {
    let mut world = World::pair(65);
    world.send(0, 1);
    world.run(SECOND);
    world.hold = true;
    for _ in 0..10 {
        world.send(0, 1);
    }
    world.restart(1);
    for datagram in std::mem::take(&mut world.held) {
        world.arrive(datagram);
    }
    assert_eq!(world.ends[1].dropped(veil_proto::DropReason::UnknownIndex), 10);
    world.whole_again();
    assert_recovers(&mut world, 0, 1);
}
