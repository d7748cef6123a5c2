//! TCP and UDP super-packets cross whole tunnels both ways: what a host has of them in the end, joined again or not, is
//! every segment that was in them, in order, under the right sequence number and with the right checksum.

use std::thread;
use std::time::Instant;

use veil_proto::mux::checksum::{finish, pseudo_v4, sum};
use veil_userspace::event_loop::ThreadingMode;
use veil_userspace::frame::{GSO_NONE, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, VnetHdr};
use veil_userspace::tun::mem::MemHost;
use veil_userspace::tun::offload::{Headers, Transport};

use crate::chance::Chance;
use crate::side::{Setup, Side, host, pair};
use crate::{LIMIT, PATIENCE, meet, packet};

in_each_mode! {
    super_packets_arrive_joined
    super_packets_arrive_packet_by_packet
}

/// Times that all sizes are sent.
const ROUNDS: usize = 5;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Payload bytes of TCP and of UDP super-packets that a host sends at a time, and of their segments: as much as there can
/// be, odd, small enough to share datagrams, and no more than one segment. A TUN holds all of their packets, once it has
/// none of before.
const SIZES: &[[(usize, u16); 2]] = &[
    [(47 * 1376, 1376), (47 * 1388, 1388)],
    [(40 * 999 + 1, 999), (50 * 1201 + 600, 1201)],
    [(100 * 536 + 7, 536), (100 * 61 + 1, 61)],
    [(48, 48), (1388, 1388)],
];

fn super_packets_arrive_joined(mode: ThreadingMode) {
    cross(Setup { joins: true, ..mode.into() });
}

fn super_packets_arrive_packet_by_packet(mode: ThreadingMode) {
    cross(mode.into());
}

fn cross(setup: Setup) {
    let sides = pair([setup; 2], LIMIT);
    meet(&sides);
    let (mut chance, mut packets, mut segments) = (Chance(3), 0, 0);
    // Where each host's TCP stream is: it runs over the end of the numbers.
    let mut sequences = [u32::MAX - 100_000; 2];
    for sizes in SIZES.iter().cycle().take(ROUNDS * SIZES.len()) {
        let sent = [0, 1].map(|from: usize| {
            [Transport::Tcp, Transport::Udp].map(|carries| {
                let (len, size) = sizes[usize::from(carries == Transport::Udp)];
                let flow = Flow { carries, from, sequence: sequences[from], size };
                let payload = chance.noise(len..len + 1);
                let (header, packet) = flow.pack(&payload);
                let deadline = Instant::now() + PATIENCE;
                while !sides[from].host.send_with(header, &packet) {
                    assert!(Instant::now() < deadline, "a TUN that stays full");
                    thread::yield_now();
                }
                (packets, segments) = (packets + 1, segments + payload.len().div_ceil(size.into()) as u64);
                (flow, payload)
            })
        });
        for (from, sent) in sent.iter().enumerate() {
            receive(&sides[1 - from].host, from, sent);
            sequences[from] = sequences[from].wrapping_add(sent[0].1.len() as u32);
        }
    }
    let (mut read, mut cut) = (0, 0);
    for ended in sides.map(Side::stop) {
        ended.assert_at_rest();
        let counters = &ended.shown.counters;
        (read, cut) = (read + counters["tun_super_packets"], cut + counters["tun_super_segments"]);
        assert_eq!(counters["super_packets_written"] > 0, setup.joins, "{counters:#?}");
    }
    assert_eq!((read, cut), (packets, segments));
}

/// A host's packets of one kind, to the other host.
struct Flow {
    carries: Transport,
    from: usize,
    /// TCP: of the first byte.
    sequence: u32,
    /// Payload bytes in each segment but the last.
    size: u16,
}

