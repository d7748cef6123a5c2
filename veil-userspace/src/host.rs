//! What the protocol takes as arguments, from this machine: randomness and time.
//!
//! Owns the only reads of the system's clocks and random source; called by the event loop and by the key commands.
//! Invariant: the protocol's monotonic time is `CLOCK_BOOTTIME`, so that keys age while the machine sleeps.
#![allow(unsafe_code)]
// Unsafe here: one `clock_gettime` into a local, for a clock that std does not offer.

use ring::rand::{SecureRandom, SystemRandom};
use veil_proto::{Entropy, Now, Tai64n};

/// The system's random source (`getrandom`).
pub struct SystemEntropy(SystemRandom);

impl SystemEntropy {
    /// A handle on the system's random source; costs nothing.
    pub fn new() -> Self {
        SystemEntropy(SystemRandom::new())
    }
}

impl Default for SystemEntropy {
    fn default() -> Self {
        SystemEntropy::new()
    }
}

impl Entropy for SystemEntropy {
    /// Panics when the kernel gives no random bytes: nothing may go on without them.
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill(out).expect("the kernel's random source gives no bytes");
    }
}

/// The time now, on both clocks.
pub fn now() -> Now {
    Now { mono: clock(libc::CLOCK_BOOTTIME), wall: Tai64n::from_unix_nanos(clock(libc::CLOCK_REALTIME)) }
}

/// Nanoseconds on `CLOCK_MONOTONIC`, for measuring how long something takes.
pub fn stopwatch() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds on one of the kernel's clocks; a wall clock set before 1970 reads as 0.
fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that outlives the call; a failure leaves it zero.
    unsafe { libc::clock_gettime(id, &mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_go_forward() {
        let (early, late) = (now(), now());
        assert!(early.mono > 0 && early.mono <= late.mono);
        assert!(stopwatch() <= stopwatch());
        assert!(early.wall <= late.wall && early.wall > Tai64n::from_unix_nanos(1_600_000_000_000_000_000));
    }

    #[test]
    fn two_fills_differ() {
        let mut entropy = SystemEntropy::new();
        assert_ne!(entropy.next_u64(), entropy.next_u64());
    }
}
