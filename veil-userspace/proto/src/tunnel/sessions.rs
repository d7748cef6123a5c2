//! The process half of the tunnel: every session, whose it is, which one seals, and each peer's timers.
//!
//! A datagram's way in: [`Sessions::open`], then [`Sessions::accept_ip`] for each inner packet. A packet's way out:
//! [`Sessions::route`], [`Sessions::begin`], then [`Sessions::seal`] for each datagram. Nothing here does I/O.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{ToHandshakes, ToSessions};
use crate::allowed_ips::AllowedIps;
use crate::crypto::{HeaderKey, NetworkSecret, PublicKey};
use crate::handshake::NewSession;
use crate::handshake::message::{Header, MAX_HANDSHAKE, TYPE_DATA};
use crate::mux::checksum::accept_partial;
use crate::mux::frame::FLAG_PARTIAL;
use crate::mux::inner::{InnerPacket, ecn_decapsulate};
use crate::peer::PeerSettings;
use crate::session::limits::{KEEPALIVE, REKEY_AFTER, REKEY_AFTER_RECEIVE, UNANSWERED};
use crate::session::reassembly::Progress;
use crate::session::{Exhausted, MIN_DATAGRAM, Role, SessionId, SessionTable, Slots};
use crate::time::SECOND;
use crate::timers::{Deadlines, NEVER};
use crate::{DropCounters, DropReason, Now, Path, PeerId};

