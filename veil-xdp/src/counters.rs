//! What a socket counts: written by its halves, each its own table, read anywhere.

use crate::umem::Refused;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What the receiving half counts.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct RxCounters {
    /// Frames put on the fill ring.
    pub filled: AtomicU64,
    /// Frames taken off the RX ring, those in `bad_descriptors` included.
    pub received: AtomicU64,
    /// Descriptors whose packet would not lie within its frame; the frame is handed on empty.
    pub bad_descriptors: AtomicU64,
    /// Wake-ups of a sleeping driver.
    pub wakeups: AtomicU64,
    pub refused: RefusedCounters,
    /// Frames of another UMEM that were to be filled, and were retired.
    pub stale: AtomicU64,
}

/// What the sending half counts.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct TxCounters {
    /// Frames put on the TX ring.
    pub sent: AtomicU64,
    /// Frames taken off the completion ring.
    pub completed: AtomicU64,
    /// Frames refused before the ring: empty, or too long to begin behind the headroom.
    pub unsendable: AtomicU64,
    /// Frames whose packet did not begin behind the headroom and was moved there.
    pub moved: AtomicU64,
    /// Calls to the kernel to send.
    pub kicks: AtomicU64,
    /// Of these, those that left something for later.
    pub later: AtomicU64,
    pub refused: RefusedCounters,
    /// Frames of another UMEM that were to be sent, and were retired.
    pub stale: AtomicU64,
}

/// Addresses that a ring gave back and should not have. Their frames stay with whoever has them. Anything but 0 is a
/// bug of the driver or ours.
#[derive(Debug, Default)]
pub struct RefusedCounters {
    /// Outside the UMEM.
    pub foreign: AtomicU64,
    /// Of a frame that was not on this ring.
    pub not_there: AtomicU64,
}

impl RefusedCounters {
    #[cold]
    pub(crate) fn count(&self, why: Refused) {
        match why {
            Refused::Foreign => add(&self.foreign, 1),
            Refused::NotThere => add(&self.not_there, 1),
        }
    }
}

/// What both halves of a socket count.
#[derive(Debug, Default)]
pub struct SocketCounters {
    pub rx: RxCounters,
    pub tx: TxCounters,
}

/// Adds to a counter that only this thread writes.
#[inline]
pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.store(counter.load(Relaxed).wrapping_add(n as u64), Relaxed);
}
