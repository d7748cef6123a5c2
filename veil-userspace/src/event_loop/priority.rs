//! How far the threads that move packets come before others: their nice value.
//!
//! A program that fills the tunnel wakes the daemon and goes on filling, on the same core, while the far end of the path
//! has nothing to do; the core next to it idles until the scheduler lets the daemon run. The kernel's own packet work
//! never waits for programs, and neither does VEIL's, unless it is asked to.
#![allow(unsafe_code)]
// Unsafe here: getpriority and setpriority. Neither takes a pointer.

use std::io;

/// The kernel's most urgent workers have the same.
const FIRST: i32 = -20;

/// The nice value to set: as configured; else the first of all for a thread that does everything and sleeps between
/// (`waits_alone`), but not where the daemon was started with one of its own, nor on a single core, where nobody else would
/// run while it is busy. Stages on threads of their own gain nothing by it, and who never sleeps has no turn to wait for.
pub fn choose(configured: Option<i8>, inherited: i32, waits_alone: bool, cores: usize) -> Option<i32> {
    let first = waits_alone && inherited == 0 && cores > 1;
    configured.map(i32::from).or(first.then_some(FIRST))
}

/// This thread's nice value.
pub fn inherited() -> i32 {
    // SAFETY: no pointers. It cannot fail for the calling thread, and -1 is a nice value like any other.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Sets this thread's nice value (on Linux it is a thread's, not a process's); where that is refused, it is said and the
/// thread keeps what it has.
pub fn set(nice: Option<i32>) {
    let Some(nice) = nice else { return };
    // SAFETY: no pointers.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } != 0 {
        let error = io::Error::last_os_error();
        tracing::info!("cannot set a thread's nice value to {nice}: {error} (needs CAP_SYS_NICE)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_is_set_and_what_the_daemon_was_started_with_stays() {
        assert_eq!(choose(None, 0, true, 2), Some(-20));
        assert_eq!(choose(None, 0, true, 1), None);
        assert_eq!(choose(None, 0, false, 4), None);
        assert_eq!(choose(None, 5, true, 4), None);
        assert_eq!(choose(Some(0), 5, true, 4), Some(0));
        assert_eq!(choose(Some(-3), 0, false, 1), Some(-3));
    }

    #[test]
    fn a_thread_is_made_nicer_alone() {
        let before = inherited();
        let there = std::thread::spawn(move || {
            set(Some((before + 1).min(19)));
            inherited()
        });
        assert_eq!(there.join().unwrap(), (before + 1).min(19));
        assert_eq!(inherited(), before);
    }
}
