//! The sending end: runs to both sockets, one GSO message per run, many runs per system call.
//!
//! The TX stage calls `send` with the runs the process stage sealed. Up to 32 runs wait inside; the first ones of one
//! family go out in one `sendmmsg`, a run of several datagrams as one message that the kernel or the NIC cuts
//! (`UDP_SEGMENT`). Without GSO a run goes out as one message per datagram, by the same code.
//!
//! What the kernel refuses is handled by the first message's errno, in `refused`: wait, drop and count, or try again
//! another way. The invariant: every datagram handed in is sent or counted, and its frame goes home.

use super::batch::{BATCH, Departure, SendBatch};
use super::error_queue::may_be_another_paths;
use super::single::{DatagramSender, RESENDS, drain, local_may_be_gone, outer_tos};
use super::socket::Sockets;
use crate::frame::{Home, Inbox, MAX_SEGMENTS, Sealed, datagram_count};
use crate::link::{LinkCounters, LinkTx, SendResult};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use veil_proto::{DropReason, Path};

/// The most payload one UDP message carries, whole GSO run included: 65535 less IPv4 and UDP headers.
pub const MAX_PAYLOAD: usize = 65507;

/// The sending end of a UDP link.
pub struct UdpTx {
    sockets: Arc<Sockets>,
    counters: Arc<LinkCounters>,
    batch: SendBatch,
    waiting: VecDeque<Waiting>,
    blocked: bool,
    dscp: u8,
    /// Datagrams per message: 1 without GSO.
    max_segments: usize,
    single: DatagramSender,
}

/// A run inside the link, and how far it has gone.
struct Waiting {
    run: Sealed,
    /// Bytes sent or dropped.
    done: usize,
    tries: u8,
    from_local: bool,
    /// Whether the datagrams go out one by one, since the kernel refused them as one message.
    one_by_one: bool,
    /// Whether it refused in a way that puts GSO itself under suspicion.
    gso_suspect: bool,
}

impl Waiting {
    fn new(run: Sealed) -> Self {
        Waiting { run, done: 0, tries: 0, from_local: true, one_by_one: false, gso_suspect: false }
    }

    fn len(&self) -> usize {
        self.run.frame.bytes().len()
    }

    /// Bytes in each message of this run but the last.
    fn step(&self, max_segments: usize) -> usize {
        let segment = match self.run.segment {
            0 => return self.len().max(1),
            segment => usize::from(segment),
        };
        let fitting = if self.one_by_one { 1 } else { max_segments.min(MAX_PAYLOAD / segment).max(1) };
        segment * fitting
    }

    /// The messages still to be sent.
    fn departures(&self, max_segments: usize, dscp: u8) -> impl Iterator<Item = Departure<'_>> {
        let (step, segment) = (self.step(max_segments), self.run.segment);
        let rest = self.run.frame.bytes().get(self.done..).unwrap_or_default();
        rest.chunks(step).map(move |bytes| Departure {
            bytes,
            path: &self.run.path,
            from_local: self.from_local,
            tos: outer_tos(dscp, self.run.tos),
            segment: (datagram_count(bytes.len(), segment) > 1).then_some(segment),
        })
    }

    /// Passes over the next message; returns its datagrams and bytes.
    fn pass(&mut self, max_segments: usize) -> (usize, usize) {
        let bytes = self.step(max_segments).min(self.len() - self.done);
        self.done += bytes;
        self.tries = 0;
        (datagram_count(bytes, self.run.segment), bytes)
    }

    fn is_done(&self) -> bool {
        self.done >= self.len()
    }
}

impl UdpTx {
    pub(super) fn new(
        sockets: Arc<Sockets>,
        counters: Arc<LinkCounters>,
        dscp: u8,
        max_segments: usize,
    ) -> Self {
        counters.gso.store(max_segments > 1, Relaxed);
        let single = DatagramSender::new(sockets.clone(), counters.clone(), dscp);
        let (batch, waiting) = (SendBatch::new(BATCH), VecDeque::with_capacity(BATCH));
        UdpTx { sockets, counters, batch, waiting, blocked: false, dscp, max_segments, single }
    }

