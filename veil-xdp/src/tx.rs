//! The sending half of a socket: frames with packets in, and the same frames out again when they have been sent. Lives
//! on one thread.

use crate::counters::{SocketCounters, TxCounters, add};
use crate::frame::{HEADROOM, UmemFrame};
use crate::rings::{BATCH, KernelTx, Outgoing, TxRings};
use crate::umem::{Membership, tx_state};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// What a kick came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kicked {
    /// Nothing is left for another kick.
    Done,
    /// Packets wait in the TX ring for want of something: complete, and kick again.
    Later,
}

/// The sending half of an AF_XDP socket.
///
/// What [`send`](Self::send) took comes back by [`complete`](Self::complete): late, out of order, but every frame once.
pub struct XskTx<T = KernelTx> {
    // Before `member`: the rings must be gone when their frames are taken home.
    pub(crate) rings: T,
    pub(crate) member: Arc<Membership>,
    pub(crate) counters: Arc<SocketCounters>,
    pub(crate) ring_size: usize,
    /// Sent and not completed.
    pub(crate) outstanding: usize,
    /// Refused before the ring; given back with the next completions.
    pub(crate) refused: Vec<UmemFrame>,
}

impl<T: TxRings> XskTx<T> {
    /// Puts packets from the front of `frames` on the TX ring, as many as it has room for, and returns how many. Then
    /// [`kick`](Self::kick).
    ///
    /// A frame's extent is the whole Ethernet frame and begins at [`HEADROOM`]; one that does not is moved there, which
    /// costs a copy. An empty one, or one too long, is not sent and comes back with the completions; one of another
    /// UMEM is retired. Both are counted.
    pub fn send(&mut self, frames: &mut VecDeque<UmemFrame>) -> usize {
        let mut sent = 0;
        while !frames.is_empty() {
            let wanted = frames.len().min(BATCH);
            let room = self.rings.room(wanted).min(wanted);
            if room == 0 {
                break;
            }
            let before = frames.len();
            sent += self.send_some(frames, room);
            if frames.len() == before {
                break;
            }
        }
        sent
    }

    /// Puts up to `room` packets, at most a batch, on the TX ring.
    fn send_some(&mut self, frames: &mut VecDeque<UmemFrame>, room: usize) -> usize {
        let state = tx_state(self.member.number);
        let (mut batch, mut count) = ([Outgoing::default(); BATCH], 0);
        while count < room.min(BATCH) {
            let Some(frame) = frames.pop_front() else { break };
            let Some(frame) = self.sendable(frame) else { continue };
            batch[count] = Outgoing { len: frame.len() as u32, frame: frame.surrender(state) };
            count += 1;
        }
        let sent = self.rings.send(&batch[..count]);
        add(&self.counters().sent, sent);
        self.outstanding += sent;
        for packet in batch[sent..count].iter().rev() {
            let generation = &self.member.generation;
            let address = u64::from(packet.frame) * generation.frame_size() as u64 + HEADROOM as u64;
            let taken = generation.take(address, packet.len, state);
            taken.into_iter().for_each(|(frame, _)| frames.push_front(frame));
        }
        sent
    }

    /// The frame, if it can go on the ring as it is now.
    #[inline]
    fn sendable(&mut self, mut frame: UmemFrame) -> Option<UmemFrame> {
        if !self.owns(&frame) {
            add(&self.counters().stale, 1);
            frame.retire();
            return None;
        }
        if frame.start() != HEADROOM && !frame.is_empty() {
            if frame.move_to_headroom() {
                add(&self.counters().moved, 1);
            } else {
                frame.set_len(0);
            }
        }
        // The kernel skips an empty descriptor without ever completing it (net/xdp/xsk_queue.h).
        if frame.is_empty() {
            add(&self.counters().unsendable, 1);
            self.refused.push(frame);
            return None;
        }
        Some(frame)
    }

    /// Takes every frame that has been sent off the completion ring and appends it, empty. Returns how many.
    pub fn complete(&mut self, frames: &mut Vec<UmemFrame>) -> usize {
        let state = tx_state(self.member.number);
        let (mut completed, mut addresses) = (0, [0; BATCH]);
        loop {
            let count = self.rings.complete(&mut addresses);
            for address in &addresses[..count] {
                match self.member.generation.take(*address, 0, state) {
                    Ok((mut frame, _)) => {
                        frame.set_range(HEADROOM, 0);
                        frames.push(frame);
                        completed += 1;
                    }
                    Err(why) => self.counters().refused.count(why),
                }
            }
            if count < BATCH {
                break;
            }
        }
        add(&self.counters().completed, completed);
        self.outstanding -= completed;
        let refused = self.refused.len();
        frames.extend(self.refused.drain(..).map(|mut frame| {
            frame.set_range(HEADROOM, 0);
            frame
        }));
        completed + refused
    }

    /// Has the kernel send what is on the TX ring, if it wants to be told.
    ///
    /// In copy mode the call sends, 32 packets at a time (more since Linux 6.17); it is repeated while it gets on.
    ///
    /// # Errors
    /// ENETDOWN: the link is down; what is on the ring waits. ENXIO and others: the socket has lost its interface.
    pub fn kick(&mut self) -> io::Result<Kicked> {
        loop {
            if !self.rings.needs_wakeup() {
                return Ok(Kicked::Done);
            }
            let waiting = self.waiting();
            if waiting == 0 && self.rings.kick_sends() {
                return Ok(Kicked::Done);
            }
            add(&self.counters().kicks, 1);
            let result = self.rings.kick();
            match result.as_ref().map_err(|error| error.raw_os_error()) {
                Ok(()) if !self.rings.kick_sends() => return Ok(Kicked::Done),
                Ok(()) | Err(Some(libc::EAGAIN)) => match self.waiting() {
                    0 => return Ok(Kicked::Done),
                    // It gets on: the budget of one call was used up.
                    left if left < waiting => {}
                    _ => return Ok(self.later()),
                },
                Err(Some(libc::EINTR)) => {}
                Err(Some(libc::EBUSY | libc::ENOBUFS)) => return Ok(self.later()),
                Err(_) => return result.map(|()| Kicked::Done),
            }
        }
    }

    fn later(&self) -> Kicked {
        add(&self.counters().later, 1);
        Kicked::Later
    }

    /// How many packets are on the TX ring and not yet taken by the kernel.
    pub fn waiting(&mut self) -> usize {
        self.ring_size - self.rings.room(self.ring_size).min(self.ring_size)
    }

    /// How many packets are sent and not completed.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Whether the frame can be sent here.
    #[inline]
    pub fn owns(&self, frame: &UmemFrame) -> bool {
        std::ptr::eq(frame.generation(), &*self.member.generation)
    }

    /// What this half has counted.
    #[inline]
    pub fn counters(&self) -> &TxCounters {
        &self.counters.tx
    }

    /// What both halves count, to be read from elsewhere.
    pub fn shared_counters(&self) -> &Arc<SocketCounters> {
        &self.counters
    }
}

impl<T> Drop for XskTx<T> {
    fn drop(&mut self) {
        self.refused.drain(..).for_each(UmemFrame::retire);
    }
}

/// The socket, for epoll. Ask for `EPOLLOUT | EPOLLET` only while frames are wanted back; then look at completions.
impl AsFd for XskTx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rings.as_fd()
    }
}

impl<T> std::fmt::Debug for XskTx<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "XskTx(socket {} of its UMEM, {} outstanding)", self.member.number, self.outstanding)
    }
}
