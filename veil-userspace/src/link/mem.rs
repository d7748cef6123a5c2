//! A link in memory: two pairs of ends joined by two bounded queues. For tests, simulation and benchmarks.
//!
//! What one side sends, the other receives: the same bytes, in the same runs, from the sender's address. A full queue
//! blocks the sender as a full socket buffer would; a way that has become narrow refuses what is too large for it, and says
//! so as a kernel does. Each end has a descriptor that epoll can wait for, so that every threading mode can be run over it.
//!
//! The invariant is that of every link: what is handed in is sent or counted.

use super::udp::PathError;
use super::{Fds, LinkCounters, LinkRx, LinkTx, Received, SendResult};
use crate::frame::{Frame, Home, Inbox, Outbox, Sealed, WideSet, datagram_count};
use crossbeam_queue::ArrayQueue;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use veil_proto::{DropReason, Path};

/// Both ends of one side.
pub struct MemLink {
    pub rx: MemRx,
    pub tx: MemTx,
}

/// Two links joined to each other, at addresses `a` and `b`, each direction holding at most `limit` runs.
///
/// # Errors
/// Only when the process has no descriptors left.
pub fn pair(a: SocketAddr, b: SocketAddr, limit: usize) -> io::Result<(MemLink, MemLink)> {
    let (to_b, to_a) = (Wire::new(limit)?, Wire::new(limit)?);
    let side = |address, inward: &Arc<Wire>, outward: &Arc<Wire>| {
        let counters = Arc::new(LinkCounters::default());
        MemLink {
            rx: MemRx { wire: inward.clone(), outward: outward.clone(), counters: counters.clone() },
            tx: MemTx { address, wire: outward.clone(), held: None, counters },
        }
    };
    Ok((side(a, &to_a, &to_b), side(b, &to_b, &to_a)))
}

/// One direction. The lock keeps queue, bell and gate of one mind; runs go through the queue's own atomics, which
/// ThreadSanitizer can see, where it is blind to a contended lock of the standard library.
struct Wire {
    lock: Mutex<()>,
    runs: ArrayQueue<Run>,
    /// Whether a sender met a full queue since the last pop.
    blocked: AtomicBool,
    limit: usize,
    /// Bytes of the largest datagram that is taken.
    widest: AtomicUsize,
    /// What the sender is told of larger ones, the latest few.
    refusals: ArrayQueue<PathError>,
    filled: Bell,
    room: Gate,
}

/// Refusals that wait to be heard.
const REFUSALS: usize = 16;

struct Run {
    bytes: Vec<u8>,
    segment: u16,
    tos: u8,
    path: Path,
}

impl Wire {
    fn new(limit: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Wire {
            lock: Mutex::default(),
            runs: ArrayQueue::new(limit.max(1)),
            blocked: AtomicBool::new(false),
            limit,
            widest: AtomicUsize::new(usize::MAX),
            refusals: ArrayQueue::new(REFUSALS),
            filled: Bell::new()?,
            room: Gate::new()?,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether datagrams of `len` bytes go this way to `remote`; if not, the sender is told how large they may be.
    fn takes(&self, len: usize, remote: SocketAddr) -> bool {
        let widest = self.widest.load(Relaxed);
        if len > widest {
            let headers = if remote.is_ipv4() { 28 } else { 48 };
            let mtu = Some((widest + headers) as u32);
            self.refusals.force_push(PathError { remote, errno: libc::EMSGSIZE, mtu, local: true });
        }
        len <= widest
    }

    /// `false`: full, and the gate is shut until something is popped.
    fn push(&self, run: Run) -> bool {
        let _guard = self.lock();
        if self.runs.len() >= self.limit || self.runs.push(run).is_err() {
            if !self.blocked.swap(true, Relaxed) {
                self.room.shut();
            }
            return false;
        }
        if self.runs.len() == 1 {
            self.filled.ring();
        }
        true
    }

    fn pop(&self) -> Option<Run> {
        let _guard = self.lock();
        let run = self.runs.pop()?;
        if self.runs.is_empty() {
            self.filled.silence();
        }
        if self.blocked.swap(false, Relaxed) {
            self.room.open();
        }
        Some(run)
    }
}

/// A descriptor that is readable after `ring` and until `silence`.
pub(crate) struct Bell {
    pull: UnixStream,
    listen: UnixStream,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let (pull, listen) = nonblocking_pair()?;
        Ok(Bell { pull, listen })
    }

    pub(crate) fn ring(&self) {
        // A full pipe is a bell that already rings.
        let _ = (&self.pull).write(&[1]);
    }

    pub(crate) fn silence(&self) {
        empty(&self.listen);
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.listen.as_fd()
    }
}

/// A descriptor that is writable except between `shut` and `open`.
struct Gate {
    front: UnixStream,
    back: UnixStream,
}

impl Gate {
    fn new() -> io::Result<Self> {
        let (front, back) = nonblocking_pair()?;
        Ok(Gate { front, back })
    }

    fn shut(&self) {
        while (&self.front).write(&[0; 4096]).is_ok() {}
    }

    fn open(&self) {
        empty(&self.back);
    }
}

fn nonblocking_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (a, b) = UnixStream::pair()?;
    a.set_nonblocking(true)?;
    b.set_nonblocking(true)?;
    Ok((a, b))
}

fn empty(mut stream: &UnixStream) {
    let mut waste = [0; 4096];
    while matches!(stream.read(&mut waste), Ok(n) if n > 0) {}
}

