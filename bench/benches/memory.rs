//! What a peer and a session cost in memory: bytes allocated, by a counting allocator, for a thousand of each.
//!
//! `cargo bench -p veil-bench --bench memory` prints it; nothing is timed. Counted is what the protocol keeps, as it was
//! asked of the allocator: not what that adds of its own, nor the daemon's tables of names, counters' text and state records.
#![allow(unsafe_code)]
// Unsafe: a global allocator that hands every call on to the system's, unchanged, and counts its size. What it guarantees
// is therefore what the system's guarantees.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use veil_bench::{Client, Server};
use veil_proto::Path;

const COUNT: u64 = 1000;

struct Counting;

/// Bytes allocated and not freed.
static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every method is the system allocator's with the arguments it was called with; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps the same contract with us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `block` came from `alloc` above with this layout, hence from the system's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that `work` leaves allocated, and what it returns.
fn allocated<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = LIVE.load(Relaxed);
    let made = work();
    (LIVE.load(Relaxed) - before, made)
}

fn main() {
    let keys: Vec<_> = (0..COUNT).map(Client::public_key).collect();
    let (alone, _) = allocated(|| Server::new(&[]));
    let (with_peers, mut server) = allocated(|| Server::new(&keys));
    let path = |n: u64| Path::to(([192, 0, (n >> 8) as u8, n as u8], 51820).into());
    let (sessions, ()) = allocated(|| {
        for n in 0..COUNT {
            server.shake(&mut Client::new(n), &path(n));
        }
    });
    assert_eq!(server.sessions.session_count() as u64, COUNT);
    println!("an end without peers   {alone:>9} bytes");
    println!("each of {COUNT} idle peers {:>9} bytes", (with_peers - alone) as u64 / COUNT);
    println!("each of {COUNT} sessions   {:>9} bytes", sessions as u64 / COUNT);
}
