//! A TUN in memory: the tunnel's two ends, and the host's side as a handle. For tests, simulation and benchmarks.
//!
//! What the host sends is read by the tunnel, one packet per frame; what the tunnel writes, the host receives, with
//! the header it was written with. Writing is the real device's ([`Coalescer`]), so that tests see what a kernel would;
//! it joins packets when told to.

use super::offload::Coalescer;
use super::{TunCounters, TunRead, TunReceived, TunWrite};
use crate::frame::{Frame, Home, Inbox, Inner, Opened, Outbox, VNET_HDR_LEN, VnetHdr, WideSet};
use crate::link::mem::Bell;
use crossbeam_queue::ArrayQueue;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use veil_proto::DropReason;

type Packet = (VnetHdr, Vec<u8>);

/// What the three handles share.
struct Shared {
    to_tunnel: ArrayQueue<Packet>,
    to_host: ArrayQueue<Packet>,
    /// Keeps bell and `to_tunnel` of one mind.
    lock: Mutex<()>,
    bell: Bell,
    counters: Arc<TunCounters>,
}

/// A TUN in memory that holds at most `limit` packets in each direction.
///
/// # Errors
/// Only when the process has no descriptors left.
pub fn tun(limit: usize) -> io::Result<(MemTunRx, MemTunTx, MemHost)> {
    let shared = Arc::new(Shared {
        to_tunnel: ArrayQueue::new(limit),
        to_host: ArrayQueue::new(limit),
        lock: Mutex::default(),
        bell: Bell::new()?,
        counters: Arc::default(),
    });
    let writer = MemTunTx { shared: shared.clone(), coalescer: Coalescer::new() };
    Ok((MemTunRx(shared.clone()), writer, MemHost(shared)))
}

/// The host's side.
#[derive(Clone)]
pub struct MemHost(Arc<Shared>);

impl MemHost {
    /// Sends a finished packet into the tunnel; `false` when the TUN's queue is full, as a host drops then.
    pub fn send(&self, packet: &[u8]) -> bool {
        self.send_with(VnetHdr::NONE, packet)
    }

    /// Sends a packet, or a super-packet, with the work `header` says is left undone.
    pub fn send_with(&self, header: VnetHdr, packet: &[u8]) -> bool {
        let _guard = self.0.lock();
        let taken = self.0.to_tunnel.push((header, packet.to_vec())).is_ok();
        if taken && self.0.to_tunnel.len() == 1 {
            self.0.bell.ring();
        }
        taken
    }

    /// The oldest packet that the tunnel wrote.
    pub fn receive(&self) -> Option<Packet> {
        self.0.to_host.pop()
    }
}

/// The reading end of a TUN in memory.
pub struct MemTunRx(Arc<Shared>);

impl TunRead for MemTunRx {
    fn receive(
        &mut self,
        set: &mut WideSet,
        out: &mut impl Outbox<Inner>,
        budget: usize,
    ) -> io::Result<TunReceived> {
        let mut got = TunReceived::default();
        let limit = budget.min(out.room());
        while got.goes_on(limit) {
            let Some(mut frame) = set.take() else { break };
            let Some((vnet_hdr, packet)) = self.pop() else {
                set.give(frame);
                return Ok(got);
            };
            self.0.counters.read(vnet_hdr, packet.len());
            if packet.is_empty() || packet.len() > frame.capacity() {
                self.0.counters.read_drops.count(DropReason::NotIp);
                set.give(frame);
                continue;
            }
            frame.buffer_mut()[..packet.len()].copy_from_slice(&packet);
            frame.set_len(packet.len());
            if let Err(item) = out.push(Inner { frame: Frame::Wide(frame), vnet_hdr }) {
                self.0.counters.read_drops.count(DropReason::NoFrame);
                item.frame.home(set);
                break;
            }
            got.add(packet.len());
        }
        got.more = true;
        Ok(got)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.bell.fd()
    }

    fn counters(&self) -> &TunCounters {
        &self.0.counters
    }
}

impl MemTunRx {
    /// What this TUN counts, to be kept and read elsewhere.
    pub fn shared_counters(&self) -> Arc<TunCounters> {
        self.0.counters.clone()
    }

    fn pop(&self) -> Option<Packet> {
        let _guard = self.0.lock();
        let packet = self.0.to_tunnel.pop()?;
        if self.0.to_tunnel.is_empty() {
            self.0.bell.silence();
        }
        Some(packet)
    }
}

/// The writing end of a TUN in memory.
pub struct MemTunTx {
    shared: Arc<Shared>,
    coalescer: Coalescer,
}

impl MemTunTx {
    /// Joins TCP and UDP packets for the host, as a device with offloads does.
    pub fn join(&mut self, tcp: bool, udp: bool) {
        self.coalescer.join(tcp, udp);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host takes a packet, or has no room for it.
    fn take(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if self.to_host.is_full() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = parts.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>();
        let (header, packet) =
            bytes.split_first_chunk::<VNET_HDR_LEN>().ok_or(io::ErrorKind::InvalidInput)?;
        let taken = self.to_host.push((VnetHdr::decode(*header), packet.to_vec()));
        taken.map_err(|_| io::ErrorKind::WouldBlock.into())
    }
}

impl TunWrite for MemTunTx {
    fn write(&mut self, runs: &mut impl Inbox<Opened>, home: &mut impl Home) {
        let MemTunTx { shared, coalescer } = self;
        coalescer.write(runs, home, &shared.counters, |parts| shared.take(parts));
    }