/// The receiving end of a link in memory.
pub struct MemRx {
    wire: Arc<Wire>,
    outward: Arc<Wire>,
    counters: Arc<LinkCounters>,
}

impl LinkRx for MemRx {
    fn receive(
        &mut self,
        set: &mut WideSet,
        out: &mut impl Outbox<Sealed>,
        budget: usize,
    ) -> io::Result<Received> {
        let mut got = Received::default();
        let limit = budget.min(out.room());
        while got.runs < limit {
            let Some(mut frame) = set.take() else { break };
            let Some(run) = self.wire.pop() else {
                set.give(frame);
                return Ok(got);
            };
            let datagrams = datagram_count(run.bytes.len(), run.segment);
            self.counters.receive_calls.fetch_add(1, Relaxed);
            self.counters.received(datagrams, run.bytes.len());
            frame.buffer_mut()[..run.bytes.len()].copy_from_slice(&run.bytes);
            frame.set_len(run.bytes.len());
            let item =
                Sealed { frame: Frame::Wide(frame), segment: run.segment, tos: run.tos, path: run.path };
            if let Err(item) = out.push(item) {
                self.counters.receive_drops.add(DropReason::NoFrame, datagrams as u64);
                item.frame.home(set);
                break;
            }
            got.runs += 1;
            got.datagrams += datagrams;
            self.counters.run_lengths.record(datagrams as u64, 1);
        }
        got.more = true;
        Ok(got)
    }

    fn fds(&self) -> Fds<'_> {
        [Some(self.wire.filled.fd()), None]
    }

    fn take_path_error(&mut self) -> Option<PathError> {
        self.outward.refusals.pop()
    }

    fn counters(&self) -> &LinkCounters {
        &self.counters
    }
}

impl MemRx {
    /// Makes the way to here narrow: datagrams of more than `widest` bytes are refused from now on.
    pub fn narrow(&self, widest: usize) {
        self.wire.widest.store(widest, Relaxed);
    }

    /// Another way to what this side was told of paths: for a process stage on a thread of its own.
    pub fn path_errors(&self) -> impl FnMut() -> Option<PathError> + Send + use<> {
        let outward = self.outward.clone();
        move || outward.refusals.pop()
    }
}

/// The sending end of a link in memory.
pub struct MemTx {
    address: SocketAddr,
    wire: Arc<Wire>,
    held: Option<Sealed>,
    counters: Arc<LinkCounters>,
}

impl MemTx {
    /// Another way to send single datagrams, for another thread: control's, for handshakes.
    pub fn datagram_sender(&self) -> impl FnMut(&Path, &[u8]) -> io::Result<()> + Send + use<> {
        let (address, wire, counters) = (self.address, self.wire.clone(), self.counters.clone());
        let mut sender = MemTx { address, wire, held: None, counters };
        move |path, bytes| sender.send_datagram(path, bytes, 0)
    }

    /// From now on this side is at another address.
    pub fn move_to(&mut self, address: SocketAddr) {
        self.address = address;
    }

    /// What this link counts, to be kept and read elsewhere.
    pub fn shared_counters(&self) -> Arc<LinkCounters> {
        self.counters.clone()
    }

    fn push(&self, path: &Path, bytes: &[u8], segment: u16, tos: u8) -> bool {
        let from = Path::to(self.address).from_local(path.remote().ip());
        let taken = self.wire.push(Run { bytes: bytes.to_vec(), segment, tos, path: from });
        if taken {
            self.counters.send_calls.fetch_add(1, Relaxed);
            self.counters.sent(datagram_count(bytes.len(), segment), bytes.len());
        }
        taken
    }
}

impl LinkTx for MemTx {
    fn send(&mut self, runs: &mut impl Inbox<Sealed>, home: &mut impl Home) -> SendResult {
        while let Some(run) = self.held.take().or_else(|| runs.pop()) {
            if !self.wire.takes(usize::from(run.segment).min(run.frame.bytes().len()), run.path.remote()) {
                self.counters.send_drops.add(DropReason::LinkSend, run.datagrams() as u64);
                run.frame.home(home);
                continue;
            }
            if !self.push(&run.path, run.frame.bytes(), run.segment, run.tos) {
                self.counters.blocked.fetch_add(1, Relaxed);
                self.held = Some(run);
                return SendResult::Blocked;
            }
            run.frame.home(home);
        }
        SendResult::Drained
    }

    fn send_datagram(&mut self, path: &Path, bytes: &[u8], tos: u8) -> io::Result<()> {
        let refused = match u16::try_from(bytes.len()) {
            Ok(_) if !self.wire.takes(bytes.len(), path.remote()) => {
                io::Error::from_raw_os_error(libc::EMSGSIZE)
            }
            Ok(length) if self.push(path, bytes, length, tos) => return Ok(()),
            Ok(_) => io::ErrorKind::WouldBlock.into(),
            Err(_) => io::Error::from_raw_os_error(libc::EMSGSIZE),
        };
        self.counters.datagram_drops.count(DropReason::LinkSend);
        Err(refused)
    }

    fn blocked_on(&self) -> Option<BorrowedFd<'_>> {
        self.held.is_some().then(|| self.wire.room.front.as_fd())
    }

    fn holds_runs(&self) -> bool {
        self.held.is_some()
    }

    fn abandon(&mut self, home: &mut impl Home) {
        if let Some(run) = self.held.take() {
            self.counters.send_drops.add(DropReason::LinkSend, run.datagrams() as u64);
            run.frame.home(home);
        }
    }

    fn counters(&self) -> &LinkCounters {
        &self.counters
    }
}

#[cfg(test)]
mod tests;
