//! Waiting: epoll, the exact timer, signals as a descriptor, and the eventfd that wakes from another thread.
//!
//! Owned by the event loop. Descriptors belong to others; they are named here by a token.
#![allow(unsafe_code)]
// Unsafe here: epoll, timerfd, signalfd and eventfd system calls. Every pointer passed is to a local or to memory owned by
// the struct for the length of the call; every descriptor created is owned by an `OwnedFd` at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What a descriptor is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Something to read.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

impl Interest {
    /// Something to read.
    pub const READ: Interest = Interest { read: true, write: false };
    /// Errors only, which are always reported.
    pub const NONE: Interest = Interest { read: false, write: false };

    fn bits(self) -> u32 {
        let read = if self.read { libc::EPOLLIN } else { 0 };
        let write = if self.write { libc::EPOLLOUT } else { 0 };
        (read | write) as u32
    }
}

/// What epoll reports about a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Whose.
    pub token: u64,
    /// It can be read, or is at its end.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// It has an error to report.
    pub error: bool,
}

/// An epoll instance, level-triggered where nothing else is said.
pub struct Poll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poll {
    /// An instance that watches nothing.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked and owned.
        let fd = unsafe { owned(libc::epoll_create1(libc::EPOLL_CLOEXEC))? };
        Ok(Poll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; 32] })
    }

    /// Watches `fd`.
    pub fn add(&self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Watches `fd` for something new to read: each event is told once, whether it is read or not.
    pub fn add_edge(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control_bits(libc::EPOLL_CTL_ADD, fd, token, (libc::EPOLLIN | libc::EPOLLET) as u32)
    }

    /// Watches `fd`, which is watched already, for something else.
    pub fn modify(&self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Watches `fd` no more.
    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::NONE)
    }

    fn control(&self, operation: i32, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control_bits(operation, fd, token, interest.bits())
    }

    fn control_bits(&self, operation: i32, fd: RawFd, token: u64, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` outlives the call; a bad descriptor is an error, not undefined.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) })
    }

    /// Waits until something happens, or only looks; returns how many events there are to [read](Self::event).
    pub fn wait(&mut self, block: bool) -> io::Result<usize> {
        let timeout = if block { -1 } else { 0 };
        // SAFETY: the buffer is owned, and its length is passed.
        let n = unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), self.events.len() as i32, timeout)
        };
        let n = match usize::try_from(n) {
            Ok(n) => n,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
                0
            }
        };
        Ok(n)
    }

    /// Event number `n` of the last wait.
    pub fn event(&self, n: usize) -> Option<Event> {
        let event = self.events.get(n)?;
        let (bits, token) = (event.events, event.u64);
        let has = |flags: i32| bits & flags as u32 != 0;
        Some(Event {
            token,
            readable: has(libc::EPOLLIN | libc::EPOLLHUP),
            writable: has(libc::EPOLLOUT),
            error: has(libc::EPOLLERR),
        })
    }
}

/// A timer on `CLOCK_BOOTTIME`, exact to the nanosecond as far as the kernel is; set only when its time changes.
pub struct Timer {
    fd: OwnedFd,
    set_to: Option<u64>,
}

impl Timer {
    /// A timer that is not set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked and owned.
        let fd = unsafe {
            owned(libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK))?
        };
        Ok(Timer { fd, set_to: None })
    }

    /// Sets the timer to a time in nanoseconds, or to never.
    pub fn set(&mut self, at: Option<u64>) -> io::Result<()> {
        if self.set_to == at {
            return Ok(());
        }
        // A zero time would disarm the timer; the past fires at once.
        let nanos = at.map_or(0, |at| at.max(1));
        let value = libc::timespec {
            tv_sec: (nanos / 1_000_000_000) as libc::time_t,
            tv_nsec: (nanos % 1_000_000_000) as libc::c_long,
        };
        let interval = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec { it_interval: interval, it_value: value };
        // SAFETY: `spec` outlives the call; the old value is not asked for.
        let result = unsafe {
            libc::timerfd_settime(self.fd.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &spec, std::ptr::null_mut())
        };
        check(result)?;
        self.set_to = at;
        Ok(())
    }

    /// After it fired: readable no more, and not set.
    pub fn reset(&mut self) {
        drain(self.fd.as_fd());
        self.set_to = None;
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// SIGINT and SIGTERM as a descriptor: blocked for this thread and those it starts, put back when dropped.
pub struct Signals {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl Signals {
    /// Takes the signals over.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the sets are locals, initialised by sigemptyset and pthread_sigmask before they are read.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGINT);
            libc::sigaddset(&mut set, libc::SIGTERM);
            let fd = owned(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
            let mut before: libc::sigset_t = std::mem::zeroed();
            match libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before) {
                0 => Ok(Signals { fd, before }),
                code => Err(io::Error::from_raw_os_error(code)),
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // What has come in the meantime has been acted on: it must not kill the process now.
        drain(self.fd.as_fd());
        // SAFETY: `before` was filled by pthread_sigmask.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Wakes an event loop from another thread.
pub struct Waker(OwnedFd);

impl Waker {
    /// A waker that has not been used.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked and owned.
        Ok(Waker(unsafe { owned(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))? }))
    }

    /// Makes the descriptor readable.
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes of a local. It fails only when the counter is full: readable already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it unreadable again.
    pub fn reset(&self) {
        drain(self.0.as_fd());
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// # Safety
/// `fd` must be a descriptor just created and owned by nobody, or negative for an error.
unsafe fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: by the function's own condition.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads a non-blocking counter or signal descriptor until it is empty.
fn drain(fd: BorrowedFd<'_>) {
    let mut buffer = [0u8; 128];
    // SAFETY: the buffer is a local and its length is passed.
    while unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_is_readable_until_it_is_reset() {
        let (mut poll, waker) = (Poll::new().unwrap(), Waker::new().unwrap());
        poll.add(waker.as_fd().as_raw_fd(), 7, Interest::READ).unwrap();
        assert_eq!(poll.wait(false).unwrap(), 0);
        waker.wake();
        assert_eq!(poll.wait(true).unwrap(), 1);
        assert_eq!(poll.event(0).map(|event| (event.token, event.readable)), Some((7, true)));
        waker.reset();
        assert_eq!(poll.wait(false).unwrap(), 0);
    }

    #[test]
    fn an_edge_is_told_once_and_each_time_anew() {
        let (mut poll, waker) = (Poll::new().unwrap(), Waker::new().unwrap());
        poll.add_edge(waker.as_fd().as_raw_fd(), 7).unwrap();
        for _ in 0..2 {
            waker.wake();
            assert_eq!((poll.wait(true).unwrap(), poll.wait(false).unwrap()), (1, 0));
        }
    }

    #[test]
    fn a_timer_set_to_the_past_fires_at_once_and_one_set_to_never_does_not() {
        let (mut poll, mut timer) = (Poll::new().unwrap(), Timer::new().unwrap());
        poll.add(timer.as_fd().as_raw_fd(), 1, Interest::READ).unwrap();
        timer.set(None).unwrap();
        assert_eq!(poll.wait(false).unwrap(), 0);
        timer.set(Some(0)).unwrap();
        assert_eq!(poll.wait(true).unwrap(), 1);
        timer.reset();
        assert_eq!(poll.wait(false).unwrap(), 0);
    }
}
