//! Internet checksums: sums, and the rule under which a packet may cross the tunnel with its transport sum
//! unfinished.
//!
//! A *partial* packet's TCP or UDP checksum field holds the pseudo-header's sum, and whoever needs the whole
//! sum finishes it: the NIC, the kernel, or [`finish`]. It saves reading every byte twice, as the AEAD
//! already vouches for them. Both ends decide by one function, `derive`: the sender sets the flag exactly
//! where the receiver will accept it. Invariant: start and offset come from our own parse; nothing a peer
//! sends becomes an offset.

use std::net::IpAddr;

use super::inner::{InnerPacket, TCP, UDP};
use crate::DropReason;

/// Where the checksum field stands in a TCP header (RFC 9293).
pub const TCP_OFFSET: u16 = 16;
/// Where the checksum field stands in a UDP header (RFC 768).
pub const UDP_OFFSET: u16 = 6;

/// A checksum to be finished, in the terms of `virtio_net_hdr` (csum_start, csum_offset).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// The byte from which on to sum: the transport header's first.
    pub start: u16,
    /// The field's place, counted from `start`.
    pub offset: u16,
}

/// The one's complement sum (RFC 1071) of big-endian 16-bit words, an odd last byte padded with zero, on top
/// of `initial`. It is not complemented, so that sums of pieces can be added; every piece but the last must
/// be of even length.
#[inline]
pub fn sum(bytes: &[u8], initial: u16) -> u16 {
    // RFC 1071 2(B): the sum may be taken in either byte order, and swapped at the end. 64 bits hold 2^32
    // words' carries.
    let mut total = u64::from(initial.to_be());
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        if let Some(&word) = word.first_chunk() {
            total += u64::from(u32::from_ne_bytes(word));
        }
    }
    let mut last = [0; 4];
    for (to, &from) in last.iter_mut().zip(words.remainder()) {
        *to = from;
    }
    total += u64::from(u32::from_ne_bytes(last));
    u16::from_be(fold(total))
}

/// The one's complement sum of two sums.
#[inline]
pub fn add(a: u16, b: u16) -> u16 {
    fold(u64::from(a) + u64::from(b))
}

/// A checksum field after one 16-bit word under it changed (RFC 1624, equation 3).
#[inline]
pub fn update(checksum: u16, before: u16, after: u16) -> u16 {
    !add(add(!checksum, !before), after)
}

#[inline]
fn fold(total: u64) -> u16 {
    // At most 2^33, then 2^18, then 2^16 + 2, then 2^16 - 1.
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    ((total >> 16) + (total & 0xffff)) as u16
}

/// The sum of the IPv4 pseudo-header (RFC 9293 3.1); `len` is that of transport header and data.
#[inline]
pub fn pseudo_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, len: u16) -> u16 {
    // 2^16 is 1 as far as a one's complement sum goes: wider words may be added, and folded at the end.
    let [source, destination] = [source, destination].map(u32::from_be_bytes).map(u64::from);
    fold(source + destination + u64::from(protocol) + u64::from(len))
}

/// The sum of the IPv6 pseudo-header (RFC 8200 8.1); `len` is that of transport header and data.
#[inline]
pub fn pseudo_v6(source: [u8; 16], destination: [u8; 16], protocol: u8, len: u32) -> u16 {
    add(sum(&source, protocol.into()), sum(&destination, fold(len.into())))
}

/// The pseudo-header's sum for a packet's own addresses; `len` is that of transport header and data.
#[inline]
pub fn pseudo(inner: &InnerPacket, protocol: u8, len: u16) -> u16 {
    match (inner.source, inner.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            pseudo_v4(source.octets(), destination.octets(), protocol, len)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            pseudo_v6(source.octets(), destination.octets(), protocol, len.into())
        }
        // `parse` gives both of one family.
        _ => 0,
    }
}

