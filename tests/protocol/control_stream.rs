//! The control stream between two ends: what is said arrives once and in order, whatever the wire does; an end that
//! stops says so; a lease is taken only from whom it is asked.

use std::sync::atomic::Ordering::Relaxed;

use veil_proto::DropReason;
use veil_proto::handshake::message::TYPE_INITIATION;
use veil_proto::mux::control::CloseReason;
use veil_proto::mux::{Config, Message, frame};
use veil_proto::time::{MILLISECOND, SECOND};
use veil_proto::tunnel::{Outbound, PeerEvent};

use crate::checks::assert_recovers;
use crate::end::{End, datagram};
use crate::sim::{Datagram, Link, World, address};

fn offering(world: &mut World, mtu: u16) {
    let (peer, config) = (world.peer(0, 1), Config { mtu: Some(mtu), ..Config::default() });
    world.ends[0].sessions.offer(peer, config);
    world.settle(0);
}

/// End 1 takes leases from end 0.
fn leasing(seed: u64) -> World {
    let mut world = World::pair(seed);
    let mut spec = world.ends[1].spec.clone();
    spec.peers[0].lease = true;
    world.ends[1] = End::new(spec, seed, 0);
    world.send(0, 1);
    world.run(SECOND);
    world
}

fn leased(world: &mut World) -> Option<Config> {
    world.ends[1].leased.take()
}

/// Seals frames at `from` and has them arrive at the other end.
fn inject(world: &mut World, from: usize, frames: &[(u8, u8, &[u8])]) {
    let (peer, now) = (world.peer(from, 1 - from), world.now());
    let Outbound::Ready(path) = world.ends[from].sessions.begin(peer, now) else { panic!("no session") };
    world.ends[from].seal(peer, path, datagram(frames), now);
    world.settle(from);
    world.run(100 * MILLISECOND);
}

/// End 0 closes the session they have, and the datagram is late: a renewal has overtaken it.
fn overtaken_close(seed: u64) -> (World, Datagram) {
    let mut world = World::talking(seed);
    world.run(121 * SECOND);
    world.hold = true;
    world.ends[0].sessions.close_all();
    world.settle(0);
    let late = world.held.pop().unwrap();
    world.whole_again();
    world.send(0, 1);
    world.run(SECOND);
    (world, late)
}

#[test]
fn a_lease_that_is_wanted_is_sought_without_a_packet_of_anybodys() {
    let mut world = World::leasing_pair(880);
    world.tap = Some(Vec::new());
    offering(&mut world, 1300);
    world.set_links(Link { loss: 100, ..Link::default() });
    let peer = world.peer(1, 0);
    world.ends[1].sessions.seek_lease(peer);
    world.settle(1);
    world.run(600 * SECOND);
    let tried = world.tapped(TYPE_INITIATION).len();
    assert!((5..=5 * 19).contains(&tried), "again and again, with pauses: {tried}");
    world.whole_again();
    world.run(120 * SECOND);
    assert_eq!(leased(&mut world).map(|config| config.mtu), Some(Some(1300)));
    let had = world.tapped(TYPE_INITIATION).len();
    world.run(600 * SECOND);
    assert_eq!(world.tapped(TYPE_INITIATION).len(), had, "what has come is asked for no more");
}

#[test]
fn a_lease_comes_though_the_first_datagram_of_its_session_is_lost() {
    let mut world = World::leasing_pair(881);
    offering(&mut world, 1300);
    let peer = world.peer(1, 0);
    world.ends[1].sessions.seek_lease(peer);
    world.settle(1);
    // The initiation has arrived, the response is on its way.
    world.run(15 * MILLISECOND);
    world.links.insert((1, 0), Link { loss: 100, ..Link::default() });
    world.run(SECOND);
    assert_eq!((world.ends[1].sessions.session_count(), leased(&mut world)), (1, None));
    world.whole_again();
    world.run(10 * SECOND);
    assert_eq!(leased(&mut world).map(|config| config.mtu), Some(Some(1300)));
}

#[test]
fn a_message_arrives_over_any_loss_once() {
    for seed in 0..40 {
        let mut world = leasing(900 + seed);
        world.set_links(Link { loss: 40, doubled: 20, delay: 10 * MILLISECOND, jitter: 50 * MILLISECOND });
        for mtu in 1280..1290 {
            offering(&mut world, mtu);
        }
        world.run(150 * SECOND);
        let events = &world.ends[1].events;
        let leases = events.iter().filter(|event| matches!(event, PeerEvent::Leased(_))).count();
        let last = leased(&mut world);
        assert!(
            leases >= 1 && last.as_ref().is_some_and(|config| config.mtu == Some(1289)),
            "seed {seed}: {leases}, {last:?}"
        );
        world.whole_again();
        assert_recovers(&mut world, 0, 1);
    }
}

