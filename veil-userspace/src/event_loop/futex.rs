//! Sleeping on a word of memory (futex(2)): quicker to fall asleep and to wake than by a descriptor and epoll, for who has
//! no descriptors to watch meanwhile.
#![allow(unsafe_code)]
// Unsafe here: the futex system call. The word it is given belongs to `self`, and the time to the caller's stack.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

const WAIT: libc::c_int = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
const WAKE: libc::c_int = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;

const QUIET: u32 = 0;
const RUNG: u32 = 1;

/// What is rung stays rung until its owner has heard it.
#[derive(Default)]
pub struct Futex(AtomicU32);

impl Futex {
    /// Wakes its owner, or keeps it from falling asleep the next time.
    pub fn wake(&self) {
        if self.0.swap(RUNG, Release) == QUIET {
            // SAFETY: the word outlives the call. It fails only for a bad address.
            unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), WAKE, 1) };
        }
    }

    /// The owner's: sleeps until it is woken, a signal comes, or so much time has passed.
    pub fn sleep(&self, at_most: Option<Duration>) {
        let time = at_most.map(|time| libc::timespec {
            tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: time.subsec_nanos() as libc::c_long,
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the word and the time outlive the call. Whatever makes it return, its owner looks what there is to do.
        unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), WAIT, QUIET, time) };
        self.0.swap(QUIET, Acquire);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn what_is_rung_before_the_sleep_ends_it_and_what_is_rung_in_it_too() {
        let futex = Arc::new(Futex::default());
        futex.wake();
        futex.sleep(None);
        let its = futex.clone();
        let sleeper = std::thread::spawn(move || its.sleep(None));
        while !sleeper.is_finished() {
            futex.wake();
        }
        sleeper.join().unwrap();
    }

    #[test]
    fn a_sleep_that_nobody_ends_is_as_long_as_was_said() {
        let (futex, start, time) = (Futex::default(), Instant::now(), Duration::from_millis(2));
        while start.elapsed() < time {
            futex.sleep(Some(time));
        }
        futex.wake();
        futex.sleep(None);
    }
}
