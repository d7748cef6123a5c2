//! The receiving end: batches of runs from both sockets into wide frames.
//!
//! The RX stage calls `receive` when a socket is readable. One `recvmmsg` fills up to 32 frames; with `UDP_GRO` each
//! frame is a run of up to 64 datagrams of one sender. The batch asks for about twice what came last time, so that a
//! quiet link does not pay for setting up 32 messages; full runs come one by one, so that each is opened while it is warm in
//! the cache, and none waits for another. The invariant: frames taken are pushed or given back before
//! returning.

use super::batch::{BATCH, ReceiveBatch};
use super::cmsg::Info;
use super::error_queue::{self, PathError, may_be_another_paths};
use super::socket::{Sockets, set_option};
use crate::frame::{Frame, MAX_SEGMENTS, Outbox, Sealed, WideFrame, WideSet, datagram_count};
use crate::link::{BusyPoll, Fds, LinkCounters, LinkRx, Received};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use veil_proto::{DropReason, Path};

/// Pending errors skipped in one call before giving the thread back.
const ERRORS_PER_CALL: usize = 8;

/// Bytes received from one socket in one call, at most one batch more: they are opened before the first is written, so
/// few keep all of them young. Less than a full run, so that one comes alone.
const CALL_BYTES: usize = 56 << 10;
/// Messages asked for at least, unless they are long.
const LEAST: usize = 4;

/// The receiving end of a UDP link.
pub struct UdpRx {
    sockets: Arc<Sockets>,
    counters: Arc<LinkCounters>,
    batch: ReceiveBatch,
    frames: Vec<WideFrame>,
    ask: usize,
    /// The socket to begin with; it changes with every call, so that neither family starves the other.
    first: usize,
    overflow: [u32; 2],
}

impl UdpRx {
    pub(super) fn new(sockets: Arc<Sockets>, counters: Arc<LinkCounters>) -> Self {
        let frames = Vec::with_capacity(BATCH);
        let batch = ReceiveBatch::new();
        let mut rx = UdpRx { sockets, counters, batch, frames, ask: LEAST, first: 0, overflow: [0; 2] };
        rx.set_gro(true);
        rx
    }

    /// Switches GRO on or off; a kernel without it (before 5.0) leaves it off.
    pub fn set_gro(&mut self, on: bool) {
        let mut is_on = on;
        for fd in self.sockets.all().into_iter().flatten() {
            if let Err(error) = set_option(fd, libc::SOL_UDP, libc::UDP_GRO, i32::from(on)) {
                tracing::info!("UDP_GRO stays off: {error}");
                is_on = false;
            }
        }
        self.counters.gro.store(is_on, Relaxed);
    }

    /// Has the kernel poll the NIC for both sockets, where it lets us; returns the same for other sockets beside them.
    pub fn busy_poll(&self) -> BusyPoll {
        let busy_poll = BusyPoll::new(self.counters.clone());
        self.sockets.all().into_iter().flatten().for_each(|socket| busy_poll.ask(socket));
        busy_poll
    }

    /// What this link counts, to be kept and read elsewhere.
    pub fn shared_counters(&self) -> Arc<LinkCounters> {
        self.counters.clone()
    }

    /// Another way to what this host has said about destinations: for a process stage on a thread of its own.
    pub fn path_errors(&self) -> impl FnMut() -> Option<PathError> + Send + use<> {
        let sockets = self.sockets.clone();
        move || sockets.take_path_error()
    }

