//! The control half of the tunnel: pending initiations and their retries, the queue of initiations to answer, and
//! the allocator of receiver indices.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

use super::{ToHandshakes, ToSessions};
use crate::crypto::{Psk, PublicKey, Suites};
use crate::handshake::message::{Header, TYPE_INITIATION, TYPE_RESPONSE};
use crate::handshake::{Attempt, HandshakeInitiator, HandshakeResponder, Identity};
use crate::peer::PeerSettings;
use crate::session::limits::{GIVE_UP, RETRY, RETRY_JITTER};
use crate::timers::Deadlines;
use crate::{DropCounters, DropReason, Entropy, Now, Path, PeerId, Tai64n};

/// Initiations that may wait to be answered.
const INITIATION_QUEUE: usize = 1024;
/// Responses that may wait to be finished.
const RESPONSE_QUEUE: usize = 64;
/// Initiations taken through the cheap gates in one step, at most.
const GATES_PER_STEP: usize = 64;

/// A handshake datagram to send.
pub struct Transmit {
    /// Where to.
    pub path: Path,
    /// The datagram.
    pub bytes: Vec<u8>,
}

/// What [`Handshakes`] wants done. Messages to sessions come before the datagrams of the same step.
#[derive(Default)]
pub struct HandshakeOutput {
    /// Messages for [`Sessions`](super::Sessions).
    pub to_sessions: VecDeque<ToSessions>,
    /// Datagrams to send once those are delivered.
    pub transmits: VecDeque<Transmit>,
    /// Peers whose endpoint name should be resolved; the answer is [`ToHandshakes::Resolved`].
    pub resolve: VecDeque<PeerId>,
}

struct Request {
    number: u64,
    started: u64,
    retry_at: u64,
    attempts: usize,
    pending: Option<Box<HandshakeInitiator>>,
}

struct Peer {
    public_key: PublicKey,
    psk: Psk,
    suites: Suites,
    has_endpoint: bool,
    heard_at: Option<Path>,
    addresses: Vec<SocketAddr>,
    last_sent: Tai64n,
    request: Option<Request>,
}

impl Peer {
    /// Where attempt number `n` goes: where the peer was heard first, then its configured addresses in turn.
    fn path(&self, n: usize) -> Option<Path> {
        let configured = || self.addresses.iter().map(|&address| Path::to(address));
        let all = || {
            let heard = self.heard_at;
            heard
                .into_iter()
                .chain(configured().filter(move |p| Some(p.remote()) != heard.map(|h| h.remote())))
        };
        all().nth(n % all().count().max(1))
    }
}

/// Everything about handshakes that needs an owner.
pub struct Handshakes {
    identity: Identity,
    responder: HandshakeResponder,
    peers: Vec<Peer>,
    indices: HashSet<u32>,
    by_index: HashMap<u32, PeerId>,
    initiations: VecDeque<(Path, Vec<u8>)>,
    responses: VecDeque<(Path, Vec<u8>)>,
    deadlines: Deadlines,
    drops: std::sync::Arc<DropCounters>,
}

impl Handshakes {
    /// Handshakes with `peers`, numbered in their order.
    pub fn new(identity: Identity, peers: &[PeerSettings], entropy: &mut dyn Entropy) -> Self {
        let responder = HandshakeResponder::new(peers, entropy);
        let peer = |p: &PeerSettings| Peer {
            public_key: p.public_key,
            psk: Psk::from_bytes(*p.psk.as_bytes()),
            suites: p.suites,
            has_endpoint: p.has_endpoint,
            heard_at: None,
            addresses: Vec::new(),
            last_sent: Tai64n::default(),
            request: None,
        };
        Handshakes {
            identity,
            responder,
            peers: peers.iter().map(peer).collect(),
            indices: HashSet::new(),
            by_index: HashMap::new(),
            initiations: VecDeque::new(),
            responses: VecDeque::new(),
            deadlines: Deadlines::new(peers.len()),
            drops: Default::default(),
        }
    }

    /// What was refused, by reason; readable from any thread.
    pub fn drops(&self) -> std::sync::Arc<DropCounters> {
        self.drops.clone()
    }

