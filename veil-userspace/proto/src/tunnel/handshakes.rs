//! The control half of the tunnel: pending initiations and their retries, the queue of initiations to answer, and
//! the allocator of receiver indices.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::pending::Pending;
use super::{ToHandshakes, ToSessions};
use crate::crypto::{Psk, PublicKey, Suites, scrubbed};
use crate::handshake::cookie::COOKIE_LIFE;
use crate::handshake::message::{
    COOKIE_LEN, Header, MAX_HANDSHAKE, MIN_INITIATION, MIN_RESPONSE, TYPE_COOKIE, TYPE_DATA, TYPE_INITIATION,
    TYPE_RESPONSE,
};
use crate::handshake::{Attempt, HandshakeInitiator, HandshakeResponder, Identity, Load, LoadMeter};
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
/// A cookie brings a peer's next retry forward at most this often.
const BRING_FORWARD_EVERY: u64 = RETRY;

/// A handshake datagram to send.
pub struct Transmit {
    /// Where to.
    pub path: Path,
    /// The datagram.
    pub bytes: Vec<u8>,
}

/// An initiation that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedInitiation {
    /// Whose it was.
    pub peer: PeerId,
    /// Its timestamp: older ones are refused from now on.
    pub timestamp: Tai64n,
}

/// What the handshakes count beside drops; one writer, readable from any thread.
#[derive(Debug, Default)]
pub struct HandshakeCounters {
    /// Initiations sent.
    pub initiations_sent: AtomicU64,
    /// Initiations accepted and answered.
    pub initiations_accepted: AtomicU64,
    /// Cookie replies sent.
    pub cookies_sent: AtomicU64,
    /// Cookie replies received and opened.
    pub cookies_received: AtomicU64,
    /// Initiations that came under load.
    pub under_load: AtomicU64,
}

impl HandshakeCounters {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}

