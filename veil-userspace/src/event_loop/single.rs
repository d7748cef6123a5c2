//! `ThreadingMode::SingleThreaded`: one epoll loop steps RX, process and TX in turn, and the handshakes after them.
//!
//! A turn moves a bounded batch each way and then looks what else is ready, so neither direction starves the other and
//! nothing is polled by time. When the link is blocked the TUN is not read: the host's own queue holds or drops. Inbound
//! goes on then, since it needs no transmit frame.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result};
use veil_proto::thread_checker::ThreadChecker;
use veil_proto::tunnel::{HandshakeOutput, Handshakes, ToHandshakes, ToSessions};
use veil_proto::{Entropy, Now, PeerId};

use super::added::Underway;
use super::poll::{Interest, Poll, Signals, Timer};
use super::process::{Notice, Process};
use crate::config::Endpoint;
use crate::control::lease::Leases;
use crate::control::resolver::Resolver;
use crate::control::show::Snapshot;
use crate::control::socket::{ControlSocket, Interest as ClientInterest, Outcome, Request};
use crate::control::state::StateFile;
use crate::control::status::{Facts, Gauges, snapshot};
use crate::frame::{Bounded, Inbox, Inner, Opened, Sealed, SetName, TwoHomes, WideSet};
use crate::host::{now, stopwatch};
use crate::link::{LinkRx, LinkTx, SendResult};
use crate::tun::{TunRead, TunWrite};

/// Runs received, and packets read, in one turn.
const BATCH: usize = 64;
/// Times that a turn receives and passes on what came, each way. One call brings little, so that nothing waits for what
/// came with it; a turn is several, for the sake of what it costs besides.
const CALLS_PER_TURN: usize = 4;
/// Handshake datagrams copied out of the data path in one turn.
const HANDSHAKE_BATCH: usize = 1024;
/// Turns that may move packets before the other descriptors are looked at again.
const TURNS_PER_LOOK: usize = 4;

const TUN: u64 = 0;
const LINK: u64 = 1;
const TIMER: u64 = 2;
const SIGNAL: u64 = 3;
const RESOLVER: u64 = 4;
const LISTENER: u64 = 5;
const SERVICE: u64 = 6;
/// Control clients: this and their descriptor.
const CLIENT: u64 = 1 << 32;

/// The ends of the data path and what happens beside it.
pub struct Parts<R, S, T, W> {
    /// Receives from the link.
    pub link_rx: R,
    /// Sends to the link.
    pub link_tx: S,
    /// Reads from the host.
    pub tun_rx: T,
    /// Writes to the host.
    pub tun_tx: W,
    /// Seals and opens.
    pub process: Process,
    /// Agrees on sessions.
    pub handshakes: Handshakes,
    /// Each peer's configured endpoint.
    pub endpoints: Vec<Option<Endpoint>>,
    /// What peers have given this host.
    pub leases: Leases,
    /// Keeps what must outlive the daemon.
    pub state: StateFile,
    /// Answers `veil show`.
    pub control: ControlSocket,
    /// What `veil show` says beside the counters.
    pub facts: Facts,
    /// The counters that `veil show` reads.
    pub gauges: Gauges,
}

/// The single-threaded event loop.
pub struct EventLoop<R, S, T, W> {
    parts: Parts<R, S, T, W>,
    entropy: Box<dyn Entropy>,
    poll: Poll,
    timer: Timer,
    resolver: Resolver,
    received: WideSet,
    read: WideSet,
    from_link: Bounded<Sealed>,
    to_tun: Bounded<Opened>,
    from_tun: Bounded<Inner>,
    to_link: Bounded<Sealed>,
    to_handshakes: Bounded<ToHandshakes>,
    handshake_output: HandshakeOutput,
    handshakes_out: Arc<AtomicU64>,
    inbound_underway: Underway,
    outbound_underway: Underway,
    link_ready: bool,
    tun_ready: bool,
    blocked: bool,
    /// The link's descriptor that is watched for room.
    watched: Option<RawFd>,
    stopping: bool,
    checker: ThreadChecker,
}

