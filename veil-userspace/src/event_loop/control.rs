//! What happens beside the data path, in every threading mode: handshakes, names, leases, the state file, `veil show`.
//!
//! In `single` the loop steps it in turn with the stages, in `pipeline` a thread of its own does. It never touches a
//! session: what it knows of those, and what they are told, goes by messages.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result};
use serde::Serialize;
use veil_proto::tunnel::{HandshakeOutput, Handshakes, ToHandshakes, ToSessions, Transmit};
use veil_proto::{Entropy, Now, Path, PeerId};

use super::poll::{Interest, Poll};
use super::process::Notice;
use crate::config::Endpoint;
use crate::control::lease::Leases;
use crate::control::resolver::Resolver;
use crate::control::show::Snapshot;
use crate::control::socket::{
    ClientId, ControlSocket, Interest as ClientInterest, Outcome, Refusal, Request,
};
use crate::control::state::StateFile;
use crate::control::status::{Facts, Gauges};

pub const TIMER: u64 = 2;
pub const SIGNAL: u64 = 3;
pub const RESOLVER: u64 = 4;
pub const LISTENER: u64 = 5;
/// Control clients: this and their descriptor.
pub const CLIENT: u64 = 1 << 32;

/// Everything beside the data path.
pub struct Control {
    handshakes: Handshakes,
    output: HandshakeOutput,
    entropy: Box<dyn Entropy>,
    endpoints: Vec<Option<Endpoint>>,
    /// What the names among them last resolved to.
    named: HashMap<PeerId, Vec<IpAddr>>,
    leases: Leases,
    state: StateFile,
    socket: ControlSocket,
    resolver: Resolver,
    pub facts: Arc<Facts>,
    pub gauges: Arc<Gauges>,
}

impl Control {
    #[expect(clippy::too_many_arguments, reason = "each is a part of what an event loop is made of")]
    pub fn new(
        handshakes: Handshakes,
        entropy: Box<dyn Entropy>,
        endpoints: Vec<Option<Endpoint>>,
        leases: Leases,
        state: StateFile,
        socket: ControlSocket,
        facts: Facts,
        gauges: Gauges,
    ) -> Result<Self> {
        let resolver = Resolver::new().context("cannot create an eventfd")?;
        let (output, facts, gauges) = (HandshakeOutput::default(), Arc::new(facts), Arc::new(gauges));
        let named = HashMap::new();
        Ok(Control {
            handshakes,
            output,
            entropy,
            endpoints,
            named,
            leases,
            state,
            socket,
            resolver,
            facts,
            gauges,
        })
    }

    /// Watches what can wake it but its timer and signals.
    pub fn watch(&self, poll: &Poll) -> io::Result<()> {
        poll.add(self.resolver.fd().as_raw_fd(), RESOLVER, Interest::READ)?;
        poll.add(self.socket.listener_fd(), LISTENER, Interest::READ)
    }

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + use<> {
        (0..self.endpoints.len() as u32).map(PeerId)
    }

    /// Takes in a message from the sessions.
    pub fn handle(&mut self, message: ToHandshakes, now: Now) {
        self.handshakes.handle(message, now, &mut *self.entropy, &mut self.output);
    }

    /// Whether [`step`](Self::step) has something to do.
    pub fn has_work(&self) -> bool {
        self.handshakes.has_work()
    }

    /// Works on handshakes, a bounded part of what waits.
    pub fn step(&mut self, now: Now) {
        if self.handshakes.has_work() {
            self.handshakes.step(now, &mut *self.entropy, &mut self.output);
        }
    }

    /// Does what is due of the handshakes.
    pub fn on_timer(&mut self, now: Now) {
        self.handshakes.on_timer(now, &mut self.output);
    }

    /// When handshakes must be stepped next.
    pub fn handshakes_deadline(&self) -> Option<u64> {
        self.handshakes.next_deadline()
    }

    /// When leases must be applied next.
    pub fn leases_deadline(&self) -> Option<u64> {
        self.leases.deadline()
    }

    /// The next message for the sessions.
    pub fn next_message(&mut self) -> Option<ToSessions> {
        self.output.to_sessions.pop_front()
    }

    /// Whether a message waits for the sessions, who have `room`.
    pub fn holds_messages(&self, room: usize) -> bool {
        room > 0 && !self.output.to_sessions.is_empty()
    }

    /// A message that nobody had room for.
    pub fn put_back(&mut self, message: ToSessions) {
        self.output.to_sessions.push_front(message);
    }

