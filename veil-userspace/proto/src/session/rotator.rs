//! Changing a session's receiver index while it lives (`protocol.md`, Sessions, Rotation).
//!
//! The index is what tells an observer who has unmasked headers that two datagrams belong together, so no index is kept
//! for long. Keys, counters and replay window go on: this is no substitute for rekeying. One change is outstanding at a
//! time: the old index is accepted until the first datagram under the new one and 10 s more, for what is still on its way.

use crate::time::SECOND;
use crate::timers::NEVER;

/// A session changes its index with the first IP or FRAGMENT frame that arrives after about this long.
pub const ROTATE_AFTER: u64 = 30 * SECOND;
/// The old index is accepted for so long after the first datagram under the new one.
const LINGER: u64 = 10 * SECOND;

/// The receiver indices of one session, ours to give: the newest, and the one before it while that is accepted.
pub struct SessionRotator {
    index: u32,
    former: Option<u32>,
    /// When `former` is released; never, before a datagram has come under `index`.
    release_at: u64,
    rotate_at: u64,
}

impl SessionRotator {
    /// A session that begins `now` with `index` and changes it after about `every` nanoseconds.
    pub fn new(index: u32, now: u64, every: u64) -> Self {
        SessionRotator { index, former: None, release_at: NEVER, rotate_at: due(index, now, every) }
    }

    /// The newest index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// All indices under which datagrams are accepted.
    pub fn indices(&self) -> impl Iterator<Item = u32> + Clone + use<> {
        std::iter::once(self.index).chain(self.former)
    }

    /// Notes that a datagram opened under `index`. True if that is the first one under a new index.
    #[inline]
    pub fn arrived(&mut self, index: u32, now: u64) -> bool {
        let first = self.former.is_some() && self.release_at == NEVER && index == self.index;
        if first {
            self.release_at = now + LINGER;
        }
        first
    }

    /// Whether the index is to be changed when traffic comes: its time is up, and no change is outstanding.
    #[inline]
    pub fn is_due(&self, now: u64) -> bool {
        self.rotate_at <= now && self.former.is_none()
    }

    /// Whether a change is outstanding.
    pub fn is_changing(&self) -> bool {
        self.former.is_some()
    }

    /// Gives out `index` from now on and returns the one before, which is accepted for a while.
    pub fn rotate(&mut self, index: u32, now: u64, every: u64) -> u32 {
        let old = std::mem::replace(&mut self.index, index);
        self.former = Some(old);
        self.release_at = NEVER;
        self.rotate_at = due(index, now, every);
        old
    }

    /// Tries again later: there was nothing to change to, or nobody to tell.
    pub fn postpone(&mut self, until: u64) {
        self.rotate_at = until;
    }

    /// The index that is not accepted any more from now on, once.
    pub fn release(&mut self, now: u64) -> Option<u32> {
        if self.release_at > now {
            return None;
        }
        self.release_at = NEVER;
        self.former.take()
    }

    /// When the old index is to be released.
    pub fn deadline(&self) -> u64 {
        self.release_at
    }
}

/// A fifth of `every` sooner or later: the index is random, and unknown to who might want to predict the time.
fn due(index: u32, now: u64, every: u64) -> u64 {
    let spread = every / 5 * 2;
    let jitter = ((u128::from(spread) * u128::from(index)) >> 32) as u64;
    now.saturating_add(every - spread / 2).saturating_add(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVERY: u64 = ROTATE_AFTER;

    #[test]
    fn the_old_index_lingers_from_the_first_datagram_under_the_new_one() {
        let mut rotator = SessionRotator::new(7, 0, EVERY);
        assert!(!rotator.is_due(0) && rotator.is_due(2 * EVERY));
        assert_eq!(rotator.rotate(8, 30 * SECOND, EVERY), 7);
        assert_eq!(rotator.indices().collect::<Vec<_>>(), [8, 7]);
        assert!(rotator.is_changing() && rotator.deadline() == NEVER);
        assert!(!rotator.arrived(7, 31 * SECOND), "still the old one");
        assert!(rotator.arrived(8, 40 * SECOND));
        assert!(!rotator.arrived(8, 45 * SECOND), "only the first one counts");
        assert_eq!(rotator.deadline(), 50 * SECOND);
        assert_eq!(rotator.release(50 * SECOND - 1), None);
        assert_eq!(rotator.release(50 * SECOND), Some(7));
        assert_eq!(rotator.release(u64::MAX), None);
        assert_eq!(rotator.indices().collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn one_change_is_outstanding_at_a_time() {
        let mut rotator = SessionRotator::new(7, 0, EVERY);
        rotator.rotate(8, 30 * SECOND, EVERY);
        assert!(!rotator.is_due(u64::MAX));
        rotator.arrived(8, 31 * SECOND);
        assert!(!rotator.is_due(u64::MAX), "the old one is still accepted");
        rotator.release(41 * SECOND);
        assert!(rotator.is_due(u64::MAX));
    }

    proptest! {
        #[test]
        fn the_time_is_within_a_fifth(index: u32, every in 1u64..1_000_000 * SECOND) {
            let at = due(index, 1000, every) - 1000;
            prop_assert!(at >= every - every / 5 - 1 && at <= every + every / 5, "{at} of {every}");
        }
    }
}
