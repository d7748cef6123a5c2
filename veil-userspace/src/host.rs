//! What the protocol takes as arguments, from this machine: randomness and time.
//!
//! Owns the only reads of the system's clocks and random source; called by the event loop and by the key commands.
//! Invariant: the protocol's monotonic time is `CLOCK_BOOTTIME`, so that keys age while the machine sleeps.
#![allow(unsafe_code)]
// Unsafe here: one `clock_gettime` into a local, for a clock that std does not offer.

use ring::rand::{SecureRandom, SystemRandom};
use veil_proto::{Entropy, Now, Tai64n};
use zeroize::{Zeroize, Zeroizing};

/// The longest draw that comes from the store: nonces, indices, hash keys.
const SMALL: usize = 16;
/// Bytes drawn for them by one system call.
const STORE: usize = 512;

/// The system's random source (`getrandom`). Keys are drawn from it alone. What is small comes from a store that is wiped as
/// it is used: each initiation of a flood asks for a nonce, and a system call for it is a good part of what it costs.
pub struct SystemEntropy {
    system: SystemRandom,
    store: Box<Zeroizing<[u8; STORE]>>,
    left: usize,
}

impl SystemEntropy {
    /// A handle on the system's random source, from which nothing is drawn yet.
    pub fn new() -> Self {
        SystemEntropy { system: SystemRandom::new(), store: Box::new(Zeroizing::new([0; STORE])), left: 0 }
    }
}

fn draw(system: &SystemRandom, out: &mut [u8]) {
    system.fill(out).expect("the kernel's random source gives no bytes");
}

impl Default for SystemEntropy {
    fn default() -> Self {
        SystemEntropy::new()
    }
}

impl Entropy for SystemEntropy {
    /// Panics when the kernel gives no random bytes: nothing may go on without them.
    fn fill(&mut self, out: &mut [u8]) {
        if out.len() > SMALL {
            return draw(&self.system, out);
        }
        if self.left < out.len() {
            draw(&self.system, self.store.as_mut_slice());
            self.left = STORE;
        }
        let rest = self.left - out.len();
        let drawn = &mut self.store[rest..self.left];
        out.copy_from_slice(drawn);
        drawn.zeroize();
        self.left = rest;
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
    use std::collections::HashSet;

    #[test]
    fn both_clocks_go_forward() {
        let (early, late) = (now(), now());
        assert!(early.mono > 0 && early.mono <= late.mono);
        assert!(stopwatch() <= stopwatch());
        assert!(early.wall <= late.wall && early.wall > Tai64n::from_unix_nanos(1_600_000_000_000_000_000));
    }

    #[test]
    fn no_bytes_are_given_twice_however_many_are_asked_for_at_once() {
        let (mut entropy, mut given) = (SystemEntropy::new(), HashSet::new());
        for len in (8..=2 * SMALL).cycle().take(1000) {
            let mut out = vec![0; len];
            entropy.fill(&mut out);
            assert!(out.windows(8).all(|bytes| given.insert(bytes.to_owned())), "{out:?}");
        }
    }

    #[test]
    fn what_was_given_is_not_kept() {
        let mut entropy = SystemEntropy::new();
        let given = entropy.next_u64().to_le_bytes();
        let (left, used) = entropy.store.split_at(entropy.left);
        assert!(left.len() == STORE - 8 && used == [0; 8] && given != [0; 8]);
        assert!(!left.windows(8).any(|bytes| bytes == given));
    }
}
