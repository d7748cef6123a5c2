//! Counting without a locked instruction, for counters that one thread writes and any may read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter that one thread alone writes.
pub trait SingleWriter {
    /// Counts `n` more. Called by two threads at once, counts would be lost: each counter has one writer.
    fn bump(&self, n: u64);
}

impl SingleWriter for AtomicU64 {
    #[inline]
    fn bump(&self, n: u64) {
        self.store(self.load(Relaxed).wrapping_add(n), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_there() {
        let counter = AtomicU64::new(5);
        counter.bump(0);
        counter.bump(7);
        assert_eq!(counter.load(Relaxed), 12);
    }
}
