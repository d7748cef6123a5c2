//! The newest initiation accepted from one peer: an older one is a replay, one too soon after it a flood.
//!
//! One per peer, shared by the threads that answer initiations. Both comparisons and the store are one step
//! under the mutex, so that of two equal initiations at once only one is accepted. Asked only after Noise
//! message 1 has authenticated its sender. Invariant: the timestamp never moves back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::DropReason;
use crate::time::{MILLISECOND, Tai64n};

/// The least time between two accepted initiations of one peer, nanoseconds.
pub const MIN_INTERVAL: u64 = 20 * MILLISECOND;

/// One peer's last accepted initiation.
#[derive(Debug, Default)]
pub struct LastTimestamp(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    timestamp: Option<Tai64n>,
    /// When it was accepted; unknown if it came from the state file.
    accepted_at: Option<u64>,
}

impl LastTimestamp {
    /// A peer from which nothing was accepted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts an initiation's timestamp and remembers it; `now_mono` is monotonic nanoseconds.
    ///
    /// # Errors
    /// [`DropReason::TooSoon`] within 20 ms after the last accepted one; [`DropReason::OldTimestamp`] if it
    /// is not greater than the last accepted one. Nothing has changed then.
    pub fn accept(&self, timestamp: Tai64n, now_mono: u64) -> Result<(), DropReason> {
        let mut last = self.lock();
        // Another thread's `now` may be a little ahead: that is no time at all since.
        if last.accepted_at.is_some_and(|at| now_mono.saturating_sub(at) < MIN_INTERVAL) {
            return Err(DropReason::TooSoon);
        }
        if last.timestamp.is_some_and(|last| timestamp <= last) {
            return Err(DropReason::OldTimestamp);
        }
        *last = Last { timestamp: Some(timestamp), accepted_at: Some(now_mono) };
        Ok(())
    }

    /// Takes over a timestamp from the state file; one that is not newer changes nothing.
    pub fn restore(&self, timestamp: Tai64n) {
        let mut last = self.lock();
        last.timestamp = last.timestamp.max(Some(timestamp));
    }

    /// The newest timestamp accepted or restored: what the state file keeps.
    pub fn last(&self) -> Option<Tai64n> {
        self.lock().timestamp
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        // Every store is one whole assignment: a panic elsewhere leaves no half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SECOND;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    fn at(nanos: u64) -> Tai64n {
        Tai64n::from_unix_nanos(nanos)
    }

    #[test]
    fn only_newer_timestamps_are_accepted() {
        let last = LastTimestamp::new();
        assert_eq!(last.last(), None);
        assert_eq!(last.accept(at(100), 0), Ok(()));
        assert_eq!(last.accept(at(100), SECOND), Err(DropReason::OldTimestamp));
        assert_eq!(last.accept(at(99), SECOND), Err(DropReason::OldTimestamp));
        assert_eq!(last.accept(at(101), SECOND), Ok(()));
        assert_eq!(last.last(), Some(at(101)));
    }

    #[test]
    fn twenty_milliseconds_must_pass_between_two() {
        let last = LastTimestamp::new();
        assert_eq!(last.accept(at(1), 5 * SECOND), Ok(()));
        assert_eq!(last.accept(at(2), 5 * SECOND + MIN_INTERVAL - 1), Err(DropReason::TooSoon));
        assert_eq!(last.accept(at(2), 4 * SECOND), Err(DropReason::TooSoon));
        assert_eq!(last.accept(at(2), 5 * SECOND + MIN_INTERVAL), Ok(()));
    }

    #[test]
    fn a_refused_one_does_not_put_off_the_next() {
        let last = LastTimestamp::new();
        assert_eq!(last.accept(at(10), 0), Ok(()));
        assert_eq!(last.accept(at(5), MIN_INTERVAL), Err(DropReason::OldTimestamp));
        assert_eq!(last.accept(at(11), MIN_INTERVAL), Ok(()));
    }

    #[test]
    fn a_restored_timestamp_holds_but_delays_nobody() {
        let last = LastTimestamp::new();
        last.restore(at(50));
        assert_eq!(last.accept(at(50), 0), Err(DropReason::OldTimestamp));
        assert_eq!(last.accept(at(51), 0), Ok(()));
        last.restore(at(7));
        assert_eq!(last.last(), Some(at(51)));
    }

    #[test]
    fn of_equal_initiations_at_once_one_is_accepted() {
        let last = LastTimestamp::new();
        let accepted: Vec<_> = (0..500).map(|_| AtomicUsize::new(0)).collect();
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    start.wait();
                    for (i, count) in (1..).zip(&accepted) {
                        // Every thread offers the same timestamps at the same times.
                        if last.accept(at(i), i * MIN_INTERVAL).is_ok() {
                            count.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert!(accepted.iter().all(|count| count.load(Relaxed) <= 1));
        assert_eq!(accepted.last().map(|count| count.load(Relaxed)), Some(1));
        assert_eq!(last.last(), Some(at(500)));
    }
}
