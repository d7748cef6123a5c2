//! Where stages run that nobody has pinned: on one core while little comes, wherever the system likes while there is much.
//!
//! A packet that comes alone finds every stage asleep. The system would wake each on a core of its own, because that one is
//! idle, and waking an idle core takes ten times as long as switching tasks, or longer where a hypervisor has to run it
//! first. So RX, when it has slept for a while, calls the others to the core where it woke itself; a stage that cannot do
//! in one turn all that waits for it goes where it likes again.
//!
//! Invariant: a stage is kept on a core only between such a call and its next such turn, and `called_to` says so; where a
//! call and a departure cross, the next of either puts it right.
#![allow(unsafe_code)]
// Unsafe here: gettid, sched_getcpu, and sched_setaffinity and sched_getaffinity, whose sets are locals or borrowed for the
// call, and whole. A thread that is no more is an error, not undefined; `thread` is cleared before its number is free again,
// so that a stranger's is reached only by a call that crosses a stage's unexpected end.

use std::mem;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};

/// Nanoseconds of sleep after which little comes.
pub const QUIET: u64 = 1_000_000;
/// Kept on no core.
const FREE: usize = usize::MAX;

/// Where one stage runs; held by it, and by RX to call it.
pub struct Placement {
    /// Its thread, while it runs.
    thread: AtomicI32,
    called_to: AtomicUsize,
    /// The cores that it may use at all.
    allowed: OnceLock<libc::cpu_set_t>,
}

impl Placement {
    /// A stage that does not run yet.
    pub fn new() -> Arc<Self> {
        let (thread, called_to) = (AtomicI32::new(0), AtomicUsize::new(FREE));
        Arc::new(Placement { thread, called_to, allowed: OnceLock::new() })
    }

    /// The stage's own: it runs on this thread, as long as it keeps what this returns.
    pub fn enter(self: Arc<Self>) -> Entered {
        // SAFETY: a set is plain bits, of which none is a set too; the kernel fills the local.
        let (read, set) = unsafe {
            let mut set: libc::cpu_set_t = mem::zeroed();
            (libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set), set)
        };
        // Without knowing where it may go back to it is not called.
        if read == 0 && self.allowed.set(set).is_ok() {
            // SAFETY: no pointers.
            self.thread.store(unsafe { libc::gettid() }, Relaxed);
        }
        Entered(self)
    }

    /// RX's: from its next wake-up on the stage runs on `core`.
    pub fn call(&self, core: usize) {
        let thread = self.thread.load(Relaxed);
        if thread == 0 || core >= libc::CPU_SETSIZE as usize || self.called_to.load(Relaxed) == core {
            return;
        }
        // SAFETY: a set is plain bits; the core is within it.
        let only = unsafe {
            let mut set: libc::cpu_set_t = mem::zeroed();
            libc::CPU_SET(core, &mut set);
            set
        };
        // SAFETY: the set is a whole local.
        if unsafe { libc::sched_setaffinity(thread, mem::size_of_val(&only), &only) } == 0 {
            self.called_to.store(core, Relaxed);
        }
    }

    /// The stage's own: it has much to do.
    #[inline]
    pub fn free(&self) {
        if self.called_to.load(Relaxed) != FREE {
            self.depart();
        }
    }

    #[cold]
    fn depart(&self) {
        self.called_to.store(FREE, Relaxed);
        if let Some(allowed) = self.allowed.get() {
            // SAFETY: the set is whole, and borrowed for the call.
            unsafe { libc::sched_setaffinity(0, mem::size_of_val(allowed), allowed) };
        }
    }
}

/// A stage that can be called.
pub struct Entered(Arc<Placement>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.thread.store(0, Relaxed);
    }
}

/// The core on which this thread runs just now.
pub fn core() -> usize {
    // SAFETY: no pointers.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(FREE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_loop::cores::usable;
    use std::sync::mpsc::channel;

    #[test]
    fn a_stage_that_is_called_stays_there_until_it_has_much_to_do() {
        let (placement, cores) = (Placement::new(), usable());
        placement.call(cores[0]);
        assert_eq!(placement.called_to.load(Relaxed), FREE, "it does not run");
        let (go, wait) = channel();
        let (tell, told) = channel();
        let its = placement.clone();
        let stage = std::thread::spawn(move || {
            let _entered = its.clone().enter();
            let look = || tell.send((usable(), core())).unwrap();
            look();
            wait.recv().unwrap();
            look();
            its.free();
            look();
        });
        assert_eq!(told.recv().unwrap().0, cores);
        let last = *cores.last().unwrap();
        placement.call(last);
        go.send(()).unwrap();
        assert_eq!(told.recv().unwrap(), (vec![last], last));
        assert_eq!(told.recv().unwrap().0, cores);
        stage.join().unwrap();
        placement.call(last);
        assert_eq!(placement.called_to.load(Relaxed), FREE, "it runs no more");
    }
}
