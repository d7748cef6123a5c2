//! Huge pages for what ten thousand sessions are made of: spread over ordinary pages, each packet of another peer would
//! wait for the page tables as well as for the session (about as long, in a virtual machine).
//!
//! They are asked for where the allocator will take its memory from. Nobody else is asked, and nothing is lost where there
//! are none: `transparent_hugepage` may be set to `never`.
#![allow(unsafe_code)]
// Unsafe here: glibc's mallopt, malloc, free and the kernel's madvise, of which the last is told of whole pages within the
// block that the others have handed out just now, and which it leaves as they are.

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Fewer peers than this fit in what a core keeps of the page tables.
const MANY: usize = 256;
/// Bytes of a peer with a session that replaces another, keys included; and of all else that a daemon allocates.
const PEER: usize = 8 << 10;
const DAEMON: usize = 32 << 20;

/// Has the sessions of so many peers lie in huge pages, where they are many. To be called before they are there.
pub fn for_peers(count: usize) {
    if count >= MANY
        && let Err(error) = in_huge_pages(DAEMON + count * PEER)
    {
        tracing::debug!("no huge pages for the sessions: {error}");
    }
}

/// Has the next `bytes` or so of this thread's allocations lie in huge pages. To be called before they are made, and by
/// the thread that makes them first of all: it is the program's heap that is meant.
///
/// # Errors
/// What the kernel said; or the allocator has no memory.
#[cfg(target_env = "gnu")]
pub fn in_huge_pages(bytes: usize) -> std::io::Result<()> {
    use libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, c_int};
    // Neither set apart, nor given back when it is freed below.
    let limit = c_int::try_from(bytes.saturating_mul(2)).unwrap_or(c_int::MAX);
    // SAFETY: two of the allocator's limits; the block is freed once, and not used.
    unsafe {
        libc::mallopt(M_MMAP_THRESHOLD, limit);
        libc::mallopt(M_TRIM_THRESHOLD, limit);
        let block = libc::malloc(bytes);
        if block.is_null() {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        let start = block.align_offset(HUGE);
        let whole = bytes.saturating_sub(start) / HUGE * HUGE;
        let advised = libc::madvise(block.byte_add(start), whole, libc::MADV_HUGEPAGE);
        let error = std::io::Error::last_os_error();
        libc::free(block);
        if advised == 0 { Ok(()) } else { Err(error) }
    }
}

/// Other allocators are left alone.
#[cfg(not(target_env = "gnu"))]
pub fn in_huge_pages(_bytes: usize) -> std::io::Result<()> {
    Ok(())
}
