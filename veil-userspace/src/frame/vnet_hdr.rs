//! The 10-byte header in front of every packet that crosses the TUN device.
//!
//! `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h), in the host's byte order, as a TUN device without
//! `TUNSETVNETLE` or `TUNSETVNETBE` has it. It says which work on the packet was left undone: a checksum to finish, a
//! super-packet to cut. Whoever gets a packet with such a header takes that work over.

/// Bytes of the header on the descriptor.
pub const VNET_HDR_LEN: usize = 10;

/// `flags`: the checksum from `csum_start` to the end is to be put at `csum_start + csum_offset`.
pub const NEEDS_CSUM: u8 = 1;

/// `gso_type`: one packet.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4, to be cut.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: TCP over IPv6, to be cut.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP, to be cut into datagrams.
pub const GSO_UDP_L4: u8 = 5;
/// Bit in `gso_type`: TCP with CWR set.
pub const GSO_ECN: u8 = 0x80;

/// What the sender of a packet left undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHdr {
    pub flags: u8,
    pub gso_type: u8,
    /// Bytes of all headers together, in a super-packet.
    pub hdr_len: u16,
    /// Payload bytes per segment, in a super-packet.
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl VnetHdr {
    /// Nothing left undone.
    pub const NONE: VnetHdr =
        VnetHdr { flags: 0, gso_type: GSO_NONE, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0 };

    /// A checksum left to finish.
    pub fn needs_csum(csum_start: u16, csum_offset: u16) -> Self {
        VnetHdr { flags: NEEDS_CSUM, csum_start, csum_offset, ..Self::NONE }
    }

    /// The header as the device takes it.
    #[inline]
    pub fn encode(self) -> [u8; VNET_HDR_LEN] {
        let mut out = [0; VNET_HDR_LEN];
        out[0] = self.flags;
        out[1] = self.gso_type;
        out[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        out[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        out[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        out[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        out
    }

    /// The inverse of `encode`.
    #[inline]
    pub fn decode(bytes: [u8; VNET_HDR_LEN]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = bytes;
        VnetHdr {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_stand_where_the_kernel_has_them() {
        let header = VnetHdr {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4 | GSO_ECN,
            hdr_len: 0x0102,
            gso_size: 0x0304,
            csum_start: 0x0506,
            csum_offset: 0x0708,
        };
        let words = [0x0102u16, 0x0304, 0x0506, 0x0708].map(u16::to_ne_bytes);
        assert_eq!(header.encode()[..2], [1, 0x81]);
        assert_eq!(header.encode()[2..], words.concat());
        assert_eq!(VnetHdr::NONE.encode(), [0; VNET_HDR_LEN]);
    }

    proptest! {
        #[test]
        fn any_header_reads_back(bytes in any::<[u8; VNET_HDR_LEN]>()) {
            prop_assert_eq!(VnetHdr::decode(bytes).encode(), bytes);
        }
    }
}
