//! Batches as a whole: limits, order, sums, and a host that does not take what it is given.

use super::super::testing::*;
use super::super::*;
use super::{flow, partial, whole};
use crate::frame::VnetHdr;
use std::sync::atomic::Ordering::Relaxed;
use veil_proto::DropReason;

#[test]
fn a_short_packet_ends_its_group() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let packets = flow(Packet::new(v6, tcp, &[]), &[100, 100, 50, 50, 50]);
        let sizes: Vec<u16> =
            Host::new().write(&partial(&packets), 1).iter().map(|(header, _)| header.gso_size).collect();
        assert_eq!(sizes, [100, 50]);
    }
}

#[test]
fn a_pushed_packet_ends_its_group_and_stays_pushed() {
    for v6 in [false, true] {
        for pushed in 0..4 {
            let mut packets = flow(Packet::new(v6, true, &[]), &[100; 4]);
            packets[pushed].flags |= PSH;
            let written = Host::new().write(&partial(&packets), 1);
            assert_eq!(written.len(), if pushed == 3 { 1 } else { 2 }, "packet {pushed}");
            assert_eq!(unjoined(&written), partial(&packets), "packet {pushed}");
        }
    }
}

#[test]
fn a_group_ends_at_64_kib_and_at_its_number_of_packets() {
    let written = |tcp, size, count| -> Vec<usize> {
        let packets = flow(Packet::new(false, tcp, &[]), &vec![size; count]);
        let head = packets[0].header_len();
        let written = Host::new().write(&partial(&packets), 1);
        assert!(written.iter().all(|(_, packet)| packet.len() <= 65_535));
        written.iter().map(|(_, packet)| (packet.len() - head) / size).collect()
    };
    assert_eq!(written(true, 1400, 60), [46, 14]);
    assert_eq!(written(true, 10, 200), [128, 72]);
    assert_eq!(written(false, 10, 200), [64, 64, 64, 8]);
}

#[test]
fn more_packets_than_a_batch_holds_are_all_written_in_order() {
    let packets = flow(Packet::new(true, false, &[]), &[1; 9000]);
    let sent = partial(&packets);
    let written = Host::new().write(&sent, 20);
    assert_eq!(unjoined(&written), sent);
}

#[test]
fn a_flow_is_not_reordered_by_what_cannot_be_joined() {
    // A pure acknowledgement between two packets that would fit together, and a fragment of nobody's flow.
    let data = flow(Packet::new(false, true, &[]), &[100, 100, 100, 100]);
    let mut ack = data[2].clone();
    ack.payload.clear();
    let mut fragment = Packet { ports: [0, 0], ..Packet::new(false, false, &[1; 50]) };
    fragment.fragment = 0x0020;
    let sent: Vec<(Vec<u8>, bool)> = vec![
        (data[0].partial(), true),
        (data[1].partial(), true),
        (ack.partial(), true),
        (data[2].partial(), true),
        (fragment.whole(), false),
        (data[3].partial(), true),
    ];
    let written = Host::new().write(&sent, 1);
    assert_eq!(written.len(), 5);
    assert_eq!(unjoined(&written), sent);
}

#[test]
fn more_flows_than_are_kept_open_lose_nothing() {
    let flows: Vec<Vec<Packet>> = (0..40)
        .map(|n| flow(Packet { ports: [n + 1, 1], ..Packet::new(true, false, &[]) }, &[30; 4]))
        .collect();
    let sent: Vec<_> = (0..4).flat_map(|n| flows.iter().map(move |flow| (flow[n].partial(), true))).collect();
    let mut got = unjoined(&Host::new().write(&sent, 1));
    let mut expected = sent;
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
}

