//! Cutting a super-packet from the host into the packets it stands for.
//!
//! The process stage parses once, asks how many segments there are and how long each is, and has every segment written
//! straight to the place where it will be sealed: one copy. The rules are the kernel's own (`tcp_gso_segment` in
//! net/ipv4/tcp_offload.c, `__udp_gso_segment` in net/ipv4/udp_offload.c, `inet_gso_segment` in net/ipv4/af_inet.c).
//! Checksums stay partial: the transport field holds the pseudo-header's sum for the segment's own length.
//!
//! The invariant: a `Segments` covers the super-packet's payload once, in order, without a gap.

use super::headers::{Headers, IPV4_LEN, IPV6_LEN, Transport};
use crate::frame::{GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHdr};
use veil_proto::DropReason;
use veil_proto::mux::checksum::{add, sum};

/// TCP flags (RFC 9293 3.1, RFC 3168 6.1) in the header's byte 13.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A host cannot make more of 64 KiB: TCP's least segment size is 48 bytes with options (`tcp_min_snd_mss`), and a UDP
/// super-packet has 128 segments at most (`UDP_MAX_SEGMENTS`).
const MAX_COUNT: usize = 2048;

/// A checked super-packet and how it is cut.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    headers: Headers,
    /// Payload bytes in each segment but the last.
    size: usize,
    count: usize,
    /// The pseudo-header's sum without its length, the same for all segments.
    pseudo: u16,
    /// The IPv4 header's sum without total length, id and checksum.
    ip_sum: u16,
}

impl<'a> Segments<'a> {
    /// Checks a super-packet against what the device says about it.
    ///
    /// `hdr_len` is not looked at: it is a hint, and a forwarding host writes other things there than the length of the
    /// headers. Start and offset of the checksum must be those of the packet's own transport header.
    ///
    /// # Errors
    /// [`DropReason::BadSuperPacket`].
    pub fn parse(header: VnetHdr, packet: &'a [u8]) -> Result<Self, DropReason> {
        Self::checked(header, packet).ok_or(DropReason::BadSuperPacket)
    }

    fn checked(header: VnetHdr, packet: &'a [u8]) -> Option<Self> {
        let headers = Headers::parse(packet)?;
        let fits = match header.gso_type & !GSO_ECN {
            GSO_TCPV4 => headers.ipv4 && headers.carries == Transport::Tcp,
            GSO_TCPV6 => !headers.ipv4 && headers.carries == Transport::Tcp,
            GSO_UDP_L4 => headers.carries == Transport::Udp,
            _ => false,
        };
        let asked = header.flags & NEEDS_CSUM != 0;
        let found = headers.needs_csum();
        let same_sum = (header.csum_start, header.csum_offset) == (found.csum_start, found.csum_offset);
        if !fits || header.gso_size == 0 || asked && !same_sum {
            return None;
        }
        let ip_sum = match headers.ipv4 {
            // Of the first six bytes only version, header length and TOS.
            true => sum(packet.get(12..headers.transport.into())?, sum(packet.get(6..10)?, word(packet, 0)?)),
            false => 0,
        };
        let pseudo = match headers.plain {
            true => headers.pseudo_without_length(packet),
            // Behind a source route or routing header the sum is that of the last hop's address: what the host wrote.
            false if asked => {
                let len = (packet.len() - usize::from(headers.transport)) as u16;
                add(word(packet, headers.checksum_at())?, !len)
            }
            false => return None,
        };
        let size = usize::from(header.gso_size);
        Segments { packet, headers, size, count: 0, pseudo, ip_sum }.counted()
    }

    /// Sets `count` by `size`.
    fn counted(mut self) -> Option<Self> {
        let payload = self.packet.len() - self.header_len();
        self.count = payload.div_ceil(self.size).max(1);
        (self.count <= MAX_COUNT).then_some(self)
    }

    /// The same in segments of at most `len` bytes with headers. `None` where that changes what is said: a datagram's
    /// length is part of it, a TCP segment's is not.
    pub fn shortened(mut self, len: usize) -> Option<Self> {
        if self.longest() <= len {
            return Some(self);
        }
        let room = len.checked_sub(self.header_len()).filter(|&room| room > 0)?;
        if self.headers.carries != Transport::Tcp {
            return None;
        }
        self.size = room;
        self.counted()
    }

    /// How many segments there are; at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of every segment but the last, which may be shorter.
    #[inline]
    pub fn longest(&self) -> usize {
        self.len(0)
    }

    /// Bytes of segment `index`.
    #[inline]
    pub fn len(&self, index: usize) -> usize {
        let payload = self.packet.len() - self.header_len();
        self.header_len() + payload.saturating_sub(index * self.size).min(self.size)
    }

    /// Where each segment's headers are: the same places in all of them.
    pub fn headers(&self) -> Headers {
        self.headers
    }

    /// The super-packet itself.
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    #[inline]
    fn header_len(&self) -> usize {
        self.headers.payload.into()
    }

    /// Writes segment `index` to `out`, which is [`len(index)`](Self::len) bytes long; anything else writes nothing.
    #[inline]
    pub fn write(&self, index: usize, out: &mut [u8]) {
        let (header_len, offset) = (self.header_len(), index * self.size);
        if index >= self.count || out.len() != self.len(index) {
            debug_assert!(false, "segment {index} of {} into {} bytes", self.count, out.len());
            return;
        }
        let len = out.len();
        let (head, payload) = out.split_at_mut(header_len);
        head.copy_from_slice(&self.packet[..header_len]);
        payload.copy_from_slice(&self.packet[header_len + offset..][..payload.len()]);
        let (ip, transport) = head.split_at_mut(self.headers.transport.into());
        if self.headers.ipv4 {
            self.mend_ipv4(index, len as u16, ip);
        } else if let Some(header) = ip.first_chunk_mut::<IPV6_LEN>() {
            header[4..6].copy_from_slice(&((len - IPV6_LEN) as u16).to_be_bytes());
        }
        let transport_len = (len - usize::from(self.headers.transport)) as u16;
        let partial = add(self.pseudo, transport_len).to_be_bytes();
        match self.headers.carries {
            Transport::Tcp => self.mend_tcp(index, partial, transport),
            Transport::Udp => {
                if let Some(header) = transport.first_chunk_mut::<8>() {
                    header[4..6].copy_from_slice(&transport_len.to_be_bytes());
                    header[6..8].copy_from_slice(&partial);
                }
            }
        }
    }

    /// Total length, consecutive ids, header checksum.
    fn mend_ipv4(&self, index: usize, len: u16, header: &mut [u8]) {
        let Some(header) = header.first_chunk_mut::<IPV4_LEN>() else { return };
        let id = u16::from_be_bytes([header[4], header[5]]).wrapping_add(index as u16);
        let checksum = !add(add(self.ip_sum, len), id);
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes());
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Sequence number; CWR on the first segment only, FIN and PSH on the last only.
    fn mend_tcp(&self, index: usize, partial: [u8; 2], header: &mut [u8]) {
        let Some(header) = header.first_chunk_mut::<20>() else { return };
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let sequence = sequence.wrapping_add((index * self.size) as u32);
        header[4..8].copy_from_slice(&sequence.to_be_bytes());
        if index > 0 {
            header[13] &= !CWR;
        }
        if index + 1 < self.count {
            header[13] &= !(FIN | PSH);
        }
        header[16..18].copy_from_slice(&partial);
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&word| u16::from_be_bytes(word))
}
