//! Deadlines of many owners, kept so that moving one later costs nothing.
//!
//! Data packets move timers later all the time. A registered deadline may therefore be *earlier* than the real one: when
//! it fires, the owner looks at its real timers and registers the next. It is never later.

use std::collections::BTreeSet;

/// No deadline.
pub const NEVER: u64 = u64::MAX;

/// The registered deadlines, in monotonic nanoseconds, of owners numbered from 0.
#[derive(Debug, Default)]
pub struct Deadlines {
    queue: BTreeSet<(u64, u32)>,
    registered: Vec<u64>,
}

impl Deadlines {
    /// Deadlines for `owners` owners, none registered.
    pub fn new(owners: usize) -> Self {
        Deadlines { queue: BTreeSet::new(), registered: vec![NEVER; owners] }
    }

    /// Makes sure that `owner` is looked at no later than `at`.
    #[inline]
    pub fn no_later_than(&mut self, owner: u32, at: u64) {
        if self.registered.get(owner as usize).is_some_and(|&registered| at < registered) {
            self.register(owner, at);
        }
    }

    fn register(&mut self, owner: u32, at: u64) {
        let Some(slot) = self.registered.get_mut(owner as usize) else { return };
        if *slot != NEVER {
            self.queue.remove(&(*slot, owner));
        }
        *slot = at;
        if at != NEVER {
            self.queue.insert((at, owner));
        }
    }

    /// The earliest registered deadline.
    pub fn next(&self) -> Option<u64> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// Takes one owner whose registered deadline has come.
    pub fn pop_due(&mut self, now: u64) -> Option<u32> {
        let &(at, owner) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.register(owner, NEVER);
        Some(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_looked_at_once_at_its_earliest_deadline() {
        let mut deadlines = Deadlines::new(2);
        deadlines.no_later_than(0, 50);
        deadlines.no_later_than(1, 40);
        deadlines.no_later_than(0, 30);
        deadlines.no_later_than(0, 60);
        assert_eq!(deadlines.next(), Some(30));
        assert_eq!(deadlines.pop_due(29), None);
        assert_eq!(deadlines.pop_due(45), Some(0));
        assert_eq!(deadlines.pop_due(45), Some(1));
        assert_eq!(deadlines.pop_due(45), None);
        assert_eq!(deadlines.next(), None);
    }
}
