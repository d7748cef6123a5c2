//! A link in memory: two pairs of ends joined by two bounded queues. For tests, simulation and benchmarks.
//!
//! What one side sends, the other receives: the same bytes, in the same runs, from the sender's address. A full queue
//! blocks the sender as a full socket buffer would. Each end has a descriptor that epoll can wait for, so that every
//! threading mode can be run over it.
//!
//! The invariant is that of every link: what is handed in is sent or counted.

use super::{Fds, LinkCounters, LinkRx, LinkTx, Received, SendResult};
use crate::frame::{Frame, Home, Inbox, Outbox, Sealed, WideSet, datagram_count};
use crossbeam_queue::ArrayQueue;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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
            rx: MemRx { wire: inward.clone(), counters: counters.clone() },
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
    filled: Bell,
    room: Gate,
}

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
            filled: Bell::new()?,
            room: Gate::new()?,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn counters(&self) -> &LinkCounters {
        &self.counters
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
mod tests {
    use super::*;
    use crate::frame::{Bounded, SetName};

    fn sides(limit: usize) -> (MemLink, MemLink) {
        pair("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap(), limit).unwrap()
    }

    fn run(set: &mut WideSet, bytes: &[u8], segment: u16) -> Sealed {
        let mut frame = set.take().unwrap();
        frame.buffer_mut()[..bytes.len()].copy_from_slice(bytes);
        frame.set_len(bytes.len());
        let path = Path::to("192.0.2.2:2".parse().unwrap());
        Sealed { frame: frame.into(), segment, tos: 3, path }
    }

    #[test]
    fn a_run_arrives_as_it_was_sent_and_every_set_is_whole_again() {
        let (mut a, mut b) = sides(8);
        let (mut send, mut receive) =
            (WideSet::new(SetName::LinkTransmit, 2), WideSet::new(SetName::LinkReceive, 2));
        let (mut queue, mut out) = (Bounded::new(4), Bounded::new(4));
        queue.push(run(&mut send, b"aaabbbc", 3)).unwrap();
        assert_eq!(a.tx.send(&mut queue, &mut send), SendResult::Drained);
        assert!(send.is_whole());

        let got = b.rx.receive(&mut receive, &mut out, 9).unwrap();
        assert_eq!(got, Received { runs: 1, datagrams: 3, more: false });
        let item = out.pop().unwrap();
        assert_eq!((item.frame.bytes(), item.segment, item.tos), (&b"aaabbbc"[..], 3, 3));
        assert_eq!(item.path.remote(), "192.0.2.1:1".parse().unwrap());
        assert_eq!(item.path.local(), Some("192.0.2.2".parse().unwrap()));
        item.frame.home(&mut receive);
        assert!(receive.is_whole());
        assert_eq!(a.tx.counters().datagrams_sent.load(Relaxed), 3);
        assert_eq!(b.rx.counters().bytes_received.load(Relaxed), 7);
        assert_eq!(b.rx.counters().run_lengths.summary().buckets, [(3, 1)]);
    }

    #[test]
    fn a_full_queue_keeps_the_run_and_sends_it_first_afterwards() {
        let (mut a, mut b) = sides(1);
        let (mut send, mut receive) =
            (WideSet::new(SetName::LinkTransmit, 3), WideSet::new(SetName::LinkReceive, 3));
        let (mut queue, mut out) = (Bounded::new(4), Bounded::new(4));
        for text in [&b"one"[..], b"two", b"three"] {
            queue.push(run(&mut send, text, 8)).unwrap();
        }
        assert_eq!(a.tx.send(&mut queue, &mut send), SendResult::Blocked);
        assert!(a.tx.blocked_on().is_some());
        let mut heard = Vec::new();
        for _ in 0..3 {
            b.rx.receive(&mut receive, &mut out, 9).unwrap();
            while let Some(item) = out.pop() {
                heard.push(item.frame.bytes().to_vec());
                item.frame.home(&mut receive);
            }
            a.tx.send(&mut queue, &mut send);
        }
        assert_eq!(heard, [&b"one"[..], b"two", b"three"]);
        assert!(send.is_whole() && receive.is_whole());
    }

    #[test]
    fn what_is_abandoned_is_counted() {
        let (mut a, _b) = sides(0);
        let mut send = WideSet::new(SetName::LinkTransmit, 1);
        let mut queue = Bounded::new(1);
        queue.push(run(&mut send, b"aabb", 2)).unwrap();
        assert_eq!(a.tx.send(&mut queue, &mut send), SendResult::Blocked);
        a.tx.abandon(&mut send);
        assert!(send.is_whole() && !a.tx.holds_runs());
        assert_eq!(a.tx.counters().send_drops.of(DropReason::LinkSend), 2);
    }
}