#[test]
fn a_perfect_wire_needs_no_second_copy() {
    let mut world = leasing(950);
    (1280..1290).for_each(|mtu| offering(&mut world, mtu));
    world.run(20 * SECOND);
    let counters = world.ends[0].sessions.counters();
    assert_eq!((counters.control_sent.load(Relaxed), counters.control_resent.load(Relaxed)), (10, 0));
    assert_eq!(leased(&mut world).and_then(|config| config.mtu), Some(1289));
}

#[test]
fn a_session_change_says_again_what_still_matters() {
    let mut world = leasing(951);
    offering(&mut world, 1300);
    world.run(SECOND);
    assert!(leased(&mut world).is_some());
    world.run(125 * SECOND);
    world.send(0, 1);
    world.run(SECOND);
    assert_eq!(leased(&mut world).and_then(|config| config.mtu), Some(1300), "in the renewed session, too");
    world.restart(1);
    world.send(1, 0);
    world.run(10 * SECOND);
    assert_eq!(leased(&mut world).and_then(|config| config.mtu), Some(1300), "and to a peer that began anew");
}

#[test]
fn a_stream_that_nobody_acknowledges_ends_in_a_handshake() {
    let mut world = leasing(952);
    let before = world.current(0, 1);
    world.links.insert((1, 0), Link { loss: 100, ..Link::default() });
    offering(&mut world, 1300);
    world.run(70 * SECOND);
    assert_eq!(world.ends[0].sessions.counters().control_given_up.load(Relaxed), 1);
    world.whole_again();
    assert_recovers(&mut world, 0, 1);
    assert_ne!(world.current(0, 1), before);
    assert!(leased(&mut world).is_some());
}

#[test]
fn a_lease_is_taken_only_where_one_is_asked_for_and_within_the_peers_allowed_ips() {
    let mut world = World::talking(953);
    offering(&mut world, 1300);
    world.run(SECOND);
    assert_eq!(leased(&mut world), None, "nobody asked");
    let peer = world.peer(1, 0);
    let drops = &world.ends[1].sessions.peer_counters(peer).unwrap().drops;
    assert_eq!(drops.of(DropReason::ControlStray), 1);

    let mut world = leasing(954);
    let net = |text: &str| text.parse().unwrap();
    let config = Config {
        addresses: vec![net("10.8.0.1/32"), net("10.8.0.1/24"), net("10.9.0.1/32"), net("0.0.0.0/0")],
        routes: vec![net("10.8.0.1/32"), net("0.0.0.0/0"), net("10.8.0.0/16")],
        ..Config::default()
    };
    let to = world.peer(0, 1);
    world.ends[0].sessions.offer(to, config);
    world.settle(0);
    world.run(SECOND);
    let got = leased(&mut world).unwrap();
    assert_eq!((got.addresses, got.routes), (vec![net("10.8.0.1/32")], vec![net("10.8.0.1/32")]));
}

