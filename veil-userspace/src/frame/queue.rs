//! Queues between stages on different threads: bounded, one producer and one consumer each, wait-free (rtrb).
//!
//! The halves keep a batch of their own and touch what they share once per batch: [`Sender::flush`] publishes everything
//! pushed since the last one, [`Receiver::refill`] takes everything that waits. Stages see an ordinary [`Outbox`] and
//! [`Inbox`], or the [`Home`] of frames that belong to another stage.
//!
//! A half can be sent to another thread, but neither be shared nor copied, so that the compiler keeps it to one producer
//! and one consumer:
//!
//! ```
//! fn is_send<T: Send>() {}
//! is_send::<veil_userspace::frame::Sender<u8>>();
//! is_send::<veil_userspace::frame::Receiver<u8>>();
//! ```
//! ```compile_fail,E0277
//! fn is_sync<T: Sync>() {}
//! is_sync::<veil_userspace::frame::Sender<u8>>();
//! ```
//! ```compile_fail,E0277
//! fn is_sync<T: Sync>() {}
//! is_sync::<veil_userspace::frame::Receiver<u8>>();
//! ```
//! ```compile_fail,E0277
//! fn is_clone<T: Clone>() {}
//! is_clone::<veil_userspace::frame::Sender<u8>>();
//! ```

use super::{Frame, Home, Inbox, Outbox, WideFrame};
use rtrb::{Consumer, Producer, RingBuffer};
use std::collections::VecDeque;

/// A queue with room for `limit` items, besides those that the consumer has taken out already.
pub fn queue<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = RingBuffer::new(limit);
    let sender = Sender { ring: producer, batch: VecDeque::with_capacity(limit), free: limit, pushed: 0 };
    (sender, Receiver { ring: consumer, batch: VecDeque::with_capacity(limit), taken: 0 })
}

/// The producer's half.
pub struct Sender<T> {
    ring: Producer<T>,
    /// Pushed and not published yet; never more than are `free`.
    batch: VecDeque<T>,
    /// Places known to be free; the consumer may have freed more since.
    free: usize,
    pushed: u64,
}

impl<T> Sender<T> {
    /// Looks how much room there is now.
    #[inline]
    pub fn refresh(&mut self) {
        self.free = self.ring.slots();
    }

    /// How many items have been pushed so far.
    #[inline]
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Publishes what was pushed. True if that was anything: then the consumer may have to be woken.
    #[inline]
    pub fn flush(&mut self) -> bool {
        if self.batch.is_empty() {
            return false;
        }
        let Ok(chunk) = self.ring.write_chunk_uninit(self.batch.len()) else { return false };
        self.free -= chunk.fill_from_iter(self.batch.drain(..));
        true
    }
}

impl<T> Outbox<T> for Sender<T> {
    #[inline]
    fn room(&self) -> usize {
        self.free - self.batch.len()
    }

    #[inline]
    fn push(&mut self, item: T) -> Result<(), T> {
        if self.room() == 0 {
            self.refresh();
            if self.room() == 0 {
                return Err(item);
            }
        }
        self.batch.push_back(item);
        self.pushed += 1;
        Ok(())
    }
}

/// A queue that leads home, as large as the sets of its frames together, so that it is never full.
impl Home for Sender<Frame> {
    #[inline]
    fn give(&mut self, frame: WideFrame) {
        // Were it ever full, the frame would be dropped here: a panic in debug builds, counted in release.
        let _ = self.push(Frame::Wide(frame));
    }
}

/// The consumer's half.
pub struct Receiver<T> {
    ring: Consumer<T>,
    /// Taken out and not used yet.
    batch: VecDeque<T>,
    taken: u64,
}

impl<T> Receiver<T> {
    /// Takes out what waits, until `limit` items are in hand. True if that was anything: then the producer may have to be
    /// woken, since there is room.
    #[inline]
    pub fn refill(&mut self, limit: usize) -> bool {
        self.refill_by(limit, usize::MAX, |_| 0)
    }

    /// The same, but takes no more once what it took weighs `budget`, so that the next stage need not wait for all of it.
    #[inline]
    pub fn refill_by(&mut self, limit: usize, budget: usize, weight: impl Fn(&T) -> usize) -> bool {
        let wanted = limit.saturating_sub(self.batch.len()).min(self.ring.slots());
        if wanted == 0 {
            return false;
        }
        let Ok(chunk) = self.ring.read_chunk(wanted) else { return false };
        let mut taken = 0;
        for item in chunk {
            taken += weight(&item);
            self.batch.push_back(item);
            self.taken += 1;
            if taken >= budget {
                break;
            }
        }
        true
    }

    /// How many items have been taken out so far, those in hand included.
    #[inline]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// How many of them have been used.
    #[inline]
    pub fn used(&self) -> u64 {
        self.taken - self.batch.len() as u64
    }

    /// Whether there is anything, in hand or waiting.
    #[inline]
    pub fn has_items(&self) -> bool {
        !self.batch.is_empty() || self.ring.slots() > 0
    }
}

impl<T> Inbox<T> for Receiver<T> {
    /// The oldest item in hand.
    #[inline]
    fn pop(&mut self) -> Option<T> {
        self.batch.pop_front()
    }

    /// Whether nothing is in hand.
    #[inline]
    fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{SetName, WideSet};

    #[test]
    fn what_is_pushed_is_there_once_it_is_flushed_and_in_its_order() {
        let (mut sender, mut receiver) = queue(3);
        (0..3).for_each(|n| assert_eq!(sender.push(n), Ok(())));
        assert_eq!((sender.push(3), sender.room(), receiver.has_items()), (Err(3), 0, false));
        assert!(sender.flush() && !sender.flush());
        assert!(receiver.has_items() && receiver.is_empty());
        assert!(receiver.refill(2) && !receiver.refill(2));
        assert_eq!((receiver.pop(), receiver.pop(), receiver.pop()), (Some(0), Some(1), None));
        assert_eq!(sender.room(), 0, "not looked at yet");
        sender.refresh();
        assert_eq!(sender.room(), 2);
        assert_eq!(sender.push(4), Ok(()));
        assert!(sender.flush() && receiver.refill(9));
        assert_eq!((receiver.pop(), receiver.pop(), receiver.has_items()), (Some(2), Some(4), false));
        (5..8).for_each(|n| assert_eq!(sender.push(n), Ok(())));
        assert!(sender.flush() && receiver.refill_by(9, 11, |&n| n));
        assert_eq!((receiver.pop(), receiver.pop(), receiver.pop()), (Some(5), Some(6), None));
        assert!(receiver.has_items() && receiver.refill(9));
        assert_eq!((receiver.pop(), receiver.has_items()), (Some(7), false));
    }

    #[test]
    fn frames_find_home_across_threads() {
        let mut set = WideSet::new(SetName::LinkReceive, 4);
        let (mut out, mut there) = queue::<Frame>(4);
        let (mut back, mut home) = queue::<Frame>(4);
        let taken: Vec<_> = std::iter::from_fn(|| set.take()).collect();
        taken.into_iter().for_each(|frame| assert!(out.push(frame.into()).is_ok()));
        assert!(out.flush());
        std::thread::spawn(move || {
            assert!(there.refill(4));
            while let Some(frame) = there.pop() {
                frame.home(&mut back);
            }
            assert!(back.flush());
        })
        .join()
        .unwrap();
        assert!(home.refill(4));
        while let Some(frame) = home.pop() {
            frame.home(&mut set);
        }
        assert!(set.is_whole());
    }
}
