//! The four rings of a socket, and the seam where tests put a kernel of their own.
//!
//! [`RxRings`] and [`TxRings`] are what [`XskRx`](crate::XskRx) and [`XskTx`](crate::XskTx) need of them: numbers of
//! frames in, addresses out. [`KernelRx`] and [`KernelTx`] are the real ones, over xsk-rs. What they return is checked
//! against the frames' states before it is believed, so nothing behind this seam needs to be trusted with memory.
//!
//! Unsafe: xsk-rs wants it promised that a frame it is given is not touched while it is on a ring. The callers give
//! only frames they have surrendered.
#![allow(unsafe_code)]

use crate::sys;
use crate::umem::Generation;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

/// How many descriptors go over a ring at once.
pub(crate) const BATCH: usize = 64;

/// What the RX ring says about a packet: where its bytes are, counted from the beginning of the UMEM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub address: u64,
    pub len: u32,
}

/// What the TX ring is told: send the first `len` bytes behind the headroom of this frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    pub frame: u32,
    pub len: u32,
}

/// The rings frames go over to receive.
pub trait RxRings {
    /// Room in the fill ring; not less than `wanted` if there is so much, else exact.
    fn fill_room(&mut self, wanted: usize) -> usize;

    /// Puts frames on the fill ring: all of them, or none. Returns how many.
    fn fill(&mut self, frames: &[u32]) -> usize;

    /// Takes packets off the RX ring, oldest first, and returns how many.
    fn receive(&mut self, packets: &mut [Received]) -> usize;

    /// Whether the driver sleeps until it is woken to look at the fill ring.
    fn needs_wakeup(&self) -> bool;

    /// Wakes it.
    fn wake(&mut self) -> io::Result<()>;
}

/// The rings frames go over to send.
pub trait TxRings {
    /// Room in the TX ring; not less than `wanted` if there is so much, else exact.
    fn room(&mut self, wanted: usize) -> usize;

    /// Puts packets on the TX ring: all of them, or none. Returns how many.
    fn send(&mut self, packets: &[Outgoing]) -> usize;

    /// Takes addresses of sent frames off the completion ring and returns how many.
    fn complete(&mut self, addresses: &mut [u64]) -> usize;

    /// Whether nothing is sent without a kick.
    fn needs_wakeup(&self) -> bool;

    /// Tells the kernel that there is something to send. In copy mode it sends now, up to its budget; EAGAIN, EBUSY and
    /// ENOBUFS say that something is left.
    fn kick(&mut self) -> io::Result<()>;

    /// Whether a kick itself sends (copy mode), or only wakes the driver.
    fn kick_sends(&self) -> bool;
}

/// The kernel's fill and RX rings.
pub struct KernelRx {
    pub(crate) fill: FillQueue,
    pub(crate) rx: RxQueue,
    pub(crate) umem: Arc<Generation>,
    pub(crate) scratch: Box<[FrameDesc; BATCH]>,
}

/// The kernel's TX and completion rings.
pub struct KernelTx {
    pub(crate) tx: TxQueue,
    pub(crate) completion: CompQueue,
    pub(crate) umem: Arc<Generation>,
    pub(crate) zero_copy: bool,
    pub(crate) scratch: Box<[FrameDesc; BATCH]>,
}

impl RxRings for KernelRx {
    #[inline]
    fn fill_room(&mut self, wanted: usize) -> usize {
        self.fill.nb_free(wanted as u32) as usize
    }

    #[inline]
    fn fill(&mut self, frames: &[u32]) -> usize {
        let Some((_, descriptors)) = self.umem.kernel() else { return 0 };
        let mut done = 0;
        for chunk in frames.chunks(BATCH) {
            for (slot, frame) in self.scratch.iter_mut().zip(chunk) {
                *slot = descriptors[*frame as usize];
            }
            // SAFETY: frames of this UMEM, surrendered by the caller.
            match unsafe { self.fill.produce(&self.scratch[..chunk.len()]) } {
                0 => break,
                count => done += count,
            }
        }
        done
    }

    #[inline]
    fn receive(&mut self, packets: &mut [Received]) -> usize {
        let wanted = packets.len().min(BATCH);
        // SAFETY: the queue is tied to the UMEM whose addresses come out of it; nothing is read through them here.
        let count = unsafe { self.rx.consume(&mut self.scratch[..wanted]) };
        for (packet, descriptor) in packets.iter_mut().zip(&self.scratch[..count]) {
            *packet = Received { address: descriptor.addr() as u64, len: descriptor.lengths().data() as u32 };
        }
        count
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    #[inline]
    fn wake(&mut self) -> io::Result<()> {
        sys::wake_receiver(self.as_fd())
    }
}

impl TxRings for KernelTx {
    #[inline]
    fn room(&mut self, wanted: usize) -> usize {
        self.tx.nb_free(wanted as u32) as usize
    }

    #[inline]
    fn send(&mut self, packets: &[Outgoing]) -> usize {
        let Some((umem, descriptors)) = self.umem.kernel() else { return 0 };
        let mut done = 0;
        for chunk in packets.chunks(BATCH) {
            for (slot, packet) in self.scratch.iter_mut().zip(chunk) {
                *slot = descriptors[packet.frame as usize];
                // SAFETY: a frame of this UMEM, surrendered by the caller and not yet on the ring.
                unsafe { umem.data_mut(slot) }.cursor().set_pos(packet.len as usize);
            }
            // SAFETY: frames of this UMEM, surrendered by the caller.
            match unsafe { self.tx.produce(&self.scratch[..chunk.len()]) } {
                0 => break,
                count => done += count,
            }
        }
        done
    }

    #[inline]
    fn complete(&mut self, addresses: &mut [u64]) -> usize {
        let wanted = addresses.len().min(BATCH);
        // SAFETY: the queue is tied to the UMEM whose addresses come out of it; nothing is read through them here.
        let count = unsafe { self.completion.consume(&mut self.scratch[..wanted]) };
        for (address, descriptor) in addresses.iter_mut().zip(&self.scratch[..count]) {
            *address = descriptor.addr() as u64;
        }
        count
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        self.tx.needs_wakeup()
    }

    #[inline]
    fn kick(&mut self) -> io::Result<()> {
        sys::kick(self.as_fd())
    }

    #[inline]
    fn kick_sends(&self) -> bool {
        !self.zero_copy
    }
}

impl AsFd for KernelRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the queue keeps its socket open.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }
}

impl AsFd for KernelTx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the queue keeps its socket open.
        unsafe { BorrowedFd::borrow_raw(self.tx.fd().as_raw_fd()) }
    }
}
