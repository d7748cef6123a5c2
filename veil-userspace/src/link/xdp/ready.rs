//! Descriptors behind one descriptor: an epoll instance that is itself waited for, so that the event loop need not know
//! how many sockets a link has, or that they change.
#![allow(unsafe_code)]
// Unsafe here: epoll, eventfd and timerfd system calls. Every pointer passed is to a local that outlives the call; every
// descriptor created is owned by an `OwnedFd` at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Something to read, as long as there is.
pub const READ: u32 = libc::EPOLLIN as u32;
/// Something new to read.
pub const NEW: u32 = (libc::EPOLLIN | libc::EPOLLET) as u32;
/// Room that was not there before.
pub const ROOM: u32 = (libc::EPOLLOUT | libc::EPOLLET) as u32;
/// An error to be looked at.
pub const ERROR: u32 = libc::EPOLLERR as u32;

const EVENTS: usize = 16;

/// The epoll instance; readable when any of its descriptors is ready.
pub struct Ready {
    epoll: OwnedFd,
    waker: Waker,
}

/// Makes a [`Ready`] readable, from any thread.
#[derive(Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes of a local. It fails only when the counter is full: readable already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

impl Ready {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the results are checked and owned.
        let (epoll, event) = unsafe {
            (
                owned(libc::epoll_create1(libc::EPOLL_CLOEXEC))?,
                owned(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?,
            )
        };
        let ready = Ready { epoll, waker: Waker(Arc::new(event)) };
        ready.add(ready.waker.0.as_fd(), NEW)?;
        Ok(ready)
    }

    /// What makes it readable from elsewhere.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// What [`look`](Self::look) reports when somebody has woken it.
    pub fn waker_fd(&self) -> BorrowedFd<'_> {
        self.waker.0.as_fd()
    }

    pub fn add(&self, fd: BorrowedFd<'_>, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events)
    }

    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0)
    }

    fn control(&self, operation: i32, fd: BorrowedFd<'_>, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: fd.as_raw_fd() as u64 };
        // SAFETY: `event` outlives the call.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), &mut event) })
    }

    /// Calls `each` with the descriptor and events of everything that is ready now; never waits. Edges are used up.
    pub fn look(&self, mut each: impl FnMut(i32, u32)) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: the buffer is a local and its length is passed.
        let count =
            unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32, 0) };
        for event in events.iter().take(usize::try_from(count).unwrap_or(0)) {
            each(event.u64 as i32, event.events);
        }
    }
}

impl AsFd for Ready {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// A timer; readable edge by edge.
pub struct Alarm(OwnedFd);

impl Alarm {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked and owned.
        let fd = unsafe {
            owned(libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK))?
        };
        Ok(Alarm(fd))
    }

    /// Fires once after `nanos`, which are less than a second.
    pub fn set(&self, nanos: u32) {
        let after = libc::timespec { tv_sec: 0, tv_nsec: nanos.into() };
        self.start(after, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    }

    /// Fires every `period`, each time after the one before was [taken](Self::take).
    pub fn every(&self, period: Duration) {
        let period = libc::timespec {
            tv_sec: period.as_secs() as libc::time_t,
            tv_nsec: period.subsec_nanos().into(),
        };
        self.start(period, period);
    }

    /// Takes note that it has fired. The kernel does not start a period anew before (fs/timerfd.c).
    pub fn take(&self) {
        let mut fired = [0; 8];
        // SAFETY: eight bytes of a local. It fails only when it has not fired.
        unsafe { libc::read(self.0.as_raw_fd(), fired.as_mut_ptr().cast(), fired.len()) };
    }

    fn start(&self, after: libc::timespec, then_every: libc::timespec) {
        let spec = libc::itimerspec { it_interval: then_every, it_value: after };
        // SAFETY: `spec` outlives the call; the old value is not asked for. It cannot fail with such a value.
        unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &spec, std::ptr::null_mut()) };
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// # Safety
/// `fd` must be a descriptor just created and owned by nobody, or negative for an error.
unsafe fn owned(fd: i32) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: by the function's own condition.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_periodic_alarm_fires_again_and_again() {
        let (ready, alarm) = (Ready::new().unwrap(), Alarm::new().unwrap());
        ready.add(alarm.as_fd(), NEW).unwrap();
        alarm.every(Duration::from_millis(1));
        for _ in 0..3 {
            let mut poll = libc::pollfd { fd: ready.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `poll` is one pollfd and outlives the call.
            assert_eq!(unsafe { libc::poll(&mut poll, 1, 60_000) }, 1, "it does not fire any more");
            let mut fired = false;
            ready.look(|fd, _| fired |= fd == alarm.as_fd().as_raw_fd());
            assert!(fired);
            alarm.take();
        }
    }
}
