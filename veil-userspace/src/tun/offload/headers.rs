//! Where the headers of a TCP or UDP packet are, by the packet alone.
//!
//! The one parser of this folder. Nothing the kernel or a peer says about a packet becomes an offset: it is compared
//! with what is found here. The invariant: a parsed packet is whole, no fragment, and fills its slice exactly;
//! `transport + 8 <= payload <= packet.len()`.

use crate::frame::VnetHdr;
use veil_proto::mux::checksum::{TCP_OFFSET, UDP_OFFSET, add, sum};

/// Bytes of an IPv4 header without options (RFC 791 3.1).
pub const IPV4_LEN: usize = 20;
/// Bytes of the fixed IPv6 header (RFC 8200 3).
pub const IPV6_LEN: usize = 40;

/// What an inner packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => libc::IPPROTO_TCP as u8,
            Transport::Udp => libc::IPPROTO_UDP as u8,
        }
    }

    /// Where the checksum stands in the transport header.
    pub fn checksum_offset(self) -> u16 {
        match self {
            Transport::Tcp => TCP_OFFSET,
            Transport::Udp => UDP_OFFSET,
        }
    }
}

/// The places of a packet's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    pub ipv4: bool,
    pub carries: Transport,
    /// Where the transport header begins.
    pub transport: u16,
    /// Where its payload begins.
    pub payload: u16,
    /// Nothing stands between the fixed IP header and the transport header: no options, no extension headers.
    pub plain: bool,
}

impl Headers {
    /// Finds the headers of a whole, unfragmented TCP or UDP packet (RFC 791, 8200, 9293, 768); `None` for all else.
    #[inline]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (transport, number) = match packet.first()? >> 4 {
            4 => ipv4(packet)?,
            6 => ipv6(packet)?,
            _ => return None,
        };
        let segment = packet.get(transport..)?;
        let (carries, header_len) = match i32::from(number) {
            libc::IPPROTO_TCP => (Transport::Tcp, tcp_header_len(segment)?),
            libc::IPPROTO_UDP => (Transport::Udp, udp_header_len(segment)?),
            _ => return None,
        };
        let ipv4 = packet[0] >> 4 == 4;
        Some(Headers {
            ipv4,
            carries,
            transport: u16::try_from(transport).ok()?,
            payload: u16::try_from(transport + header_len).ok()?,
            plain: transport == if ipv4 { IPV4_LEN } else { IPV6_LEN },
        })
    }

    /// Where the transport checksum is, as a [`VnetHdr`] says it.
    pub fn needs_csum(&self) -> VnetHdr {
        VnetHdr::needs_csum(self.transport, self.carries.checksum_offset())
    }

    /// The index of the transport checksum's first byte.
    pub fn checksum_at(&self) -> usize {
        usize::from(self.transport + self.carries.checksum_offset())
    }

    /// The sum of the pseudo-header (RFC 9293 3.1, RFC 8200 8.1) without its length, for the packet these headers are
    /// of. Only for plain ones: a source route or routing header would want another destination.
    #[inline]
    pub fn pseudo_without_length(&self, packet: &[u8]) -> u16 {
        let addresses = if self.ipv4 { 12..20 } else { 8..40 };
        sum(packet.get(addresses).unwrap_or_default(), u16::from(self.carries.number()))
    }

    /// The sum of the pseudo-header of a packet of `len` bytes in all.
    #[inline]
    pub fn pseudo(&self, packet: &[u8], len: usize) -> u16 {
        add(self.pseudo_without_length(packet), len.saturating_sub(self.transport.into()) as u16)
    }

    /// Whether IPv4 header checksum and transport checksum are right.
    pub fn sums_are_right(&self, packet: &[u8]) -> bool {
        let Some((header, segment)) = packet.split_at_checked(self.transport.into()) else { return false };
        (!self.ipv4 || sum(header, 0) == 0xffff) && sum(segment, self.pseudo(packet, packet.len())) == 0xffff
    }
}

/// The header's length and the protocol of a whole, unfragmented IPv4 packet.
#[inline]
fn ipv4(packet: &[u8]) -> Option<(usize, u8)> {
    let header: &[u8; IPV4_LEN] = packet.first_chunk()?;
    let len = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // More fragments, or an offset.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    (len >= IPV4_LEN && total == packet.len() && !fragment).then_some((len, header[9]))
}

/// The length of all headers before the transport's, and its protocol number. Extension headers that a host may put
/// before TCP or UDP are walked (RFC 8200 4: hop-by-hop, routing, destination options); a fragment is refused.
#[inline]
fn ipv6(packet: &[u8]) -> Option<(usize, u8)> {
    let (header, rest) = packet.split_first_chunk::<IPV6_LEN>()?;
    if usize::from(u16::from_be_bytes([header[4], header[5]])) != rest.len() {
        return None;
    }
    let (mut at, mut next) = (IPV6_LEN, header[6]);
    while matches!(i32::from(next), libc::IPPROTO_HOPOPTS | libc::IPPROTO_ROUTING | libc::IPPROTO_DSTOPTS) {
        let &[following, units] = packet.get(at..)?.first_chunk()?;
        (at, next) = (at + 8 + 8 * usize::from(units), following);
    }
    Some((at, next))
}

#[inline]
fn tcp_header_len(segment: &[u8]) -> Option<usize> {
    let header: &[u8; 20] = segment.first_chunk()?;
    let len = usize::from(header[12] >> 4) * 4;
    (len >= 20 && len <= segment.len()).then_some(len)
}

#[inline]
fn udp_header_len(segment: &[u8]) -> Option<usize> {
    let header: &[u8; 8] = segment.first_chunk()?;
    (usize::from(u16::from_be_bytes([header[4], header[5]])) == segment.len()).then_some(8)
}
