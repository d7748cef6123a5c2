//! The inner end of the tunnel: where the host's own packets come from and go to.
//!
//! A TUN is a pair of ends as a link is: [`TunRead`] fills frames for the RX stage, one packet each with what its
//! sender left undone ([`VnetHdr`]); [`TunWrite`] walks opened runs for the TX stage and writes the packets whose
//! marks say so. Neither knows the protocol: an opened run is described by its frame's table and its marks.
//!
//! The invariant, at rest: packets read = handed on + `read_drops`; packets marked for delivery = `packets_written` +
//! `write_drops`; no end holds a frame.

pub mod device;
pub mod mem;

pub use device::{Tun, TunRx, TunTx};

use crate::frame::{Home, Inbox, Inner, Marks, Opened, Outbox, VnetHdr, WideSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use veil_proto::{DropCounters, DropReason};

/// Bytes from the beginning of a datagram to its plaintext (`protocol.md`, 'Datagram').
pub const DATAGRAM_HEADER_LEN: usize = 16;

/// The reading end of a TUN.
pub trait TunRead {
    /// Reads packets, one per frame of `set`, and pushes them to `out`, at most `budget`.
    ///
    /// Unused frames are back in `set` when this returns. An error means that the device is gone.
    fn receive(
        &mut self,
        set: &mut WideSet,
        out: &mut impl Outbox<Inner>,
        budget: usize,
    ) -> io::Result<TunReceived>;

    /// The descriptor that becomes readable when a packet waits.
    fn fd(&self) -> BorrowedFd<'_>;

    /// What this TUN has counted, both ends together.
    fn counters(&self) -> &TunCounters;
}

/// What one call of [`TunRead::receive`] brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunReceived {
    pub packets: usize,
    pub bytes: usize,
    /// Whether to call again before sleeping: budget, frames or room ended first, not the device.
    pub more: bool,
}

/// The writing end of a TUN.
pub trait TunWrite {
    /// Writes every packet of `runs` that is marked for delivery, in order; frames go to `home`. Never waits.
    fn write(&mut self, runs: &mut impl Inbox<Opened>, home: &mut impl Home);

    /// Writes one finished packet; `false`: dropped and counted.
    fn inject(&mut self, packet: &[u8]) -> bool;

    /// What this TUN has counted, both ends together.
    fn counters(&self) -> &TunCounters;
}

/// What a TUN counts; written by its ends, read anywhere.
#[derive(Debug, Default)]
pub struct TunCounters {
    /// Packets taken from the device, those in `read_drops` included; a super-packet is one.
    pub packets_read: AtomicU64,
    pub bytes_read: AtomicU64,
    /// Packets the host took.
    pub packets_written: AtomicU64,
    pub bytes_written: AtomicU64,
    pub read_drops: DropCounters,
    pub write_drops: DropCounters,
}

impl TunCounters {
    fn read(&self, bytes: usize) {
        self.packets_read.fetch_add(1, Relaxed);
        self.bytes_read.fetch_add(bytes as u64, Relaxed);
    }

    fn written(&self, bytes: usize) {
        self.packets_written.fetch_add(1, Relaxed);
        self.bytes_written.fetch_add(bytes as u64, Relaxed);
    }
}

/// Hands every packet of `run` that is marked for delivery to `write`, in order, with its header.
///
/// A packet whose partial checksum cannot be located is counted as dropped in `drops`.
#[inline]
fn deliver(run: &Opened, drops: &DropCounters, mut write: impl FnMut(VnetHdr, &[u8])) {
    let (bytes, segment) = (run.frame.bytes(), usize::from(run.segment));
    for (index, &length) in run.frame.table().lengths().iter().enumerate() {
        let start = index * segment + DATAGRAM_HEADER_LEN;
        let extent = bytes.get(start..start + usize::from(length)).unwrap_or_default();
        for (mark, range) in Marks::new(extent).filter(|(mark, _)| mark.deliver) {
            let packet = &extent[range];
            let header = if mark.partial { partial_checksum(packet) } else { Some(VnetHdr::NONE) };
            match header {
                Some(header) => write(header, packet),
                None => drops.count(DropReason::InnerPartial),
            }
        }
    }
}

/// Where the unfinished checksum of `packet` is, by its own headers alone: unfragmented IPv4, or IPv6 without
/// extension headers, and TCP (RFC 9293 3.1: at 16) or UDP (RFC 768: at 6). `None` for anything else.
pub fn partial_checksum(packet: &[u8]) -> Option<VnetHdr> {
    let (start, protocol) = match packet.first()? >> 4 {
        4 => {
            let start = usize::from(packet[0] & 0xf) * 4;
            let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff;
            if start < 20 || fragment != 0 {
                return None;
            }
            (start, *packet.get(9)?)
        }
        6 => (40, *packet.get(6)?),
        _ => return None,
    };
    let offset: u16 = match i32::from(protocol) {
        libc::IPPROTO_TCP => 16,
        libc::IPPROTO_UDP => 6,
        _ => return None,
    };
    if start + usize::from(offset) + 2 > packet.len() {
        return None;
    }
    Some(VnetHdr::needs_csum(start as u16, offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ipv4(header: u8, protocol: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        packet[0] = 0x40 | header;
        packet[9] = protocol;
        packet
    }

    #[test]
    fn a_partial_checksum_is_found_by_the_packets_own_headers() {
        assert_eq!(partial_checksum(&ipv4(5, 6, 40)), Some(VnetHdr::needs_csum(20, 16)));
        assert_eq!(partial_checksum(&ipv4(6, 17, 40)), Some(VnetHdr::needs_csum(24, 6)));
        let mut v6 = vec![0; 60];
        v6[0] = 0x60;
        v6[6] = 6;
        assert_eq!(partial_checksum(&v6), Some(VnetHdr::needs_csum(40, 16)));
    }

    #[test]
    fn a_partial_checksum_that_is_not_there_is_not_found() {
        assert_eq!(partial_checksum(&[]), None);
        assert_eq!(partial_checksum(&ipv4(5, 1, 40)), None, "ICMP");
        assert_eq!(partial_checksum(&ipv4(4, 6, 40)), None, "short header");
        assert_eq!(partial_checksum(&ipv4(5, 6, 37)), None, "cut inside the checksum");
        let mut fragment = ipv4(5, 6, 60);
        fragment[7] = 1;
        assert_eq!(partial_checksum(&fragment), None, "fragment");
        assert_eq!(partial_checksum(&[0x75; 60]), None, "no IP");
    }

    proptest! {
        #[test]
        fn a_found_checksum_lies_within_the_packet(packet in prop::collection::vec(any::<u8>(), 0..90)) {
            if let Some(header) = partial_checksum(&packet) {
                prop_assert!(usize::from(header.csum_start) + usize::from(header.csum_offset) + 2 <= packet.len());
            }
        }
    }
}