/// What [`Handshakes`] wants done. What was accepted is stored and messages to sessions are delivered before the datagrams
/// of the same step are sent.
#[derive(Default)]
pub struct HandshakeOutput {
    /// What to store, best effort.
    pub accepted: VecDeque<AcceptedInitiation>,
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

/// A cookie that a peer gave us.
struct Cookie {
    value: [u8; COOKIE_LEN],
    received_at: u64,
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
    cookie: Option<Cookie>,
    /// When a cookie last brought a retry forward.
    brought_forward_at: Option<u64>,
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
    pending: Pending,
    meter: LoadMeter,
    initiations: VecDeque<(Path, Vec<u8>)>,
    responses: VecDeque<(Path, Vec<u8>)>,
    deadlines: Deadlines,
    drops: Arc<DropCounters>,
    counters: Arc<HandshakeCounters>,
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
            cookie: None,
            brought_forward_at: None,
        };
        Handshakes {
            identity,
            responder,
            peers: peers.iter().map(peer).collect(),
            indices: HashSet::new(),
            pending: Pending::default(),
            meter: LoadMeter::default(),
            initiations: VecDeque::new(),
            responses: VecDeque::new(),
            deadlines: Deadlines::new(peers.len()),
            drops: Default::default(),
            counters: Default::default(),
        }
    }

    /// Takes over the last timestamp accepted from `peer` before a restart.
    pub fn restore(&mut self, peer: PeerId, timestamp: Tai64n) {
        if let Some(peer) = self.peers.get(peer.index()) {
            self.responder.restore(&peer.public_key, timestamp);
        }
    }

    /// What was refused, by reason; readable from any thread.
    pub fn drops(&self) -> Arc<DropCounters> {
        self.drops.clone()
    }

    /// What happened otherwise; readable from any thread.
    pub fn counters(&self) -> Arc<HandshakeCounters> {
        self.counters.clone()
    }

    /// How many receiver indices are given out: to sessions, to pending handshakes, as spares.
    pub fn indices_in_use(&self) -> usize {
        self.indices.len()
    }

    /// Takes one message in. Initiations and responses only queue here; [`step`](Self::step) works on them.
    pub fn handle(
        &mut self,
        message: ToHandshakes,
        now: Now,
        entropy: &mut dyn Entropy,
        out: &mut HandshakeOutput,
    ) {
        match message {
            ToHandshakes::Datagram { path, bytes } => self.datagram(path, bytes, now),
            ToHandshakes::Initiate { peer, number, path } => {
                self.initiate(peer, number, path, now, entropy, out);
            }
            ToHandshakes::Confirmed(peer) => self.cancel(peer, out),
            ToHandshakes::Retired(index) => {
                self.indices.remove(&index);
            }
            ToHandshakes::WantIndices(count) => {
                let indices = (0..count).map(|_| self.allocate(entropy)).collect();
                out.to_sessions.push_back(ToSessions::Indices(indices));
            }
            ToHandshakes::Resolved { peer, addresses } => self.resolved(peer, addresses, now, entropy, out),
        }
    }

    fn datagram(&mut self, path: Path, bytes: Vec<u8>, now: Now) {
        let handled = match Header::parse(&bytes) {
            Ok(header) if header.kind == TYPE_INITIATION => self.enqueue_initiation(header, path, bytes, now),
            Ok(header) if header.kind == TYPE_RESPONSE => self.enqueue_response(header, path, bytes),
            // A cookie reply is masked under the replier's key, never under ours.
            Ok(Header { kind: TYPE_COOKIE, .. }) => Err(DropReason::NotPending),
            Ok(Header { kind: TYPE_DATA.., .. }) => {
                self.take_cookie(&path, bytes, DropReason::UnknownIndex, now)
            }
            Ok(_) => Err(DropReason::BadHeader),
            Err(reason) => self.take_cookie(&path, bytes, reason, now),
        };
        if let Err(reason) = handled {
            self.drops.count(reason);
        }
    }

    fn enqueue_initiation(
        &mut self,
        header: Header,
        path: Path,
        bytes: Vec<u8>,
        now: Now,
    ) -> Result<(), DropReason> {
        if bytes.len() < MIN_INITIATION {
            return Err(DropReason::TooShort);
        }
        if bytes.len() > MAX_HANDSHAKE {
            return Err(DropReason::BadEnvelope);
        }
        if (Header { kind: TYPE_INITIATION, index: 0, counter: 0 }) != header {
            return Err(DropReason::BadHeader);
        }
        if self.initiations.len() >= INITIATION_QUEUE {
            return Err(DropReason::HandshakeQueueFull);
        }
        self.initiations.push_back((path, bytes));
        self.meter.queue(self.initiations.len(), INITIATION_QUEUE, now.mono);
        Ok(())
    }

    /// Only what answers a pending initiation gets a place: nobody else can fill the queue.
    fn enqueue_response(&mut self, header: Header, path: Path, bytes: Vec<u8>) -> Result<(), DropReason> {
        if bytes.len() < MIN_RESPONSE {
            return Err(DropReason::TooShort);
        }
        if bytes.len() > MAX_HANDSHAKE {
            return Err(DropReason::BadEnvelope);
        }
        if header.counter != 0 {
            return Err(DropReason::BadHeader);
        }
        self.pending.with_index(header.index).ok_or(DropReason::NotPending)?;
        if self.responses.len() >= RESPONSE_QUEUE {
            return Err(DropReason::HandshakeQueueFull);
        }
        self.responses.push_back((path, bytes));
        Ok(())
    }

    /// Tries what made no sense as a cookie reply of a peer that an initiation is pending to, there. A valid one serves the
    /// peer's next initiations and brings the next one forward to now; it moves nothing else.
    fn take_cookie(
        &mut self,
        path: &Path,
        mut bytes: Vec<u8>,
        reason: DropReason,
        now: Now,
    ) -> Result<(), DropReason> {
        // As it was received.
        self.identity.header_key.mask(&mut bytes);
        for &peer_id in self.pending.at(path) {
            let Some(peer) = self.peers.get_mut(peer_id.index()) else { continue };
            let Some(request) = peer.request.as_mut() else { continue };
            let Some(pending) = request.pending.as_mut() else { continue };
            let value = match pending.open_cookie_reply(&self.identity, &peer.public_key, &mut bytes) {
                Ok(value) => value,
                Err(DropReason::BadHeader) => continue,
                Err(refused) => return Err(refused),
            };
            HandshakeCounters::count(&self.counters.cookies_received);
            peer.cookie = Some(Cookie { value, received_at: now.mono });
            let since = |at| now.mono.saturating_sub(at) < BRING_FORWARD_EVERY;
            if !peer.brought_forward_at.is_some_and(since) {
                peer.brought_forward_at = Some(now.mono);
                // The same address once more: it is the one that asked.
                request.attempts = request.attempts.saturating_sub(1);
                request.retry_at = now.mono;
                self.deadlines.no_later_than(peer_id.0, now.mono);
            }
            return Ok(());
        }
        Err(reason)
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
            let load = self.load(now);
            let opened =
                match self.responder.open_envelope(&self.identity, &mut bytes, &path, load, now, entropy) {
                    Ok(opened) => opened,
                    Err(refused) => {
                        self.drops.count(refused.reason);
                        if let Some(bytes) = refused.reply {
                            HandshakeCounters::count(&self.counters.cookies_sent);
                            out.transmits.push_back(Transmit { path, bytes });
                        }
                        continue;
                    }
                };
            let index = self.allocate(entropy);
            // Below a scrubbed frame: what the curve and the hash leave on the stack dies with this step.
            let answer = scrubbed(|| {
                self.responder.handle_init(&self.identity, opened, path, index, now, &mut *entropy)
            });
            match answer {
                Ok(answer) => {
                    HandshakeCounters::count(&self.counters.initiations_accepted);
                    let peer = answer.session.session.peer;
                    out.accepted.push_back(AcceptedInitiation { peer, timestamp: answer.timestamp });
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

    /// How to handle the initiation just taken from the queue.
    fn load(&mut self, now: Now) -> Load {
        self.meter.queue(self.initiations.len(), INITIATION_QUEUE, now.mono);
        self.meter.envelope(now.mono);
        let load = self.meter.load(now.mono);
        if load == Load::Heavy {
            HandshakeCounters::count(&self.counters.under_load);
        }
        load
    }

    fn finish(&mut self, bytes: &mut [u8], now: Now, out: &mut HandshakeOutput) -> Result<(), DropReason> {
        let header = Header::parse(bytes)?;
        let peer_id = self.pending.with_index(header.index).ok_or(DropReason::NotPending)?;
        let peer = self.peers.get_mut(peer_id.index()).ok_or(DropReason::NotPending)?;
        let request = peer.request.as_mut().ok_or(DropReason::NotPending)?;
        let pending = request.pending.take().ok_or(DropReason::NotPending)?;
        let went_to = pending.path();
        let finished = scrubbed(|| pending.finish(&self.identity, &peer.public_key, &peer.psk, bytes, now));
        match finished {
            Ok(session) => {
                peer.request = None;
                if self.pending.remove(peer_id, header.index, &went_to) {
                    out.to_sessions.push_back(ToSessions::NotPending(went_to));
                }
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
        self.cancel(peer_id, out);
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
        self.forget_pending(peer_id, out);
        let index = self.allocate(entropy);
        let jitter = u64::from(entropy.next_u32()) * RETRY_JITTER / u64::from(u32::MAX);
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        let path = peer.path(peer.request.as_ref().map_or(0, |r| r.attempts));
        let Some(request) = peer.request.as_mut() else {
            self.indices.remove(&index);
            return;
        };
        // The last wait ends with the request: what is pending is wiped after 90 s, not at the next retry.
        request.retry_at = (now.mono + RETRY + jitter).min(request.started + GIVE_UP);
        self.deadlines.no_later_than(peer_id.0, request.retry_at);
        let Some(path) = path else {
            self.indices.remove(&index);
            return;
        };
        request.attempts += 1;
        peer.last_sent = now.wall.max(peer.last_sent.next());
        let usable = |c: &&Cookie| now.mono.saturating_sub(c.received_at) < COOKIE_LIFE;
        let cookie = peer.cookie.as_ref().filter(usable);
        let attempt = Attempt {
            peer: peer_id,
            remote: &peer.public_key,
            psk: &peer.psk,
            suites: peer.suites,
            timestamp: peer.last_sent,
            local_index: index,
            path,
            number: request.number,
            cookie: cookie.map(|cookie| &cookie.value),
        };
        match HandshakeInitiator::start(&self.identity, attempt, entropy) {
            Ok((pending, bytes)) => {
                request.pending = Some(pending);
                HandshakeCounters::count(&self.counters.initiations_sent);
                if self.pending.insert(peer_id, index, &path) {
                    out.to_sessions.push_back(ToSessions::Pending(path));
                }
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
                self.cancel(peer_id, out);
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

    fn cancel(&mut self, peer_id: PeerId, out: &mut HandshakeOutput) {
        self.forget_pending(peer_id, out);
        if let Some(peer) = self.peers.get_mut(peer_id.index()) {
            peer.request = None;
        }
    }

    /// Wipes the peer's pending initiation; its index is free again.
    fn forget_pending(&mut self, peer_id: PeerId, out: &mut HandshakeOutput) {
        let Some(request) = self.peers.get_mut(peer_id.index()).and_then(|p| p.request.as_mut()) else {
            return;
        };
        if let Some(pending) = request.pending.take() {
            self.indices.remove(&pending.local_index());
            if self.pending.remove(peer_id, pending.local_index(), &pending.path()) {
                out.to_sessions.push_back(ToSessions::NotPending(pending.path()));
            }
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
