//! Polling the NIC on the calling core instead of waiting for its interrupt (`SO_BUSY_POLL`, `SO_PREFER_BUSY_POLL`;
//! Linux, Documentation/networking/napi.rst, 'Busy polling').
//!
//! Of use to who never sleeps: a receive call that finds nothing, and an AF_XDP send, then look into the NIC's queue
//! themselves. It needs CAP_NET_ADMIN and a kernel that can; without, sockets work as ever, so a refusal is counted and
//! logged once, and is no error.

use super::LinkCounters;
use super::udp::set_option;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Microseconds that the kernel may poll for a call that would wait; ours do not wait, and so poll once.
pub(super) const MICROSECONDS: i32 = 50;

/// Asks the kernel to poll for sockets.
#[derive(Clone, Debug)]
pub struct BusyPoll {
    counters: Arc<LinkCounters>,
}

impl BusyPoll {
    /// One that counts refusals in `counters`.
    pub fn new(counters: Arc<LinkCounters>) -> Self {
        BusyPoll { counters }
    }

    /// Asks for one socket.
    pub fn ask(&self, socket: BorrowedFd<'_>) {
        let options = [(libc::SO_BUSY_POLL, MICROSECONDS), (libc::SO_PREFER_BUSY_POLL, 1)];
        for (name, value) in options {
            let Err(error) = set_option(socket, libc::SOL_SOCKET, name, value) else { continue };
            if self.counters.busy_poll_refused.fetch_add(1, Relaxed) == 0 {
                tracing::info!(
                    "the kernel does not poll the NIC for busy-poll: {error} (it needs CAP_NET_ADMIN)"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_refusal_is_counted_and_no_error() {
        let (counters, file) = (Arc::<LinkCounters>::default(), std::fs::File::open("/dev/null").unwrap());
        // Whatever the kernel can and we may: it is no socket.
        BusyPoll::new(counters.clone()).ask(file.as_fd());
        assert_eq!(counters.busy_poll_refused.load(Relaxed), 2);
    }
}