    /// Takes one message in. Datagrams only queue here; [`step`](Self::step) works on them.
    pub fn handle(
        &mut self,
        message: ToHandshakes,
        now: Now,
        entropy: &mut dyn Entropy,
        out: &mut HandshakeOutput,
    ) {
        match message {
            ToHandshakes::Datagram { path, bytes } => self.enqueue(path, bytes),
            ToHandshakes::Initiate { peer, number, path } => {
                self.initiate(peer, number, path, now, entropy, out);
            }
            ToHandshakes::Confirmed(peer) => self.cancel(peer),
            ToHandshakes::Retired(index) => {
                self.indices.remove(&index);
            }
            ToHandshakes::Resolved { peer, addresses } => self.resolved(peer, addresses, now, entropy, out),
        }
    }

    fn enqueue(&mut self, path: Path, bytes: Vec<u8>) {
        let (queue, limit) = match Header::parse(&bytes) {
            Ok(header) if header.kind == TYPE_INITIATION => (&mut self.initiations, INITIATION_QUEUE),
            Ok(header) if header.kind == TYPE_RESPONSE => (&mut self.responses, RESPONSE_QUEUE),
            _ => return self.drops.count(DropReason::NotPending),
        };
        if queue.len() < limit {
            queue.push_back((path, bytes));
        } else {
            self.drops.count(DropReason::HandshakeQueueFull);
        }
    }

    /// Whether datagrams wait for [`step`](Self::step).
    pub fn has_work(&self) -> bool {
        !self.initiations.is_empty() || !self.responses.is_empty()
    }

    /// Works on waiting datagrams: one answer of ours finished, up to 64 initiations through the cheap gates, curve work
    /// for the first that passes.
    pub fn step(&mut self, now: Now, entropy: &mut dyn Entropy, out: &mut HandshakeOutput) {
        if let Some((_, mut bytes)) = self.responses.pop_front()
            && let Err(reason) = self.finish(&mut bytes, now, out)
        {
            self.drops.count(reason);
        }
        for _ in 0..GATES_PER_STEP {
            let Some((path, mut bytes)) = self.initiations.pop_front() else { break };
            let opened = match self.responder.open_envelope(&self.identity, &mut bytes) {
                Ok(opened) => opened,
                Err(reason) => {
                    self.drops.count(reason);
                    continue;
                }
            };
            let index = self.allocate(entropy);
            match self.responder.handle_init(&self.identity, opened, path, index, now, entropy) {
                Ok(answer) => {
                    out.to_sessions.push_back(ToSessions::Ready(answer.session));
                    out.transmits.push_back(Transmit { path, bytes: answer.response });
                }
                Err(reason) => {
                    self.indices.remove(&index);
                    self.drops.count(reason);
                }
            }
            break;
        }
    }

    fn finish(&mut self, bytes: &mut [u8], now: Now, out: &mut HandshakeOutput) -> Result<(), DropReason> {
        let header = Header::parse(bytes)?;
        let peer_id = *self.by_index.get(&header.index).ok_or(DropReason::NotPending)?;
        let peer = self.peers.get_mut(peer_id.index()).ok_or(DropReason::NotPending)?;
        let request = peer.request.as_mut().ok_or(DropReason::NotPending)?;
        let pending = request.pending.take().ok_or(DropReason::NotPending)?;
        match pending.finish(&self.identity, &peer.public_key, &peer.psk, bytes, now) {
            Ok(session) => {
                self.by_index.remove(&header.index);
                peer.request = None;
                out.to_sessions.push_back(ToSessions::Ready(session));
                Ok(())
            }
            Err((pending, reason)) => {
                request.pending = Some(pending);
                Err(reason)
            }
        }
    }

    fn initiate(
        &mut self,
        peer_id: PeerId,
        number: u64,
        path: Option<Path>,
        now: Now,
        entropy: &mut dyn Entropy,
        out: &mut HandshakeOutput,
    ) {
        self.cancel(peer_id);
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        peer.heard_at = path.or(peer.heard_at);
        let request = Request { number, started: now.mono, retry_at: now.mono, attempts: 0, pending: None };
        peer.request = Some(request);
        if peer.has_endpoint && peer.path(0).is_none() {
            out.resolve.push_back(peer_id);
        }
        self.attempt(peer_id, now, entropy, out);
    }