    fn counters(&self) -> &TunCounters {
        &self.shared.counters
    }
}

#[cfg(test)]
mod tests {
    use super::super::DATAGRAM_HEADER_LEN;
    use super::super::testing::opened;
    use super::*;
    use crate::event_loop::process::gso_max_sizes;
    use crate::frame::{Bounded, InnerMark, SetName};
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_the_host_sends_is_read_in_order_one_packet_per_frame() {
        let (mut rx, _tx, host) = tun(8).unwrap();
        let mut set = WideSet::new(SetName::TunReceive, 2);
        let mut out = Bounded::new(8);
        let header = VnetHdr::needs_csum(20, 16);
        assert!(host.send(b"one") && host.send_with(header, b"two") && host.send(b"three"));
        let got = rx.receive(&mut set, &mut out, 8).unwrap();
        assert_eq!(got, TunReceived { packets: 2, bytes: 6, more: true });
        let (one, two) = (out.pop().unwrap(), out.pop().unwrap());
        assert_eq!((one.frame.bytes(), one.vnet_hdr), (&b"one"[..], VnetHdr::NONE));
        assert_eq!((two.frame.bytes(), two.vnet_hdr), (&b"two"[..], header));
        one.frame.home(&mut set);
        two.frame.home(&mut set);
        assert!(!rx.receive(&mut set, &mut out, 8).unwrap().more);
        out.pop().unwrap().frame.home(&mut set);
        assert!(set.is_whole());
        assert_eq!(rx.counters().packets_read.load(Relaxed), 3);
    }

    #[test]
    fn a_call_reads_one_full_super_packet_or_as_much_in_short_ones() {
        let large = VnetHdr { gso_type: crate::frame::GSO_TCPV4, ..VnetHdr::NONE };
        // As the host makes them: the kernel keeps some of that free for headers, and options take some.
        let [full, _] = gso_max_sizes(1416).map(|size| size as usize * 98 / 100 - 320);
        for (header, len, expected) in [(large, full, 1), (large, 20_000, 3), (VnetHdr::NONE, 100, 9)] {
            let (mut rx, _tx, host) = tun(16).unwrap();
            let mut set = WideSet::new(SetName::TunReceive, 16);
            let mut out = Bounded::new(16);
            (0..9).for_each(|_| assert!(host.send_with(header, &vec![0x45; len])));
            let got = rx.receive(&mut set, &mut out, 64).unwrap();
            assert_eq!((got.packets, got.more), (expected, expected < 9));
            while let Some(item) = out.pop() {
                item.frame.home(&mut set);
            }
            assert!(set.is_whole());
        }
    }

    /// A frame of two datagrams 100 bytes apart: the first holds `packets`, the second was refused, a third holds
    /// one.
    #[test]
    fn only_what_is_marked_for_delivery_is_written() {
        let (_rx, mut tx, host) = tun(8).unwrap();
        let mut set = WideSet::new(SetName::LinkReceive, 1);
        let mut tcp = [0; 40];
        (tcp[0], tcp[3], tcp[9], tcp[32]) = (0x45, 40, 6, 0x50);
        let mut frame = set.take().unwrap();
        frame.set_len(260);
        let put = |frame: &mut crate::frame::WideFrame, at: usize, packet: &[u8], deliver, partial| {
            let mark = InnerMark { length: packet.len() as u16, deliver, partial };
            frame.bytes_mut()[at..at + 4].copy_from_slice(&mark.encode());
            frame.bytes_mut()[at + 4..at + 4 + packet.len()].copy_from_slice(packet);
            at + 4 + packet.len()
        };
        let start = DATAGRAM_HEADER_LEN;
        let at = put(&mut frame, start, &tcp, true, true);
        let at = put(&mut frame, at, b"refused", false, false);
        let at = put(&mut frame, at, b"E", true, true);
        let end = put(&mut frame, at, b"plain", true, false);
        let last = put(&mut frame, 200 + start, b"last", true, false) - 200 - start;
        for length in [end - start, 0, last] {
            assert!(frame.table_mut().push(length as u16));
        }
        let mut runs = Bounded::new(1);
        runs.push(Opened { frame: frame.into(), segment: 100 }).unwrap();
        tx.write(&mut runs, &mut set);

        assert!(set.is_whole());
        assert_eq!(host.receive(), Some((VnetHdr::needs_csum(20, 16), tcp.to_vec())));
        assert_eq!(host.receive(), Some((VnetHdr::NONE, b"plain".to_vec())));
        assert_eq!(host.receive(), Some((VnetHdr::NONE, b"last".to_vec())));
        assert_eq!(host.receive(), None);
        assert_eq!(tx.counters().write_drops.of(DropReason::InnerPartial), 1);
        assert_eq!(tx.counters().packets_written.load(Relaxed), 3);
    }

    #[test]
    fn a_table_that_reaches_past_the_frame_delivers_nothing() {
        let (_rx, mut tx, host) = tun(8).unwrap();
        let mut set = WideSet::new(SetName::LinkReceive, 1);
        let mut frame = set.take().unwrap();
        frame.set_len(50);
        assert!(frame.table_mut().push(60) && frame.table_mut().push(1));
        let mut runs = Bounded::new(1);
        runs.push(Opened { frame: frame.into(), segment: 50 }).unwrap();
        tx.write(&mut runs, &mut set);
        assert_eq!(host.receive(), None);
        assert!(set.is_whole());
    }

    #[test]
    fn a_full_host_drops_and_counts() {
        let (_rx, mut tx, host) = tun(1).unwrap();
        let mut set = WideSet::new(SetName::LinkReceive, 2);
        let mut runs = opened(&mut set, &[b"one", b"two"]);
        tx.write(&mut runs, &mut set);
        assert!(set.is_whole());
        assert_eq!(tx.counters().write_drops.of(DropReason::TunWrite), 1);
        assert_eq!(host.receive(), Some((VnetHdr::NONE, b"one".to_vec())));
    }
}
