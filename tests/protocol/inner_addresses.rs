//! A peer may send only from inner addresses of its own, whatever it wraps them in.

use std::net::Ipv4Addr;

use veil_proto::DropReason;
use veil_proto::mux::frame::{FLAG_PARTIAL, FRAGMENT, IP};
use veil_proto::session::reassembly::fragment_header;
use veil_proto::time::SECOND;
use veil_proto::tunnel::Outbound;

use crate::checks::assert_recovers;
use crate::end::{datagram, inner, packet};
use crate::sim::{World, address};

/// A frame: kind, flags, payload.
type Frame<'a> = (u8, u8, &'a [u8]);

/// Has spoke 1 send these datagrams, of these frames, to the hub; returns what the hub refused and how many packets its
/// host got.
fn hub_receives(datagrams: &[&[Frame]]) -> (Vec<DropReason>, usize) {
    let mut world = World::hub(31, 2);
    world.send(1, 0);
    world.send(2, 0);
    world.run(SECOND);
    let (now, peer) = (world.now(), world.peer(1, 0));
    let Outbound::Ready(path) = world.ends[1].sessions.begin(peer, now) else { panic!("no session") };
    for frames in datagrams {
        world.ends[1].seal(peer, path, datagram(frames), now);
        let (_, bytes) = world.ends[1].outbox.pop_back().expect("a sealed datagram");
        world.ends[0].receive(bytes, veil_proto::Path::to(address(1)), now);
    }
    let hub = &mut world.ends[0];
    let result = (std::mem::take(&mut hub.refused), std::mem::take(&mut hub.inbox).len());
    for spoke in [1, 2] {
        assert_recovers(&mut world, 0, spoke);
    }
    result
}

/// A UDP packet of this many bytes.
fn udp(from: Ipv4Addr, len: usize) -> Vec<u8> {
    let mut bytes = packet(from, inner(0), 0);
    bytes.resize(len, 0x5a);
    bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    bytes[9] = 17;
    bytes[24..26].copy_from_slice(&(len as u16 - 20).to_be_bytes());
    let sum: u32 = bytes[..20].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes
}

#[test]
fn a_foreign_source_is_refused_and_its_neighbour_in_the_datagram_is_not() {
    let (foreign, own) = (packet(inner(2), inner(0), 1), packet(inner(1), inner(0), 2));
    for frames in [[(IP, 0, &foreign[..]), (IP, 0, &own)], [(IP, 0, &own[..]), (IP, 0, &foreign)]] {
        assert_eq!(hub_receives(&[&frames]), (vec![DropReason::InnerSource], 1));
    }
}

#[test]
fn a_source_of_nobody_and_the_hubs_own_are_refused() {
    for source in [Ipv4Addr::new(203, 0, 113, 1), inner(0), Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST] {
        let foreign = packet(source, inner(0), 1);
        assert_eq!(hub_receives(&[&[(IP, 0, &foreign)]]), (vec![DropReason::InnerSource], 0));
    }
}

#[test]
fn an_ipv4_address_dressed_as_ipv6_is_no_address_of_the_peers() {
    let mut bytes = vec![0; 40];
    bytes[0] = 0x60;
    bytes[6..8].copy_from_slice(&[59, 64]);
    bytes[8..24].copy_from_slice(&inner(1).to_ipv6_mapped().octets());
    bytes[24..40].copy_from_slice(&inner(0).to_ipv6_mapped().octets());
    assert_eq!(hub_receives(&[&[(IP, 0, &bytes)]]), (vec![DropReason::InnerSource], 0));
}

#[test]
fn a_partial_checksum_excuses_no_foreign_source_and_no_other_protocol() {
    let (foreign, other) = (udp(inner(2), 100), packet(inner(1), inner(0), 2));
    assert_eq!(hub_receives(&[&[(IP, FLAG_PARTIAL, &foreign)]]), (vec![DropReason::InnerSource], 0));
    assert_eq!(hub_receives(&[&[(IP, FLAG_PARTIAL, &other)]]), (vec![DropReason::InnerPartial], 0));
    let own = udp(inner(1), 100);
    assert_eq!(hub_receives(&[&[(IP, FLAG_PARTIAL, &own)]]), (vec![], 1));
}

#[test]
fn a_foreign_source_in_pieces_is_refused_once_they_are_together() {
    for (source, expected) in [(inner(1), (vec![], 1)), (inner(2), (vec![DropReason::InnerSource], 0))] {
        for flags in [0, FLAG_PARTIAL] {
            let whole = udp(source, 2000);
            let piece = |from: usize, to: usize| {
                [&fragment_header(7, from as u16, 2000)[..], &whole[from..to]].concat()
            };
            let (first, second, third) = (piece(0, 600), piece(600, 1200), piece(1200, 2000));
            let pieces = [&first, &second, &third].map(|piece| (FRAGMENT, flags, &piece[..]));
            assert_eq!(hub_receives(&[&pieces]), expected.clone(), "in one datagram");
            let [first, second, third] = pieces;
            assert_eq!(hub_receives(&[&[third], &[first], &[second]]), expected.clone(), "in three");
        }
    }
}

#[test]
fn a_length_that_is_not_the_packets_own_is_refused() {
    let own = packet(inner(1), inner(0), 2);
    let long = [&own[..], &[0]].concat();
    for wrong in [&own[..own.len() - 1], &long, &own[..19], &[]] {
        assert_eq!(hub_receives(&[&[(IP, 0, wrong)]]), (vec![DropReason::InnerMalformed], 0));
    }
}
