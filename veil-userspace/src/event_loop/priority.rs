//! How far the threads that move packets come before others: their nice value.
#![allow(unsafe_code)]
// Unsafe here: getpriority and setpriority. Neither takes a pointer.

use std::io;

/// Sets this thread's nice value (on Linux it is a thread's, not a process's); where that is refused, it is said and the
/// thread keeps what it has, as it does where none is given.
pub fn set(nice: Option<i8>) {
    let Some(nice) = nice else { return };
    // SAFETY: no pointers.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice.into()) } != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!("cannot set a thread's nice value to {nice}: {error} (needs CAP_SYS_NICE)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i8 {
        // SAFETY: no pointers. It cannot fail for the calling thread, and -1 is a nice value like any other.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) as i8 }
    }

    #[test]
    fn a_thread_is_made_nicer_alone() {
        let before = nice();
        let wanted = (before + 1).min(19);
        let there = std::thread::spawn(move || {
            set(None);
            let kept = nice();
            set(Some(wanted));
            (kept, nice())
        });
        assert_eq!(there.join().unwrap(), (before, wanted));
        assert_eq!(nice(), before);
    }
}
