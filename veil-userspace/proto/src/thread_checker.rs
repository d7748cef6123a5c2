//! A promise about threads, checked in debug builds and free in release.
//!
//! A [`ThreadChecker`] is a field of a type that promises one owner at a time (`architecture.md`, Threads).
//! The owner's methods call [`assert_here`](ThreadChecker::assert_here), or hold
//! [`enter`](ThreadChecker::enter)'s scope; a hand-over calls
//! [`rebind_to_current`](ThreadChecker::rebind_to_current) on the new thread. Rust already forbids data
//! races; this finds the wrong hand-overs that it permits, such as a session still used by the thread that
//! gave it away. Without debug assertions the type is zero-sized and every method is empty.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Nobody: detached, or nobody inside. Thread numbers begin at 1.
#[cfg(debug_assertions)]
const NOBODY: u64 = 0;

/// Knows, in debug builds, which thread owns the value it is part of.
#[derive(Debug)]
pub struct ThreadChecker {
    #[cfg(debug_assertions)]
    owner: AtomicU64,
    #[cfg(debug_assertions)]
    inside: AtomicU64,
}

#[cfg(not(debug_assertions))]
const _: () = assert!(size_of::<ThreadChecker>() == 0 && size_of::<Scope<'_>>() == 0);

impl ThreadChecker {
    /// A checker bound to this thread.
    #[inline]
    pub fn new() -> Self {
        ThreadChecker {
            #[cfg(debug_assertions)]
            owner: AtomicU64::new(this_thread()),
            #[cfg(debug_assertions)]
            inside: AtomicU64::new(NOBODY),
        }
    }

    /// Asserts that this thread is the owner; after [`detach`](Self::detach) the first to ask becomes it.
    #[inline]
    #[track_caller]
    pub fn assert_here(&self) {
        #[cfg(debug_assertions)]
        {
            let me = this_thread();
            // Relaxed: a promise is checked, nothing is published.
            let owner =
                self.owner.compare_exchange(NOBODY, me, Relaxed, Relaxed).unwrap_or_else(|owner| owner);
            assert!(
                owner == NOBODY || owner == me,
                "used on thread {me}, owned by thread {owner}: hand-over without rebind_to_current()"
            );
        }
    }

    /// Asserts, until the scope is dropped, that no other thread is inside; whose value it is does not
    /// matter. The same thread may enter again.
    #[inline]
    #[track_caller]
    pub fn enter(&self) -> Scope<'_> {
        #[cfg(debug_assertions)]
        {
            let me = this_thread();
            let inside =
                self.inside.compare_exchange(NOBODY, me, Relaxed, Relaxed).unwrap_or_else(|inside| inside);
            assert!(inside == NOBODY || inside == me, "thread {me} entered while thread {inside} was inside");
            Scope { outermost: (inside == NOBODY).then_some(self), _not_send: std::marker::PhantomData }
        }
        #[cfg(not(debug_assertions))]
        Scope { _not_send: std::marker::PhantomData }
    }

    /// Makes this thread the owner: the last step of a hand-over.
    #[inline]
    pub fn rebind_to_current(&mut self) {
        #[cfg(debug_assertions)]
        {
            *self.owner.get_mut() = this_thread();
        }
    }

    /// Makes nobody the owner: the first step of a hand-over. The next thread to assert becomes it.
    #[inline]
    pub fn detach(&mut self) {
        #[cfg(debug_assertions)]
        {
            *self.owner.get_mut() = NOBODY;
        }
    }
}

impl Default for ThreadChecker {
    fn default() -> Self {
        Self::new()
    }
}

/// While it lives, its thread is inside. It cannot leave that thread.
#[must_use = "the assertion holds only while the scope lives"]
pub struct Scope<'a> {
    #[cfg(debug_assertions)]
    outermost: Option<&'a ThreadChecker>,
    _not_send: std::marker::PhantomData<(&'a ThreadChecker, *const ())>,
}

#[cfg(debug_assertions)]
impl Drop for Scope<'_> {
    fn drop(&mut self) {
        if let Some(checker) = self.outermost {
            checker.inside.store(NOBODY, Relaxed);
        }
    }
}

/// A number of this thread's own: `ThreadId` fits no atomic.
#[cfg(debug_assertions)]
fn this_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(NOBODY + 1);
    thread_local!(static NUMBER: u64 = NEXT.fetch_add(1, Relaxed));
    NUMBER.with(|&number| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_may_assert_enter_and_enter_again() {
        let mut checker = ThreadChecker::new();
        checker.assert_here();
        {
            let _outer = checker.enter();
            let _inner = checker.enter();
        }
        let _again = checker.enter();
        drop(_again);
        checker.rebind_to_current();
        checker.assert_here();
    }

    #[test]
    fn a_proper_hand_over_passes() {
        let mut checker = ThreadChecker::new();
        std::thread::spawn(move || {
            checker.rebind_to_current();
            checker.assert_here();
        })
        .join()
        .unwrap();
    }

    #[cfg(debug_assertions)]
    mod misuse {
        use super::*;
        use std::thread;

        /// Whether `misuse` panics on a thread of its own.
        fn is_caught(misuse: impl FnOnce() + Send) -> bool {
            thread::scope(|s| s.spawn(misuse).join().is_err())
        }

        #[test]
        fn use_on_another_thread_is_caught() {
            let checker = ThreadChecker::default();
            assert!(is_caught(|| checker.assert_here()));
            checker.assert_here();
        }

        #[test]
        fn use_after_giving_away_is_caught() {
            let mut checker = ThreadChecker::new();
            thread::scope(|s| s.spawn(|| checker.rebind_to_current()).join().unwrap());
            let used = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| checker.assert_here()));
            assert!(used.is_err());
        }

        #[test]
        fn a_detached_checker_takes_the_first_thread_and_no_second() {
            let mut checker = ThreadChecker::new();
            checker.detach();
            thread::scope(|s| s.spawn(|| checker.assert_here()).join().unwrap());
            let used = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| checker.assert_here()));
            assert!(used.is_err());
        }

        #[test]
        fn two_threads_inside_at_once_are_caught() {
            let checker = ThreadChecker::new();
            let scope = checker.enter();
            assert!(is_caught(|| drop(checker.enter())));
            drop(scope);
            assert!(!is_caught(|| drop(checker.enter())));
        }

        #[test]
        fn leaving_an_inner_scope_does_not_open_the_outer_one() {
            let checker = ThreadChecker::new();
            let _outer = checker.enter();
            drop(checker.enter());
            assert!(is_caught(|| drop(checker.enter())));
        }
    }

    #[cfg(not(debug_assertions))]
    #[test]
    fn it_costs_nothing_in_release() {
        assert_eq!((size_of::<ThreadChecker>(), size_of::<Scope<'_>>()), (0, 0));
    }
}
