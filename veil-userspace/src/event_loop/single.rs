//! `ThreadingMode::SingleThreaded`: one epoll loop steps RX, process and TX in turn, and the handshakes after them.
//!
//! A turn moves a bounded batch each way and then looks what else is ready, so neither direction starves the other and
//! nothing is polled by time. When the link is blocked the TUN is not read: the host's own queue holds or drops. Inbound
//! goes on then, since it needs no transmit frame.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use veil_proto::thread_checker::ThreadChecker;
use veil_proto::tunnel::{ToHandshakes, ToSessions};
use veil_proto::{DropReason, Entropy, Now, PeerId};

use super::added::{AddedTime, Underway};
use super::control::{CLIENT, Control, LISTENER, RESOLVER, SIGNAL, TIMER};
pub use super::parts::Parts;
use super::poll::{Interest, Poll, Timer};
use super::portion::Portion;
use super::process::Process;
use super::quota::Quota;
use crate::control::show::{FrameSet, Snapshot};
use crate::control::status::snapshot;
use crate::frame::{Bounded, Inbox, Inner, Opened, Sealed, SetName, TwoHomes, WideSet};
use crate::host::{now, stopwatch};
use crate::link::{LinkRx, LinkTx, Received, SendResult};
use crate::tun::{TunRead, TunWrite};

/// Runs received, and packets read, in one call.
const BATCH: usize = 64;
/// Bytes of runs opened before they are written: one full run of the kernel's GRO, or as much in short ones, which may then
/// still be joined for the host.
const PORTION: usize = 60 << 10;
/// Handshake datagrams copied out of the data path in one turn.
const HANDSHAKE_BATCH: usize = 1024;
/// Turns that may move packets before the other descriptors are looked at again.
const TURNS_PER_LOOK: usize = 4;

const TUN: u64 = 0;
const LINK: u64 = 1;
const SERVICE: u64 = 6;
/// The single-threaded event loop.
pub struct EventLoop<R, S, T, W> {
    link_rx: R,
    link_tx: S,
    tun_rx: T,
    tun_tx: W,
    process: Process,
    control: Control,
    added: Arc<AddedTime>,
    poll: Poll,
    timer: Timer,
    received: WideSet,
    read: WideSet,
    from_link: Bounded<Sealed>,
    to_tun: Bounded<Opened>,
    from_tun: Bounded<Inner>,
    to_link: Bounded<Sealed>,
    to_handshakes: Bounded<ToHandshakes>,
    inbound_underway: Underway,
    outbound_underway: Underway,
    link_ready: bool,
    tun_ready: bool,
    blocked: bool,
    /// The link's descriptor that is watched for room.
    watched: Option<RawFd>,
    busy_poll: bool,
    stopping: bool,
    checker: ThreadChecker,
}

impl<R: LinkRx, S: LinkTx, T: TunRead, W: TunWrite> EventLoop<R, S, T, W> {
    /// A loop over `parts`, whose descriptors it watches from now on; with `busy_poll` it never sleeps; handshakes draw from
    /// `entropy`.
    pub fn new(parts: Parts<R, S, T, W>, busy_poll: bool, entropy: Box<dyn Entropy>) -> Result<Self> {
        let poll = Poll::new().context("cannot create an epoll instance")?;
        let timer = Timer::new().context("cannot create a timer")?;
        let Parts { link_rx, link_tx, tun_rx, tun_tx, process, gauges, .. } = parts;
        let (handshakes, endpoints, leases) = (parts.handshakes, parts.endpoints, parts.leases);
        let (state, socket, facts, added) = (parts.state, parts.control, parts.facts, gauges.added.clone());
        let control = Control::new(handshakes, entropy, endpoints, leases, state, socket, facts, gauges)?;
        let this = EventLoop {
            link_rx,
            link_tx,
            tun_rx,
            tun_tx,
            process,
            control,
            added,
            poll,
            timer,
            received: WideSet::new(SetName::LinkReceive, BATCH),
            read: WideSet::new(SetName::TunReceive, BATCH),
            from_link: Bounded::new(BATCH),
            // The runs of a batch, and for each a frame of packets that follow it.
            to_tun: Bounded::new(2 * BATCH),
            from_tun: Bounded::new(BATCH),
            to_link: Bounded::new(2 * BATCH),
            to_handshakes: Bounded::new(HANDSHAKE_BATCH),
            inbound_underway: Underway::default(),
            outbound_underway: Underway::default(),
            link_ready: false,
            tun_ready: false,
            blocked: false,
            watched: None,
            busy_poll,
            stopping: false,
            checker: ThreadChecker::default(),
        };
        this.watch().context("cannot watch the tunnel's descriptors")?;
        Ok(this)
    }

