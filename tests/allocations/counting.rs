//! The system's allocator, which counts for each thread what is asked of it.
#![allow(unsafe_code)]
//! Unsafe: `GlobalAlloc` is an unsafe trait. What this file guarantees: every call is handed on to [`System`] as it came, so
//! that whoever keeps the trait's contract with this allocator keeps it with that one; counting touches two cells of the
//! calling thread, which need no allocation, no lock and no destructor.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::AddAssign;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { allocations: 0, deallocations: 0 }) };
}

/// What was asked of the allocator; to make an allocation larger or smaller is one of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub allocations: u64,
    pub deallocations: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.allocations += other.allocations;
        self.deallocations += other.deallocations;
    }
}

/// Does `work`, and says what this thread asked of the allocator meanwhile.
pub fn counted<T>(work: impl FnOnce() -> T) -> (T, Counts) {
    let before = COUNTS.get();
    let done = work();
    let after = COUNTS.get();
    let allocations = after.allocations - before.allocations;
    (done, Counts { allocations, deallocations: after.deallocations - before.deallocations })
}

fn count(allocations: u64, deallocations: u64) {
    let mut counts = COUNTS.get();
    counts += Counts { allocations, deallocations };
    COUNTS.set(counts);
}

struct Counting;

// SAFETY: all four hand on to `System`, which keeps the trait's promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, 0);
        // SAFETY: the caller's promise about `layout` is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, 0);
        // SAFETY: the caller's promise about `layout` is handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, 1);
        // SAFETY: the caller's promise is handed on, and `memory` is `System`'s, as all memory from here is.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, 1);
        // SAFETY: the caller's promise is handed on, and `memory` is `System`'s, as all memory from here is.
        unsafe { System.dealloc(memory, layout) }
    }
}
