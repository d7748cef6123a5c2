//! Which counters of a session were seen: each is accepted once, and only near the highest so far.
//!
//! RFC 6479: a ring of words that is cleared word by word as the window moves on, and never shifted. Asked
//! only after the AEAD has opened, so that a forged datagram cannot move it. The ring has one word more than
//! the window needs, because the newest and the oldest word are both used in part; thus exactly the last
//! [`ReplayWindow::SIZE`] counters are remembered.

const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: u64 = ReplayWindow::SIZE / WORD_BITS + 1;

/// The last 8192 counters of one session. What every datagram asks for comes first.
#[derive(Clone)]
#[repr(C)]
pub struct ReplayWindow {
    highest: u64,
    any: bool,
    seen: [u64; WORDS as usize],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow { highest: 0, any: false, seen: [0; WORDS as usize] }
    }
}

impl ReplayWindow {
    /// How far back, from the highest counter on (itself included), counters are still told apart.
    pub const SIZE: u64 = 8192;

    /// Marks `counter` and returns true if it is new; false if it was seen or is too old, and nothing
    /// changes.
    #[inline]
    pub fn check_and_mark(&mut self, counter: u64) -> bool {
        let word = counter / WORD_BITS;
        if counter > self.highest {
            let newest = self.highest / WORD_BITS;
            for step in 1..=(word - newest).min(WORDS) {
                self.seen[((newest + step) % WORDS) as usize] = 0;
            }
            self.highest = counter;
        } else if self.highest - counter >= Self::SIZE {
            return false;
        }
        self.any = true;
        let word = &mut self.seen[(word % WORDS) as usize];
        let bit = 1 << (counter % WORD_BITS);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// The word that remembers `counter`, or will.
    pub(crate) fn word(&self, counter: u64) -> &u64 {
        &self.seen[(counter / WORD_BITS % WORDS) as usize]
    }

    /// The highest counter marked so far.
    #[inline]
    pub fn highest(&self) -> Option<u64> {
        self.any.then_some(self.highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn the_first_counter_may_be_zero_and_comes_once() {
        let mut window = ReplayWindow::default();
        assert_eq!(window.highest(), None);
        assert!(window.check_and_mark(0));
        assert_eq!(window.highest(), Some(0));
        assert!(!window.check_and_mark(0));
    }

    #[test]
    fn exactly_the_last_8192_counters_are_told_apart() {
        for highest in [8191, 8192, 8193, 100_000, 1 << 40, u64::MAX - 1, u64::MAX] {
            let mut window = ReplayWindow::default();
            assert!(window.check_and_mark(highest));
            let oldest = highest - (ReplayWindow::SIZE - 1);
            if oldest > 0 {
                assert!(!window.check_and_mark(oldest - 1), "{highest}");
            }
            for counter in oldest..highest {
                assert!(window.check_and_mark(counter), "{counter} of {highest}");
                assert!(!window.check_and_mark(counter), "{counter} of {highest}");
            }
            assert_eq!(window.highest(), Some(highest));
        }
    }

    #[test]
    fn the_last_counters_there_are_come_once_each() {
        let mut window = ReplayWindow::default();
        for counter in u64::MAX - 20_000..=u64::MAX {
            assert!(window.check_and_mark(counter));
            assert!(!window.check_and_mark(counter));
        }
        assert_eq!(window.highest(), Some(u64::MAX));
        assert!(!window.check_and_mark(0));
    }

    #[test]
    fn a_jump_over_the_whole_window_forgets_nothing_it_should_know() {
        let mut window = ReplayWindow::default();
        for counter in 0..9000 {
            assert!(window.check_and_mark(counter));
        }
        // The same ring positions again, one turn and many turns later.
        for counter in [9000 + WORDS * 64, 9000 + WORDS * 64 * 1000, u64::MAX / 2] {
            assert!(window.check_and_mark(counter));
            assert!(window.check_and_mark(counter - 1));
            assert!(!window.check_and_mark(counter));
            assert!(!window.check_and_mark(8999));
        }
    }

    proptest! {
        #[test]
        fn the_window_answers_as_a_set_of_all_counters_does(
            start in prop_oneof![Just(0u64), any::<u64>(), Just(u64::MAX - 30_000)],
            moves in prop::collection::vec(
                prop_oneof![4 => -200i64..200, 2 => -8400i64..8400, 1 => -20_000i64..20_000], 1..400),
        ) {
            let mut window = ReplayWindow::default();
            let mut seen = HashSet::new();
            let mut highest: Option<u64> = None;
            let mut counter = start;
            for by in moves {
                counter = counter.saturating_add_signed(by);
                let too_old = highest.is_some_and(|h| counter < h && h - counter >= ReplayWindow::SIZE);
                let new = !too_old && seen.insert(counter);
                prop_assert_eq!(window.check_and_mark(counter), new);
                highest = if new { highest.max(Some(counter)) } else { highest };
                prop_assert_eq!(window.highest(), highest);
            }
        }
    }
}
