//! The one word through which a stage that is about to sleep and whoever has something for it find each other.
//!
//! The sleeper says that it sleeps, then looks once more; the other publishes, then looks whether anybody sleeps. A fence
//! between the two steps of each makes sure that at least one of them sees the other: nothing is lost, and nobody is woken
//! who is awake. The test target `models` of `tests/` checks this file with loom, whose atomics it puts in the place of
//! `super::sync`.

use super::sync::Ordering::{AcqRel, Relaxed, SeqCst};
use super::sync::{AtomicBool, fence};

/// Whether a stage sleeps and wants to be woken for one kind of thing.
pub struct Asleep(AtomicBool);

/// Awake.
impl Default for Asleep {
    fn default() -> Self {
        Asleep(AtomicBool::new(false))
    }
}

impl Asleep {
    /// The sleeper's: from here on it is woken. It must look at everything once more before it sleeps.
    #[inline]
    pub fn lie_down(&self) {
        // A swap, and one that has seen all swaps before it: a store's place among them is plain to C++'s model, but not to
        // loom's, which would let a waker read what this has overwritten. It costs what the fence costs anyway.
        self.0.swap(true, AcqRel);
        fence(SeqCst);
    }

    /// The sleeper's: it is awake, whoever woke it.
    #[inline]
    pub fn get_up(&self) {
        self.0.store(false, Relaxed);
    }

    /// The other's, after it has published: whether it must wake the sleeper. Of several only one must.
    #[inline]
    pub fn must_be_woken(&self) -> bool {
        fence(SeqCst);
        self.0.load(Relaxed) && self.0.swap(false, AcqRel)
    }
}