/// No path is taken to be narrower than IPv6 allows (RFC 8200 5), whatever is said about it.
const PATH_MTU_FLOOR: usize = 1280;
/// How long a path's MTU is believed: as long as the kernel remembers it (RFC 1191 6.3).
const PATH_MTU_BELIEVED: u64 = 600 * SECOND;

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

    // ---- inbound ----

    /// Opens one datagram from `path` in place.
    pub fn open(&mut self, datagram: &mut [u8], path: &Path, now: Now) -> Inbound {
        let inbound = self.unmask_and_open(datagram, path, now);
        match &inbound {
            Inbound::Data(_) => self.counters.opened.fetch_add(1, Relaxed),
            Inbound::Handshake => self.counters.handshake.fetch_add(1, Relaxed),
            Inbound::Dropped(reason) => {
                self.counters.drops.count(*reason);
                0
            }
        };
        inbound
    }

    fn unmask_and_open(&mut self, datagram: &mut [u8], path: &Path, now: Now) -> Inbound {
        if datagram.len() < MIN_DATAGRAM {
            return Inbound::Dropped(DropReason::TooShort);
        }
        self.header_key.mask(datagram);
        let header = match Header::parse(datagram) {
            Ok(header) => header,
            Err(reason) => return self.makes_no_sense(datagram, path, reason),
        };
        if header.kind != TYPE_DATA {
            // None is longer: a queue of them is bounded in bytes, too.
            let fits = datagram.len() <= MAX_HANDSHAKE;
            return if fits { Inbound::Handshake } else { Inbound::Dropped(DropReason::BadEnvelope) };
        }
        let Some(id) = self.find(header.index) else {
            return self.makes_no_sense(datagram, path, DropReason::UnknownIndex);
        };
        match self.open_in(id, header.counter, datagram, path, now) {
            Ok(opened) => Inbound::Data(opened),
            Err(reason) => Inbound::Dropped(reason),
        }
    }

    /// What is not for us as it stands is dropped, unless it may be a cookie reply: those are masked under their sender's
    /// key, which the handshakes know.
    #[cold]
    fn makes_no_sense(&self, datagram: &[u8], path: &Path, reason: DropReason) -> Inbound {
        let expected = !self.pending.is_empty() && self.pending.contains(&path.remote_bytes());
        if expected && datagram.len() <= MAX_HANDSHAKE {
            return Inbound::Handshake;
        }
        Inbound::Dropped(reason)
    }

    #[inline]
    fn find(&mut self, index: u32) -> Option<SessionId> {
        match self.last_found {
            Some((last, id)) if last == index => Some(id),
            _ => {
                let id = self.table.find(index)?;
                self.last_found = Some((index, id));
                Some(id)
            }
        }
    }

    fn open_in(
        &mut self,
        id: SessionId,
        counter: u64,
        datagram: &mut [u8],
        path: &Path,
        now: Now,
    ) -> Result<Opened, DropReason> {
        let session = self.table.get(id).ok_or(DropReason::UnknownIndex)?;
        if session.expires() <= now.mono {
            return Err(DropReason::SessionExpired);
        }
        let (len, highest) = session.opener.open(counter, datagram)?;
        // Authentic and new from here on: state may move.
        let (peer_id, role, created) = (session.peer, session.role, session.created);
        let limit_reached = session.opener.must_rekey();
        let peer = self.peers.get_mut(peer_id.index()).ok_or(DropReason::UnknownPeer)?;
        peer.counters.rx_packets.fetch_add(1, Relaxed);
        peer.counters.rx_bytes.fetch_add(datagram.len() as u64, Relaxed);

        let moved = peer.slots.opened(id, peer.smaller);
        let is_current = peer.slots.current() == Some(id);
        if is_current && highest && peer.path != Some(*path) {
            if peer.path.is_none_or(|old| old.remote() != path.remote()) {
                peer.path_limit = None;
            }
            peer.path = Some(*path);
        }
        peer.unanswered_at = NEVER;
        if len > 0 && peer.keepalive_at == NEVER {
            peer.keepalive_at = now.mono + KEEPALIVE;
            self.deadlines.no_later_than(peer_id.0, peer.keepalive_at);
        }
        if moved.confirmed {
            peer.request = None;
            peer.handshake_at = Some(created);
            self.to_handshakes.push_back(ToHandshakes::Confirmed(peer_id));
            self.events.push_back(PeerEvent::Usable(peer_id));
        }
        if let Some(retired) = moved.retired {
            self.wipe(retired);
        }
        let age = now.mono.saturating_sub(created);
        let aged =
            role == Role::Initiator && age >= REKEY_AFTER_RECEIVE.min(self.rekey_after.saturating_mul(2));
        if is_current && (aged || limit_reached) {
            self.request(peer_id);
        }
        Ok(Opened { peer: peer_id, session: id, len })
    }

    /// Decides whether an inner packet of `peer` may go to the host: whole, from an address of its own, with its partial
    /// checksum (if `flags` claims one) and its ECN bits in order. `outer_tos` is that of the datagram it came in.
    ///
    /// # Errors
    /// The reason for refusing it; the caller counts it.
    #[inline]
    pub fn accept_ip(
        &self,
        peer: PeerId,
        flags: u8,
        packet: &mut [u8],
        outer_tos: u8,
    ) -> Result<Accepted, DropReason> {
        let header = InnerPacket::parse(packet)?;
        if self.allowed_ips.lookup(header.source) != Some(peer) {
            return Err(DropReason::InnerSource);
        }
        let partial = flags & FLAG_PARTIAL != 0;
        if partial {
            accept_partial(packet)?;
        }
        ecn_decapsulate(packet, outer_tos & 3)?;
        Ok(Accepted { partial })
    }

    /// Takes a FRAGMENT frame's payload in; what it completes is an inner packet like any other, still to be checked.
    ///
    /// # Errors
    /// Why the piece was refused; the caller counts it.
    pub fn accept_fragment(
        &mut self,
        session: SessionId,
        flags: u8,
        payload: &[u8],
        now: Now,
    ) -> Result<Progress, DropReason> {
        let session = self.table.get(session).ok_or(DropReason::UnknownIndex)?;
        session.reassembly.accept(flags, payload, now.mono)
    }

    // ---- outbound ----

    /// The peer that a packet from the host goes to.
    ///
    /// # Errors
    /// [`DropReason::NotIp`] or [`DropReason::NoRoute`].
    #[inline]
    pub fn route(&self, packet: &[u8]) -> Result<PeerId, DropReason> {
        let found = match packet.first().map(|byte| byte >> 4) {
            Some(4) => {
                packet.get(16..20).and_then(|d| d.try_into().ok()).map(|d| self.allowed_ips.lookup_v4(d))
            }
            Some(6) => {
                packet.get(24..40).and_then(|d| d.try_into().ok()).map(|d| self.allowed_ips.lookup_v6(d))
            }
            _ => None,
        };
        found.ok_or(DropReason::NotIp)?.ok_or(DropReason::NoRoute)
    }

    /// Looks whether `peer` can be sent to, and starts the handshake that is needed or due.
    pub fn begin(&mut self, peer_id: PeerId, now: Now) -> Outbound {
        let Some(peer) = self.peers.get(peer_id.index()) else { return Outbound::NoEndpoint };
        let current = peer.slots.current().and_then(|id| self.table.get(id));
        let usable = current.filter(|s| s.expires() > now.mono && !s.sealer.exhausted());
        if let (Some(session), Some(path)) = (usable, peer.path) {
            let age = now.mono.saturating_sub(session.created);
            let aged = session.role == Role::Initiator && age >= self.rekey_after;
            if aged || session.sealer.must_rekey() {
                self.request(peer_id);
            }
            return Outbound::Ready(path);
        }
        if !peer.has_endpoint && peer.path.is_none() {
            return Outbound::NoEndpoint;
        }
        self.request(peer_id);
        Outbound::Wait
    }

    /// The largest datagram (UDP payload, bytes) that the way to `peer` is known to take.
    #[inline]
    pub fn path_limit(&mut self, peer: PeerId, now: Now) -> Option<usize> {
        let peer = self.peers.get_mut(peer.index())?;
        let (limit, until) = peer.path_limit?;
        if until <= now.mono {
            // The path may have grown: a datagram that is too large will tell.
            peer.path_limit = None;
        }
        peer.path_limit.map(|_| limit)
    }

    /// This host has said that the way to `remote` takes no IP packet larger than `mtu` bytes (RFC 1191, RFC 8201).
    pub fn path_mtu(&mut self, remote: IpAddr, mtu: u32, now: Now) {
        let remote = remote.to_canonical();
        let headers = if remote.is_ipv4() { 28 } else { 48 };
        let limit = (mtu as usize).max(PATH_MTU_FLOOR) - headers;
        let goes_there = |peer: &&mut Peer| peer.path.is_some_and(|path| path.remote().ip() == remote);
        for peer in self.peers.iter_mut().filter(goes_there) {
            peer.path_limit = Some((limit, now.mono + PATH_MTU_BELIEVED));
        }
    }

    /// A packet id for the pieces of one packet to `peer`.
    pub fn next_fragment_id(&mut self, peer: PeerId) -> u32 {
        let Some(peer) = self.peers.get_mut(peer.index()) else { return 0 };
        peer.next_fragment_id = peer.next_fragment_id.wrapping_add(1);
        peer.next_fragment_id
    }

    /// Seals one datagram (16 bytes to be the header, plaintext, 16 bytes to be the tag) under the peer's current session.
    ///
    /// # Errors
    /// [`Exhausted`] when there is no session whose key may still be used.
    #[inline]
    pub fn seal(&mut self, peer_id: PeerId, datagram: &mut [u8], now: Now) -> Result<(), Exhausted> {
        let peer = self.peers.get_mut(peer_id.index()).ok_or(Exhausted)?;
        let session = peer.slots.current().and_then(|id| self.table.get(id)).ok_or(Exhausted)?;
        if session.expires() <= now.mono {
            return Err(Exhausted);
        }
        session.sealer.seal(datagram)?;
        peer.counters.tx_packets.fetch_add(1, Relaxed);
        peer.counters.tx_bytes.fetch_add(datagram.len() as u64, Relaxed);
        self.counters.sealed.fetch_add(1, Relaxed);
        peer.flagged = false;
        peer.keepalive_at = NEVER;
        if let Some(every) = peer.keepalive_every {
            peer.persistent_at = now.mono + every;
        }
        if datagram.len() > MIN_DATAGRAM && peer.unanswered_at == NEVER {
            peer.unanswered_at = now.mono + UNANSWERED;
            self.deadlines.no_later_than(peer_id.0, peer.unanswered_at);
        }
        Ok(())
    }

    /// The next peer that is owed a datagram, a keepalive if nothing else has gone out to it.
    pub fn next_flagged(&mut self) -> Option<PeerId> {
        while let Some(peer_id) = self.flagged.pop_front() {
            if let Some(peer) = self.peers.get_mut(peer_id.index())
                && std::mem::take(&mut peer.flagged)
            {
                return Some(peer_id);
            }
        }
        None
    }

    fn flag(&mut self, peer_id: PeerId) {
        if let Some(peer) = self.peers.get_mut(peer_id.index())
            && !std::mem::replace(&mut peer.flagged, true)
        {
            self.flagged.push_back(peer_id);
        }
    }

    // ---- handshakes and timers ----

    /// Takes in what the handshakes say.
    pub fn handle(&mut self, message: ToSessions) {
        match message {
            ToSessions::Ready(new) => self.ready(new),
            ToSessions::Pending(path) => {
                self.pending.insert(path.remote_bytes());
            }
            ToSessions::NotPending(path) => {
                self.pending.remove(&path.remote_bytes());
            }
            ToSessions::GaveUp { peer: peer_id, number } => {
                if let Some(peer) = self.peers.get_mut(peer_id.index())
                    && peer.request == Some(number)
                {
                    peer.request = None;
                    self.events.push_back(PeerEvent::GaveUp(peer_id));
                }
            }
        }
    }

    /// Takes over where the peer was before a restart, and asks for a handshake with it there.
    pub fn restore(&mut self, peer_id: PeerId, path: Path) {
        if let Some(peer) = self.peers.get_mut(peer_id.index()) {
            peer.path = Some(path);
            self.request(peer_id);
        }
    }

    fn ready(&mut self, new: NewSession) {
        let NewSession { session, path, number } = new;
        let (peer_id, created) = (session.peer, session.created);
        let overtaken = |p: &Peer| number.is_some() && p.request != number;
        if self.peers.get(peer_id.index()).is_none_or(overtaken) {
            // Its datagram is counted as a handshake already: this is a session dropped, not a datagram.
            if let Some(peer) = self.peers.get(peer_id.index()) {
                peer.counters.drops.count(DropReason::Overtaken);
            }
            self.to_handshakes.push_back(ToHandshakes::Retired(session.local_index));
            return;
        }
        let expires = session.expires();
        let id = self.table.insert(session);
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        peer.expire_at = peer.expire_at.min(expires);
        self.deadlines.no_later_than(peer_id.0, peer.expire_at);
        if number.is_none() {
            if let Some(unconfirmed) = peer.slots.responder_ready(id) {
                self.wipe(unconfirmed);
            }
            return;
        }
        peer.request = None;
        peer.handshake_at = Some(created);
        peer.unanswered_at = NEVER;
        // A peer that has moved since is where its data came from, not where the initiation went.
        let remote = |path: Option<Path>| path.map(|path| path.remote());
        let known = remote(peer.path);
        if known == remote(peer.asked_at) && known != Some(path.remote()) {
            peer.path = Some(path);
        }
        let retired = peer.slots.initiator_ready(id);
        for old in retired.into_iter().flatten() {
            self.wipe(old);
        }
        self.events.push_back(PeerEvent::Usable(peer_id));
        self.flag(peer_id);
    }

    /// Asks for a handshake, unless one is going on.
    fn request(&mut self, peer_id: PeerId) {
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        if peer.request.is_some() || (!peer.has_endpoint && peer.path.is_none()) {
            return;
        }
        peer.last_number += 1;
        peer.request = Some(peer.last_number);
        peer.asked_at = peer.path;
        let message = ToHandshakes::Initiate { peer: peer_id, number: peer.last_number, path: peer.path };
        self.to_handshakes.push_back(message);
    }

    fn wipe(&mut self, id: SessionId) {
        self.last_found = None;
        if let Some(index) = self.table.remove(id) {
            self.to_handshakes.push_back(ToHandshakes::Retired(index));
        }
    }

    /// Does what is due: expired sessions are wiped, keepalives flagged, unanswered peers asked anew.
    pub fn on_timer(&mut self, now: Now) {
        while let Some(owner) = self.deadlines.pop_due(now.mono) {
            let peer_id = PeerId(owner);
            self.expire(peer_id, now);
            let Some(peer) = self.peers.get_mut(peer_id.index()) else { continue };
            let keepalive = peer.keepalive_at <= now.mono;
            let unanswered = peer.unanswered_at <= now.mono;
            let persistent = peer.persistent_at <= now.mono;
            if keepalive {
                peer.keepalive_at = NEVER;
            }
            if unanswered {
                peer.unanswered_at = NEVER;
            }
            if persistent {
                peer.persistent_at = peer.keepalive_every.map_or(NEVER, |every| now.mono + every);
            }
            self.deadlines.no_later_than(owner, peer.next_timer());
            if unanswered {
                self.request(peer_id);
            }
            if (keepalive || persistent) && matches!(self.begin(peer_id, now), Outbound::Ready(_)) {
                self.flag(peer_id);
            }
        }
    }

    /// Wipes the peer's sessions that are past their time and finds the next to go.
    fn expire(&mut self, peer_id: PeerId, now: Now) {
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        if peer.expire_at > now.mono {
            return;
        }
        peer.expire_at = NEVER;
        let mut expired = [None; 3];
        for (id, slot) in peer.slots.all().zip(&mut expired) {
            let expires = self.table.get(id).map_or(0, |session| session.expires());
            if expires <= now.mono {
                *slot = Some(id);
            } else {
                peer.expire_at = peer.expire_at.min(expires);
            }
        }
        for id in expired.into_iter().flatten() {
            if let Some(peer) = self.peers.get_mut(peer_id.index()) {
                peer.slots.remove(id);
            }
            self.wipe(id);
        }
    }

    /// When [`on_timer`](Self::on_timer) must be called next.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.next()
    }

    /// The next message for the handshakes.
    pub fn next_message(&mut self) -> Option<ToHandshakes> {
        self.to_handshakes.pop_front()
    }

    /// The next thing that happened to a peer.
    pub fn next_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    // ---- looking in ----

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
