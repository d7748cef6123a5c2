//! Which packet may follow which in a super-packet.
//!
//! Stricter than the kernel's GRO (`tcp_gro_receive`, `udp_gro_receive`, `inet_gro_receive`), because whatever is joined
//! here must come apart again exactly as it was, on this host or behind it. The invariant: joining loses nothing but the
//! places of the cuts, and those are `gso_size`. A first packet has been through [`Headers::parse`], so its headers are
//! whole: that is what indexing rests on.

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

/// Whether `next` may follow in a super-packet that began with `first`, whose headers are `headers`, whose last packet had
/// the IPv4 id `last_id`, and whose next TCP byte is `sequence`. `first` [may begin](may_begin) one; `next` need not have been
/// parsed: what the two have in common was found in `first`, and the rest is looked at here. Sizes, sums and limits are the
/// caller's, who has seen that `next` is longer than its headers.
#[inline]
pub fn follows(
    headers: &Headers,
    first: &[u8],
    next: &[u8],
    partial: bool,
    last_id: u16,
    sequence: u32,
) -> bool {
    let rest = match headers.ipv4 {
        true => ipv4_follows(first, next, last_id),
        false => ipv6_follows(first, next),
    };
    let Some((first, next)) = rest else { return false };
    match headers.carries {
        Transport::Tcp => tcp_follows(first, next, headers.payload - headers.transport, sequence),
        Transport::Udp => udp_follows(first, next, partial),
    }
}

/// What is the same in the IPv4 headers of a super-packet: TOS, "don't fragment", TTL and addresses, but not total length,
/// id and checksum.
const IPV4_SAME: [u8; IPV4_LEN] = [!0, !0, 0, 0, 0, 0, !0, !0, !0, !0, 0, 0, !0, !0, !0, !0, !0, !0, !0, !0];

/// Both payloads, if `next` is whole, the headers are the same, and ids count up where they mean anything.
#[inline]
fn ipv4_follows<'a>(first: &'a [u8], next: &'a [u8], last_id: u16) -> Option<(&'a [u8], &'a [u8])> {
    let (ip, first) = first.split_first_chunk::<IPV4_LEN>()?;
    let len = next.len();
    let (next_ip, next) = next.split_first_chunk::<IPV4_LEN>()?;
    let is_whole = usize::from(word(next_ip, 2)) == len;
    let counts_up = word(next_ip, 4) == last_id.wrapping_add(1);
    (is_same(ip, next_ip, &IPV4_SAME) && is_whole && (ip[6] & DF != 0 || counts_up)).then_some((first, next))
}

/// Both payloads, if `next` is whole and has the same traffic class, flow label, hop limit and addresses.
#[inline]
fn ipv6_follows<'a>(first: &'a [u8], next: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (ip, first) = first.split_first_chunk::<IPV6_LEN>()?;
    let (next_ip, next) = next.split_first_chunk::<IPV6_LEN>()?;
    let is_whole = usize::from(word(next_ip, 4)) == next.len();
    (ip[..4] == next_ip[..4] && ip[6..] == next_ip[6..] && is_whole).then_some((first, next))
}

/// What is the same in the TCP headers of a super-packet: ports, acknowledgement, header length, flags but PSH, window and
/// urgent pointer, but not sequence number and checksum.
const TCP_SAME: [u8; 20] = [!0, !0, !0, !0, 0, 0, 0, 0, !0, !0, !0, !0, !0, !PSH, !0, !0, 0, 0, !0, !0];

/// The same header and options, and the next byte in sequence.
#[inline]
fn tcp_follows(first: &[u8], next: &[u8], header_len: u16, sequence: u32) -> bool {
    let (Some((tcp, first)), Some((next_tcp, next))) =
        (first.split_first_chunk::<20>(), next.split_first_chunk::<20>())
    else {
        return false;
    };
    let options = usize::from(header_len) - tcp.len();
    next_tcp[4..8] == sequence.to_be_bytes()
        && is_same(tcp, next_tcp, &TCP_SAME)
        && first.get(..options) == next.get(..options)
}

/// The same ports, and a whole datagram that has a checksum.
#[inline]
fn udp_follows(first: &[u8], next: &[u8], partial: bool) -> bool {
    let (Some(udp), Some(next_udp)) = (first.first_chunk::<8>(), next.first_chunk::<8>()) else {
        return false;
    };
    udp[..4] == next_udp[..4]
        && usize::from(word(next_udp, 4)) == next.len()
        && (partial || word(next_udp, 6) != 0)
}

/// Whether all bits that `same` has are the same.
#[inline]
fn is_same<const N: usize>(a: &[u8; N], b: &[u8; N], same: &[u8; N]) -> bool {
    let mut differing = 0;
    for n in 0..N {
        differing |= (a[n] ^ b[n]) & same[n];
    }
    differing == 0
}

#[inline]
fn word(header: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}