    /// Receives from one socket until it is empty (`true`) or a limit is met (`false`).
    fn receive_from(
        &mut self,
        socket: usize,
        set: &mut WideSet,
        out: &mut impl Outbox<Sealed>,
        budget: usize,
        got: &mut Received,
    ) -> io::Result<bool> {
        let sockets = self.sockets.clone();
        let Some(fd) = sockets.all()[socket] else { return Ok(true) };
        let (mut errors, mut bytes) = (0, 0);
        // Messages are counted and not runs: whoever sends empty ones must not keep this going either.
        let mut left = budget - got.runs;
        while bytes < CALL_BYTES {
            let want = self.ask.min(left).min(out.room());
            self.frames.extend(std::iter::from_fn(|| set.take()).take(want));
            let asked = self.frames.len();
            if asked == 0 {
                return Ok(false);
            }
            self.counters.receive_calls.fetch_add(1, Relaxed);
            let filled = self.batch.receive(fd, &mut self.frames);
            // Back to front, so that the warmest frame is on top again.
            let keep = *filled.as_ref().unwrap_or(&0);
            while self.frames.len() > keep {
                self.frames.pop().into_iter().for_each(|frame| set.give(frame));
            }
            match filled {
                Ok(filled) => {
                    left -= filled;
                    let brought = self.deliver(socket, set, out, got);
                    let warm = CALL_BYTES * filled / brought.max(1);
                    self.ask = (2 * filled).max(LEAST).min(warm).clamp(1, BATCH);
                    bytes += brought;
                    if filled < asked {
                        return Ok(true);
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(true),
                    Some(libc::EINTR) => {}
                    Some(errno) if may_be_another_paths(errno) => {
                        drain(fd, &self.sockets, &self.counters);
                        errors += 1;
                        if errors == ERRORS_PER_CALL {
                            return Ok(false);
                        }
                    }
                    // The frames the last calls filled were delivered; this error says nothing about them.
                    Some(libc::ENOBUFS | libc::ENOMEM) => return Ok(false),
                    _ => return Err(error),
                },
            }
        }
        Ok(false)
    }

    /// Pushes the filled frames as runs. Returns how many bytes they hold.
    fn deliver(
        &mut self,
        socket: usize,
        set: &mut WideSet,
        out: &mut impl Outbox<Sealed>,
        got: &mut Received,
    ) -> usize {
        let mut bytes = 0;
        for (index, mut frame) in self.frames.drain(..).enumerate() {
            let arrival = self.batch.arrival(index);
            let info = Info::read(arrival.control);
            if let Some(total) = info.overflow {
                let before = std::mem::replace(&mut self.overflow[socket], total);
                self.counters.receive_overflow.fetch_add(total.wrapping_sub(before).into(), Relaxed);
            }
            let segment = info.segment.filter(|&s| s != 0).map_or(arrival.bytes, usize::from);
            let segment = u16::try_from(segment.min(arrival.bytes)).unwrap_or(0);
            // An empty datagram is a datagram, too.
            let datagrams = datagram_count(arrival.bytes, segment).max(1);
            self.counters.received(datagrams, arrival.bytes);
            bytes += arrival.bytes;
            let refused = match arrival.from {
                _ if arrival.truncated || datagrams > MAX_SEGMENTS => Some(DropReason::RunTooLong),
                None => Some(DropReason::BadHeader),
                Some(_) if arrival.bytes == 0 => Some(DropReason::TooShort),
                Some(_) => None,
            };
            let (Some(from), None) = (arrival.from, refused) else {
                let reason = refused.unwrap_or(DropReason::BadHeader);
                self.counters.receive_drops.add(reason, datagrams as u64);
                set.give(frame);
                continue;
            };
            let path = Path::to(from);
            let path = info.local.map_or(path, |local| path.from_local(local));
            frame.set_len(arrival.bytes);
            let run = Sealed { frame: Frame::Wide(frame), segment, tos: info.tos, path };
            match out.push(run) {
                Ok(()) => {
                    got.runs += 1;
                    got.datagrams += datagrams;
                    self.counters.run_lengths.record(datagrams as u64, 1);
                }
                Err(run) => {
                    self.counters.receive_drops.add(DropReason::NoFrame, datagrams as u64);
                    run.frame.home(set);
                }
            }
        }
        bytes
    }
}

impl LinkRx for UdpRx {
    fn receive(
        &mut self,
        set: &mut WideSet,
        out: &mut impl Outbox<Sealed>,
        budget: usize,
    ) -> io::Result<Received> {
        let mut got = Received::default();
        self.first ^= 1;
        for socket in [self.first, self.first ^ 1] {
            let empty = self.receive_from(socket, set, out, budget, &mut got)?;
            got.more |= !empty;
        }
        Ok(got)
    }

    fn take_path_error(&mut self) -> Option<PathError> {
        self.sockets.take_path_error()
    }

    fn fds(&self) -> Fds<'_> {
        self.sockets.all()
    }

    fn drain_errors(&mut self) {
        for fd in self.sockets.all().into_iter().flatten() {
            drain(fd, &self.sockets, &self.counters);
        }
    }

    fn counters(&self) -> &LinkCounters {
        &self.counters
    }
}

/// Takes what is on the error queue, counts it, and keeps it for `take_path_error`.
fn drain(fd: BorrowedFd<'_>, sockets: &Sockets, counters: &LinkCounters) {
    let entries = error_queue::drain(fd, |error| sockets.report(error));
    counters.path_errors.fetch_add(entries as u64, Relaxed);
}