    fn watch(&self) -> std::io::Result<()> {
        let raw = |fd: BorrowedFd<'_>| fd.as_raw_fd();
        for fd in self.link_rx.fds().into_iter().flatten() {
            self.poll.add(raw(fd), LINK, Interest::READ)?;
        }
        if let Some(fd) = self.link_tx.service_fd() {
            self.poll.add(raw(fd), SERVICE, Interest::READ)?;
        }
        self.poll.add(raw(self.tun_rx.fd()), TUN, Interest::READ)?;
        self.poll.add(raw(self.timer.as_fd()), TIMER, Interest::READ)?;
        self.control.watch(&self.poll)
    }

    /// Runs until `stop` can be read. Binds the loop to this thread.
    ///
    /// # Errors
    /// When the TUN or the link is gone, or the kernel refuses to wait.
    pub fn run(&mut self, stop: &impl AsFd) -> Result<()> {
        self.checker.rebind_to_current();
        self.poll
            .add(stop.as_fd().as_raw_fd(), SIGNAL, Interest::READ)
            .context("cannot watch for signals")?;
        while !self.stopping {
            let busy = self.turns()?;
            self.timer.set(self.next_deadline()).context("cannot set the timer")?;
            if !busy && self.busy_poll {
                std::thread::yield_now();
            }
            self.look(!busy && !self.busy_poll)?;
        }
        if let Err(error) = self.say_goodbye() {
            tracing::warn!("saying goodbye to peers: {error:#}");
        }
        self.abandon();
        for peer in self.control.peers() {
            self.store_endpoint(peer);
        }
        Ok(())
    }

    /// Drops what the link has not taken and what was not sealed for want of room, counted: every frame goes home.
    fn abandon(&mut self) {
        self.link_tx.abandon(self.process.transmit_set());
        while let Some(run) = self.to_link.pop() {
            self.link_tx.counters().send_drops.add(DropReason::LinkSend, run.datagrams() as u64);
            run.frame.home(self.process.transmit_set());
        }
        while let Some(inner) = self.from_tun.pop() {
            self.tun_rx.counters().read_drops.count(DropReason::NoFrame);
            inner.frame.home(&mut self.read);
        }
    }

    /// Tells every peer once that its session ends, as far as the link takes it without waiting.
    fn say_goodbye(&mut self) -> Result<()> {
        self.process.close_sessions();
        loop {
            self.process.settle(&mut self.to_link, now());
            if self.to_link.is_empty() {
                return Ok(());
            }
            self.send()?;
            if self.blocked {
                return Ok(());
            }
        }
    }

