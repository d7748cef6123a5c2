//! For any flows: what is joined and cut again is what it was.

use super::super::testing::*;
use super::super::*;
use super::{flow, partial, super_packet, whole};
use crate::frame::{VNET_HDR_LEN, VnetHdr};
use proptest::prelude::*;
use std::sync::atomic::Ordering::Relaxed;
use veil_proto::DropReason;
use veil_proto::mux::checksum::{accept_partial, finish, sender_partial};
use veil_proto::mux::inner::InnerPacket;

fn any_first() -> impl Strategy<Value = Packet> {
    let headers = (any::<bool>(), any::<bool>(), any::<u8>(), 0..1u32 << 20, any::<u16>(), 1..=255u8);
    let tcp = (any::<u32>(), any::<u32>(), any::<u16>(), 0..=10usize, any::<bool>());
    (headers, tcp).prop_map(|((v6, tcp, tos, label, id, ttl), (sequence, ack, window, words, df))| Packet {
        tos,
        label,
        id,
        ttl,
        sequence,
        ack,
        window,
        options: if tcp { (0..4 * words).map(|at| at as u8).collect() } else { vec![] },
        fragment: if df { 0x4000 } else { 0 },
        ..Packet::new(v6, tcp, &[])
    })
}

/// Equal sizes, the last perhaps shorter: what one super-packet holds.
fn any_sizes() -> impl Strategy<Value = Vec<usize>> {
    (1..1500usize, 1..40usize, 0..1500usize).prop_map(|(size, count, last)| {
        let mut sizes = vec![size; count];
        if last > 0 && last < size {
            sizes.push(last);
        }
        sizes
    })
}

