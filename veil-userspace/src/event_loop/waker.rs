//! How stages on different threads wake each other: a bell that costs a system call only where somebody sleeps.
//!
//! A stage is woken for two kinds of things: what it works on, always; room and frames that others have freed, only while
//! it lacks them. Invariant: whoever publishes rings afterwards, and who sleeps has looked after it said so
//! ([`Asleep`]), so that no wake-up is lost.
//!
//! A stage that watches descriptors meanwhile sleeps in epoll, which knows the bell as one more of them; one that does not
//! sleeps on the bell itself, which is quicker both ways.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::asleep::Asleep;
use super::futex::Futex;
use super::poll::Waker;

/// What a stage sleeps on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bed {
    /// Epoll, which watches [`Bell::fd`].
    Descriptors,
    /// [`Bell::sleep`].
    Bell,
}

/// One stage's bell; others hold it to ring.
pub struct Bell {
    input: Asleep,
    room: Asleep,
    stop: AtomicBool,
    /// Whether it sleeps on `futex`; on `waker` otherwise.
    on_futex: AtomicBool,
    futex: Futex,
    waker: Waker,
}

impl Bell {
    /// The bell of a stage that is awake.
    pub fn new(bed: Bed) -> io::Result<Self> {
        Ok(Bell {
            input: Asleep::default(),
            room: Asleep::default(),
            stop: AtomicBool::new(false),
            on_futex: AtomicBool::new(bed == Bed::Bell),
            futex: Futex::default(),
            waker: Waker::new()?,
        })
    }

    /// Something to work on has been published.
    #[inline]
    pub fn pushed(&self) {
        if self.input.must_be_woken() {
            self.wake();
        }
    }

    /// Room has been made, or a frame sent home.
    #[inline]
    pub fn freed(&self) {
        if self.room.must_be_woken() {
            self.wake();
        }
    }

    /// Wakes the stage's thread, whatever it sleeps for.
    pub fn wake(&self) {
        // As it was when the stage lay down, which `Asleep` has told of.
        if self.on_futex.load(Relaxed) { self.futex.wake() } else { self.waker.wake() }
    }

    /// Has the stage end.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.futex.wake();
        self.waker.wake();
    }

    /// Whether the stage is to end.
    #[inline]
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// The stage's own, while it is awake: what it will sleep on.
    pub fn set_bed(&self, bed: Bed) {
        self.on_futex.store(bed == Bed::Bell, Relaxed);
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

    /// The stage's own, on [`Bed::Bell`]: sleeps until somebody rings, or so much time has passed. It may also return for
    /// nothing.
    pub fn sleep(&self, at_most: Option<Duration>) {
        self.futex.sleep(at_most);
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
        let (bell, mut poll) = (Bell::new(Bed::Descriptors).unwrap(), Poll::new().unwrap());
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

    #[test]
    fn who_sleeps_on_the_bell_hears_it_and_its_descriptor_tells_nothing() {
        let (bell, mut poll) = (Bell::new(Bed::Descriptors).unwrap(), Poll::new().unwrap());
        poll.add_edge(bell.fd().as_raw_fd(), 0).unwrap();
        bell.set_bed(Bed::Bell);
        for ring in [Bell::pushed, Bell::freed] {
            bell.lie_down(true);
            ring(&bell);
            bell.sleep(None);
            bell.get_up();
        }
        assert_eq!(poll.wait(false).unwrap(), 0);
        bell.lie_down(false);
        bell.stop();
        bell.sleep(None);
    }
}