    /// Once the sessions have been told: stores what was accepted, sends what is to be sent, asks for names.
    pub fn deliver(&mut self, mut send: impl FnMut(&Transmit) -> io::Result<()>) -> Result<()> {
        while let Some(accepted) = self.output.accepted.pop_front() {
            self.state.accepted(accepted.peer, accepted.timestamp);
        }
        while let Some(transmit) = self.output.transmits.pop_front() {
            self.gauges.handshakes_out.fetch_add(1, Relaxed);
            if let Err(error) = send(&transmit) {
                tracing::debug!("handshake to {}: {error}", transmit.path.remote());
            }
        }
        while let Some(peer) = self.output.resolve.pop_front() {
            if let Some(endpoint) = self.endpoints.get(peer.index()).cloned().flatten() {
                self.resolver.ask(peer, endpoint).context("cannot start the resolver's thread")?;
            }
        }
        Ok(())
    }

    /// Stores where a peer is now, for the next start.
    pub fn reached(&mut self, peer: PeerId, path: &Path) {
        self.state.reached(peer, path);
    }

    /// What a peer has said that concerns more than the data path.
    pub fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Closed(peer) => tracing::info!("{} has ended its session", self.facts.peer_name(peer)),
            Notice::Leased(peer, lease) => self.leases.take(peer, self.facts.peer_name(peer), lease),
            Notice::Moved => self.leases.look_again(),
        }
    }

    /// Puts into force what peers have given this host, but nothing that would lead to a peer itself: neither to where they
    /// are now, which is `current`, nor to a configured endpoint.
    pub fn apply_leases(&mut self, current: impl Iterator<Item = IpAddr>, now: Now) {
        let configured = self.endpoints.iter().flatten().filter_map(Endpoint::ip).map(|ip| ip.to_canonical());
        let named = self.named.values().flatten().copied();
        self.leases.apply(current.chain(configured).chain(named), now.mono);
    }

    /// Takes the resolver's answers.
    pub fn resolved(&mut self, now: Now) {
        while let Some(answer) = self.resolver.next_answer() {
            let (peer, addresses) = (answer.peer, answer.addresses);
            let ips: Vec<IpAddr> = addresses.iter().map(|address| address.ip().to_canonical()).collect();
            if !ips.is_empty() && self.named.get(&peer) != Some(&ips) {
                self.named.insert(peer, ips);
                self.leases.look_again();
            }
            self.handle(ToHandshakes::Resolved { peer, addresses }, now);
        }
    }

    /// Takes the control clients that wait.
    pub fn accept(&mut self, poll: &Poll) -> Result<()> {
        for fd in self.socket.accept() {
            poll.add(fd, CLIENT + fd as u64, Interest::READ).context("control client")?;
        }
        Ok(())
    }

    /// One control client has something to say or can be told more: who waits for a [`Snapshot`] now, if it does.
    pub fn client(&mut self, fd: RawFd, poll: &Poll) -> Result<Option<ClientId>> {
        match self.socket.ready(fd) {
            Outcome::Request(client, Request::Show) => {
                self.watch_client(fd, poll)?;
                Ok(Some(client))
            }
            Outcome::Closed(_) => Ok(None),
            Outcome::Pending => self.watch_client(fd, poll).map(|()| None),
        }
    }

    /// Answers one who waits, leases entered.
    pub fn answer(&mut self, client: ClientId, mut answer: Snapshot, poll: &Poll) -> Result<()> {
        self.leases.enter(&mut answer);
        self.reply(client, &answer, poll)
    }

    /// Tells one who waits why there is no answer.
    pub fn refuse(&mut self, client: ClientId, why: &str, poll: &Poll) -> Result<()> {
        self.reply(client, &Refusal { error: why.to_owned() }, poll)
    }

    fn reply(&mut self, client: ClientId, answer: &impl Serialize, poll: &Poll) -> Result<()> {
        self.socket.answer(client, answer);
        self.socket.fd_of(client).map_or(Ok(()), |fd| self.watch_client(fd, poll))
    }

    fn watch_client(&self, fd: RawFd, poll: &Poll) -> Result<()> {
        let interest = match self.socket.interest(fd) {
            ClientInterest::Read => Interest::READ,
            ClientInterest::Write => Interest { read: false, write: true },
            ClientInterest::Nothing => Interest::NONE,
        };
        poll.modify(fd, CLIENT + fd as u64, interest).context("control client")
    }
}
