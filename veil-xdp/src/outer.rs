//! The headers around a VEIL datagram: read from a steered frame, written in front of a sealed datagram. Pure.
//!
//! On receive nothing is verified that a NIC or veth may leave unfinished: steering has checked the lengths, and the AEAD
//! is the check of the rest. On transmit the headers of a path are a template in which only lengths, ECN and checksums
//! change from datagram to datagram.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use veil_ebpf::headers::{Ethernet, Ipv4, Ipv6, Packet, Udp, ether_type, protocol};

/// Bytes of headers in front of a datagram over IPv4 and over IPv6.
pub const IPV4_HEADERS: usize = Ethernet::LENGTH + Ipv4::LENGTH + Udp::LENGTH;
pub const IPV6_HEADERS: usize = Ethernet::LENGTH + Ipv6::LENGTH + Udp::LENGTH;

/// Hops a datagram may take (the value most hosts send with).
const HOP_LIMIT: u8 = 64;

/// What the headers of a received datagram say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Who sent it.
    pub from: SocketAddr,
    /// The address of this host that it was sent to.
    pub to: IpAddr,
    /// The TOS or traffic class byte.
    pub tos: u8,
    /// Where in the frame the datagram's payload is; what lies behind it is padding.
    pub payload: Range<usize>,
}

/// Reads the headers of a frame that steering redirected: no VLAN tag, no options, no fragment, no extension header.
/// `None` for any other frame.
#[inline]
pub fn parse(frame: &[u8]) -> Option<Outer> {
    let at = Ethernet::LENGTH;
    let (from, to, tos, udp_at, there) = match Ethernet(frame.load(0)?).ether_type() {
        ether_type::IPV4 => {
            let header = Ipv4(frame.load(at)?);
            let plain = header.version() == 4 && header.header_length() == Ipv4::LENGTH;
            if !plain || header.is_fragment() || header.protocol() != protocol::UDP {
                return None;
            }
            let (from, to) = (Ipv4Addr::from(header.source()), Ipv4Addr::from(header.destination()));
            let there = header.total_length().checked_sub(Ipv4::LENGTH)?;
            (IpAddr::V4(from), IpAddr::V4(to), header.tos(), at + Ipv4::LENGTH, there)
        }
        ether_type::IPV6 => {
            let header = Ipv6(frame.load(at)?);
            if header.version() != 6 || header.next_header() != protocol::UDP {
                return None;
            }
            let (from, to) = (Ipv6Addr::from(*header.source()), Ipv6Addr::from(*header.destination()));
            (
                IpAddr::V6(from),
                IpAddr::V6(to),
                header.traffic_class(),
                at + Ipv6::LENGTH,
                header.payload_length(),
            )
        }
        _ => return None,
    };
    let udp = Udp(frame.load(udp_at)?);
    let length = udp.length();
    if length < Udp::LENGTH || length > there || udp_at + there > frame.len() {
        return None;
    }
    let payload = udp_at + Udp::LENGTH..udp_at + length;
    Some(Outer { from: SocketAddr::new(from, udp.source()), to, tos, payload })
}

/// The headers of one path, ready but for what each datagram changes.
#[derive(Clone, Debug)]
pub struct OuterTemplate {
    bytes: [u8; IPV6_HEADERS],
    len: usize,
    /// Over IPv4 the sum of the header with neither length nor TOS.
    ip_sum: u64,
    /// The sum of pseudo-header and UDP header without the length, which counts twice.
    udp_sum: u64,
    udp_checksum: bool,
}

