//! Sessions age: renewed in time by the end that started them, refused and wiped at their end.

use veil_proto::DropReason;
use veil_proto::handshake::message::{TYPE_DATA, TYPE_INITIATION};
use veil_proto::time::{MILLISECOND, SECOND};
use veil_proto::tunnel::Outbound;

use crate::checks::assert_recovers;
use crate::end::{End, datagram};
use crate::sim::{Link, World, address};

/// Who sent the initiations so far.
fn initiators(world: &World) -> Vec<usize> {
    let number = |datagram: &&crate::sim::Datagram| usize::from(datagram.from == address(1));
    world.tapped(TYPE_INITIATION).iter().map(number).collect()
}

/// A pair in which end 0 has started the one session, 30 ms ago; every datagram is tapped.
fn started_by_end_0(seed: u64) -> World {
    let mut world = World::pair(seed);
    world.tap = Some(Vec::new());
    world.send(0, 1);
    world.run(30 * MILLISECOND);
    assert!(world.agree(0, 1));
    world
}

#[test]
fn renewals_under_load_lose_no_packet() {
    for (seed, jitter, slow) in [(51, 0, 0), (52, 40, 0), (53, 0, 30), (54, 40, 30)] {
        let mut world = started_by_end_0(seed);
        let jitter = jitter * MILLISECOND;
        world.set_links(Link { delay: 10 * MILLISECOND, jitter, ..Link::default() });
        world.message_delay = slow * MILLISECOND;
        // Traffic all the time, and dense around each renewal, so that some of it is under way meanwhile.
        world.run(SECOND);
        for (pause, times) in [(SECOND, 118), (2 * MILLISECOND, 1_000)].repeat(3) {
            for _ in 0..times {
                world.send(0, 1);
                world.send(1, 0);
                world.run(pause);
            }
        }
        world.run(SECOND);
        assert_eq!(world.undelivered(), 0);
        // The first session and three renewals, all started by the same end.
        assert_eq!(initiators(&world), [0; 4]);
        assert_recovers(&mut world, 0, 1);
    }
}

#[test]
fn a_session_is_renewed_when_its_initiator_sends_after_120_seconds_and_not_before() {
    let mut world = started_by_end_0(55);
    let created = SECOND + 20 * MILLISECOND; // when end 0 had the response
    world.run(100 * SECOND);
    for (at, expected) in [(created + 120 * SECOND - 1, 1), (created + 120 * SECOND, 2)] {
        world.mono = at;
        world.send(0, 1);
        world.run(0);
        assert_eq!(initiators(&world).len(), expected, "at {at}");
    }
}

#[test]
fn a_responder_never_starts_a_renewal_for_age() {
    let mut world = started_by_end_0(56);
    world.run(12 * SECOND);
    // The initiator neither sends nor hears, so that only the responder could: it sends up to the end.
    world.links.insert((1, 0), Link { loss: 100, ..Link::default() });
    world.run(152 * SECOND);
    for _ in 0..14 {
        world.send(1, 0);
        world.run(SECOND);
    }
    assert_eq!(initiators(&world), [0], "only the first");
}

#[test]
fn a_responder_starts_no_renewal_for_what_it_receives_after_165_seconds() {
    let mut world = started_by_end_0(61);
    world.run(12 * SECOND);
    world.hold = true;
    world.mono += 155 * SECOND;
    for _ in 0..8 {
        // The initiator's data arrive, its initiations do not.
        world.send(0, 1);
        for datagram in std::mem::take(&mut world.held) {
            if world.header(&datagram).kind == TYPE_DATA {
                world.arrive(datagram);
            }
        }
        world.run(SECOND);
    }
    assert_eq!(world.undelivered(), 0);
    assert!(initiators(&world).iter().all(|&end| end == 0));
    world.whole_again();
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn an_initiator_that_only_receives_renews_after_165_seconds() {
    let mut world = World::pair(57);
    let mut spec = world.ends[1].spec.clone();
    // Keepalives are no traffic: end 0 owes nothing for them and sends nothing.
    (spec.peers[0].keepalive, spec.peers[0].endpoint) = (Some(SECOND), None);
    world.ends[1] = End::new(spec, 57, 0);
    world.tap = Some(Vec::new());
    world.send(0, 1);
    world.run(165 * SECOND);
    assert_eq!(initiators(&world), [0]);
    world.run(2 * SECOND);
    assert_eq!(initiators(&world), [0, 0]);
    assert!(world.agree(0, 1));
}

#[test]
fn an_idle_session_is_wiped_when_its_time_is_over() {
    let mut world = started_by_end_0(58);
    world.run(179 * SECOND);
    assert!(world.ends.iter().all(|end| end.sessions.session_count() == 1));
    world.run(SECOND);
    assert!(world.ends.iter().all(|end| end.sessions.session_count() == 0));
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn past_180_seconds_a_session_neither_seals_nor_opens_even_before_it_is_wiped() {
    let mut world = started_by_end_0(59);
    world.hold = true;
    world.send(0, 1);
    world.send(0, 1);
    let [first, second] = std::mem::take(&mut world.held).try_into().ok().expect("two datagrams");
    // No timer runs: the clock alone says that it is over. The responder's session is 10 ms older than end 0's.
    let created = SECOND + 10 * MILLISECOND;
    world.mono = created + 180 * SECOND - 1;
    world.arrive(first);
    assert!(world.delivered(1));
    world.mono += 1;
    world.arrive(second);
    assert!(!world.delivered(2));
    assert_eq!(world.ends[1].dropped(DropReason::SessionExpired), 1);

    world.mono += 10 * MILLISECOND;
    let (peer, now) = (world.peer(0, 1), world.now());
    assert_eq!(world.ends[0].sessions.begin(peer, now), Outbound::Wait);
    assert!(
        world.ends[0].sessions.seal(peer, &mut datagram(&[]), now).is_err(),
        "its key is not used any more"
    );
    world.whole_again();
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn sessions_that_are_replaced_do_not_pile_up() {
    let mut world = started_by_end_0(60);
    for _ in 0..100 {
        world.send(0, 1);
        world.send(1, 0);
        world.run(10 * SECOND);
        assert!(world.ends.iter().all(|end| end.sessions.session_count() <= 2));
    }
    assert_eq!(world.undelivered(), 0);
    assert!(world.tapped(TYPE_DATA).len() >= 200);
    world.run(400 * SECOND);
    assert!(world.ends.iter().all(|end| end.sessions.session_count() == 0));
}