#[test]
fn only_right_sums_are_joined_and_wrong_ones_stay_wrong() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let packets = flow(Packet::new(v6, tcp, &[]), &[101, 101, 101]);
        assert_eq!(Host::new().write(&whole(&packets), 1).len(), 1);
        for wrong in 0..3 {
            let mut places = vec![packets[0].header_len() + 50, packets[0].header_len() - 1];
            if !v6 {
                // The IPv4 header's own sum, with the same wrong value in all packets but for the id.
                places.push(10);
            }
            for at in places {
                let mut sent = whole(&packets);
                sent[wrong].0[at] ^= 0x10;
                let written = Host::new().write(&sent, 1);
                let single = written
                    .iter()
                    .any(|(header, packet)| *header == VnetHdr::NONE && *packet == sent[wrong].0);
                assert!(single, "packet {wrong} wrong at {at}, v6 {v6}, tcp {tcp}");
            }
        }
    }
}

#[test]
fn udp_without_a_checksum_is_never_joined() {
    for v6 in [false, true] {
        let mut packets = flow(Packet::new(v6, false, &[]), &[100; 3]);
        // The hardest ones to tell: with nothing in the field the sum comes out right.
        for packet in &mut packets {
            packet.payload[..2].fill(0);
            let bytes = packet.whole();
            let at = packet.header_len() - 2;
            packet.payload[..2].copy_from_slice(&bytes[at..at + 2]);
        }
        let mut sent = whole(&packets);
        let at = packets[0].header_len() - 2;
        sent.iter_mut().for_each(|(packet, _)| packet[at..at + 2].fill(0));
        assert!(sent.iter().all(|(packet, _)| Headers::parse(packet).unwrap().sums_are_right(packet)));
        let written = Host::new().write(&sent, 1);
        assert_eq!(written.len(), 3);
        assert_eq!(unjoined(&written), sent);
    }
}

#[test]
fn a_refused_super_packet_is_written_singly_and_after_some_none_are_made() {
    for tcp in [false, true] {
        let mut host = Host::new();
        host.refuses = Some(libc::EINVAL);
        let sent = partial(&flow(Packet::new(false, tcp, &[]), &[100; 3]));
        for n in 1..=MAX_REFUSALS + 2 {
            assert_eq!(unjoined(&host.write(&sent, 1)), sent);
            assert_eq!(host.counters.super_packets_refused.load(Relaxed), n.min(MAX_REFUSALS));
        }
        assert_eq!(host.coalescer.joins(), (!tcp, tcp));
        assert_eq!(host.counters.packets_written.load(Relaxed), 3 * (MAX_REFUSALS + 2));
        assert_eq!(host.counters.write_drops.total(), 0);
    }
}

#[test]
fn a_super_packet_that_meets_a_full_host_is_dropped_and_counted_by_its_packets() {
    let mut host = Host::new();
    host.refuses = Some(libc::ENOBUFS);
    let sent = partial(&flow(Packet::new(false, true, &[]), &[100; 3]));
    assert_eq!(host.write(&sent, 1), []);
    assert_eq!(host.counters.write_drops.of(DropReason::TunWrite), 3);
    assert_eq!(host.counters.packets_written.load(Relaxed), 0);
}

#[test]
fn finished_checksums_are_whole_and_packets_single() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let packets = flow(Packet::new(v6, tcp, &[]), &[101, 101, 33]);
        let mut host = Host::new();
        host.coalescer.finish_checksums(true);
        let written = host.write(&partial(&packets), 1);
        let expected: Vec<_> = packets.iter().map(|packet| (VnetHdr::NONE, packet.whole())).collect();
        assert_eq!(written, expected);
    }
}

#[test]
fn what_is_switched_off_is_not_joined() {
    for (tcp, udp) in [(false, false), (true, false), (false, true)] {
        let mut host = Host::new();
        host.coalescer.join(tcp, udp);
        for (is_tcp, on) in [(true, tcp), (false, udp)] {
            let sent = partial(&flow(Packet::new(false, is_tcp, &[]), &[100; 3]));
            let written = host.write(&sent, 1);
            assert_eq!(written.len(), if on { 1 } else { 3 });
            assert_eq!(unjoined(&written), sent);
        }
    }
}
