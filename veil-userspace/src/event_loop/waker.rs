//! How stages on different threads wake each other: a bell that costs a system call only where somebody sleeps.
//!
//! A stage is woken for two kinds of things: what it works on, always; room and frames that others have freed, only while
//! it lacks them. Invariant: whoever publishes rings afterwards, and who sleeps has looked after it said so
//! ([`Asleep`]), so that no wake-up is lost.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::asleep::Asleep;
use super::poll::Waker;

/// One stage's bell; others hold it to ring.
pub struct Bell {
    input: Asleep,
    room: Asleep,
    stop: AtomicBool,
    waker: Waker,
}

impl Bell {
    /// The bell of a stage that is awake.
    pub fn new() -> io::Result<Self> {
        Ok(Bell {
            input: Asleep::default(),
            room: Asleep::default(),
            stop: AtomicBool::new(false),
            waker: Waker::new()?,
        })
    }

    /// Something to work on has been published.
    #[inline]
    pub fn pushed(&self) {
        if self.input.must_be_woken() {
            self.waker.wake();
        }
    }

    /// Room has been made, or a frame sent home.
    #[inline]
    pub fn freed(&self) {
        if self.room.must_be_woken() {
            self.waker.wake();
        }
    }

    /// Has the stage end.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.waker.wake();
    }

    /// Whether the stage is to end.
    #[inline]
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// The stage's own: from here on it is woken for what it works on, and, if it is `starved`, for room and frames. It must
    /// look at everything once more before it sleeps.
    #[inline]
    pub fn lie_down(&self, starved: bool) {
        if starved {
            self.room.lie_down();
        }
        self.input.lie_down();
    }

    /// The stage's own: it is awake again.
    #[inline]
    pub fn get_up(&self) {
        self.input.get_up();
        self.room.get_up();
    }

    /// To be watched for edges ([`add_edge`](super::poll::Poll::add_edge)): one for each time that somebody has rung. Nobody
    /// reads it, which would cost a system call per wake-up.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_loop::poll::Poll;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_bell_is_rung_only_for_who_sleeps_and_wants_what_is_there() {
        let (bell, mut poll) = (Bell::new().unwrap(), Poll::new().unwrap());
        poll.add_edge(bell.fd().as_raw_fd(), 0).unwrap();
        let mut rung = |starved, ring: fn(&Bell)| {
            bell.lie_down(starved);
            ring(&bell);
            bell.get_up();
            poll.wait(false).unwrap() == 1
        };
        assert!(rung(false, Bell::pushed) && rung(true, Bell::pushed) && rung(true, Bell::freed));
        assert!(!rung(false, Bell::freed), "it lacks nothing");
        bell.pushed();
        bell.freed();
        assert!(!rung(false, |_| ()), "it was awake");
        assert!(!bell.is_stopping() && rung(false, Bell::stop) && bell.is_stopping());
    }
}