/// Receives a packet whose sender left its checksum partial: puts our own pseudo-header sum in the field, and
/// says where to finish. `inner` is what [`InnerPacket::parse`] made of `packet`.
///
/// # Errors
/// [`DropReason::InnerPartial`] if the packet may not claim it. Nothing has changed then.
#[inline]
pub fn accept_partial(inner: &InnerPacket, packet: &mut [u8]) -> Result<PartialChecksum, DropReason> {
    let (partial, pseudo) = derive(inner, packet)?;
    let field = field(packet, partial.start, partial.offset).ok_or(DropReason::InnerPartial)?;
    *field = pseudo.to_be_bytes();
    Ok(partial)
}

/// Whether a packet that the kernel gave with this csum_start and csum_offset may be sent with the flag set:
/// they are exactly its outermost TCP or UDP checksum, and the receiver will accept it. Otherwise the sender
/// [finishes](finish); as it does with IPv4 options, among which may be a source route: its last hop is what the
/// host has summed, and not the destination that the receiver would sum.
#[inline]
pub fn sender_partial(packet: &[u8], csum_start: u16, csum_offset: u16) -> bool {
    let asked = PartialChecksum { start: csum_start, offset: csum_offset };
    let derived = InnerPacket::parse(packet).and_then(|inner| derive(&inner, packet));
    let routed = packet.first().is_some_and(|first| first >> 4 == 4 && first & 0xf > 5);
    !routed && derived.is_ok_and(|(partial, _)| partial == asked)
}

/// Finishes a partial sum: sums from `start` to the packet's end, the field's own content included, and
/// stores the complement. A UDP checksum of zero would mean "none" and becomes 0xffff. False, and nothing
/// done, if the field is not inside the packet.
#[inline]
pub fn finish(packet: &mut [u8], start: u16, offset: u16) -> bool {
    let Some(summed) = packet.get(usize::from(start)..) else { return false };
    let checksum = match !sum(summed, 0) {
        0 if offset == UDP_OFFSET => 0xffff,
        checksum => checksum,
    };
    let Some(field) = field(packet, start, offset) else { return false };
    *field = checksum.to_be_bytes();
    true
}

/// The rule of `protocol.md`, 'Checksum partial': where the packet's transport checksum stands, and its
/// pseudo-header sum.
#[inline(always)]
fn derive(inner: &InnerPacket, packet: &[u8]) -> Result<(PartialChecksum, u16), DropReason> {
    let rest = packet.get(..inner.header_len).zip(packet.get(inner.header_len..));
    let (header, transport) = rest.ok_or(DropReason::InnerMalformed)?;
    let whole = match inner.version {
        4 => !inner.fragment && header_sum(header) == 0xffff,
        _ => !inner.ext_headers,
    };
    let offset = match inner.protocol {
        TCP if tcp_is_whole(transport) => TCP_OFFSET,
        UDP if udp_is_whole(transport) => UDP_OFFSET,
        _ => return Err(DropReason::InnerPartial),
    };
    // An IP payload is at most 65 535 bytes long, and a header 60: both fit, or the packet is refused.
    match (whole, u16::try_from(inner.header_len), u16::try_from(transport.len())) {
        (true, Ok(start), Ok(len)) => {
            Ok((PartialChecksum { start, offset }, pseudo(inner, inner.protocol, len)))
        }
        _ => Err(DropReason::InnerPartial),
    }
}

/// The sum of an IPv4 header: most have no options, and are five words that need no loop.
#[inline]
fn header_sum(header: &[u8]) -> u16 {
    match header.as_array::<20>() {
        Some(plain) => sum(plain, 0),
        None => sum(header, 0),
    }
}

fn tcp_is_whole(transport: &[u8]) -> bool {
    transport.first_chunk::<20>().is_some_and(|header| {
        let data_offset = usize::from(header[12] >> 4);
        data_offset >= 5 && data_offset * 4 <= transport.len()
    })
}

fn udp_is_whole(transport: &[u8]) -> bool {
    transport
        .first_chunk::<8>()
        .is_some_and(|header| usize::from(u16::from_be_bytes([header[4], header[5]])) == transport.len())
}

fn field(packet: &mut [u8], start: u16, offset: u16) -> Option<&mut [u8; 2]> {
    packet.get_mut(usize::from(start) + usize::from(offset)..)?.first_chunk_mut()
}

