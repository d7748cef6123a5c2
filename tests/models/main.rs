//! Every order in which threads can meet, tried by loom: the code by which stages wake each other, and the way of frames
//! home that relies on it.
//!
//! What is checked is the daemon's own file, with loom's atomics in the place of the processor's. The queues (rtrb) are
//! stood in for by a place with a flag, of which loom checks that nobody touches it without having seen the flag. Each
//! property is also checked with the fence taken out: then the model must fail, or it would prove nothing.

#[path = "../../veil-userspace/src/event_loop/asleep.rs"]
mod asleep;

mod sync {
    pub use loom::sync::atomic::{AtomicBool, Ordering};
    use std::cell::Cell;

    thread_local! {
        /// All of a model's threads are coroutines of one.
        pub static WITHOUT_FENCE: Cell<bool> = const { Cell::new(false) };
    }

    /// The fence, unless a test has taken it out.
    pub fn fence(ordering: Ordering) {
        if !WITHOUT_FENCE.get() {
            loom::sync::atomic::fence(ordering);
        }
    }
}

use asleep::Asleep;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{Acquire, Release};
use loom::thread;

/// An eventfd: what is rung stays rung until it is heard.
struct EventFd(thread::Thread);

impl EventFd {
    fn ring(&self) {
        self.0.unpark();
    }

    /// Its owner's: sleeps until it is rung.
    fn wait(&self) {
        thread::park();
    }
}

/// A queue with one place.
struct Place {
    full: AtomicBool,
    frame: UnsafeCell<u32>,
}

#[allow(unsafe_code)]
// Unsafe: the two accesses of the place. What they guarantee is what loom checks: never both at once.
impl Place {
    fn new() -> Self {
        Place { full: AtomicBool::new(false), frame: UnsafeCell::new(0) }
    }

    fn push(&self, frame: u32) {
        // SAFETY: loom fails the model if another thread touches it meanwhile.
        self.frame.with_mut(|place| unsafe { *place = frame });
        self.full.store(true, Release);
    }

    fn pop(&self) -> Option<u32> {
        // SAFETY: as above.
        let taken = || self.frame.with(|place| unsafe { *place });
        self.full.load(Acquire).then(taken).inspect(|_| self.full.store(false, Release))
    }

    fn has_items(&self) -> bool {
        self.full.load(Acquire)
    }
}

/// A stage that sleeps until a frame has come by each of `N` queues, each with a producer of its own.
fn frames_arrive<const N: usize>() {
    let asleep = Arc::new(Asleep::default());
    let fd = Arc::new(EventFd(thread::current()));
    let places: Vec<_> = (0..N).map(|_| Arc::new(Place::new())).collect();
    let _givers: Vec<_> = places
        .iter()
        .enumerate()
        .map(|(n, place)| {
            let (place, asleep, fd) = (place.clone(), asleep.clone(), fd.clone());
            thread::spawn(move || {
                place.push(n as u32 + 7);
                if asleep.must_be_woken() {
                    fd.ring();
                }
            })
        })
        .collect();
    let mut home = Vec::new();
    while home.len() < N {
        home.extend(places.iter().filter_map(|place| place.pop()));
        if home.len() == N {
            break;
        }
        asleep.lie_down();
        if !places.iter().any(|place| place.has_items()) {
            fd.wait();
        }
        asleep.get_up();
    }
    home.sort_unstable();
    assert_eq!(home, (0..N as u32).map(|n| n + 7).collect::<Vec<_>>(), "every frame once");
}

/// Threads are interrupted at most so often in one order that is tried: more makes the number of orders explode, and finds
/// nothing that fewer do not (two are enough to lose a wake-up).
const INTERRUPTIONS: usize = 3;

fn check(model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(INTERRUPTIONS);
    builder.check(model);
}

fn check_without_fence(model: fn()) {
    sync::WITHOUT_FENCE.set(true);
    check(model);
}

#[test]
fn a_stage_is_woken_whenever_something_comes() {
    check(frames_arrive::<1>);
}

#[test]
fn frames_that_come_home_from_two_stages_at_once_wake_the_one_that_waits_for_them() {
    check(frames_arrive::<2>);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_a_stage_would_sleep_for_ever() {
    check_without_fence(frames_arrive::<1>);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_a_stage_would_wait_for_frames_that_are_home() {
    check_without_fence(frames_arrive::<2>);
}