    /// Sends a new initiation for the peer's request and sets the time of the next one.
    fn attempt(&mut self, peer_id: PeerId, now: Now, entropy: &mut dyn Entropy, out: &mut HandshakeOutput) {
        self.forget_pending(peer_id);
        let index = self.allocate(entropy);
        let jitter = u64::from(entropy.next_u32()) * RETRY_JITTER / u64::from(u32::MAX);
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        let path = peer.path(peer.request.as_ref().map_or(0, |r| r.attempts));
        let Some(request) = peer.request.as_mut() else {
            self.indices.remove(&index);
            return;
        };
        request.retry_at = now.mono + RETRY + jitter;
        self.deadlines.no_later_than(peer_id.0, request.retry_at);
        let Some(path) = path else {
            self.indices.remove(&index);
            return;
        };
        request.attempts += 1;
        peer.last_sent = now.wall.max(peer.last_sent.next());
        let attempt = Attempt {
            peer: peer_id,
            remote: &peer.public_key,
            psk: &peer.psk,
            suites: peer.suites,
            timestamp: peer.last_sent,
            local_index: index,
            path,
            number: request.number,
        };
        match HandshakeInitiator::start(&self.identity, attempt, entropy) {
            Ok((pending, bytes)) => {
                request.pending = Some(pending);
                self.by_index.insert(index, peer_id);
                out.transmits.push_back(Transmit { path, bytes });
            }
            Err(reason) => {
                self.indices.remove(&index);
                self.drops.count(reason);
            }
        }
    }

    fn resolved(
        &mut self,
        peer_id: PeerId,
        addresses: Vec<SocketAddr>,
        now: Now,
        entropy: &mut dyn Entropy,
        out: &mut HandshakeOutput,
    ) {
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        // A name that does not resolve just now keeps the addresses it had.
        if addresses.is_empty() || addresses == peer.addresses {
            return;
        }
        peer.addresses = addresses;
        if peer.request.as_ref().is_some_and(|request| request.pending.is_none()) {
            self.attempt(peer_id, now, entropy, out);
        }
    }

    /// Retries and gives up what is due.
    pub fn on_timer(&mut self, now: Now, entropy: &mut dyn Entropy, out: &mut HandshakeOutput) {
        while let Some(owner) = self.deadlines.pop_due(now.mono) {
            let peer_id = PeerId(owner);
            let Some(peer) = self.peers.get(peer_id.index()) else { continue };
            let Some(request) = &peer.request else { continue };
            if request.retry_at > now.mono {
                self.deadlines.no_later_than(owner, request.retry_at);
            } else if now.mono.saturating_sub(request.started) >= GIVE_UP {
                let number = request.number;
                self.cancel(peer_id);
                out.to_sessions.push_back(ToSessions::GaveUp { peer: peer_id, number });
            } else {
                if peer.has_endpoint {
                    out.resolve.push_back(peer_id);
                }
                self.attempt(peer_id, now, entropy, out);
            }
        }
    }

    /// When [`on_timer`](Self::on_timer) must be called next.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.next()
    }

    fn cancel(&mut self, peer_id: PeerId) {
        self.forget_pending(peer_id);
        if let Some(peer) = self.peers.get_mut(peer_id.index()) {
            peer.request = None;
        }
    }

    /// Wipes the peer's pending initiation; its index is free again.
    fn forget_pending(&mut self, peer_id: PeerId) {
        let Some(request) = self.peers.get_mut(peer_id.index()).and_then(|p| p.request.as_mut()) else {
            return;
        };
        if let Some(pending) = request.pending.take() {
            self.by_index.remove(&pending.local_index());
            self.indices.remove(&pending.local_index());
        }
    }

    fn allocate(&mut self, entropy: &mut dyn Entropy) -> u32 {
        loop {
            let index = entropy.next_u32();
            if index != 0 && self.indices.insert(index) {
                return index;
            }
        }
    }
}
