//! The IP packet inside a frame: as much of its header as VEIL must know.
//!
//! Called for every packet in both directions, before the allowed IPs see its addresses. Only what routing and
//! checksums need is read; the rest is the hosts' business. Invariant: a parsed packet's own
//! length is exactly the slice's, and its `header_len` lies inside.

use std::net::IpAddr;

use crate::DropReason;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// What the header of an inner packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerPacket {
    /// 4 or 6.
    pub version: u8,
    /// The sender inside the tunnel: must be among the peer's allowed IPs.
    pub source: IpAddr,
    /// The receiver inside the tunnel.
    pub destination: IpAddr,
    /// Bytes of the IPv4 header with options, or of the fixed IPv6 header.
    pub header_len: usize,
    /// IPv4's protocol, or the fixed IPv6 header's next header (which may be an extension header).
    pub protocol: u8,
    /// DSCP and ECN: IPv4's TOS, IPv6's traffic class.
    pub tos: u8,
    /// A fragment of a larger packet. IPv6: the fragment header comes first; behind others it is not looked
    /// for.
    pub fragment: bool,
    /// IPv6 extension headers stand between `header_len` and the transport header.
    pub ext_headers: bool,
}

/// Short name for what [`InnerPacket::parse`] gives.
pub type Inner = InnerPacket;

impl InnerPacket {
    /// Reads the header of a packet that must fill `packet` exactly (RFC 791 3.1, RFC 8200 3).
    ///
    /// # Errors
    /// [`DropReason::InnerMalformed`]: neither IPv4 nor IPv6, a header that is not whole, or a length that is
    /// not `packet`'s.
    // Always inlined, and what takes it too: its fields stay in registers, where a call would store them one by one and
    // load them together, which waits.
    #[inline(always)]
    pub fn parse(packet: &[u8]) -> Result<InnerPacket, DropReason> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => parse_v4(packet),
            Some(6) => parse_v6(packet),
            _ => None,
        }
        .ok_or(DropReason::InnerMalformed)
    }
}

#[inline(always)]
fn parse_v4(packet: &[u8]) -> Option<InnerPacket> {
    let h: &[u8; 20] = packet.first_chunk()?;
    let header_len = usize::from(h[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([h[2], h[3]]));
    if header_len < 20 || total_len < header_len || total_len != packet.len() {
        return None;
    }
    // More fragments, or an offset; neither "don't fragment" nor the reserved bit.
    let fragment = u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0;
    Some(InnerPacket {
        version: 4,
        source: IpAddr::from([h[12], h[13], h[14], h[15]]),
        destination: IpAddr::from([h[16], h[17], h[18], h[19]]),
        header_len,
        protocol: h[9],
        tos: h[1],
        fragment,
        ext_headers: false,
    })
}

#[inline]
fn parse_v6(packet: &[u8]) -> Option<InnerPacket> {
    let (h, payload) = packet.split_first_chunk::<40>()?;
    if usize::from(u16::from_be_bytes([h[4], h[5]])) != payload.len() {
        return None;
    }
    let source: [u8; 16] = *h[8..].first_chunk()?;
    let destination: [u8; 16] = *h[24..].first_chunk()?;
    Some(InnerPacket {
        version: 6,
        source: IpAddr::from(source),
        destination: IpAddr::from(destination),
        header_len: 40,
        protocol: h[6],
        tos: h[0] << 4 | h[1] >> 4,
        fragment: h[6] == 44,
        // IANA's list: hop-by-hop, routing, fragment, AH, destination options, mobility, HIP, shim6.
        ext_headers: matches!(h[6], 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140),
    })
}

#[cfg(test)]
mod tests {
    use super::super::checksum::testing::{v4, v6};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ipv4_header_is_read() {
        let mut packet = v4(UDP, &[0; 8], &[1, 1, 1, 1]);
        packet[1] = 0xb9;
        let inner = Inner::parse(&packet).unwrap();
        assert_eq!((inner.version, inner.header_len, inner.protocol, inner.tos), (4, 24, 17, 0xb9));
        assert_eq!(inner.source, "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(inner.destination, "10.0.0.2".parse::<IpAddr>().unwrap());
        assert!(!inner.fragment && !inner.ext_headers);
    }

    #[test]
    fn an_ipv6_header_is_read() {
        let mut packet = v6(TCP, &[0; 20]);
        packet[0] = 0x6b;
        packet[1] = 0x9f;
        let inner = Inner::parse(&packet).unwrap();
        assert_eq!((inner.version, inner.header_len, inner.protocol, inner.tos), (6, 40, 6, 0xb9));
        assert_eq!(inner.source, "fd00::1".parse::<IpAddr>().unwrap());
        assert_eq!(inner.destination, "fd00::2".parse::<IpAddr>().unwrap());
        assert!(!inner.fragment && !inner.ext_headers);
    }

    #[test]
    fn fragments_and_extension_headers_are_noticed() {
        for (bits, fragment) in
            [(0x4000, false), (0x8000, false), (0x2000, true), (0x0001, true), (0x1fff, true)]
        {
            let mut packet = v4(TCP, &[0; 20], &[]);
            packet[6..8].copy_from_slice(&u16::to_be_bytes(bits));
            assert_eq!(Inner::parse(&packet).unwrap().fragment, fragment, "{bits:#x}");
        }
        for next in [0, 43, 44, 51, 60, 135, 139, 140] {
            let inner = Inner::parse(&v6(next, &[0; 8])).unwrap();
            assert!(inner.ext_headers);
            assert_eq!(inner.fragment, next == 44);
        }
    }

    #[test]
    fn a_packet_must_fill_its_frame_exactly() {
        for packet in [v4(UDP, &[0; 8], &[]), v6(UDP, &[0; 8])] {
            for cut in 0..packet.len() {
                assert_eq!(Inner::parse(&packet[..cut]), Err(DropReason::InnerMalformed), "{cut}");
            }
            let longer = [&packet[..], &[0]].concat();
            assert_eq!(Inner::parse(&longer), Err(DropReason::InnerMalformed));
        }
    }

    #[test]
    fn an_ipv4_header_length_must_fit_between_twenty_and_the_packet() {
        for ihl in [0, 1, 4, 8, 15] {
            let mut packet = v4(UDP, &[0; 8], &[]);
            packet[0] = 0x40 | ihl;
            assert_eq!(Inner::parse(&packet), Err(DropReason::InnerMalformed), "{ihl}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(mut packet in prop::collection::vec(any::<u8>(), 0..80), fit: bool) {
            if fit && packet.len() >= 40 {
                let len = packet.len() as u16;
                let (at, value) = if packet[0] & 1 == 0 { (2, len) } else { (4, len - 40) };
                packet[0] = if at == 2 { 0x40 | packet[0] & 0x0f } else { 0x60 };
                packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
            }
            if let Ok(inner) = Inner::parse(&packet) {
                prop_assert!(inner.header_len <= packet.len());
            }
        }
    }
}
