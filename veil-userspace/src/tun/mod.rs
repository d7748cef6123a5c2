//! The inner end of the tunnel: where the host's own packets come from and go to.
//!
//! A TUN is a pair of ends as a link is: [`TunRead`] fills frames for the RX stage, one packet each with what its
//! sender left undone ([`VnetHdr`]); [`TunWrite`] walks opened runs for the TX stage and writes the packets whose
//! marks say so. Neither knows the protocol: an opened run is described by its frame's table and its marks. [`offload`]
//! cuts and joins super-packets.
//!
//! The invariant, at rest: packets read = handed on + `read_drops`; packets marked for delivery = `packets_written` +
//! `write_drops`; no end holds a frame.

pub mod device;
pub mod mem;
pub mod offload;

pub use device::{Tun, TunRx, TunTx};

use crate::frame::{GSO_NONE, Home, Inbox, Inner, Opened, Outbox, VnetHdr, WideSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use veil_proto::DropCounters;

/// Bytes from the beginning of a datagram to its plaintext (`protocol.md`, 'Datagram').
pub const DATAGRAM_HEADER_LEN: usize = 16;

/// Bytes read in one call, at most one packet more: a full super-packet, or as much in short ones. A second would make the
/// first wait until both are sealed, which costs more than the system calls that it saves. Less than what TCP fills
/// super-packets with here (`gso_max_sizes`).
const CALL_BYTES: usize = 56 << 10;

/// The reading end of a TUN.
pub trait TunRead {
    /// Reads packets, one per frame of `set`, and pushes them to `out`, at most `budget`, or 56 KiB and one more.
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

impl TunReceived {
    /// Whether one more packet may be read in this call.
    fn goes_on(&self, limit: usize) -> bool {
        self.packets < limit && self.bytes < CALL_BYTES
    }

    fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes;
    }
}

/// The writing end of a TUN.
pub trait TunWrite {
    /// Writes every packet of `runs` that is marked for delivery, those of a flow in order and joined where they may
    /// be; frames go to `home`. Never waits.
    fn write(&mut self, runs: &mut impl Inbox<Opened>, home: &mut impl Home);

    /// What this TUN has counted, both ends together.
    fn counters(&self) -> &TunCounters;
}

/// What a TUN counts; written by its ends, read anywhere.
#[derive(Debug, Default)]
pub struct TunCounters {
    /// Packets taken from the device, those in `read_drops` included; a super-packet is one.
    pub packets_read: AtomicU64,
    pub bytes_read: AtomicU64,
    /// Of these, super-packets.
    pub super_packets_read: AtomicU64,
    /// Packets the host took, those joined counted one by one.
    pub packets_written: AtomicU64,
    pub bytes_written: AtomicU64,
    /// Super-packets the host took.
    pub super_packets_written: AtomicU64,
    /// System calls made to read and to write, those included that found nothing; a TUN in memory makes none.
    pub read_calls: AtomicU64,
    pub write_calls: AtomicU64,
    /// Super-packets the host refused; their packets were written one by one.
    pub super_packets_refused: AtomicU64,
    /// Whether the host gives us TCP and UDP super-packets.
    pub tso: AtomicBool,
    pub uso: AtomicBool,
    /// Whether TCP and UDP packets are joined for the host.
    pub joins_tcp: AtomicBool,
    pub joins_udp: AtomicBool,
    pub read_drops: DropCounters,
    pub write_drops: DropCounters,
}

impl TunCounters {
    fn read(&self, header: VnetHdr, bytes: usize) {
        self.packets_read.fetch_add(1, Relaxed);
        self.bytes_read.fetch_add(bytes as u64, Relaxed);
        self.super_packets_read.fetch_add(u64::from(header.gso_type != GSO_NONE), Relaxed);
    }

    fn written(&self, packets: usize, bytes: usize) {
        self.packets_written.fetch_add(packets as u64, Relaxed);
        self.bytes_written.fetch_add(bytes as u64, Relaxed);
    }
}

#[cfg(test)]
mod testing {
    use super::DATAGRAM_HEADER_LEN;
    use crate::frame::{Bounded, InnerMark, MARK_LEN, Opened, Outbox, WideSet};

    /// Opened datagrams of one packet each, every one in a frame of `set`.
    pub fn opened(set: &mut WideSet, packets: &[&[u8]]) -> Bounded<Opened> {
        let mut runs = Bounded::new(packets.len());
        for packet in packets {
            let mut frame = set.take().unwrap();
            let mark = InnerMark { length: packet.len() as u16, deliver: true, partial: false };
            let datagram = [&[0; DATAGRAM_HEADER_LEN][..], &mark.encode(), packet].concat();
            frame.buffer_mut()[..datagram.len()].copy_from_slice(&datagram);
            frame.set_len(datagram.len());
            assert!(frame.table_mut().push((MARK_LEN + packet.len()) as u16));
            runs.push(Opened { frame: frame.into(), segment: datagram.len() as u16 }).unwrap();
        }
        runs
    }
}