impl OuterTemplate {
    /// Headers from `source` to `destination`, which are of one family, in Ethernet frames between `macs` (source, then
    /// destination). Without `udp_checksum` datagrams over IPv4 go without one (RFC 768); over IPv6 there always is one
    /// (RFC 8200, section 8.1). IPv4 datagrams are never to be fragmented and have id 0 (RFC 6864). `None` if the families
    /// differ.
    pub fn new(
        macs: ([u8; 6], [u8; 6]),
        source: SocketAddr,
        destination: SocketAddr,
        udp_checksum: bool,
    ) -> Option<Self> {
        let mut bytes = [0; IPV6_HEADERS];
        bytes[..6].copy_from_slice(&macs.1);
        bytes[6..12].copy_from_slice(&macs.0);
        let (len, addresses) = match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes[12..14].copy_from_slice(&ether_type::IPV4.to_be_bytes());
                let dont_fragment = 0x40;
                bytes[14..26].copy_from_slice(&[
                    0x45,
                    0,
                    0,
                    0,
                    0,
                    0,
                    dont_fragment,
                    0,
                    HOP_LIMIT,
                    protocol::UDP,
                    0,
                    0,
                ]);
                bytes[26..30].copy_from_slice(&from.octets());
                bytes[30..34].copy_from_slice(&to.octets());
                (IPV4_HEADERS, 26..34)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes[12..14].copy_from_slice(&ether_type::IPV6.to_be_bytes());
                bytes[14] = 0x60;
                bytes[20..22].copy_from_slice(&[protocol::UDP, HOP_LIMIT]);
                bytes[22..38].copy_from_slice(&from.octets());
                bytes[38..54].copy_from_slice(&to.octets());
                (IPV6_HEADERS, 22..54)
            }
            _ => return None,
        };
        let udp = len - Udp::LENGTH;
        bytes[udp..udp + 2].copy_from_slice(&source.port().to_be_bytes());
        bytes[udp + 2..udp + 4].copy_from_slice(&destination.port().to_be_bytes());
        let number = u64::from(u16::from(protocol::UDP).to_be());
        Some(OuterTemplate {
            ip_sum: sum(&bytes[14..34]),
            udp_sum: sum(&bytes[addresses]) + sum(&bytes[udp..udp + 4]) + number,
            udp_checksum: udp_checksum || len == IPV6_HEADERS,
            bytes,
            len,
        })
    }

    /// Bytes of headers in front of each datagram.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: there are always headers.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes headers for `payload` (at most 65 507 bytes) to the [`len`](Self::len) bytes of `out`, which stand in front
    /// of it.
    ///
    /// # Panics
    /// If `out` has another length.
    #[inline]
    pub fn write(&self, out: &mut [u8], payload: &[u8], tos: u8) {
        out.copy_from_slice(&self.bytes[..self.len]);
        let udp_len = (Udp::LENGTH + payload.len()) as u16;
        if self.len == IPV4_HEADERS {
            let total = (Ipv4::LENGTH as u16 + udp_len).to_be_bytes();
            out[15] = tos;
            out[16..18].copy_from_slice(&total);
            let sum =
                self.ip_sum + u64::from(u16::from_ne_bytes([0, tos])) + u64::from(u16::from_ne_bytes(total));
            out[24..26].copy_from_slice(&(!fold(sum)).to_ne_bytes());
        } else {
            out[14] |= tos >> 4;
            out[15] = tos << 4;
            out[18..20].copy_from_slice(&udp_len.to_be_bytes());
        }
        let udp = self.len - Udp::LENGTH;
        out[udp + 4..udp + 6].copy_from_slice(&udp_len.to_be_bytes());
        if self.udp_checksum {
            let checksum = !fold(self.udp_sum + 2 * u64::from(udp_len.to_be()) + sum(payload));
            // Zero says that there is none (RFC 768).
            let checksum = if checksum == 0 { 0xffff } else { checksum };
            out[udp + 6..udp + 8].copy_from_slice(&checksum.to_ne_bytes());
        }
    }
}