impl Flow {
    /// A super-packet as a host makes it: its checksum is the pseudo-header's, and is to be finished.
    fn pack(&self, payload: &[u8]) -> (VnetHdr, Vec<u8>) {
        let (header_len, gso_type) = match self.carries {
            Transport::Tcp => (20, GSO_TCPV4),
            Transport::Udp => (8, GSO_UDP_L4),
        };
        let [near, far] = [self.from, 1 - self.from].map(|n| host(n).octets());
        let segment_len = (header_len + payload.len()) as u16;
        let mut packet = vec![0x45, 0];
        packet.extend((20 + segment_len).to_be_bytes());
        packet.extend([0, 1, 0x40, 0, 64, self.carries.number(), 0, 0]);
        packet.extend([near, far].as_flattened());
        let checksum = !sum(&packet, 0);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend([0x9c, 0x40, 0x01, 0xbb]);
        match self.carries {
            Transport::Tcp => {
                packet.extend(self.sequence.to_be_bytes());
                packet.extend([0, 0, 0, 77, 0x50, ACK | PSH, 1, 0, 0, 0, 0, 0]);
            }
            Transport::Udp => {
                packet.extend(segment_len.to_be_bytes());
                packet.extend([0, 0]);
            }
        }
        let (hdr_len, csum_offset) = (packet.len() as u16, self.carries.checksum_offset());
        let at = usize::from(20 + csum_offset);
        let pseudo = pseudo_v4(near, far, self.carries.number(), segment_len);
        packet[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        packet.extend(payload);
        let header = VnetHdr {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len,
            gso_size: self.size,
            csum_start: 20,
            csum_offset,
        };
        (header, packet)
    }

    /// Looks at what came of `payload`, of which all before `at` is there; how far that reaches.
    fn check(&self, payload: &[u8], at: usize, header: VnetHdr, mut packet: Vec<u8>) -> usize {
        let headers = Headers::parse(&packet).expect("a whole packet");
        let (found, left) = (&packet[headers.payload.into()..], &payload[at..]);
        // Nothing but the last segment is short, and nothing but the end ends a super-packet.
        match header.gso_type {
            GSO_NONE => assert_eq!(found.len(), left.len().min(self.size.into()), "at {at}"),
            gso_type => {
                assert_eq!((gso_type, header.gso_size), (self.pack(&[]).0.gso_type, self.size));
                let whole = found.len() % usize::from(self.size) == 0;
                assert!(whole || found.len() == left.len(), "{} bytes at {at}", found.len());
            }
        }
        let end = at + found.len();
        assert!(left.starts_with(found), "other bytes at {at}");
        // Our host's packets but for the lengths: the same addresses, ports, and what else there is.
        assert_eq!(packet[12..24], self.pack(&[]).1[12..24]);
        if self.carries == Transport::Tcp {
            assert_eq!(packet[24..28], self.sequence.wrapping_add(at as u32).to_be_bytes(), "at {at}");
            assert_eq!(packet[33], if end == payload.len() { ACK | PSH } else { ACK }, "at {at}");
        }
        assert_eq!((header.flags, header.csum_start), (NEEDS_CSUM, 20));
        assert!(finish(&mut packet, header.csum_start, header.csum_offset));
        assert!(headers.sums_are_right(&packet), "a wrong sum at {at}");
        end
    }
}

/// Takes all that `from` has sent at a time.
fn receive(host: &MemHost, from: usize, sent: &[(Flow, Vec<u8>); 2]) {
    let (deadline, mut at) = (Instant::now() + PATIENCE, [0; 2]);
    while [0, 1].into_iter().any(|n| at[n] < sent[n].1.len()) {
        assert!(Instant::now() < deadline, "only {at:?} bytes came");
        let Some((header, came)) = host.receive() else {
            thread::yield_now();
            continue;
        };
        // Hosts that met may have sent more than was waited for.
        if came == packet(from, u32::MAX) {
            continue;
        }
        let n = usize::from(came[9] == Transport::Udp.number());
        let (flow, payload) = &sent[n];
        at[n] = flow.check(payload, at[n], header, came);
    }
}
