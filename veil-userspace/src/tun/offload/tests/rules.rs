//! What may follow what: each rule by a pair of packets that breaks it and no other.

use super::super::headers::Headers;
use super::super::rules::follows;
use super::super::testing::*;
use super::{flow, partial};

/// Writes two packets, of which the second is changed, and says whether they were joined. Whatever happened, they come
/// out as they went in.
fn joined(v6: bool, tcp: bool, change: impl Fn(&mut Packet, &mut Packet)) -> bool {
    let mut packets = flow(Packet::new(v6, tcp, &[]), &[100, 100]);
    let (first, second) = packets.split_at_mut(1);
    change(&mut first[0], &mut second[0]);
    let sent = partial(&packets);
    let written = Host::new().write(&sent, 2);
    assert_eq!(unjoined(&written), sent);
    written.len() == 1
}

type Change = fn(&mut Packet, &mut Packet);

#[test]
fn every_rule_of_tcp_holds() {
    let never: [(&str, Change); 27] = [
        ("another acknowledgement", |_, b| b.ack += 1),
        ("another window", |_, b| b.window += 1),
        ("another source port", |_, b| b.ports[0] += 1),
        ("another destination port", |_, b| b.ports[1] += 1),
        ("another source", |_, b| b.source += 1),
        ("other options", |_, b| b.options[11] += 1),
        ("fewer options", |_, b| b.options.truncate(8)),
        ("another TOS", |_, b| b.tos ^= 0x04),
        ("congestion experienced", |_, b| b.tos |= 3),
        ("another TTL", |_, b| b.ttl -= 1),
        ("a gap", |_, b| b.sequence += 1),
        ("an overlap", |_, b| b.sequence -= 1),
        ("no payload", |_, b| b.payload.clear()),
        ("no payload in the first", |a, _| a.payload.clear()),
        ("a longer packet", |_, b| b.payload.push(1)),
        ("FIN", |_, b| b.flags |= FIN),
        ("SYN", |_, b| b.flags |= SYN),
        ("RST", |_, b| b.flags |= RST),
        ("URG", |_, b| b.flags |= URG),
        ("ECE", |_, b| b.flags |= ECE),
        ("CWR", |_, b| b.flags |= CWR),
        ("no ACK", |_, b| b.flags = 0),
        ("CWR on both", |a, b| (a.flags, b.flags) = (ACK | CWR, ACK | CWR)),
        ("ECE on both", |a, b| (a.flags, b.flags) = (ACK | ECE, ACK | ECE)),
        ("PSH on the first", |a, _| a.flags |= PSH),
        ("an AccECN bit on both", |a, b| (a.reserved, b.reserved) = (1, 1)),
        ("an urgent pointer", |_, b| b.urgent = 1),
    ];
    for v6 in [false, true] {
        assert!(joined(v6, true, |_, _| {}), "the same otherwise");
        assert!(joined(v6, true, |_, b| b.flags |= PSH), "PSH on the second");
        assert!(joined(v6, true, |_, b| b.payload.truncate(1)), "a shorter packet");
        for (rule, change) in never {
            assert!(!joined(v6, true, change), "{rule}, v6 {v6}");
        }
    }
}

#[test]
fn every_rule_of_udp_holds() {
    let never: [(&str, Change); 8] = [
        ("another source port", |_, b| b.ports[0] += 1),
        ("another destination port", |_, b| b.ports[1] += 1),
        ("another source", |_, b| b.source += 1),
        ("another TOS", |_, b| b.tos ^= 0x04),
        ("another TTL", |_, b| b.ttl -= 1),
        ("no payload", |_, b| b.payload.clear()),
        ("no payload in the first", |a, _| a.payload.clear()),
        ("a longer packet", |_, b| b.payload.push(1)),
    ];
    for v6 in [false, true] {
        assert!(joined(v6, false, |_, _| {}), "the same otherwise");
        assert!(joined(v6, false, |_, b| b.payload.truncate(1)), "a shorter packet");
        for (rule, change) in never {
            assert!(!joined(v6, false, change), "{rule}, v6 {v6}");
        }
    }
}

#[test]
fn every_rule_of_ip_holds() {
    for tcp in [false, true] {
        // Without DF ids must count up; with it they say nothing, and come out counted up.
        let both = |bits| move |a: &mut Packet, b: &mut Packet| (a.fragment, b.fragment) = (bits, bits);
        assert!(joined(false, tcp, both(0)));
        assert!(joined(false, tcp, |a, b| {
            (a.fragment, b.fragment) = (0, 0);
            (a.id, b.id) = (u16::MAX, 0);
        }));
        for id in [0, 1, 3] {
            let change = move |a: &mut Packet, b: &mut Packet| (a.fragment, b.fragment, b.id) = (0, 0, id);
            assert!(!joined(false, tcp, change), "id {id} after 1");
        }
        assert!(!joined(false, tcp, |_, b| b.fragment = 0), "DF on the first only");
        assert!(!joined(false, tcp, both(0x8000)), "the reserved bit");
        assert!(!joined(false, tcp, both(0xc000)), "the reserved bit and DF");
        let options = |a: &mut Packet, b: &mut Packet| {
            (a.ip_options, b.ip_options) = (vec![1; 4], vec![1; 4]);
        };
        assert!(!joined(false, tcp, options), "IPv4 options");
        assert!(!joined(true, tcp, |_, b| b.label += 1), "another flow label");
        let of_two_kinds = flow(Packet::new(false, tcp, &[]), &[100, 100]);
        for first_is_partial in [true, false] {
            let is_partial = [first_is_partial, !first_is_partial];
            let sent = [0, 1].map(|n| match is_partial[n] {
                true => (of_two_kinds[n].partial(), true),
                false => (of_two_kinds[n].whole(), false),
            });
            assert_eq!(Host::new().write(&sent, 1).len(), 2, "one partial, one not");
        }
        let mut packets = flow(Packet::new(false, tcp, &[]), &[100, 100]);
        packets[1].id = 500;
        let written = Host::new().write(&partial(&packets), 1);
        assert_eq!(written.len(), 1, "any id under DF");
    }
}

#[test]
fn what_is_not_whole_or_not_sound_does_not_follow() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let packets = flow(Packet::new(v6, tcp, &[]), &[100, 100]);
        let [first, next] = [0, 1].map(|n| packets[n].whole());
        let headers = Headers::parse(&first).unwrap();
        let follows = |next: &[u8], partial| {
            follows(&headers, &first, next, partial, packets[0].id, packets[1].sequence)
        };
        assert!(follows(&next, true) && follows(&next, false));
        for len in 0..next.len() {
            assert!(!follows(&next[..len], true), "cut to {len} bytes, v6 {v6}, TCP {tcp}");
        }
        let changed = |at: usize, by: u8| {
            let mut next = next.clone();
            next[at] = next[at].wrapping_add(by);
            next
        };
        for by in [1, 255] {
            assert!(!follows(&changed(if v6 { 5 } else { 3 }, by), true), "another length in IP's header");
            let udp_length = changed(usize::from(headers.transport) + 5, by);
            assert!(tcp || !follows(&udp_length, true), "another length in UDP's header");
        }
        let mut no_sum = next.clone();
        no_sum[headers.checksum_at()..][..2].fill(0);
        assert_eq!(follows(&no_sum, false), tcp, "UDP without a checksum");
        assert!(follows(&no_sum, true), "a partial one is written by us");
    }
}