/// The sum of 16-bit words in memory order (RFC 1071, whose sum is the same in either byte order), an odd last byte
/// padded with zero; not yet folded.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<32>();
    // Lanes of their own, so that the compiler adds them side by side; 32-bit words in 64-bit lanes do not overflow.
    let mut lanes = [0u64; 8];
    for chunk in chunks {
        let (words, _) = chunk.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<2>();
    total += words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum::<u64>();
    if let [last] = rest {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// Folds a sum to 16 bits with the carries added back.
#[inline]
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use veil_ebpf::steer::classify;
    use veil_ebpf::{SteeringConfig, Verdict};

    /// The checksum as RFC 1071 (section 4.1) computes it, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let words =
            bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
        let mut total: u32 = 0;
        for word in words {
            total += word;
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    fn address() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let ports = (1u16.., 1u16..);
        prop_oneof![
            (any::<u32>(), any::<u32>(), ports.clone())
                .prop_map(|(a, b, p)| ((Ipv4Addr::from(a), p.0).into(), (Ipv4Addr::from(b), p.1).into())),
            (any::<u128>(), any::<u128>(), ports)
                // Not an IPv4-mapped one: such are on no wire.
                .prop_map(|(a, b, p)| (
                    (Ipv6Addr::from(a | 1 << 127), p.0).into(),
                    (Ipv6Addr::from(b | 1 << 127), p.1).into()
                )),
        ]
    }

    const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    fn frame(
        source: SocketAddr,
        destination: SocketAddr,
        payload: &[u8],
        tos: u8,
        checksum: bool,
    ) -> Vec<u8> {
        let template = OuterTemplate::new(MACS, source, destination, checksum).expect("one family");
        let mut frame = vec![0; template.len()];
        template.write(&mut frame, payload, tos);
        frame.extend_from_slice(payload);
        frame
    }

    proptest! {
        #[test]
        fn what_is_written_is_steered_parsed_and_has_right_sums(
            (source, destination) in address(),
            payload in prop::collection::vec(any::<u8>(), 0..2000),
            tos: u8, checksum: bool, padding in 0..50usize,
        ) {
            let mut frame = frame(source, destination, &payload, tos, checksum);
            let (ip, udp) = if source.is_ipv4() { (26..34, 34) } else { (22..54, 54) };
            if source.is_ipv4() {
                prop_assert_eq!(slow(&frame[14..34]), 0xffff);
            }
            let has_sum = frame[udp + 6..udp + 8] != [0, 0];
            prop_assert_eq!(has_sum, checksum || source.is_ipv6());
            if has_sum {
                let mut all = frame[ip].to_vec();
                let len = (frame.len() - udp) as u16;
                all.extend_from_slice(&[0, 17]);
                all.extend_from_slice(&len.to_be_bytes());
                all.extend_from_slice(&frame[udp..]);
                prop_assert_eq!(slow(&all), 0xffff);
            }
            frame.resize(frame.len() + padding, 0xee);
            let config = SteeringConfig { mac: MACS.1, port: destination.port(), longest: u16::MAX };
            prop_assert_eq!(classify(&frame[..], &config, |_| true), Verdict::Redirect);
            let outer = parse(&frame).expect("it was redirected");
            prop_assert_eq!(&frame[outer.payload.clone()], &payload[..]);
            prop_assert_eq!((outer.from, outer.to, outer.tos), (source, destination.ip(), tos));
            // Whatever is cut off: parsed exactly if it would be redirected.
            for len in 0..frame.len() {
                let redirected = classify(&frame[..len], &config, |_| true) == Verdict::Redirect;
                prop_assert_eq!(parse(&frame[..len]).is_some(), redirected, "{} bytes", len);
            }
        }

        #[test]
        fn what_is_redirected_is_parsed_whatever_was_changed(
            (source, destination) in address(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
            changes in prop::collection::vec((0..62usize, any::<u8>()), 0..4),
        ) {
            let mut frame = frame(source, destination, &payload, 0, true);
            changes.iter().for_each(|&(at, byte)| if let Some(b) = frame.get_mut(at) { *b = byte });
            let config = SteeringConfig { mac: MACS.1, port: destination.port(), longest: u16::MAX };
            if classify(&frame[..], &config, |_| true) == Verdict::Redirect {
                prop_assert!(parse(&frame).is_some());
            }
        }

        #[test]
        fn the_sum_is_that_of_rfc_1071(bytes in prop::collection::vec(any::<u8>(), 0..9100)) {
            prop_assert_eq!(fold(sum(&bytes)).to_be(), slow(&bytes));
        }
    }

    #[test]
    fn the_example_of_rfc_1071_sums_as_it_says() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])).to_be(), 0xddf2);
    }

    #[test]
    fn a_template_needs_one_family() {
        let (v4, v6) = ("192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap());
        assert!(OuterTemplate::new(MACS, v4, v6, true).is_none());
    }
}
