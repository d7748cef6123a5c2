//! Super-packets that are not what they are said to be, and the rarer ones that are.

use super::super::testing::*;
use super::super::*;
use super::{flow, super_packet};
use crate::frame::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHdr};
use veil_proto::DropReason;
use veil_proto::mux::checksum::finish;

#[test]
fn what_the_device_says_must_agree_with_the_packet() {
    let bad = |header: VnetHdr, packet: &[u8], what: &str| {
        let got = Segments::parse(header, packet).map(|segments| segments.count());
        assert_eq!(got, Err(DropReason::BadSuperPacket), "{what}");
    };
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let packets = flow(Packet::new(v6, tcp, &[]), &[100; 3]);
        let (good, packet) = super_packet(&packets, 100, ACK);
        assert_eq!(split(good, &packet).len(), 3);
        // A forwarding host says how much of the packet lies in one piece: no length of headers at all.
        for hdr_len in [0, 1, packet.len() as u16, u16::MAX] {
            assert_eq!(split(VnetHdr { hdr_len, ..good }, &packet), split(good, &packet));
        }
        // A host that has verified the sum may leave it to us without saying so.
        assert_eq!(split(VnetHdr { flags: 0, ..good }, &packet), split(good, &packet));
        bad(VnetHdr { gso_size: 0, ..good }, &packet, "no size");
        bad(VnetHdr { csum_start: good.csum_start + 4, ..good }, &packet, "another start");
        bad(VnetHdr { csum_offset: good.csum_offset + 2, ..good }, &packet, "another offset");
        bad(VnetHdr { csum_start: u16::MAX, ..good }, &packet, "a start outside");
        for gso_type in [GSO_NONE, 3, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, 0x7f] {
            if gso_type != good.gso_type {
                bad(VnetHdr { gso_type, ..good }, &packet, "another kind");
            }
        }
        for len in 0..packet.len() {
            bad(good, &packet[..len], "cut off");
        }
        if !v6 {
            for (at, value, what) in [(0, 0x44, "a short IP header"), (6, 0x20, "a fragment"), (9, 1, "ICMP")]
            {
                let mut packet = packet.clone();
                packet[at] = value;
                bad(good, &packet, what);
            }
        }
        let mut short = packet.clone();
        if tcp {
            short[usize::from(good.csum_start) + 12] = 0x40;
            bad(good, &short, "a short TCP header");
        } else {
            short[usize::from(good.csum_start) + 5] ^= 1;
            bad(good, &short, "another UDP length");
        }
        bad(
            VnetHdr { gso_size: 1, ..good },
            &super_packet(&flow(packets[0].clone(), &[100; 30]), 1, ACK).1,
            "crumbs",
        );
    }
}

#[test]
fn extension_headers_are_kept_and_their_packets_finished() {
    let mut packets = flow(Packet::new(true, true, &[]), &[100; 3]);
    let extended = |packet: &Packet, whole: bool| {
        let mut bytes = if whole { packet.whole() } else { packet.partial() };
        let len = u16::from_be_bytes([bytes[4], bytes[5]]) + 8;
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        bytes[6] = 60;
        bytes.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
        bytes
    };
    let (header, _) = super_packet(&packets, 100, ACK);
    let mut large = packets[0].clone();
    large.payload = packets.iter().flat_map(|packet| packet.payload.clone()).collect();
    let header = VnetHdr { csum_start: header.csum_start + 8, ..header };
    let large = extended(&large, false);
    let segments = Segments::parse(header, &large).unwrap();
    assert!(!segments.headers().plain);
    let expected: Vec<_> = packets.iter_mut().map(|packet| extended(packet, true)).collect();
    let mut got = all(&segments);
    let place = segments.headers().needs_csum();
    assert!(got.iter_mut().all(|packet| finish(packet, place.csum_start, place.csum_offset)));
    assert_eq!(got, expected);
}

#[test]
fn a_partial_checksum_is_found_by_the_packets_own_headers() {
    let at = |packet: &Packet| Headers::parse(&packet.partial()).map(|headers| headers.needs_csum());
    assert_eq!(at(&Packet::new(false, true, b"x")), Some(VnetHdr::needs_csum(20, 16)));
    let options = Packet { ip_options: vec![1; 4], ..Packet::new(false, false, b"x") };
    assert_eq!(at(&options), Some(VnetHdr::needs_csum(24, 6)));
    assert_eq!(at(&Packet::new(true, true, b"x")), Some(VnetHdr::needs_csum(40, 16)));
    assert_eq!(at(&Packet { fragment: 1, ..Packet::new(false, true, b"x") }), None);
    assert_eq!(at(&Packet { fragment: 0x2000, ..Packet::new(false, true, b"x") }), None);
}
