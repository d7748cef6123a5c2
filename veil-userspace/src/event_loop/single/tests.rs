//! The promise about threads, and that nothing which is owed waits for something else to happen.

use super::*;
use crate::event_loop::testing::{LINK_RUNS, near_and_far, talking_to_many};
use crate::host::SystemEntropy;

/// The compiler lets no loop go to another thread, since its entropy may not; so only the checker is given away.
#[cfg(debug_assertions)]
#[test]
fn a_loop_that_belongs_to_another_thread_and_is_stepped_here_is_caught() {
    let (mut near, _far) = near_and_far();
    let parts = near.parts.take().unwrap();
    let mut event_loop = EventLoop::new(parts, false, Box::new(SystemEntropy::new())).unwrap();
    event_loop.turn(now()).unwrap();
    let checker = &mut event_loop.checker;
    std::thread::scope(|scope| scope.spawn(|| checker.rebind_to_current()).join().unwrap());
    let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| event_loop.turn(now())));
    let why = stepped.unwrap_err();
    let why = why.downcast_ref::<String>().map_or("", String::as_str);
    assert!(why.contains("hand-over without rebind_to_current()"), "{why}");
    event_loop.checker.rebind_to_current();
    event_loop.turn(now()).unwrap();
}

#[test]
fn what_is_owed_to_more_peers_than_there_are_frames_goes_out_by_itself() {
    let (mut near, mut far) = near_and_far();
    let mut parts = near.parts.take().unwrap();
    parts.process = talking_to_many(LINK_RUNS as u32);
    assert!(parts.process.sets()[0].home_count() < LINK_RUNS);
    let mut event_loop = EventLoop::new(parts, false, Box::new(SystemEntropy::new())).unwrap();
    while event_loop.turn(now()).unwrap() {}
    assert_eq!(far.came(), LINK_RUNS);
}
