//! Splitting and coalescing against each other, and against every rule by itself.

mod identity;
mod joining;
mod rules;
mod splitting;

use super::testing::*;
use crate::frame::{GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHdr};

/// A flow's packets in order, cut from one stream of bytes.
fn flow(first: Packet, sizes: &[usize]) -> Vec<Packet> {
    let mut out = Vec::new();
    let (mut sequence, mut id) = (first.sequence, first.id);
    for (n, &size) in sizes.iter().enumerate() {
        let payload = (0..size).map(|at| (at * 7 + n * 31) as u8).collect();
        out.push(Packet { sequence, id, payload, ..first.clone() });
        sequence = sequence.wrapping_add(size as u32);
        id = id.wrapping_add(1);
    }
    out
}

fn partial(packets: &[Packet]) -> Vec<(Vec<u8>, bool)> {
    packets.iter().map(|packet| (packet.partial(), true)).collect()
}

fn whole(packets: &[Packet]) -> Vec<(Vec<u8>, bool)> {
    packets.iter().map(|packet| (packet.whole(), false)).collect()
}

/// The super-packet a host's TCP or USO would have made of a flow's packets.
fn super_packet(packets: &[Packet], size: usize, flags: u8) -> Written {
    let mut large = packets[0].clone();
    large.payload = packets.iter().flat_map(|packet| packet.payload.clone()).collect();
    large.flags = flags;
    let gso_type = match (large.tcp, large.v6) {
        (true, false) => GSO_TCPV4,
        (true, true) => GSO_TCPV6,
        _ => GSO_UDP_L4,
    };
    let start = large.header_len() - if large.tcp { 20 + large.options.len() } else { 8 };
    let header = VnetHdr {
        flags: NEEDS_CSUM,
        gso_type: if flags & CWR != 0 && large.tcp { gso_type | GSO_ECN } else { gso_type },
        hdr_len: large.header_len() as u16,
        gso_size: size as u16,
        csum_start: start as u16,
        csum_offset: if large.tcp { 16 } else { 6 },
    };
    (header, large.partial())
}