/// Packets for tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// 10.0.0.1 to 10.0.0.2, with a valid header checksum; `options` fill whole words.
    pub fn v4(protocol: u8, payload: &[u8], options: &[u8]) -> Vec<u8> {
        let header_len = 20 + options.len();
        let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
        packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
        packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend(options);
        fix_header(&mut packet);
        packet.extend(payload);
        packet
    }

    /// Gives an IPv4 header its right checksum.
    pub fn fix_header(packet: &mut [u8]) {
        let header_len = usize::from(packet[0] & 0x0f) * 4;
        packet[10..12].fill(0);
        let checksum = !sum(&packet[..header_len], 0);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// fd00::1 to fd00::2.
    pub fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((payload.len() as u16).to_be_bytes());
        packet.extend([protocol, 64]);
        for last in [1, 2] {
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        packet.extend(payload);
        packet
    }

    /// A TCP segment with `options` words of options.
    pub fn tcp(options: u8, data: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; 20 + 4 * usize::from(options)];
        segment[..4].copy_from_slice(&[0x12, 0x34, 0x00, 0x50]);
        segment[12] = (5 + options) << 4;
        segment.extend(data);
        segment
    }

    /// A UDP datagram.
    pub fn udp(data: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0x12, 0x34, 0x00, 0x35];
        datagram.extend(((8 + data.len()) as u16).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(data);
        datagram
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{fix_header, tcp, udp, v4, v6};
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071's definition, word by word.
    fn plain_sum(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0u16, |total, pair| {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            let (total, carry) = total.overflowing_add(word);
            total + u16::from(carry)
        })
    }

    /// The whole transport checksum over a pseudo-header spelled out in bytes.
    fn full_checksum(packet: &[u8]) -> u16 {
        let inner = InnerPacket::parse(packet).unwrap();
        let transport = &packet[inner.header_len..];
        let mut bytes = if inner.version == 4 { packet[12..20].to_vec() } else { packet[8..40].to_vec() };
        bytes.extend((transport.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, inner.protocol]);
        bytes.extend(transport);
        let at = bytes.len() - transport.len() + if inner.protocol == TCP { 16 } else { 6 };
        bytes[at..at + 2].fill(0);
        match !plain_sum(&bytes) {
            0 if inner.protocol == UDP => 0xffff,
            checksum => checksum,
        }
    }

    fn packets(data: &[u8], options: u8) -> [Vec<u8>; 4] {
        let ip_options = vec![1; 4 * usize::from(options % 4)];
        [
            v4(TCP, &tcp(options, data), &ip_options),
            v4(UDP, &udp(data), &ip_options),
            v6(TCP, &tcp(options, data)),
            v6(UDP, &udp(data)),
        ]
    }

    /// Parses and accepts.
    fn accept(packet: &mut [u8]) -> Result<PartialChecksum, DropReason> {
        let inner = InnerPacket::parse(packet)?;
        accept_partial(&inner, packet)
    }

    fn refused(mut packet: Vec<u8>) {
        let before = packet.clone();
        assert_eq!(accept(&mut packet), Err(DropReason::InnerPartial));
        assert_eq!(packet, before);
        for offset in [TCP_OFFSET, UDP_OFFSET] {
            for start in 0..80 {
                assert!(!sender_partial(&packet, start, offset));
            }
        }
    }

    #[test]
    fn the_example_of_rfc_1071_adds_up() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0), 0xddf2);
    }

    #[test]
    fn a_checksum_update_has_rfc_1624s_example() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn start_and_offset_are_those_of_the_outermost_transport_header() {
        let [mut tcp4, mut udp4, mut tcp6, mut udp6] = packets(b"data", 1);
        let at = |start, offset| Ok(PartialChecksum { start, offset });
        assert_eq!(accept(&mut tcp4), at(24, 16));
        assert_eq!(accept(&mut udp4), at(24, 6));
        assert_eq!(accept(&mut tcp6), at(40, 16));
        assert_eq!(accept(&mut udp6), at(40, 6));
        assert!(!sender_partial(&tcp4, 24, 16), "among its options may be a source route");
        let plain = v4(TCP, &tcp(0, b"x"), &[]);
        assert!(sender_partial(&plain, 20, 16));
        assert!(!sender_partial(&plain, 20, 6));
        assert!(!sender_partial(&plain, 24, 16));
        assert!(sender_partial(&tcp6, 40, 16));
        assert!(!sender_partial(&udp6, 44, 6));
    }

    #[test]
    fn an_inner_tunnels_checksum_is_not_the_outermost_one() {
        // VXLAN: the kernel leaves the inner TCP sum partial; the outer UDP sum is whole or zero.
        let inside = v4(TCP, &tcp(0, b"x"), &[]);
        let packet = v4(UDP, &udp(&[&[0; 8 + 14][..], &inside].concat()), &[]);
        assert!(!sender_partial(&packet, 20 + 8 + 8 + 14 + 20, TCP_OFFSET));
        assert!(sender_partial(&packet, 20, UDP_OFFSET));
    }

    #[test]
    fn a_fragment_may_not_be_partial() {
        for bits in [0x2000u16, 0x0001, 0x00b9] {
            let mut packet = v4(UDP, &udp(b"data"), &[]);
            packet[6..8].copy_from_slice(&bits.to_be_bytes());
            fix_header(&mut packet);
            refused(packet);
        }
        refused(v6(44, &[&[UDP, 0, 0, 0, 0, 0, 0, 1][..], &udp(b"data")].concat()));
    }

    #[test]
    fn a_wrong_ipv4_header_checksum_may_not_be_partial() {
        let mut packet = v4(TCP, &tcp(0, b"data"), &[]);
        packet[8] -= 1;
        refused(packet);
    }

    #[test]
    fn extension_headers_may_not_stand_before_a_partial_one() {
        refused(v6(0, &[&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &udp(b"data")].concat()));
        refused(v6(60, &[&[TCP, 0, 1, 4, 0, 0, 0, 0][..], &tcp(0, b"data")].concat()));
    }

    #[test]
    fn other_protocols_may_not_be_partial() {
        for protocol in [1, 50, 58, 132, 136] {
            refused(v4(protocol, &udp(b"data"), &[]));
            refused(v6(protocol, &tcp(0, b"data")));
        }
    }

    #[test]
    fn a_transport_header_must_be_whole() {
        for len in 0..20 {
            refused(v4(TCP, &tcp(0, b"")[..len], &[]));
            refused(v6(TCP, &tcp(0, b"")[..len]));
        }
        for data_offset in [0u8, 4, 6, 15] {
            let mut segment = tcp(0, b"abc");
            segment[12] = data_offset << 4;
            refused(v4(TCP, &segment, &[]));
        }
        for len in 0..8 {
            refused(v4(UDP, &udp(b"")[..len], &[]));
            refused(v6(UDP, &udp(b"")[..len]));
        }
    }

    #[test]
    fn a_udp_length_must_be_the_ip_payloads() {
        for length in [0u16, 7, 8, 11, 13, 0xffff] {
            let mut datagram = udp(b"data");
            datagram[4..6].copy_from_slice(&length.to_be_bytes());
            refused(v4(UDP, &datagram, &[]));
            refused(v6(UDP, &datagram));
        }
    }

    #[test]
    fn a_packet_that_does_not_parse_is_malformed_and_unchanged() {
        let mut packet = v4(UDP, &udp(b"data"), &[]);
        packet.push(0);
        let before = packet.clone();
        assert_eq!(accept(&mut packet), Err(DropReason::InnerMalformed));
        assert_eq!(packet, before);
        assert!(!sender_partial(&packet, 20, 6));
    }

    #[test]
    fn a_udp_sum_of_zero_is_sent_as_ones_and_a_tcp_sum_is_not() {
        for (protocol, expected) in [(UDP, 0xffff), (TCP, 0)] {
            let mut packet = match protocol {
                UDP => v4(UDP, &udp(&[0, 0]), &[]),
                _ => v4(TCP, &tcp(0, &[0, 0]), &[]),
            };
            // Two data bytes that complete the sum to 0xffff: its complement is zero.
            let at = accept(&mut packet).unwrap();
            let missing = !sum(&packet[usize::from(at.start)..], 0);
            let end = packet.len();
            packet[end - 2..].copy_from_slice(&missing.to_be_bytes());
            assert!(finish(&mut packet, at.start, at.offset));
            let field = usize::from(at.start + at.offset);
            assert_eq!(u16::from_be_bytes([packet[field], packet[field + 1]]), expected);
            assert_eq!(full_checksum(&packet), expected);
        }
    }

    #[test]
    fn the_largest_packets_are_summed_without_overflow() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(sum(&bytes, 0xffff), add(plain_sum(&bytes), 0xffff));
        let mut packet = v4(UDP, &udp(&vec![0xa5; 65_535 - 28]), &[]);
        let at = accept(&mut packet).unwrap();
        assert!(finish(&mut packet, at.start, at.offset));
        let checksum = full_checksum(&packet);
        assert_eq!(packet[26..28], checksum.to_be_bytes());
    }

    #[test]
    fn a_field_outside_the_packet_is_refused() {
        let mut packet = v4(UDP, &udp(b""), &[]);
        let before = packet.clone();
        for (start, offset) in [(20, 7), (28, 6), (29, 0), (u16::MAX, u16::MAX), (0, 27)] {
            assert!(!finish(&mut packet, start, offset));
            assert_eq!(packet, before);
        }
    }

    proptest! {
        #[test]
        fn a_fast_sum_is_the_plain_sum(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            prop_assert_eq!(sum(&bytes, 0), plain_sum(&bytes));
            let (first, second) = bytes.split_at((2 * cut).min(bytes.len()));
            prop_assert_eq!(sum(second, sum(first, 0)), plain_sum(&bytes));
        }

        #[test]
        fn an_updated_checksum_still_fits(mut bytes in prop::collection::vec(any::<u8>(), 20), at in 1usize..10, word: u16) {
            bytes[..2].fill(0);
            let checksum = !sum(&bytes, 0);
            let before = u16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]);
            bytes[2 * at..2 * at + 2].copy_from_slice(&word.to_be_bytes());
            let checksum = update(checksum, before, word);
            prop_assert_eq!(sum(&bytes, checksum), 0xffff);
        }

        #[test]
        fn an_accepted_and_finished_packet_has_its_full_sum(
            data in prop::collection::vec(any::<u8>(), 0..200), options in 0u8..=10, garbage: u16,
        ) {
            for mut packet in packets(&data, options) {
                let start = if packet[0] >> 4 == 4 { usize::from(packet[0] & 0x0f) * 4 } else { 40 };
                let protocol = if start == 40 && packet[0] >> 4 == 6 { packet[6] } else { packet[9] };
                let field = start + if protocol == TCP { 16 } else { 6 };
                // Whatever the sender left in the field does not matter.
                packet[field..field + 2].copy_from_slice(&garbage.to_be_bytes());
                let left = sender_partial(&packet, start as u16, (field - start) as u16);
                prop_assert_eq!(left, packet[0] >> 4 == 6 || options % 4 == 0, "with options the sender finishes it");
                let at = accept(&mut packet).unwrap();
                prop_assert_eq!(usize::from(at.start + at.offset), field);
                prop_assert!(finish(&mut packet, at.start, at.offset));
                let checksum = full_checksum(&packet);
                prop_assert_eq!(&packet[field..field + 2], &checksum.to_be_bytes()[..]);
            }
        }

        #[test]
        fn any_bytes_are_accepted_or_refused_and_only_the_field_changes(
            data in prop::collection::vec(any::<u8>(), 0..60), options in 0u8..=10, which in 0usize..4,
            flips in prop::collection::vec((0usize..90, any::<u8>()), 0..4), start: u16, offset: u16,
        ) {
            let mut packet = packets(&data, options)[which].clone();
            for (at, bits) in flips {
                if let Some(byte) = packet.get_mut(at) {
                    *byte ^= bits;
                }
            }
            let before = packet.clone();
            if let Ok(at) = accept(&mut packet) {
                let field = usize::from(at.start + at.offset);
                prop_assert!(field + 2 <= packet.len());
                packet[field..field + 2].copy_from_slice(&before[field..field + 2]);
            }
            prop_assert_eq!(&packet, &before);
            let _ = finish(&mut packet, start % 128, offset % 128);
        }
    }
}
