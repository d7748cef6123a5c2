//! Writing the groups of a batch: a packet alone as it came, several as one super-packet.

use super::super::headers::{Headers, IPV6_LEN, Transport};
use super::{Coalescer, Group, MAX_TCP, Packet, Sink, bytes_of, bytes_of_mut};
use crate::frame::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VNET_HDR_LEN, VnetHdr};
use crate::tun::TunCounters;
use std::io::IoSlice;
use std::sync::atomic::Ordering::Relaxed;
use veil_proto::DropReason;
use veil_proto::mux::checksum::{add, finish, sum};

/// Super-packets that the device may refuse before coalescing is given up for their protocol.
pub const MAX_REFUSALS: u64 = 8;

/// The longest headers that are joined: IPv6 and TCP with all its options.
const MAX_HEADER: usize = IPV6_LEN + 60;

impl Coalescer {
    /// Writes all groups, in the order of their first packets.
    pub(super) fn write_groups(&mut self, counters: &TunCounters, sink: &mut impl Sink) {
        for at in 0..self.groups.len() {
            let group = &self.groups[at];
            match group.headers {
                Some(headers) if group.count > 1 => self.write_joined(at, &headers, counters, sink),
                _ => self.write_single(self.packets[usize::from(group.first)], group.partial, counters, sink),
            }
        }
        self.groups.clear();
        self.packets.clear();
        self.flows.clear();
    }

    /// One packet as it came.
    fn write_single(&mut self, packet: Packet, partial: bool, counters: &TunCounters, sink: &mut impl Sink) {
        let mut header = VnetHdr::NONE;
        if partial {
            match Headers::parse(bytes_of(&self.runs, packet)) {
                Some(headers) => header = headers.needs_csum(),
                None => return counters.write_drops.count(DropReason::InnerPartial),
            }
            if self.finish
                && let Some(bytes) = bytes_of_mut(&mut self.runs, packet)
                && finish(bytes, header.csum_start, header.csum_offset)
            {
                header = VnetHdr::NONE;
            }
        }
        let bytes = bytes_of(&self.runs, packet);
        match sink(&[IoSlice::new(&header.encode()), IoSlice::new(bytes)]) {
            Ok(()) => counters.written(1, bytes.len()),
            Err(_) => counters.write_drops.count(DropReason::TunWrite),
        }
    }

    /// A group as a super-packet, or packet by packet where the device does not take it so.
    fn write_joined(&mut self, at: usize, headers: &Headers, counters: &TunCounters, sink: &mut impl Sink) {
        let group = &self.groups[at];
        let (count, size, payload) = (group.count, group.size, usize::from(headers.payload));
        let first = bytes_of(&self.runs, self.packets[usize::from(group.first)]);
        let last = bytes_of(&self.runs, self.packets[usize::from(group.last)]);
        let mut head = [0; VNET_HDR_LEN + MAX_HEADER];
        let Some(head) = head.get_mut(..VNET_HDR_LEN + payload) else {
            // Only plain headers are joined, and those fit; should others ever be, they go one by one.
            return self.write_one_by_one(at, counters, sink);
        };
        let vnet = VnetHdr {
            gso_type: match (headers.carries, headers.ipv4) {
                (Transport::Tcp, true) => GSO_TCPV4,
                (Transport::Tcp, false) => GSO_TCPV6,
                (Transport::Udp, _) => GSO_UDP_L4,
            },
            hdr_len: headers.payload,
            gso_size: size,
            ..headers.needs_csum()
        };
        head[..VNET_HDR_LEN].copy_from_slice(&vnet.encode());
        write_headers(headers, first, last, group.bytes, &mut head[VNET_HDR_LEN..]);

        let mut slices = [IoSlice::new(&[]); 1 + MAX_TCP];
        slices[0] = IoSlice::new(head);
        let (mut bytes, mut number) = (0, group.first);
        for slice in &mut slices[1..=usize::from(count)] {
            let packet = self.packets[usize::from(number)];
            bytes += usize::from(packet.len);
            *slice = IoSlice::new(&bytes_of(&self.runs, packet)[payload..]);
            number = packet.next;
        }
        match sink(&slices[..=usize::from(count)]) {
            Ok(()) => {
                counters.written(count.into(), bytes);
                counters.super_packets_written.fetch_add(1, Relaxed);
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.refused(headers.carries, counters);
                self.write_one_by_one(at, counters, sink);
            }
            Err(_) => counters.write_drops.add(DropReason::TunWrite, count.into()),
        }
    }

    fn write_one_by_one(&mut self, at: usize, counters: &TunCounters, sink: &mut impl Sink) {
        let Group { first, count, partial, .. } = self.groups[at];
        let mut number = first;
        for _ in 0..count {
            let packet = self.packets[usize::from(number)];
            self.write_single(packet, partial, counters, sink);
            number = packet.next;
        }
    }

    /// The device does not take such super-packets: after a few of them, none are made any more.
    #[cold]
    fn refused(&mut self, carries: Transport, counters: &TunCounters) {
        counters.super_packets_refused.fetch_add(1, Relaxed);
        let refusals = &mut self.refusals[carries as usize];
        *refusals += 1;
        if *refusals == MAX_REFUSALS {
            let (joins, shown) = match carries {
                Transport::Tcp => (&mut self.join_tcp, &counters.joins_tcp),
                Transport::Udp => (&mut self.join_udp, &counters.joins_udp),
            };
            *joins = false;
            shown.store(false, Relaxed);
            tracing::warn!(
                "the TUN device refuses {carries:?} super-packets: writing packets one by one from now on"
            );
        }
    }
}

/// The headers of a super-packet of `len` bytes: those of its first packet, mended, with the last one's PSH.
fn write_headers(headers: &Headers, first: &[u8], last: &[u8], len: u16, out: &mut [u8]) {
    let (at, offset) = (usize::from(headers.transport), 13);
    out.copy_from_slice(&first[..out.len()]);
    if headers.ipv4 {
        out[2..4].copy_from_slice(&len.to_be_bytes());
        out[10..12].fill(0);
        let checksum = !sum(&out[..at], 0);
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        out[4..6].copy_from_slice(&(len - IPV6_LEN as u16).to_be_bytes());
    }
    let transport_len = len - headers.transport;
    match headers.carries {
        Transport::Tcp => out[at + offset] |= last[at + offset],
        Transport::Udp => out[at + 4..at + 6].copy_from_slice(&transport_len.to_be_bytes()),
    }
    let partial = add(headers.pseudo_without_length(out), transport_len);
    out[headers.checksum_at()..][..2].copy_from_slice(&partial.to_be_bytes());
}
