//! A portion of what was received in one call.
//!
//! Owned by the event loop for as long as the portion is worked off. A call brings several runs for the price of one, but a
//! run should not wait inside for all that came with it: each portion is opened and written before the next is begun.

use crate::frame::{Bounded, Inbox, Sealed};

/// The head of a queue of runs, until `bytes` have been taken from it, at most one run more.
pub struct Portion<'a> {
    runs: &'a mut Bounded<Sealed>,
    bytes: usize,
    taken: usize,
}

impl<'a> Portion<'a> {
    /// Nothing taken yet.
    pub fn of(runs: &'a mut Bounded<Sealed>, bytes: usize) -> Self {
        Portion { runs, bytes, taken: 0 }
    }

    /// How many runs have been taken.
    pub fn taken(&self) -> usize {
        self.taken
    }
}

impl Inbox<Sealed> for Portion<'_> {
    #[inline]
    fn pop(&mut self) -> Option<Sealed> {
        if self.is_empty() {
            return None;
        }
        let run = self.runs.pop()?;
        self.bytes = self.bytes.saturating_sub(run.frame.bytes().len());
        self.taken += 1;
        Some(run)
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.bytes == 0 || self.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Outbox, SetName, WideSet};
    use veil_proto::Path;

    #[test]
    fn a_portion_ends_with_the_run_that_fills_it_and_the_next_begins_behind() {
        let (mut set, mut runs) = (WideSet::new(SetName::LinkReceive, 4), Bounded::new(4));
        for len in [600, 500, 1000, 1] {
            let mut frame = set.take().unwrap();
            frame.set_len(len);
            let path = Path::to("192.0.2.1:1".parse().unwrap());
            runs.push(Sealed { frame: frame.into(), segment: 0, tos: 0, path }).unwrap();
        }
        for expected in [&[600, 500][..], &[1000], &[1], &[]] {
            let mut portion = Portion::of(&mut runs, 1000);
            let mut lens = Vec::new();
            while let Some(run) = portion.pop() {
                lens.push(run.frame.bytes().len());
                run.frame.home(&mut set);
            }
            assert_eq!((lens.as_slice(), portion.taken()), (expected, expected.len()));
            assert!(portion.is_empty());
        }
        assert!(set.is_whole());
    }
}