impl<R: LinkRx, S: LinkTx, T: TunRead, W: TunWrite> EventLoop<R, S, T, W> {
    /// A loop over `parts`, whose descriptors it watches from now on; handshakes draw from `entropy`.
    pub fn new(parts: Parts<R, S, T, W>, entropy: Box<dyn Entropy>) -> Result<Self> {
        let poll = Poll::new().context("cannot create an epoll instance")?;
        let timer = Timer::new().context("cannot create a timer")?;
        let resolver = Resolver::new().context("cannot create an eventfd")?;
        let handshakes_out = parts.gauges.handshakes_out.clone();
        let this = EventLoop {
            parts,
            entropy,
            poll,
            timer,
            resolver,
            received: WideSet::new(SetName::LinkReceive, BATCH),
            read: WideSet::new(SetName::TunReceive, BATCH),
            from_link: Bounded::new(BATCH),
            // The runs of a batch, and the packets put together from pieces in them.
            to_tun: Bounded::new(2 * BATCH),
            from_tun: Bounded::new(BATCH),
            to_link: Bounded::new(2 * BATCH),
            to_handshakes: Bounded::new(HANDSHAKE_BATCH),
            handshake_output: HandshakeOutput::default(),
            handshakes_out,
            inbound_underway: Underway::default(),
            outbound_underway: Underway::default(),
            link_ready: false,
            tun_ready: false,
            blocked: false,
            watched: None,
            stopping: false,
            checker: ThreadChecker::default(),
        };
        this.watch().context("cannot watch the tunnel's descriptors")?;
        Ok(this)
    }

    fn watch(&self) -> std::io::Result<()> {
        let raw = |fd: BorrowedFd<'_>| fd.as_raw_fd();
        for fd in self.parts.link_rx.fds().into_iter().flatten() {
            self.poll.add(raw(fd), LINK, Interest::READ)?;
        }
        if let Some(fd) = self.parts.link_tx.service_fd() {
            self.poll.add(raw(fd), SERVICE, Interest::READ)?;
        }
        self.poll.add(raw(self.parts.tun_rx.fd()), TUN, Interest::READ)?;
        self.poll.add(raw(self.timer.as_fd()), TIMER, Interest::READ)?;
        self.poll.add(raw(self.resolver.fd()), RESOLVER, Interest::READ)?;
        self.poll.add(self.parts.control.listener_fd(), LISTENER, Interest::READ)
    }

    /// Runs until a signal says stop. Binds the loop to this thread.
    ///
    /// # Errors
    /// When the TUN or the link is gone, or the kernel refuses to wait.
    pub fn run(&mut self, signals: &Signals) -> Result<()> {
        self.checker.rebind_to_current();
        self.poll
            .add(signals.as_fd().as_raw_fd(), SIGNAL, Interest::READ)
            .context("cannot watch for signals")?;
        while !self.stopping {
            let busy = self.turns()?;
            self.timer.set(self.next_deadline()).context("cannot set the timer")?;
            self.look(!busy)?;
        }
        if let Err(error) = self.say_goodbye() {
            tracing::warn!("saying goodbye to peers: {error:#}");
        }
        self.parts.link_tx.abandon(self.parts.process.transmit_set());
        for peer in (0..self.parts.endpoints.len() as u32).map(PeerId) {
            self.store_endpoint(peer);
        }
        Ok(())
    }

