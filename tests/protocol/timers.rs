//! What an end does of itself: keepalives, retries, giving up.

use veil_proto::handshake::message::{TYPE_DATA, TYPE_INITIATION};
use veil_proto::time::{MILLISECOND, SECOND};
use veil_proto::tunnel::PeerEvent;

use crate::checks::assert_recovers;
use crate::end::End;
use crate::sim::{Link, World};

const NOTHING_ARRIVES: Link = Link { loss: 100, doubled: 0, delay: 0, jitter: 0 };

/// A pair with a session that end 0 started, quiet for long enough that nobody owes anything.
fn quiet(seed: u64) -> World {
    let mut world = World::pair(seed);
    world.send(0, 1);
    world.run(12 * SECOND);
    world.send(1, 0);
    world.run(12 * SECOND);
    world.tap = Some(Vec::new());
    world
}

fn tapped(world: &World) -> usize {
    world.tap.as_ref().map_or(0, Vec::len)
}

#[test]
fn traffic_one_way_is_answered_by_a_keepalive_after_ten_seconds() {
    let mut world = quiet(71);
    let before = world.ends[1].keepalives_sent;
    world.send(0, 1);
    world.run(5 * SECOND);
    world.send(0, 1);
    // The packet took 10 ms; the second one postpones nothing.
    world.run(5 * SECOND + 10 * MILLISECOND - 1);
    assert_eq!(world.ends[1].keepalives_sent, before);
    world.run(1);
    assert_eq!(world.ends[1].keepalives_sent, before + 1);
    world.run(60 * SECOND);
    assert_eq!(tapped(&world), 2 + 1, "a keepalive is not answered");
}

#[test]
fn an_answer_in_time_spares_the_keepalive() {
    let mut world = quiet(72);
    let keepalives = |world: &World| world.ends.iter().map(|end| end.keepalives_sent).sum::<u64>();
    let before = keepalives(&world);
    for _ in 0..20 {
        world.send(0, 1);
        world.run(5 * SECOND);
        world.send(1, 0);
        world.run(SECOND);
    }
    assert_eq!(keepalives(&world), before + 1, "only the one that opens the renewed session");
    assert_eq!(world.tapped(TYPE_INITIATION).len(), 1);
}

#[test]
fn a_persistent_keepalive_begins_the_session_and_goes_on_in_silence() {
    let mut world = World::pair(73);
    let mut spec = world.ends[0].spec.clone();
    spec.peers[0].keepalive = Some(25 * SECOND);
    world.ends[0] = End::new(spec, 73, 0);
    world.run(SECOND);
    assert!(world.agree(0, 1), "without a packet of anybody's");
    let before = world.ends[1].opened();
    for n in 1..=20 {
        world.run(25 * SECOND);
        assert!(world.ends[1].opened() >= before + n, "keepalive {n}");
        assert!(world.agree(0, 1));
    }
    assert!(world.ends[1].opened() <= before + 20 + 5, "no more than those and one for each renewal");
}

#[test]
fn a_handshake_starts_when_data_went_unanswered_for_fifteen_seconds() {
    for end in [0, 1] {
        let mut world = quiet(74);
        world.links.insert((end, 1 - end), NOTHING_ARRIVES);
        world.send(end, 1 - end);
        world.run(10 * SECOND);
        world.send(end, 1 - end);
        world.run(5 * SECOND - 1);
        assert_eq!(world.tapped(TYPE_INITIATION).len(), 0);
        world.run(1);
        assert_eq!(world.tapped(TYPE_INITIATION).len(), 1);
        world.links.clear();
        assert_recovers(&mut world, 0, 1);
    }
}

#[test]
fn a_keepalive_needs_no_answer_and_starts_no_handshake() {
    let mut world = quiet(75);
    world.send(0, 1);
    world.run(SECOND);
    world.links.insert((1, 0), NOTHING_ARRIVES);
    // End 1's keepalive is lost: end 0 asks anew, end 1 has no reason to.
    world.run(13 * SECOND);
    assert_eq!(world.tapped(TYPE_DATA).len(), 2);
    assert_eq!(world.tapped(TYPE_INITIATION).len(), 0);
    world.run(2 * SECOND);
    assert_eq!(world.tapped(TYPE_INITIATION).len(), 1);
}

#[test]
fn an_unanswered_initiation_is_retried_anew_and_given_up_after_ninety_seconds() {
    for seed in 76..86 {
        let mut world = World::pair(seed);
        world.set_links(NOTHING_ARRIVES);
        world.tap = Some(Vec::new());
        for _ in 0..3 {
            world.send(0, 1);
        }
        let mut sent_at = vec![world.mono];
        let mut given_up = None;
        for _ in 0..10_000 {
            world.run(10 * MILLISECOND);
            if tapped(&world) > sent_at.len() {
                sent_at.push(world.mono);
            }
            if given_up.is_none() && world.ends[0].gave_up() == 1 {
                given_up = Some(world.mono);
            }
        }
        let waits: Vec<u64> = sent_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (least, most) = (5 * SECOND - 10 * MILLISECOND, 5 * SECOND + 343 * MILLISECOND);
        assert!(waits.iter().all(|wait| (least..=most).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|&wait| wait != waits[0]), "always the same jitter");
        let given_up = given_up.expect("it was given up") - sent_at[0];
        assert!((90 * SECOND..=91 * SECOND).contains(&given_up), "after {given_up} ns");
        assert!(sent_at.last().is_some_and(|last| last - sent_at[0] < 90 * SECOND), "no try after 90 s");

        let sent = world.tapped(TYPE_INITIATION);
        assert_eq!(sent.len(), sent_at.len());
        assert!(
            sent.windows(2).all(|pair| pair[0].bytes[..64] != pair[1].bytes[..64]),
            "a new one each time"
        );
        assert_eq!(world.ends[0].unsent, 3, "what waited is dropped");
        assert!(matches!(world.ends[0].events[..], [PeerEvent::GaveUp(_)]));

        // The next packet begins anew.
        world.tap = None;
        world.whole_again();
        let id = world.send(0, 1);
        world.run(SECOND);
        assert!(world.delivered(id));
    }
}
