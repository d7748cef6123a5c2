//! A race and a leak, for `cargo xtask ci` to see that its sanitizers and Miri would find such. Not run otherwise.
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

/// A ring of owners: nobody else can reach it, and it frees itself never.
struct Ring(std::sync::Mutex<Option<std::sync::Arc<Ring>>>);

#[test]
#[ignore = "a leak, on purpose"]
fn a_planted_leak() {
    for _ in 0..100 {
        let ring = std::sync::Arc::new(Ring(std::sync::Mutex::default()));
        *ring.0.lock().expect("nobody panics") = Some(ring.clone());
    }
}
