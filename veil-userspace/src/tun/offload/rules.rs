//! Which packet may follow which in a super-packet.
//!
//! Stricter than the kernel's GRO (`tcp_gro_receive`, `udp_gro_receive`, `inet_gro_receive`), because whatever is joined
//! here must come apart again exactly as it was, on this host or behind it. The invariant: joining loses nothing but the
//! places of the cuts, and those are `gso_size`. All packets here have been through [`Headers::parse`], so their headers
//! are whole: that is what indexing rests on.

use super::headers::{Headers, IPV4_LEN, IPV6_LEN, Transport};

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// IPv4's "don't fragment", in the header's byte 6.
const DF: u8 = 0x40;

/// Whether a super-packet may begin with this packet: TCP or UDP with a payload behind plain headers, TCP with no flag
/// but ACK, which it must have, and PSH; a UDP packet with a checksum.
#[inline]
pub fn may_begin(headers: &Headers, packet: &[u8], partial: bool) -> bool {
    let Some(transport) = packet.get(headers.transport.into()..) else { return false };
    let whole = headers.plain
        && packet.len() > headers.payload.into()
        // The reserved bit is nobody's business: leave such packets alone.
        && (!headers.ipv4 || packet[6] & !DF == 0);
    whole
        && match headers.carries {
            // The low four bits of byte 12 are reserved, or AccECN's (RFC 9768).
            Transport::Tcp => transport[13] & !PSH == ACK && transport[12] & 0x0f == 0,
            Transport::Udp => partial || transport[6..8] != [0, 0],
        }
}

/// Whether nothing may follow this packet: TCP pushed what came so far.
#[inline]
pub fn ends(headers: &Headers, packet: &[u8]) -> bool {
    headers.carries == Transport::Tcp && packet[usize::from(headers.transport) + 13] & PSH != 0
}

/// Whether `next` may follow in a super-packet that began with `first`, whose last packet had the IPv4 id `last_id`,
/// and whose next TCP byte is `sequence`. Both [may begin](may_begin) one; lengths, sums and limits are the caller's.
#[inline]
pub fn follows(headers: &Headers, first: &[u8], next: &[u8], last_id: u16, sequence: u32) -> bool {
    let (Some((ip, transport)), Some((next_ip, next_transport))) =
        (first.split_at_checked(headers.transport.into()), next.split_at_checked(headers.transport.into()))
    else {
        return false;
    };
    let same_ip = match headers.ipv4 {
        true => same_ipv4(ip, next_ip, last_id),
        false => same_ipv6(ip, next_ip),
    };
    same_ip
        && match headers.carries {
            Transport::Tcp => {
                let options = 20..usize::from(headers.payload - headers.transport);
                same_tcp(transport, next_transport, sequence)
                    && transport.get(options.clone()) == next_transport.get(options)
            }
            Transport::Udp => transport[..4] == next_transport[..4],
        }
}

/// The same TOS, "don't fragment", TTL and addresses; ids that count up, where they mean anything.
#[inline]
fn same_ipv4(first: &[u8], next: &[u8], last_id: u16) -> bool {
    let (Some(first), Some(next)) = (first.first_chunk::<IPV4_LEN>(), next.first_chunk::<IPV4_LEN>()) else {
        return false;
    };
    let counts_up = u16::from_be_bytes([next[4], next[5]]) == last_id.wrapping_add(1);
    first[..2] == next[..2]
        && first[6..10] == next[6..10]
        && first[12..] == next[12..]
        && (first[6] & DF != 0 || counts_up)
}

/// The same traffic class, flow label, hop limit and addresses.
#[inline]
fn same_ipv6(first: &[u8], next: &[u8]) -> bool {
    let (Some(first), Some(next)) = (first.first_chunk::<IPV6_LEN>(), next.first_chunk::<IPV6_LEN>()) else {
        return false;
    };
    first[..4] == next[..4] && first[6..] == next[6..]
}

/// The same ports, acknowledgement, header length, flags but PSH, window and urgent pointer; the next byte in sequence.
#[inline]
fn same_tcp(first: &[u8], next: &[u8], sequence: u32) -> bool {
    let (Some(first), Some(next)) = (first.first_chunk::<20>(), next.first_chunk::<20>()) else {
        return false;
    };
    first[..4] == next[..4]
        && next[4..8] == sequence.to_be_bytes()
        && first[8..13] == next[8..13]
        && (first[13] ^ next[13]) & !PSH == 0
        && first[14..16] == next[14..16]
        && first[18..] == next[18..]
}
