//! The outer ends of the tunnel: what carries sealed datagrams between this host and its peers.
//!
//! A link is a pair of ends. [`LinkRx`] fills frames with runs of sealed datagrams for the RX stage, [`LinkTx`]
//! empties frames for the TX stage; the two may live on different threads and share no lock on the packet path. A
//! link knows addresses and bytes, never a peer or a key.
//!
//! The invariant, at rest: datagrams received = handed on + `receive_drops`; datagrams handed in = `datagrams_sent` +
//! `send_drops` + `datagram_drops`; and no link holds a frame.

mod busy_poll;
pub mod mem;
pub mod udp;
#[cfg(feature = "xdp")]
pub mod xdp;

pub use busy_poll::BusyPoll;

use crate::frame::{Home, Inbox, Outbox, Sealed, WideSet};
use crate::histogram::Histogram;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use veil_proto::{DropCounters, Now, Path};

/// The descriptors of one end, for epoll; at most one per address family.
pub type Fds<'a> = [Option<BorrowedFd<'a>>; 2];

/// The receiving end of a link.
pub trait LinkRx {
    /// Takes frames from `set`, fills each with one run, and pushes it to `out`, for at most `budget` runs.
    ///
    /// Never takes more frames than `out` has room for; unused frames are back in `set` when this returns. A run's
    /// `path` is the sender's address and the local address the sender used; its `tos` is the outer TOS byte. An
    /// error means the link itself is broken; what was pushed before it stays pushed.
    fn receive(
        &mut self,
        set: &mut WideSet,
        out: &mut impl Outbox<Sealed>,
        budget: usize,
    ) -> io::Result<Received>;

    /// The descriptors that become readable when there is something to receive.
    fn fds(&self) -> Fds<'_>;

    /// Takes what waits on the error queues; call it when epoll reports `EPOLLERR`, which stays up until this is
    /// done.
    fn drain_errors(&mut self) {}

    /// The next thing that this host has said about a destination: what came to light while errors were drained.
    fn take_path_error(&mut self) -> Option<udp::PathError> {
        None
    }

    /// What this link has counted, both ends together.
    fn counters(&self) -> &LinkCounters;
}

/// What one call of [`LinkRx::receive`] brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Runs pushed to the outbox.
    pub runs: usize,
    /// Datagrams in these runs.
    pub datagrams: usize,
    /// Whether to call again before sleeping: budget, frames or room ended first, not the link.
    pub more: bool,
}

/// The sending end of a link.
pub trait LinkTx {
    /// Sends runs in the order of `runs` until none is left or the link takes no more; frames go to `home`.
    ///
    /// A run that the link did not take yet stays inside the link and goes first in the next call.
    fn send(&mut self, runs: &mut impl Inbox<Sealed>, home: &mut impl Home) -> SendResult;

    /// Sends one datagram at once, beside the runs: handshakes.
    ///
    /// # Errors
    /// What the kernel said; the datagram is then counted as dropped.
    fn send_datagram(&mut self, path: &Path, bytes: &[u8], tos: u8) -> io::Result<()>;

    /// After `Blocked`: the descriptor that becomes writable when sending can go on; none if `service_fd` tells.
    fn blocked_on(&self) -> Option<BorrowedFd<'_>>;

    /// The descriptor that becomes readable when [`service`](Self::service) is to be called, and sending to be tried again
    /// if it was blocked.
    fn service_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Takes in what has changed around the link.
    fn service(&mut self, _now: Now) {}

    /// Whether runs wait inside the link.
    fn holds_runs(&self) -> bool;

    /// Drops what waits inside the link, counted; its frames go home. For shutting down.
    fn abandon(&mut self, home: &mut impl Home);

    /// What this link has counted, both ends together.
    fn counters(&self) -> &LinkCounters;
}

/// How [`LinkTx::send`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendResult {
    /// Everything was sent, or dropped and counted.
    Drained,
    /// The link takes no more now: wait for `blocked_on` to become writable.
    Blocked,
}

/// What a link counts; written by its ends, read anywhere.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// Datagrams taken from the kernel, those in `receive_drops` included.
    pub datagrams_received: AtomicU64,
    pub bytes_received: AtomicU64,
    /// Datagrams the kernel took.
    pub datagrams_sent: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub receive_drops: DropCounters,
    /// Of runs; written by the sending end.
    pub send_drops: DropCounters,
    /// Of datagrams sent beside the runs; written by who sends those, on a thread of its own in pipeline mode.
    pub datagram_drops: DropCounters,
    /// Datagrams in each run that was received and handed on.
    pub run_lengths: Histogram,
    /// Datagrams that the kernel dropped because the receive buffer was full.
    pub receive_overflow: AtomicU64,
    /// System calls made to receive and to send, those included that found nothing or met `EAGAIN`.
    pub receive_calls: AtomicU64,
    pub send_calls: AtomicU64,
    /// How often sending met `EAGAIN`.
    pub blocked: AtomicU64,
    /// Sends tried again after an error that may have been another destination's.
    pub resends: AtomicU64,
    /// Entries read from the error queues.
    pub path_errors: AtomicU64,
    /// Whether segmentation offload on sending (`UDP_SEGMENT`) is in use.
    pub gso: AtomicBool,
    /// Whether the kernel joins datagrams on receiving (`UDP_GRO`).
    pub gro: AtomicBool,
    /// How often GSO was switched off because it misbehaved.
    pub gso_step_downs: AtomicU64,
    /// Socket options of [`BusyPoll`] that the kernel has refused.
    pub busy_poll_refused: AtomicU64,
}

impl LinkCounters {
    /// Counts `datagrams` of together `bytes` bytes as received.
    #[inline]
    pub(crate) fn received(&self, datagrams: usize, bytes: usize) {
        self.datagrams_received.fetch_add(datagrams as u64, Relaxed);
        self.bytes_received.fetch_add(bytes as u64, Relaxed);
    }

    /// Counts `datagrams` of together `bytes` bytes as sent.
    #[inline]
    pub(crate) fn sent(&self, datagrams: usize, bytes: usize) {
        self.datagrams_sent.fetch_add(datagrams as u64, Relaxed);
        self.bytes_sent.fetch_add(bytes as u64, Relaxed);
    }
}
