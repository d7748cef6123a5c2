//! The process half of the tunnel: every session, whose it is, which one seals, and each peer's timers.
//!
//! A datagram's way in: [`Sessions::open`], then [`Sessions::accept_ip`] for each inner packet. A packet's way out:
//! [`Sessions::route`], [`Sessions::begin`], then [`Sessions::seal`] for each datagram. Nothing here does I/O.

mod inbound;
mod outbound;
mod renewal;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::ToHandshakes;
use crate::allowed_ips::AllowedIps;
use crate::crypto::{HeaderKey, NetworkSecret, PublicKey};
use crate::peer::PeerSettings;
use crate::session::limits::REKEY_AFTER;
use crate::session::{SessionId, SessionTable, Slots};
use crate::timers::{Deadlines, NEVER};
use crate::{DropCounters, DropReason, Path, PeerId};

/// What a datagram turned out to be.
#[derive(Debug)]
pub enum Inbound {
    /// Data, opened in place.
    Data(Opened),
    /// A handshake datagram, or what may be a cookie reply, unmasked: copy it to [`Handshakes`](super::Handshakes).
    Handshake,
    /// Refused and counted.
    Dropped(DropReason),
}

/// An opened datagram: its plaintext is the `len` bytes after the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Who sealed it.
    pub peer: PeerId,
    /// The session it opened in.
    pub session: SessionId,
    /// Bytes of plaintext; none is a keepalive.
    pub len: usize,
}

/// An inner packet that may go to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its transport checksum holds only the pseudo-header's sum yet.
    pub partial: bool,
}

/// Whether a peer can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// It can, this way.
    Ready(Path),
    /// A handshake is going on: keep the packet.
    Wait,
    /// Nobody knows where the peer is.
    NoEndpoint,
}

/// What has happened to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A session to seal under is there.
    Usable(PeerId),
    /// The handshake was given up: what waits for it is lost.
    GaveUp(PeerId),
}

/// One peer's traffic, one writer, readable from any thread.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// Datagrams opened.
    pub rx_packets: AtomicU64,
    /// Their bytes, headers included.
    pub rx_bytes: AtomicU64,
    /// Datagrams sealed.
    pub tx_packets: AtomicU64,
    /// Their bytes, headers included.
    pub tx_bytes: AtomicU64,
    /// What was refused of this peer's.
    pub drops: DropCounters,
}

/// What passed through all sessions.
#[derive(Debug, Default)]
pub struct SessionCounters {
    /// Datagrams that opened.
    pub opened: AtomicU64,
    /// Datagrams handed to the handshakes.
    pub handshake: AtomicU64,
    /// Datagrams sealed.
    pub sealed: AtomicU64,
    /// Datagrams refused, by reason.
    pub drops: DropCounters,
}

/// One peer as `veil show` sees it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Where it was last heard.
    pub endpoint: Option<Path>,
    /// When its current session was made, monotonic nanoseconds.
    pub handshake_at: Option<u64>,
    /// Its traffic.
    pub counters: Arc<PeerCounters>,
}

struct Peer {
    smaller: bool,
    has_endpoint: bool,
    path: Option<Path>,
    /// The largest datagram that `path` takes, as far as known, and until when that is believed.
    path_limit: Option<(usize, u64)>,
    next_fragment_id: u32,
    slots: Slots,
    last_number: u64,
    request: Option<u64>,
    /// Where the peer was when `request` was made.
    asked_at: Option<Path>,
    keepalive_every: Option<u64>,
    flagged: bool,
    handshake_at: Option<u64>,
    keepalive_at: u64,
    unanswered_at: u64,
    persistent_at: u64,
    expire_at: u64,
    counters: Arc<PeerCounters>,
}

impl Peer {
    fn next_timer(&self) -> u64 {
        self.keepalive_at.min(self.unanswered_at).min(self.persistent_at).min(self.expire_at)
    }
}

/// All sessions of all peers.
pub struct Sessions {
    header_key: HeaderKey,
    rekey_after: u64,
    peers: Vec<Peer>,
    table: SessionTable,
    allowed_ips: AllowedIps<PeerId>,
    deadlines: Deadlines,
    last_found: Option<(u32, SessionId)>,
    flagged: VecDeque<PeerId>,
    events: VecDeque<PeerEvent>,
    to_handshakes: VecDeque<ToHandshakes>,
    /// Remote addresses that initiations are pending to.
    pending: HashSet<[u8; 18]>,
    counters: Arc<SessionCounters>,
}

impl Sessions {
    /// Sessions of the end with `local` as public key, with `peers` numbered in their order. `rekey_after` (nanoseconds)
    /// can only shorten the protocol's 120 s.
    pub fn new(
        local: &PublicKey,
        secret: &NetworkSecret,
        peers: &[PeerSettings],
        rekey_after: Option<u64>,
    ) -> Self {
        let mut allowed_ips = AllowedIps::default();
        let mut deadlines = Deadlines::new(peers.len());
        let mut states = Vec::with_capacity(peers.len());
        for (n, settings) in peers.iter().enumerate() {
            for &net in &settings.allowed_ips {
                allowed_ips.insert(net, PeerId(n as u32));
            }
            let persistent_at = settings.keepalive.map_or(NEVER, |_| 0);
            deadlines.no_later_than(n as u32, persistent_at);
            states.push(Peer {
                smaller: local.as_bytes() < settings.public_key.as_bytes(),
                has_endpoint: settings.has_endpoint,
                path: None,
                path_limit: None,
                next_fragment_id: 0,
                slots: Slots::default(),
                last_number: 0,
                request: None,
                asked_at: None,
                keepalive_every: settings.keepalive,
                flagged: false,
                handshake_at: None,
                keepalive_at: NEVER,
                unanswered_at: NEVER,
                persistent_at,
                expire_at: NEVER,
                counters: Default::default(),
            });
        }
        Sessions {
            header_key: HeaderKey::derive(local, secret),
            rekey_after: rekey_after.unwrap_or(REKEY_AFTER).min(REKEY_AFTER),
            peers: states,
            table: SessionTable::default(),
            allowed_ips,
            deadlines,
            last_found: None,
            flagged: VecDeque::new(),
            events: VecDeque::new(),
            to_handshakes: VecDeque::new(),
            pending: HashSet::new(),
            counters: Default::default(),
        }
    }

    /// What passed through, readable from any thread.
    pub fn counters(&self) -> Arc<SessionCounters> {
        self.counters.clone()
    }

    /// A peer's traffic counters.
    pub fn peer_counters(&self, peer: PeerId) -> Option<&Arc<PeerCounters>> {
        self.peers.get(peer.index()).map(|peer| &peer.counters)
    }

    /// How a peer stands.
    pub fn status(&self, peer: PeerId) -> Option<PeerStatus> {
        let peer = self.peers.get(peer.index())?;
        let counters = peer.counters.clone();
        Some(PeerStatus { endpoint: peer.path, handshake_at: peer.handshake_at, counters })
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.table.len()
    }

    /// The receiver index of the session that seals for `peer`, as the peer knows it, with our own: equal pairs on both
    /// ends mean the same session.
    pub fn current_indices(&mut self, peer: PeerId) -> Option<(u32, u32)> {
        let id = self.peers.get(peer.index())?.slots.current()?;
        let session = self.table.get(id)?;
        Some((session.local_index, session.sealer.receiver_index()))
    }
}