proptest! {
    #[test]
    fn what_is_joined_and_cut_again_is_what_it_was(
        flows in prop::collection::vec((any_first(), any_sizes(), any::<bool>()), 1..4),
        order in prop::collection::vec(0..4usize, 0..120),
        per_datagram in 1..4usize,
        partially: bool,
    ) {
        // Flows of their own ports, interleaved in some order.
        let mut queues: Vec<std::collections::VecDeque<Packet>> = flows
            .into_iter()
            .enumerate()
            .map(|(n, (first, sizes, push))| {
                let mut packets = flow(Packet { ports: [n as u16 + 1, 9], ..first }, &sizes);
                if let (Some(last), true) = (packets.last_mut(), push) {
                    last.flags |= PSH;
                }
                packets.into()
            })
            .collect();
        let mut packets = Vec::new();
        for which in order.into_iter().chain(0..4) {
            let Some(queue) = queues.get_mut(which) else { continue };
            let count = if which < 3 { 1 + packets.len() % 5 } else { queue.len() };
            packets.extend(queue.drain(..count.min(queue.len())));
        }
        let sent = if partially { partial(&packets) } else { whole(&packets) };
        let mut host = Host::new();
        let written = host.write(&sent, per_datagram);
        let mut got = unjoined(&written);
        // Sums that were verified come out partial: finish them.
        for (packet, is_partial) in &mut got {
            let place = Headers::parse(packet).unwrap().needs_csum();
            if !partially && std::mem::take(is_partial) {
                prop_assert!(finish(packet, place.csum_start, place.csum_offset));
            }
        }
        for port in 1..4u16 {
            let of_flow = |packets: &[(Vec<u8>, bool)]| -> Vec<(Vec<u8>, bool)> {
                let of = |packet: &[u8]| {
                    let at = usize::from(Headers::parse(packet).unwrap().transport);
                    packet[at..at + 2] == port.to_be_bytes()
                };
                packets.iter().filter(|(packet, _)| of(packet)).cloned().collect()
            };
            prop_assert_eq!(of_flow(&got), of_flow(&sent));
        }
        prop_assert_eq!(got.len(), sent.len());
        prop_assert_eq!(host.counters.packets_written.load(Relaxed), sent.len() as u64);
        let bytes: usize = sent.iter().map(|(packet, _)| packet.len()).sum();
        prop_assert_eq!(host.counters.bytes_written.load(Relaxed), bytes as u64);
        prop_assert_eq!(host.counters.write_drops.total(), 0);
    }

    #[test]
    fn a_super_packet_is_cut_as_its_host_would_have_and_joined_again(
        first in any_first(), sizes in any_sizes(), push: bool,
    ) {
        let count = sizes.len().min(64);
        let mut packets = flow(first, &sizes[..count]);
        let flags = if push && packets[0].tcp { ACK | PSH } else { ACK };
        packets.last_mut().unwrap().flags = flags;
        let (header, large) = super_packet(&packets, sizes[0], flags);
        let cut = split(header, &large);
        prop_assert_eq!(&cut, &packets.iter().map(Packet::partial).collect::<Vec<_>>());
        for segment in &cut {
            // The far end takes each with its sum partial, and would write that sum itself.
            let mut taken = segment.clone();
            prop_assert!(sender_partial(segment, header.csum_start, header.csum_offset));
            prop_assert!(accept_partial(&InnerPacket::parse(segment).unwrap(), &mut taken).is_ok());
            prop_assert_eq!(&taken, segment);
        }
        let written = Host::new().write(&partial(&packets), 1);
        if count > 1 {
            prop_assert_eq!(written, vec![(header, large)]);
        }
    }

    #[test]
    fn cwr_stays_on_the_first_segment_fin_and_psh_on_the_last(
        first in any_first(), sizes in any_sizes(), flags: u8,
    ) {
        let mut packets = flow(Packet { tcp: true, options: vec![], ..first }, &sizes);
        let last = packets.len() - 1;
        for (n, packet) in packets.iter_mut().enumerate() {
            let keep = if n == 0 { !0 } else { !CWR } & if n == last { !0 } else { !(FIN | PSH) };
            packet.flags = flags & keep;
        }
        let (header, large) = super_packet(&packets, sizes[0], flags);
        prop_assert_eq!(split(header, &large), packets.iter().map(Packet::partial).collect::<Vec<_>>());
    }

    #[test]
    fn a_tcp_super_packet_can_be_cut_shorter_and_a_udp_one_not(
        first in any_first(), sizes in any_sizes(), less in 1..1500usize,
    ) {
        let packets = flow(first, &sizes);
        let (header, large) = super_packet(&packets, sizes[0], ACK);
        let segments = Segments::parse(header, &large).unwrap();
        let Some(room) = segments.longest().checked_sub(less) else { return Ok(()) };
        let head = packets[0].header_len();
        match segments.shortened(room) {
            Some(shorter) => {
                prop_assert!(packets[0].tcp && room > head);
                let cut = all(&shorter);
                prop_assert!(cut.iter().all(|packet| packet.len() <= room));
                let data: Vec<u8> = cut.iter().flat_map(|packet| packet[head..].to_vec()).collect();
                prop_assert_eq!(&data, &large[head..]);
                prop_assert!(cut.iter().all(|packet| Headers::parse(packet).is_some()));
            }
            None => prop_assert!(!packets[0].tcp || room <= head || large.len() / (room - head) >= 2048),
        }
        prop_assert_eq!(segments.shortened(segments.longest()).unwrap().count(), segments.count());
    }

    #[test]
    fn any_bytes_are_cut_within_bounds_or_refused(
        mut packet in prop::collection::vec(any::<u8>(), 0..200), header in any::<[u8; VNET_HDR_LEN]>(),
        tcp: bool, v6: bool, fits: bool, flips in prop::collection::vec((0..200usize, any::<u8>()), 0..3),
    ) {
        let mut header = VnetHdr::decode(header);
        if fits {
            (header, packet) = super_packet(&flow(Packet::new(v6, tcp, &[]), &[30, 30, 9]), 30, ACK);
            for (at, byte) in flips {
                let at = at % packet.len();
                packet[at] = byte;
            }
        }
        if let Ok(segments) = Segments::parse(header, &packet) {
            for (n, segment) in all(&segments).iter().enumerate() {
                prop_assert_eq!(segment.len(), segments.len(n));
                prop_assert!(Headers::parse(segment).is_some());
            }
        }
    }

    #[test]
    fn any_bytes_are_written_once(
        packets in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..100), any::<bool>()), 0..40),
    ) {
        let mut host = Host::new();
        let written = host.write(&packets, 3).len() as u64;
        let dropped = host.counters.write_drops.of(DropReason::InnerPartial);
        prop_assert_eq!(written + dropped, packets.len() as u64);
    }
}