    /// How many datagrams the kernel takes as one message; fill runs no further than that. 1 when GSO is off.
    pub fn max_segments(&self) -> usize {
        self.max_segments
    }

    /// Switches GSO off, or on for runs of at most `max_segments` datagrams.
    pub fn set_max_segments(&mut self, max_segments: usize) {
        self.max_segments = max_segments.clamp(1, MAX_SEGMENTS);
        self.counters.gso.store(self.max_segments > 1, Relaxed);
    }

    /// Whether nothing waits to be sent here, and the kernel has sent on what `path`'s socket was given.
    #[cfg(feature = "xdp")]
    pub fn is_idle(&self, path: &Path) -> bool {
        self.waiting.is_empty() && self.sockets.of(path).is_none_or(|fd| super::socket::unsent(fd) == 0)
    }

    /// Another sender of single datagrams over the same sockets: control's, for handshakes.
    pub fn datagram_sender(&self) -> DatagramSender {
        self.single.clone()
    }

    /// What this link counts, to be kept and read elsewhere.
    pub fn shared_counters(&self) -> Arc<LinkCounters> {
        self.counters.clone()
    }

    fn refill(&mut self, runs: &mut impl Inbox<Sealed>, home: &mut impl Home) {
        while self.waiting.len() < BATCH {
            let Some(run) = runs.pop() else { return };
            if run.frame.bytes().is_empty() {
                run.frame.home(home);
            } else if self.sockets.of(&run.path).is_none() {
                self.counters.send_drops.add(DropReason::LinkSend, run.datagrams() as u64);
                run.frame.home(home);
            } else {
                self.waiting.push_back(Waiting::new(run));
            }
        }
    }

    /// Offers the first runs of one family to the kernel.
    fn send_batch(&mut self) -> io::Result<usize> {
        let UdpTx { sockets, waiting, batch, max_segments, dscp, .. } = self;
        let Some(first) = waiting.front() else { return Ok(0) };
        let (is_ipv4, Some(fd)) = (first.run.path.is_ipv4(), sockets.of(&first.run.path)) else {
            return Ok(0);
        };
        let departures = waiting
            .iter()
            .take_while(|w| w.run.path.is_ipv4() == is_ipv4)
            .flat_map(|w| w.departures(*max_segments, *dscp));
        self.counters.send_calls.fetch_add(1, Relaxed);
        let (sent, _) = batch.send(fd, departures)?;
        Ok(sent)
    }

    /// Counts the first `sent` messages and sends finished frames home.
    fn advance(&mut self, sent: usize, home: &mut impl Home) {
        let (mut datagrams, mut bytes, mut gso_is_broken) = (0, 0, false);
        for _ in 0..sent {
            let Some(first) = self.waiting.front_mut() else { break };
            let (d, b) = first.pass(self.max_segments);
            (datagrams, bytes) = (datagrams + d, bytes + b);
            // A datagram of full size went out alone where the run did not: the size was not the reason.
            gso_is_broken |= first.gso_suspect && b == usize::from(first.run.segment);
            self.finish_first(home);
        }
        self.counters.sent(datagrams, bytes);
        // Only now: all messages of the batch were cut by the old measure.
        if gso_is_broken && self.max_segments > 1 {
            self.counters.gso_step_downs.fetch_add(1, Relaxed);
            tracing::warn!("the kernel refuses UDP_SEGMENT here: sending datagrams one by one from now on");
            self.set_max_segments(1);
        }
    }

    fn finish_first(&mut self, home: &mut impl Home) {
        if self.waiting.front().is_some_and(Waiting::is_done)
            && let Some(first) = self.waiting.pop_front()
        {
            first.run.frame.home(home);
        }
    }