    /// Up to four turns of the data path. True if more waits.
    fn turns(&mut self) -> Result<bool> {
        for _ in 0..TURNS_PER_LOOK {
            if !self.turn(now())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A quota each way, then what the handshakes want. True if more waits.
    fn turn(&mut self, now: Now) -> Result<bool> {
        self.checker.assert_here();
        let mut quota = Quota::default();
        while self.link_ready && quota.is_left() {
            let received = self.inbound(now)?;
            quota.use_up(received.runs, received.datagrams);
        }
        let mut quota = Quota::default();
        while !self.blocked && quota.is_left() {
            let packets = self.outbound(now)?;
            quota.use_up(packets, packets);
            if !self.tun_ready {
                break;
            }
        }
        if self.next_deadline().is_some_and(|at| at <= now.mono) {
            self.process.on_timer(now);
            self.control.on_timer(now);
            self.apply_leases(now);
        }
        self.handshakes(now)?;
        self.process.settle(&mut self.to_link, now);
        let unsettled = !self.process.can_seal(&self.to_link);
        self.send()?;
        self.path_errors(now);
        self.notices();
        // What found no room may have it now.
        let waits = (unsettled || !self.from_tun.is_empty()) && self.process.can_seal(&self.to_link);
        let more = self.link_ready || ((self.tun_ready || waits) && !self.blocked);
        Ok(more || self.control.has_work())
    }

    fn notices(&mut self) {
        while let Some(notice) = self.process.next_notice() {
            self.control.notice(notice);
        }
    }

    fn apply_leases(&mut self, now: Now) {
        if self.control.leases_deadline().is_none_or(|at| at > now.mono) {
            return;
        }
        let endpoints = endpoints(&self.process, &self.control);
        self.control.apply_leases(endpoints.into_iter(), now);
    }

    /// What this host has said about a path's MTU is taken at its word; an ICMP message only makes the kernel say it.
    fn path_errors(&mut self, now: Now) {
        while let Some(error) = self.link_rx.take_path_error() {
            if let (true, Some(mtu)) = (error.local, error.mtu) {
                // IPv4 leaves the port out of what it says itself; an MTU is an address's, not a port's.
                self.process.path_mtu(error.remote.ip(), mtu, now);
            }
        }
    }

    fn inbound(&mut self, now: Now) -> Result<Received> {
        let received = self.link_rx.receive(&mut self.received, &mut self.from_link, BATCH);
        let received = received.context("cannot receive from the link")?;
        self.link_ready = received.more;
        self.inbound_underway.came(received.runs, stopwatch);
        while !self.from_link.is_empty() {
            let mut portion = Portion::of(&mut self.from_link, PORTION);
            let (to_handshakes, home) = (&mut self.to_handshakes, &mut self.received);
            self.process.inbound(&mut portion, &mut self.to_tun, to_handshakes, home, now);
            self.inbound_underway.went(portion.taken(), &self.added.inbound, stopwatch);
            let mut homes = TwoHomes(&mut self.received, self.process.injected_set());
            self.tun_tx.write(&mut self.to_tun, &mut homes);
        }
        Ok(received)
    }

    /// Returns how many packets it has read.
    fn outbound(&mut self, now: Now) -> Result<usize> {
        let mut packets = 0;
        if self.tun_ready {
            let read = self.tun_rx.receive(&mut self.read, &mut self.from_tun, BATCH);
            let read = read.context("the TUN device is gone")?;
            self.tun_ready = read.more;
            self.outbound_underway.came(read.packets, stopwatch);
            packets = read.packets;
        }
        if !self.from_tun.is_empty() {
            self.process.outbound(&mut self.from_tun, &mut self.read, &mut self.to_link, now);
            self.send()?;
        }
        Ok(packets)
    }

    /// Sends the runs that wait, and watches for room when the link takes no more.
    fn send(&mut self) -> Result<()> {
        if self.from_tun.is_empty() {
            self.outbound_underway.all_went(&self.added.outbound, stopwatch);
        }
        // Blocked, it is asked again: what blocked it may be gone with the ring.
        if self.to_link.is_empty() && !self.link_tx.holds_runs() && !self.blocked {
            return Ok(());
        }
        let result = self.link_tx.send(&mut self.to_link, self.process.transmit_set());
        let blocked = result == SendResult::Blocked;
        let blocked_on = self.link_tx.blocked_on().filter(|_| blocked).map(|fd| fd.as_raw_fd());
        if (blocked, blocked_on) == (self.blocked, self.watched) {
            return Ok(());
        }
        let tun_interest = if blocked { Interest::NONE } else { Interest::READ };
        let tun = self.tun_rx.fd().as_raw_fd();
        let received_from = self.link_rx.fds().map(|fd| fd.map(|fd| fd.as_raw_fd()));
        let is_shared = |fd| received_from.contains(&Some(fd));
        let watch = || -> std::io::Result<()> {
            // Mostly the one that is received from as well.
            match self.watched {
                Some(fd) if is_shared(fd) => self.poll.modify(fd, LINK, Interest::READ)?,
                Some(fd) => self.poll.remove(fd)?,
                None => {}
            }
            match blocked_on {
                Some(fd) if is_shared(fd) => {
                    self.poll.modify(fd, LINK, Interest { read: true, write: true })?;
                }
                Some(fd) => self.poll.add(fd, LINK, Interest { read: false, write: true })?,
                None => {}
            }
            self.poll.modify(tun, TUN, tun_interest)
        };
        watch().context("cannot watch the link for room")?;
        (self.blocked, self.watched) = (blocked, blocked_on);
        Ok(())
    }

    /// Carries messages between sessions and handshakes until there are none: sessions first, then their datagrams.
    fn handshakes(&mut self, now: Now) -> Result<()> {
        let (control, process) = (&mut self.control, &mut self.process);
        while let Some(message) = self.to_handshakes.pop() {
            control.handle(message, now);
        }
        control.step(now);
        // Whose session came into use just now: where is worth storing.
        let mut reached = Vec::new();
        loop {
            let mut any = false;
            while let Some(message) = process.next_message() {
                if let ToHandshakes::Confirmed(peer) = message {
                    reached.push(peer);
                }
                control.handle(message, now);
                any = true;
            }
            while let Some(message) = control.next_message() {
                if let ToSessions::Ready(new) = &message
                    && new.number.is_some()
                {
                    reached.push(new.session.peer);
                }
                process.handle(message);
                any = true;
            }
            if !any {
                break;
            }
        }
        let link = &mut self.link_tx;
        control.deliver(|transmit| link.send_datagram(&transmit.path, &transmit.bytes, 0))?;
        for peer in reached {
            self.store_endpoint(peer);
        }
        Ok(())
    }

    /// Stores where a peer is now, for the next start.
    fn store_endpoint(&mut self, peer: PeerId) {
        let Some(status) = self.process.sessions().status(peer) else { return };
        if let Some(path) = status.endpoint {
            self.control.reached(peer, &path);
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        let control = &self.control;
        let deadlines =
            [self.process.next_deadline(), control.handshakes_deadline(), control.leases_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Waits for what comes next, or only looks, and notes what is ready.
    fn look(&mut self, block: bool) -> Result<()> {
        let count = self.poll.wait(block).context("cannot wait for events")?;
        for n in 0..count {
            let Some(event) = self.poll.event(n) else { break };
            match event.token {
                TUN => self.tun_ready |= event.readable || event.error,
                LINK => {
                    if event.error {
                        self.link_rx.drain_errors();
                    }
                    self.link_ready |= event.readable;
                    if event.writable {
                        self.send()?;
                    }
                }
                SERVICE => {
                    self.link_tx.service(now());
                    self.send()?;
                }
                TIMER => self.timer.reset(),
                SIGNAL => self.stopping = true,
                RESOLVER => self.control.resolved(now()),
                LISTENER => self.control.accept(&self.poll)?,
                client => {
                    if let Some(client) = self.control.client((client - CLIENT) as RawFd, &self.poll)? {
                        let answer = self.snapshot();
                        self.control.answer(client, answer, &self.poll)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Everything about the tunnel at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let control = &self.control;
        let ends = [&self.received, &self.read].map(|set| (set.name(), FrameSet::of(set)));
        snapshot(&control.facts, &control.gauges, &self.process, ends, now())
    }

    /// The name of a frame set that is not whole, if there is one. At rest there is none.
    pub fn incomplete_set(&self) -> Option<&'static str> {
        let mut sets = [&self.received, &self.read].into_iter().chain(self.process.sets());
        sets.find(|set| !set.is_whole()).map(|set| set.name().name())
    }
}

/// Where the peers are now.
pub(super) fn endpoints(process: &Process, control: &Control) -> Vec<IpAddr> {
    let current = control.peers().filter_map(|peer| process.sessions().status(peer)?.endpoint);
    current.map(|path| path.remote().ip()).collect()
}

#[cfg(test)]
mod tests;
