//! The receiving half of a socket: empty frames in, frames with packets out. Lives on one thread.

use crate::counters::{RxCounters, SocketCounters, add};
use crate::frame::{HEADROOM, UmemFrame};
use crate::rings::{BATCH, KernelRx, Received, RxRings};
use crate::umem::{Membership, fill_state};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// The receiving half of an AF_XDP socket.
///
/// Keep its fill ring full, before packets are handled rather than after.
pub struct XskRx<R = KernelRx> {
    // Before `member`: the rings must be gone when their frames are taken home.
    pub(crate) rings: R,
    pub(crate) member: Arc<Membership>,
    pub(crate) counters: Arc<SocketCounters>,
}

impl<R: RxRings> XskRx<R> {
    /// Puts frames from the end of `frames` on the fill ring, as many as it has room for, and wakes the driver if it
    /// sleeps. Returns how many. Frames of another UMEM are retired on the way.
    ///
    /// # Errors
    /// What the kernel said to the wake-up: the socket has lost its interface. The frames counted stay filled.
    pub fn fill(&mut self, frames: &mut Vec<UmemFrame>) -> io::Result<usize> {
        let mut filled = 0;
        while !frames.is_empty() {
            let wanted = frames.len().min(BATCH);
            let room = self.rings.fill_room(wanted).min(wanted);
            if room == 0 {
                break;
            }
            let before = frames.len();
            filled += self.fill_some(frames, room);
            if frames.len() == before {
                break;
            }
        }
        if self.rings.needs_wakeup() {
            self.wake()?;
        }
        Ok(filled)
    }

    /// Puts up to `room` frames, at most a batch, on the fill ring.
    fn fill_some(&mut self, frames: &mut Vec<UmemFrame>, room: usize) -> usize {
        let state = fill_state(self.member.number);
        let (mut batch, mut count) = ([0; BATCH], 0);
        while count < room.min(BATCH) {
            let Some(frame) = frames.pop() else { break };
            if !self.owns(&frame) {
                add(&self.counters().stale, 1);
                frame.retire();
                continue;
            }
            batch[count] = frame.surrender(state);
            count += 1;
        }
        let filled = self.rings.fill(&batch[..count]);
        add(&self.counters().filled, filled);
        for index in &batch[filled..count] {
            frames.extend(self.take_back(*index, state));
        }
        filled
    }

    /// A frame the ring did not take after all.
    #[cold]
    fn take_back(&self, index: u32, state: u16) -> Option<UmemFrame> {
        let generation = &self.member.generation;
        let address = u64::from(index) * generation.frame_size() as u64 + HEADROOM as u64;
        generation.take(address, 0, state).ok().map(|(frame, _)| frame)
    }

    /// Takes up to `max` packets off the RX ring, oldest first, and appends their frames. Returns how many.
    ///
    /// A frame's extent is the whole Ethernet frame; it is empty if the kernel's descriptor was wrong.
    pub fn receive(&mut self, frames: &mut Vec<UmemFrame>, max: usize) -> usize {
        let state = fill_state(self.member.number);
        let (mut received, mut looked, mut packets) = (0, 0, [Received::default(); BATCH]);
        while looked < max {
            let wanted = (max - looked).min(BATCH);
            let count = self.rings.receive(&mut packets[..wanted]);
            looked += count;
            for packet in &packets[..count] {
                match self.member.generation.take(packet.address, packet.len, state) {
                    Ok((frame, fits)) => {
                        if !fits {
                            add(&self.counters().bad_descriptors, 1);
                        }
                        frames.push(frame);
                        received += 1;
                    }
                    Err(why) => self.counters().refused.count(why),
                }
            }
            if count < wanted {
                break;
            }
        }
        add(&self.counters().received, received);
        received
    }

    /// Wakes a sleeping driver to look at the fill ring; [`fill`](Self::fill) does so itself.
    pub fn wake(&mut self) -> io::Result<()> {
        add(&self.counters().wakeups, 1);
        match self.rings.wake() {
            // No buffer for it, or busy: the next call will do.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR)
                ) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// Whether the frame can be filled here.
    #[inline]
    pub fn owns(&self, frame: &UmemFrame) -> bool {
        std::ptr::eq(frame.generation(), &*self.member.generation)
    }

    /// What this half has counted.
    #[inline]
    pub fn counters(&self) -> &RxCounters {
        &self.counters.rx
    }

    /// What both halves count, to be read from elsewhere.
    pub fn shared_counters(&self) -> &Arc<SocketCounters> {
        &self.counters
    }
}

/// The socket, for epoll. Ask for `EPOLLIN | EPOLLET`: in copy mode every poll of it also transmits.
impl AsFd for XskRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rings.as_fd()
    }
}

impl<R> std::fmt::Debug for XskRx<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "XskRx(socket {} of its UMEM)", self.member.number)
    }
}
