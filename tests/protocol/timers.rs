//! What an end does of itself: keepalives, retries, giving up.

use veil_proto::handshake::message::MIN_INITIATION;
use veil_proto::time::{MILLISECOND, SECOND};

use crate::sim::{Link, World};

#[test]
fn traffic_one_way_is_answered_by_a_keepalive_after_ten_seconds() {
    let mut world = World::pair(71);
    world.send(0, 1);
    world.run(SECOND);
    let before = world.ends[1].keepalives_sent;
    world.send(0, 1);
    world.run(9 * SECOND);
    assert_eq!(world.ends[1].keepalives_sent, before);
    world.run(SECOND);
    assert_eq!(world.ends[1].keepalives_sent, before + 1);
}

#[test]
fn an_unanswered_initiation_is_retried_anew_and_given_up_after_ninety_seconds() {
    let mut world = World::pair(72);
    world.set_links(Link { loss: 100, ..Link::default() });
    world.tap = Some(Vec::new());
    world.send(0, 1);
    world.run(5 * SECOND - MILLISECOND);
    assert_eq!(world.tap.as_ref().map(Vec::len), Some(1));
    world.run(334 * MILLISECOND);
    assert_eq!(world.tap.as_ref().map(Vec::len), Some(2));
    world.run(100 * SECOND);
    let sent = world.tap.take().expect("the tap was open");
    assert!(sent.iter().all(|datagram| datagram.bytes.len() >= MIN_INITIATION));
    assert!((17..=19).contains(&sent.len()), "{} initiations", sent.len());
    assert!(sent.windows(2).all(|pair| pair[0].bytes != pair[1].bytes));
    assert_eq!((world.ends[0].gave_up(), world.ends[0].unsent), (1, 1));
}