    /// Tells every peer once that its session ends, as far as the link takes it without waiting.
    fn say_goodbye(&mut self) -> Result<()> {
        self.parts.process.close_sessions();
        loop {
            self.parts.process.settle(&mut self.to_link, now());
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

    /// One batch each way, then what the handshakes want. True if more waits.
    fn turn(&mut self, now: Now) -> Result<bool> {
        self.checker.assert_here();
        for _ in 0..CALLS_PER_TURN {
            if !self.link_ready {
                break;
            }
            self.inbound(now)?;
        }
        for _ in 0..CALLS_PER_TURN {
            if self.blocked {
                break;
            }
            self.outbound(now)?;
            if !self.tun_ready {
                break;
            }
        }
        if self.next_deadline().is_some_and(|at| at <= now.mono) {
            self.parts.process.on_timer(now);
            self.parts.handshakes.on_timer(now, &mut *self.entropy, &mut self.handshake_output);
            self.apply_leases(now);
        }
        self.handshakes(now)?;
        self.parts.process.settle(&mut self.to_link, now);
        self.send()?;
        self.path_errors(now);
        self.notices();
        let more = self.link_ready || (self.tun_ready && !self.blocked);
        Ok(more || self.parts.handshakes.has_work())
    }

    fn notices(&mut self) {
        let parts = &mut self.parts;
        while let Some(notice) = parts.process.next_notice() {
            match notice {
                Notice::Closed(peer) => {
                    tracing::info!("{} has ended its session", parts.facts.peer_name(peer))
                }
                Notice::Leased(peer, lease) => parts.leases.take(peer, parts.facts.peer_name(peer), lease),
            }
        }
    }

    /// Puts into force what peers have given this host, but nothing that would lead to a peer itself.
    fn apply_leases(&mut self, now: Now) {
        let parts = &mut self.parts;
        let peers = (0..parts.endpoints.len() as u32).map(PeerId);
        let current = peers.filter_map(|peer| parts.process.sessions().status(peer)?.endpoint);
        let configured = parts.endpoints.iter().flatten().filter_map(Endpoint::ip);
        let endpoints = current.map(|path| path.remote().ip()).chain(configured);
        parts.leases.apply(endpoints, now.mono);
    }

    /// What this host has said about a path's MTU is taken at its word; an ICMP message only makes the kernel say it.
    fn path_errors(&mut self, now: Now) {
        while let Some(error) = self.parts.link_rx.take_path_error() {
            if let (true, Some(mtu)) = (error.local, error.mtu) {
                // IPv4 leaves the port out of what it says itself; an MTU is an address's, not a port's.
                self.parts.process.path_mtu(error.remote.ip(), mtu, now);
            }
        }
    }

    fn inbound(&mut self, now: Now) -> Result<()> {
        let parts = &mut self.parts;
        let received = parts.link_rx.receive(&mut self.received, &mut self.from_link, BATCH);
        let received = received.context("cannot receive from the link")?;
        self.link_ready = received.more;
        self.inbound_underway.came(received.runs, stopwatch);
        let (to_handshakes, home) = (&mut self.to_handshakes, &mut self.received);
        parts.process.inbound(&mut self.from_link, &mut self.to_tun, to_handshakes, home, now);
        if self.from_link.is_empty() {
            self.inbound_underway.gone(&parts.gauges.added.inbound, stopwatch);
        }
        let mut homes = TwoHomes(&mut self.received, parts.process.injected_set());
        parts.tun_tx.write(&mut self.to_tun, &mut homes);
        Ok(())
    }

    fn outbound(&mut self, now: Now) -> Result<()> {
        let parts = &mut self.parts;
        if self.tun_ready {
            let read = parts.tun_rx.receive(&mut self.read, &mut self.from_tun, BATCH);
            let read = read.context("the TUN device is gone")?;
            self.tun_ready = read.more;
            self.outbound_underway.came(read.packets, stopwatch);
        }
        if !self.from_tun.is_empty() {
            parts.process.outbound(&mut self.from_tun, &mut self.read, &mut self.to_link, now);
            self.send()?;
        }
        Ok(())
    }

    /// Sends the runs that wait, and watches for room when the link takes no more.
    fn send(&mut self) -> Result<()> {
        if self.from_tun.is_empty() {
            self.outbound_underway.gone(&self.parts.gauges.added.outbound, stopwatch);
        }
        let parts = &mut self.parts;
        if self.to_link.is_empty() && !parts.link_tx.holds_runs() {
            return Ok(());
        }
        let result = parts.link_tx.send(&mut self.to_link, parts.process.transmit_set());
        let blocked = result == SendResult::Blocked;
        let room_on = parts.link_tx.blocked_on().filter(|_| blocked).map(|fd| fd.as_raw_fd());
        if (blocked, room_on) == (self.blocked, self.watched) {
            return Ok(());
        }
        let tun_interest = if blocked { Interest::NONE } else { Interest::READ };
        let tun = self.parts.tun_rx.fd().as_raw_fd();
        let watch = || -> std::io::Result<()> {
            if let Some(fd) = self.watched {
                self.poll.modify(fd, LINK, Interest::READ)?;
            }
            if let Some(fd) = room_on {
                self.poll.modify(fd, LINK, Interest { read: true, write: true })?;
            }
            self.poll.modify(tun, TUN, tun_interest)
        };
        watch().context("cannot watch the link for room")?;
        (self.blocked, self.watched) = (blocked, room_on);
        Ok(())
    }

    /// Carries messages between sessions and handshakes until there are none: sessions first, then their datagrams.
    fn handshakes(&mut self, now: Now) -> Result<()> {
        let (handshakes, process) = (&mut self.parts.handshakes, &mut self.parts.process);
        let (entropy, out) = (&mut *self.entropy, &mut self.handshake_output);
        while let Some(message) = self.to_handshakes.pop() {
            handshakes.handle(message, now, entropy, out);
        }
        if handshakes.has_work() {
            handshakes.step(now, entropy, out);
        }
        // Whose session came into use just now: where is worth storing.
        let mut reached = Vec::new();
        loop {
            let mut any = false;
            while let Some(message) = process.next_message() {
                if let ToHandshakes::Confirmed(peer) = message {
                    reached.push(peer);
                }
                handshakes.handle(message, now, entropy, out);
                any = true;
            }
            while let Some(message) = out.to_sessions.pop_front() {
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
        while let Some(accepted) = out.accepted.pop_front() {
            self.parts.state.accepted(accepted.peer, accepted.timestamp);
        }
        while let Some(transmit) = out.transmits.pop_front() {
            self.handshakes_out.fetch_add(1, Relaxed);
            if let Err(error) = self.parts.link_tx.send_datagram(&transmit.path, &transmit.bytes, 0) {
                tracing::debug!("handshake to {}: {error}", transmit.path.remote());
            }
        }
        while let Some(peer) = out.resolve.pop_front() {
            if let Some(endpoint) = self.parts.endpoints.get(peer.index()).cloned().flatten() {
                self.resolver.ask(peer, endpoint).context("cannot start the resolver's thread")?;
            }
        }
        for peer in reached {
            self.store_endpoint(peer);
        }
        Ok(())
    }

    /// Stores where a peer is now, for the next start.
    fn store_endpoint(&mut self, peer: PeerId) {
        let Some(status) = self.parts.process.sessions().status(peer) else { return };
        if let Some(path) = status.endpoint {
            self.parts.state.reached(peer, &path);
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        let parts = &self.parts;
        let deadlines =
            [parts.process.next_deadline(), parts.handshakes.next_deadline(), parts.leases.deadline()];
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
                        self.parts.link_rx.drain_errors();
                    }
                    self.link_ready |= event.readable;
                    if event.writable {
                        self.send()?;
                    }
                }
                SERVICE => {
                    self.parts.link_tx.service(now());
                    self.send()?;
                }
                TIMER => self.timer.reset(),
                SIGNAL => self.stopping = true,
                RESOLVER => self.resolved(),
                LISTENER => {
                    for fd in self.parts.control.accept() {
                        self.poll.add(fd, CLIENT + fd as u64, Interest::READ).context("control client")?;
                    }
                }
                client => self.control((client - CLIENT) as RawFd)?,
            }
        }
        Ok(())
    }

    fn resolved(&mut self) {
        while let Some(answer) = self.resolver.next_answer() {
            let message = ToHandshakes::Resolved { peer: answer.peer, addresses: answer.addresses };
            self.parts.handshakes.handle(message, now(), &mut *self.entropy, &mut self.handshake_output);
        }
    }

    /// One control client has something to say or can be told more.
    fn control(&mut self, fd: RawFd) -> Result<()> {
        match self.parts.control.ready(fd) {
            Outcome::Request(client, Request::Show) => {
                let answer = self.snapshot();
                self.parts.control.answer(client, &answer);
            }
            Outcome::Closed(_) => return Ok(()),
            Outcome::Pending => {}
        }
        let interest = self.parts.control.interest(fd);
        let interest = match interest {
            ClientInterest::Read => Interest::READ,
            ClientInterest::Write => Interest { read: false, write: true },
            ClientInterest::Nothing => Interest::NONE,
        };
        self.poll.modify(fd, CLIENT + fd as u64, interest).context("control client")
    }

    /// Everything about the tunnel at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let parts = &self.parts;
        snapshot(&parts.facts, &parts.gauges, &parts.process, [&self.received, &self.read], now())
    }

    /// The name of a frame set that is not whole, if there is one. At rest there is none.
    pub fn incomplete_set(&self) -> Option<&'static str> {
        let mut sets = [&self.received, &self.read].into_iter().chain(self.parts.process.sets());
        sets.find(|set| !set.is_whole()).map(|set| set.name().name())
    }
}