#[test]
fn an_end_that_stops_says_so_and_its_session_is_gone() {
    let mut world = World::talking(955);
    world.ends[0].sessions.close_all();
    world.settle(0);
    world.run(SECOND);
    let peer = world.peer(1, 0);
    assert!(world.ends[1].events.contains(&PeerEvent::Closed(peer, CloseReason::SHUTDOWN)));
    assert_eq!((world.current(1, 0), world.ends[1].sessions.session_count()), (None, 0));
    // A new process of it finds together again at once, from either side.
    world.restart(0);
    let id = world.send(1, 0);
    world.run(SECOND);
    assert!(world.delivered(id));
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn a_close_concerns_only_the_session_that_carried_it() {
    let (mut world, late) = overtaken_close(956);
    let renewed = world.current(1, 0);
    world.arrive(late);
    world.run(0);
    assert_eq!(world.current(1, 0), renewed);
    assert_eq!(world.ends[1].sessions.session_count(), 1, "only the old one is gone");
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn what_came_under_another_session_is_applied_but_not_acknowledged() {
    let (mut world, late) = overtaken_close(957);
    let acks = world.ends[1].sessions.counters().acks_sent.load(Relaxed);
    world.arrive(late);
    world.run(SECOND);
    assert_eq!(world.ends[1].sessions.counters().closed.load(Relaxed), 1, "applied");
    assert_eq!(world.ends[1].sessions.counters().acks_sent.load(Relaxed), acks, "not acknowledged");
}

#[test]
fn a_lease_of_a_former_session_does_not_replace_that_of_a_later_one() {
    let mut world = leasing(959);
    world.run(121 * SECOND);
    world.hold = true;
    offering(&mut world, 1300);
    let late = world.held.pop().unwrap();
    world.whole_again();
    world.send(0, 1);
    world.run(SECOND);
    offering(&mut world, 1301);
    world.run(SECOND);
    assert_eq!(leased(&mut world).and_then(|config| config.mtu), Some(1301));
    world.arrive(late);
    world.run(SECOND);
    assert_eq!(leased(&mut world), None);
}

#[test]
fn many_closes_are_one() {
    let mut world = World::talking(960);
    let mut payload = vec![0, 0, 0, 0];
    (0..256).for_each(|_| Message::Close(CloseReason::SHUTDOWN).write(&mut payload).unwrap());
    inject(&mut world, 0, &[(frame::CONTROL, 0, &payload)]);
    let closed = |event: &&PeerEvent| matches!(event, PeerEvent::Closed(..));
    assert_eq!(world.ends[1].events.iter().filter(closed).count(), 1);
    assert_eq!(world.ends[1].sessions.counters().closed.load(Relaxed), 1);
}

#[test]
fn a_peer_that_keeps_closing_is_asked_anew_once_a_second_at_most() {
    let mut world = World::talking(961);
    world.tap = Some(Vec::new());
    for _ in 0..400 {
        world.ends[0].sessions.close_all();
        world.settle(0);
        world.run(15 * MILLISECOND);
        world.send(1, 0);
        world.run(10 * MILLISECOND);
    }
    let from_end_1 = |datagram: &&&Datagram| datagram.from == address(1);
    let asked = world.tapped(TYPE_INITIATION).iter().filter(from_end_1).count();
    assert!((5..=11).contains(&asked), "{asked} times in 10 s");
    world.run(2 * SECOND);
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn a_peer_cannot_give_an_address_that_is_another_peers() {
    let mut world = World::hub(962, 2);
    let spec = world.ends[0].spec.clone();
    world.run(0);
    // End 1 may give end 0 leases, and its allowed IPs happen to reach over end 2's address.
    let mut spec = spec;
    (spec.peers[0].lease, spec.peers[0].wide) = (true, true);
    world.ends[0] = End::new(spec, 962, 0);
    world.send(1, 0);
    world.run(SECOND);
    let net = |text: &str| text.parse().unwrap();
    let (peer, addresses) = (world.peer(1, 0), vec![net("10.8.0.3/32"), net("10.8.0.77/32")]);
    world.ends[1].sessions.offer(peer, Config { addresses, ..Config::default() });
    world.settle(1);
    world.run(SECOND);
    let got = world.ends[0].leased.take().unwrap();
    assert_eq!(got.addresses, [net("10.8.0.77/32")]);
}

#[test]
fn a_frame_that_cannot_be_is_refused_and_harms_nothing() {
    let mut world = World::talking(958);
    let mut close = vec![0, 0, 0, 0];
    Message::Close(CloseReason(1)).write(&mut close).unwrap();
    let cut = &close[..close.len() - 1];
    let ahead = [&[64, 0, 0, 0][..], &close[4..]].concat();
    let mut bad_ack = [0; 12];
    bad_ack[0] = 1;
    let cases: [(u8, &[u8], DropReason); 9] = [
        (frame::CONTROL, &[], DropReason::FrameMalformed),
        (frame::CONTROL, &[0, 0, 0], DropReason::FrameMalformed),
        (frame::CONTROL, cut, DropReason::FrameMalformed),
        (frame::CONTROL, &ahead, DropReason::ControlAhead),
        (frame::ACK, &[0; 11], DropReason::FrameMalformed),
        (frame::ACK, &bad_ack, DropReason::FrameMalformed),
        (frame::PROBE, &[0; 4], DropReason::FrameMalformed),
        (frame::PROBE, &[0, 0, 0, 0, 2], DropReason::FrameMalformed),
        (frame::PROBE, &[0, 0, 0, 0, 1], DropReason::ControlStray),
    ];
    for (kind, payload, reason) in cases {
        world.ends[1].refused.clear();
        inject(&mut world, 0, &[(kind, 0, payload)]);
        assert_eq!(world.ends[1].refused, [reason], "kind {kind}, {payload:?}");
    }
    assert!(world.agree(0, 1));
    inject(&mut world, 0, &[(frame::CONTROL, 0, &close)]);
    assert_eq!(world.current(1, 0), None, "and the whole one closes");
}
