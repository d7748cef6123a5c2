//! Datagrams sent one at a time, beside the runs: handshakes, from whichever thread makes them.
//!
//! Here also is what both senders share: the outer TOS, and how to find out whom an error was about. The invariant:
//! every datagram handed in is sent or counted.

use super::batch::{Departure, SendBatch};
use super::error_queue::{self, may_be_another_paths};
use super::socket::Sockets;
use crate::link::LinkCounters;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use veil_proto::{DropReason, Path};

/// How often a send is tried again after an error that may be another destination's.
pub(super) const RESENDS: u8 = 3;

/// Sends single datagrams over a link's sockets, from any thread: one clone per thread.
pub struct DatagramSender {
    sockets: Arc<Sockets>,
    counters: Arc<LinkCounters>,
    batch: SendBatch,
    dscp: u8,
}

impl DatagramSender {
    pub(super) fn new(sockets: Arc<Sockets>, counters: Arc<LinkCounters>, dscp: u8) -> Self {
        DatagramSender { sockets, counters, batch: SendBatch::new(1), dscp }
    }

    /// Sends one datagram now; of `tos` only the ECN bits are used.
    ///
    /// # Errors
    /// What the kernel said, `WouldBlock` included; the datagram is then counted as dropped.
    pub fn send(&mut self, path: &Path, bytes: &[u8], tos: u8) -> io::Result<()> {
        let result = self.try_send(path, bytes, outer_tos(self.dscp, tos));
        match &result {
            Ok(()) => self.counters.sent(1, bytes.len()),
            Err(_) => self.counters.datagram_drops.count(DropReason::LinkSend),
        }
        result
    }

    fn try_send(&mut self, path: &Path, bytes: &[u8], tos: u8) -> io::Result<()> {
        let fd = self.sockets.of(path).ok_or(io::ErrorKind::NetworkUnreachable)?;
        let mut departure = Departure { bytes, path, from_local: true, tos, segment: None };
        let mut tries = 0;
        loop {
            let Err(error) = self.batch.send(fd, std::iter::once(departure)) else { return Ok(()) };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(errno)
                    if departure.from_local && path.local().is_some() && local_may_be_gone(errno, tries) =>
                {
                    (departure.from_local, tries) = (false, 0);
                }
                Some(errno) if may_be_another_paths(errno) && tries < RESENDS => {
                    if drain(fd, &self.sockets, &self.counters, path) {
                        return Err(error);
                    }
                    self.counters.resends.fetch_add(1, Relaxed);
                    tries += 1;
                }
                _ => return Err(error),
            }
        }
    }
}

impl Clone for DatagramSender {
    fn clone(&self) -> Self {
        DatagramSender::new(self.sockets.clone(), self.counters.clone(), self.dscp)
    }
}

/// Whether `errno` is what the kernel says when the source address asked for is no longer this host's: which one
/// depends on where the route lookup ends (ip_route_output_key_hash_rcu, net/ipv4/route.c; ip6_datagram_send_ctl for
/// IPv6).
///
/// ICMP brings some of them in for another destination, too, and a source address given up for that would look like
/// roaming to the peer: so these count only after the error queue was drained and the send tried again.
pub(super) fn local_may_be_gone(errno: i32, tries: u8) -> bool {
    match errno {
        libc::EINVAL | libc::EADDRNOTAVAIL => true,
        libc::ENETUNREACH | libc::EHOSTUNREACH => tries >= RESENDS,
        _ => false,
    }
}

/// The configured DSCP with the ECN bits of `tos` (RFC 6040: outer ECN = inner ECN).
pub(in crate::link) fn outer_tos(dscp: u8, tos: u8) -> u8 {
    dscp << 2 | tos & 3
}

/// Takes what is on the error queue, counts it, and keeps it for `take_path_error`. Says whether this host itself
/// named `path`'s remote as too narrow for what was sent: then sending it again is no use.
pub(super) fn drain(fd: BorrowedFd<'_>, sockets: &Sockets, counters: &LinkCounters, path: &Path) -> bool {
    let mut too_big_for_us = false;
    let entries = error_queue::drain(fd, |error| {
        // No scope: the kernel's entry carries one where the path may not. No port: an MTU is the address's.
        let is_ours = error.remote.ip() == path.remote().ip();
        too_big_for_us |= is_ours && error.errno == libc::EMSGSIZE && error.local;
        sockets.report(error);
    });
    counters.path_errors.fetch_add(entries as u64, Relaxed);
    too_big_for_us
}
