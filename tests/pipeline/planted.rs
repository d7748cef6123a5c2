//! A race, for `cargo xtask ci` to see that ThreadSanitizer would find one. Not run otherwise.
#![allow(unsafe_code)]
// Unsafe: two threads write one cell at once. That is undefined, and what this test is for; nothing else touches the cell.

use std::cell::UnsafeCell;

struct Shared(UnsafeCell<u64>);

// SAFETY: it is not; see above.
unsafe impl Sync for Shared {}

#[test]
#[ignore = "a race, on purpose"]
fn a_planted_race() {
    let shared = Shared(UnsafeCell::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let shared = &shared;
            // SAFETY: it is not; see above.
            scope.spawn(move || (0..1000).for_each(|n| unsafe { shared.0.get().write_volatile(n) }));
        }
    });
}
