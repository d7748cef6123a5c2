//! A peer may send only from inner addresses of its own, whatever it wraps them in.

use std::net::Ipv4Addr;

use veil_proto::DropReason;
use veil_proto::mux::frame::FLAG_PARTIAL;
use veil_proto::time::SECOND;
use veil_proto::tunnel::Outbound;

use crate::end::{datagram, inner, packet};
use crate::sim::World;

/// Has spoke 1 send these frames to the hub; returns what the hub refused and how many packets its host got.
fn hub_receives(frames: &[(u8, &[u8])]) -> (Vec<DropReason>, usize) {
    let mut world = World::hub(31, 2);
    world.send(1, 0);
    world.send(2, 0);
    world.run(SECOND);
    world.ends[0].inbox.clear();
    let (now, peer) = (world.now(), world.peer(1, 0));
    let Outbound::Ready(path) = world.ends[1].sessions.begin(peer, now) else { panic!("no session") };
    world.ends[1].seal(peer, path, datagram(frames), now);
    let (_, bytes) = world.ends[1].outbox.pop_back().expect("a sealed datagram");
    world.ends[0].receive(bytes, veil_proto::Path::to(crate::sim::address(1)), now);
    (world.ends[0].refused.clone(), world.ends[0].inbox.len())
}

#[test]
fn a_foreign_source_is_refused_and_its_neighbour_in_the_datagram_is_not() {
    let (foreign, own) = (packet(inner(2), inner(0), 1), packet(inner(1), inner(0), 2));
    assert_eq!(hub_receives(&[(0, &foreign), (0, &own)]), (vec![DropReason::InnerSource], 1));
    assert_eq!(hub_receives(&[(0, &own), (0, &foreign)]), (vec![DropReason::InnerSource], 1));
}

#[test]
fn a_source_of_nobody_is_refused() {
    let nobody = packet(Ipv4Addr::new(203, 0, 113, 1), inner(0), 1);
    assert_eq!(hub_receives(&[(0, &nobody)]), (vec![DropReason::InnerSource], 0));
}

#[test]
fn a_partial_checksum_excuses_no_foreign_source_and_no_other_protocol() {
    let (foreign, own) = (packet(inner(2), inner(0), 1), packet(inner(1), inner(0), 2));
    assert_eq!(hub_receives(&[(FLAG_PARTIAL, &foreign)]), (vec![DropReason::InnerSource], 0));
    assert_eq!(hub_receives(&[(FLAG_PARTIAL, &own)]), (vec![DropReason::InnerPartial], 0));
}

#[test]
fn a_length_that_is_not_the_packets_own_is_refused() {
    let own = packet(inner(1), inner(0), 2);
    assert_eq!(hub_receives(&[(0, &own[..own.len() - 1])]), (vec![DropReason::InnerMalformed], 0));
}