    /// The kernel took nothing: `true` says to wait until it can.
    fn refused(&mut self, error: &io::Error, home: &mut impl Home) -> bool {
        let max_segments = self.max_segments;
        let Some(first) = self.waiting.front_mut() else { return false };
        let path = first.run.path;
        let is_gso = first.departures(max_segments, 0).next().is_some_and(|d| d.segment.is_some());
        match error.raw_os_error().unwrap_or(0) {
            libc::EAGAIN => {
                self.counters.blocked.fetch_add(1, Relaxed);
                return true;
            }
            libc::EINTR => {}
            // The local address went away (roaming): let the kernel choose another, once.
            errno if first.from_local && path.local().is_some() && local_may_be_gone(errno, first.tries) => {
                (first.from_local, first.tries) = (false, 0);
            }
            // No GSO for this run: it may be longer than the path takes, or an interface without checksum offload.
            libc::EINVAL | libc::EIO if is_gso => {
                (first.one_by_one, first.gso_suspect, first.from_local) = (true, true, true);
            }
            errno if may_be_another_paths(errno) => {
                first.tries += 1;
                let tries = first.tries;
                // Too big for the path as one message, and again: the kernel tells the path's MTU only for a
                // datagram.
                if errno == libc::EMSGSIZE && is_gso && tries == 2 {
                    (first.one_by_one, first.tries) = (true, 0);
                }
                let too_big_for_us = self.drain(&path);
                if errno == libc::EMSGSIZE && (too_big_for_us || tries > RESENDS) {
                    self.drop_as_long_as_this(DropReason::LinkSend, home);
                } else if tries > RESENDS {
                    self.drop_rest(DropReason::LinkUnreachable, home);
                } else {
                    self.counters.resends.fetch_add(1, Relaxed);
                }
            }
            _ => self.drop_message(DropReason::LinkSend, home),
        }
        false
    }

    /// Drains the error queue of `path`'s socket; says whether this host named `path` as too narrow.
    fn drain(&self, path: &Path) -> bool {
        let Some(fd) = self.sockets.of(path) else { return false };
        drain(fd, &self.sockets, &self.counters, path)
    }

    fn drop_message(&mut self, reason: DropReason, home: &mut impl Home) {
        let Some(first) = self.waiting.front_mut() else { return };
        let (datagrams, _) = first.pass(self.max_segments);
        self.counters.send_drops.add(reason, datagrams as u64);
        self.finish_first(home);
    }

    /// Drops the next message and those after it in the same run that are no shorter.
    fn drop_as_long_as_this(&mut self, reason: DropReason, home: &mut impl Home) {
        let Some(first) = self.waiting.front() else { return };
        let mut lengths = first.departures(self.max_segments, 0).map(|d| d.bytes.len());
        let Some(length) = lengths.next() else { return };
        let as_long = 1 + lengths.take_while(|&l| l >= length).count();
        (0..as_long).for_each(|_| self.drop_message(reason, home));
    }

    fn drop_rest(&mut self, reason: DropReason, home: &mut impl Home) {
        let Some(first) = self.waiting.pop_front() else { return };
        let datagrams = datagram_count(first.len() - first.done, first.run.segment);
        self.counters.send_drops.add(reason, datagrams as u64);
        first.run.frame.home(home);
    }
}

impl LinkTx for UdpTx {
    fn send(&mut self, runs: &mut impl Inbox<Sealed>, home: &mut impl Home) -> SendResult {
        loop {
            self.refill(runs, home);
            if self.waiting.is_empty() {
                self.blocked = false;
                return SendResult::Drained;
            }
            match self.send_batch() {
                // Never seen: then rather lose a run than spin.
                Ok(0) => self.drop_rest(DropReason::LinkSend, home),
                Ok(sent) => self.advance(sent, home),
                Err(error) => {
                    if self.refused(&error, home) {
                        self.blocked = true;
                        return SendResult::Blocked;
                    }
                }
            }
        }
    }

    fn send_datagram(&mut self, path: &Path, bytes: &[u8], tos: u8) -> io::Result<()> {
        self.single.send(path, bytes, tos)
    }

    fn blocked_on(&self) -> Option<BorrowedFd<'_>> {
        self.waiting.front().filter(|_| self.blocked).and_then(|first| self.sockets.of(&first.run.path))
    }

    fn holds_runs(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn abandon(&mut self, home: &mut impl Home) {
        while !self.waiting.is_empty() {
            self.drop_rest(DropReason::LinkSend, home);
        }
    }

    fn counters(&self) -> &LinkCounters {
        &self.counters
    }
}
