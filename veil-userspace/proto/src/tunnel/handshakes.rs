//! The control half of the tunnel: pending initiations and their retries, the queue of initiations to answer, and
//! the allocator of receiver indices.

mod answers;
mod requests;

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::pending::Pending;
use super::{ToHandshakes, ToSessions};
use crate::crypto::{Psk, PublicKey, Suites};
use crate::handshake::message::{COOKIE_LEN, Header, TYPE_COOKIE, TYPE_DATA, TYPE_INITIATION, TYPE_RESPONSE};
use crate::handshake::{HandshakeInitiator, HandshakeResponder, Identity, LoadMeter};
use crate::peer::PeerSettings;
use crate::session::limits::RETRY;
use crate::timers::Deadlines;
use crate::{DropCounters, DropReason, Entropy, Now, Path, PeerId, Tai64n};

/// Initiations that may wait to be answered.
const INITIATION_QUEUE: usize = 1024;
/// Responses that may wait to be finished; more where more are awaited, since a restarted hub hears of all its peers at once.
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
    /// Whose next initiation is to be made. One step makes one: each is curve work, and thousands may be due at once. What
    /// is likely to be answered goes before what was tried in vain.
    due_first: VecDeque<PeerId>,
    due: VecDeque<PeerId>,
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
            due_first: VecDeque::new(),
            due: VecDeque::new(),
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

    /// Takes one message in. What takes curve arithmetic only queues here; [`step`](Self::step) works on it.
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
                self.initiate(peer, number, path, now, out);
            }
            ToHandshakes::Confirmed(peer) => self.cancel(peer, out),
            ToHandshakes::Retired(index) => {
                self.indices.remove(&index);
            }
            ToHandshakes::WantIndices(count) => {
                let indices = (0..count).map(|_| self.allocate(entropy)).collect();
                out.to_sessions.push_back(ToSessions::Indices(indices));
            }
            ToHandshakes::Resolved { peer, addresses } => self.resolved(peer, addresses, now),
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

    /// Whether something waits for [`step`](Self::step).
    pub fn has_work(&self) -> bool {
        let due = !self.due_first.is_empty() || !self.due.is_empty();
        due || !self.initiations.is_empty() || !self.responses.is_empty()
    }

    /// A bounded part of what waits: one response to us finished, one initiation of ours made, up to 64 of others taken
    /// through the cheap gates, curve work for the first that passes.
    pub fn step(&mut self, now: Now, entropy: &mut dyn Entropy, out: &mut HandshakeOutput) {
        if let Some((_, mut bytes)) = self.responses.pop_front()
            && let Err(reason) = self.finish(&mut bytes, now, out)
        {
            self.drops.count(reason);
        }
        self.attempt_one(now, entropy, out);
        self.answer_one(now, entropy, out);
    }

    /// When [`on_timer`](Self::on_timer) must be called next.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.next()
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

#[cfg(test)]
mod tests;
