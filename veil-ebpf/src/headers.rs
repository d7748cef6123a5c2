//! The headers outside a VEIL datagram: Ethernet (IEEE 802.3, 802.1Q), IPv4 (RFC 791), IPv6 (RFC 8200), UDP (RFC 768).
//!
//! A header is a borrowed array of its exact size, so that reading a field needs no check; the one check is
//! [`Packet::load`]. Everything is inlined, because the verifier follows a packet's bounds only within a function.

/// Bytes as they came from the wire. Two kinds: a slice on the host, the packet of an XDP program in the kernel.
pub trait Packet {
    /// How many bytes there are.
    fn length(&self) -> usize;

    /// `N` bytes from offset `at`, if there are so many.
    fn load<const N: usize>(&self, at: usize) -> Option<&[u8; N]>;
}

impl Packet for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn load<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        self.get(at..)?.first_chunk()
    }
}

/// Values of the EtherType field (IANA, IEEE 802 numbers).
pub mod ether_type {
    pub const IPV4: u16 = 0x0800;
    pub const IPV6: u16 = 0x86dd;
    /// A customer's VLAN tag, 802.1Q.
    pub const VLAN: u16 = 0x8100;
    /// A provider's VLAN tag, 802.1ad.
    pub const PROVIDER_VLAN: u16 = 0x88a8;
}

/// Values of IPv4's protocol and IPv6's next header field (IANA, protocol numbers).
pub mod protocol {
    pub const UDP: u8 = 17;
    pub const IPV6_FRAGMENT: u8 = 44;

    /// Whether it is an IPv6 extension header other than a fragment's (IANA, IPv6 extension header types).
    #[inline(always)]
    pub const fn is_extension(next_header: u8) -> bool {
        matches!(next_header, 0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254)
    }
}

#[inline(always)]
const fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

/// An Ethernet address as a number.
#[inline(always)]
pub const fn mac_number(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// An Ethernet header without a VLAN tag.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<'a>(pub &'a [u8; Ethernet::LENGTH]);

impl<'a> Ethernet<'a> {
    pub const LENGTH: usize = 14;

    /// A number, because eBPF compares numbers well and arrays by a call.
    #[inline(always)]
    pub const fn destination(self) -> u64 {
        let [a, b, c, d, e, f, ..] = *self.0;
        mac_number([a, b, c, d, e, f])
    }

    #[inline(always)]
    pub const fn ether_type(self) -> u16 {
        be16(self.0[12], self.0[13])
    }
}

/// An IPv4 header without options.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a>(pub &'a [u8; Ipv4::LENGTH]);

impl<'a> Ipv4<'a> {
    pub const LENGTH: usize = 20;

    #[inline(always)]
    pub const fn version(self) -> u8 {
        self.0[0] >> 4
    }

    /// Bytes of header, options included.
    #[inline(always)]
    pub const fn header_length(self) -> usize {
        (self.0[0] & 15) as usize * 4
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub const fn tos(self) -> u8 {
        self.0[1]
    }

    /// Bytes of packet, header included.
    #[inline(always)]
    pub const fn total_length(self) -> usize {
        be16(self.0[2], self.0[3]) as usize
    }

    /// Whether more fragments follow or this is not the first.
    #[inline(always)]
    pub const fn is_fragment(self) -> bool {
        be16(self.0[6], self.0[7]) & 0x3fff != 0
    }

    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        self.0[9]
    }

    #[inline(always)]
    pub const fn source(self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    #[inline(always)]
    pub const fn destination(self) -> [u8; 4] {
        [self.0[16], self.0[17], self.0[18], self.0[19]]
    }
}

/// An IPv6 header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a>(pub &'a [u8; Ipv6::LENGTH]);

impl<'a> Ipv6<'a> {
    pub const LENGTH: usize = 40;

    #[inline(always)]
    pub const fn version(self) -> u8 {
        self.0[0] >> 4
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub const fn traffic_class(self) -> u8 {
        self.0[0] << 4 | self.0[1] >> 4
    }

    /// Bytes after the header.
    #[inline(always)]
    pub const fn payload_length(self) -> usize {
        be16(self.0[4], self.0[5]) as usize
    }

    #[inline(always)]
    pub const fn next_header(self) -> u8 {
        self.0[6]
    }

    #[inline(always)]
    pub fn source(self) -> &'a [u8; 16] {
        self.0[8..].first_chunk().expect("16 bytes begin there")
    }

    #[inline(always)]
    pub fn destination(self) -> &'a [u8; 16] {
        self.0.last_chunk().expect("16 bytes end there")
    }
}

/// A UDP header.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a>(pub &'a [u8; Udp::LENGTH]);

impl<'a> Udp<'a> {
    pub const LENGTH: usize = 8;

    #[inline(always)]
    pub const fn source(self) -> u16 {
        be16(self.0[0], self.0[1])
    }

    #[inline(always)]
    pub const fn destination(self) -> u16 {
        be16(self.0[2], self.0[3])
    }

    /// Bytes of datagram, header included.
    #[inline(always)]
    pub const fn length(self) -> usize {
        be16(self.0[4], self.0[5]) as usize
    }
}
