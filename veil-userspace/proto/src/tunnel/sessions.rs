//! The process half of the tunnel: every session, whose it is, which one seals, and each peer's timers.
//!
//! A datagram's way in: [`Sessions::open`], then [`Sessions::accept_ip`] for each inner packet, `accept_fragment`,
//! `accept_control`, `accept_ack` and `accept_probe` for the other frames. A packet's way out: [`Sessions::route`],
//! [`Sessions::begin`], then [`Sessions::seal`] for each datagram. What inbound and the timers owe a peer is only noted;
//! the outbound step asks [`Sessions::next_owing`] and [`Sessions::next_flagged`] for it. Nothing here does I/O.

mod ahead;
mod control;
mod inbound;
mod outbound;
mod probing;
mod renewal;
mod rotation;

pub use ahead::{AHEAD, InboundAhead, OutboundAhead};
pub use probing::Probe;

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::ToHandshakes;
use super::path_mtu::PathMtu;
use crate::allowed_ips::{AllowedIps, IpNet};
use crate::crypto::{HeaderKey, NetworkSecret, PublicKey};
use crate::mux::Config;
use crate::mux::control::CloseReason;
use crate::peer::PeerSettings;
use crate::session::limits::REKEY_AFTER;
use crate::session::rotator::ROTATE_AFTER;
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
    /// The peer has ended its current session in order, and had ended none within the second before.
    Closed(PeerId, CloseReason),
    /// The peer has given us a lease: [`Sessions::take_lease`] has it.
    Leased(PeerId),
}

/// One peer's traffic, one writer, readable from any thread.
#[derive(Debug, Default)]
#[repr(C, align(64))]
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
    /// Packets given up of which only pieces had come.
    pub reassembly_drops: DropCounters,
    /// Control frames sent, the first time or again.
    pub control_sent: AtomicU64,
    /// Of these, how many were sent again.
    pub control_resent: AtomicU64,
    /// Control streams given up for want of acknowledgements.
    pub control_given_up: AtomicU64,
    /// Acknowledgements sent.
    pub acks_sent: AtomicU64,
    /// Sessions that changed their receiver index.
    pub rotations: AtomicU64,
    /// Sessions that peers ended in order.
    pub closed: AtomicU64,
    /// Path MTU probes sent.
    pub probes_sent: AtomicU64,
    /// Replies sent to the probes of others.
    pub probe_replies_sent: AtomicU64,
    /// Probes of ours that were answered.
    pub probes_answered: AtomicU64,
    /// Paths found to drop large datagrams in silence.
    pub black_holes: AtomicU64,
}

/// One peer as `veil show` sees it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Where it was last heard.
    pub endpoint: Option<Path>,
    /// When its current session was made, monotonic nanoseconds.
    pub handshake_at: Option<u64>,
    /// The largest datagram, bytes of UDP payload, that its path is known to take, where that limits it.
    pub path_limit: Option<usize>,
    /// Its traffic.
    pub counters: Arc<PeerCounters>,
}

/// What is kept about one peer. What every datagram needs comes first and on few cache lines.
#[repr(C, align(64))]
struct Peer {
    slots: Slots,
    smaller: bool,
    has_endpoint: bool,
    flagged: bool,
    /// In the queue of peers owed a control frame, an acknowledgement or a probe.
    owing: bool,
    path: Option<Path>,
    counters: Arc<PeerCounters>,
    keepalive_at: u64,
    unanswered_at: u64,
    persistent_at: u64,
    keepalive_every: Option<NonZeroU64>,
    own: Own,
    path_mtu: PathMtu,
    /// Tokens of probes that are owed a reply.
    probed: VecDeque<u32>,
    /// `keepalive_every` as configured, which a lease may change.
    own_keepalive: Option<NonZeroU64>,
    /// What the peer may give us addresses within; nothing, unless it may give us any.
    lease_within: Vec<IpNet>,
    /// What it has given us, for the host's configuration.
    lease: Option<Config>,
    /// When a session is begun for the sake of a lease next; never, unless one is wanted and none has come.
    lease_at: u64,
    /// What we give the peer, in every session anew, and how often that has been set.
    offer: Option<Config>,
    offers: u32,
    next_fragment_id: u32,
    last_number: u64,
    request: Option<u64>,
    /// No session is asked for before this time; whether one was wanted meanwhile.
    quiet_until: u64,
    wanted: bool,
    /// Where the peer was when `request` was made.
    asked_at: Option<Path>,
    handshake_at: Option<u64>,
    expire_at: u64,
}

/// One address of each family that belongs to a peer alone: nearly every packet of most peers comes from these, and then
/// the table of all peers' networks, which is large where peers are many, need not be asked.
#[derive(Default)]
struct Own {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Own {
    /// Of `nets`, what `peer` owns in the finished table.
    fn of(peer: PeerId, nets: &[IpNet], table: &AllowedIps<PeerId>) -> Self {
        let mut own = Own::default();
        let is_own = |net: &&IpNet| **net == IpNet::host(net.addr) && table.lookup(net.addr) == Some(peer);
        for net in nets.iter().filter(is_own) {
            match net.addr {
                IpAddr::V4(addr) => own.v4 = Some(addr),
                IpAddr::V6(addr) => own.v6 = Some(addr),
            }
        }
        own
    }

    #[inline]
    fn has(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => self.v4 == Some(addr),
            IpAddr::V6(addr) => self.v6 == Some(addr),
        }
    }
}

impl Peer {
    /// Goes over to another path, of whose width nothing is known if the remote end is another.
    /// True if it was at another address, or nowhere.
    fn move_to(&mut self, path: Path) -> bool {
        let before = self.path.replace(path).map(|path| path.remote());
        if before != Some(path.remote()) {
            self.path_mtu.restart(path.is_ipv4());
        }
        before.map(|remote| remote.ip()) != Some(path.remote().ip())
    }

    fn next_timer(&self) -> u64 {
        let wanted_at = if self.wanted { self.quiet_until } else { NEVER };
        let silence = [self.keepalive_at, self.unanswered_at, self.persistent_at];
        let timers = silence.into_iter().chain([self.expire_at, self.lease_at, wanted_at]);
        timers.fold(self.path_mtu.deadline(), u64::min)
    }
}

/// All sessions of all peers.
pub struct Sessions {
    header_key: HeaderKey,
    rekey_after: u64,
    rotate_after: u64,
    /// Receiver indices for sessions to change to, and whether more are on their way.
    spares: Vec<u32>,
    spares_asked: bool,
    peers: Vec<Peer>,
    table: SessionTable,
    allowed_ips: AllowedIps<PeerId>,
    deadlines: Deadlines,
    last_found: Option<(u32, SessionId)>,
    /// Some peer is at another address than it was.
    moved: bool,
    flagged: VecDeque<PeerId>,
    owing: VecDeque<PeerId>,
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
        }
        for (n, settings) in peers.iter().enumerate() {
            let persistent_at = settings.keepalive.map_or(NEVER, |_| 0);
            deadlines.no_later_than(n as u32, persistent_at);
            states.push(Peer {
                smaller: local.as_bytes() < settings.public_key.as_bytes(),
                has_endpoint: settings.has_endpoint,
                path: None,
                own: Own::of(PeerId(n as u32), &settings.allowed_ips, &allowed_ips),
                path_mtu: PathMtu::new(false),
                probed: VecDeque::new(),
                lease_within: if settings.lease { settings.allowed_ips.clone() } else { Vec::new() },
                lease: None,
                lease_at: NEVER,
                offer: None,
                offers: 0,
                owing: false,
                next_fragment_id: 0,
                slots: Slots::default(),
                last_number: 0,
                request: None,
                quiet_until: 0,
                wanted: false,
                asked_at: None,
                own_keepalive: settings.keepalive.and_then(NonZeroU64::new),
                keepalive_every: settings.keepalive.and_then(NonZeroU64::new),
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
            rotate_after: ROTATE_AFTER,
            spares: Vec::new(),
            spares_asked: false,
            peers: states,
            table: SessionTable::default(),
            allowed_ips,
            deadlines,
            last_found: None,
            moved: false,
            flagged: VecDeque::new(),
            owing: VecDeque::new(),
            events: VecDeque::new(),
            to_handshakes: VecDeque::new(),
            pending: HashSet::new(),
            counters: Default::default(),
        }
    }

    /// The same, with receiver indices changed after about so many nanoseconds; can only shorten the protocol's 30 s.
    pub fn with_rotation(mut self, rotate_after: u64) -> Self {
        self.rotate_after = rotate_after.clamp(1, ROTATE_AFTER);
        self
    }

    /// Takes all sessions over on this thread: whoever had them must not touch them any more.
    pub fn hand_over(&mut self) {
        self.table.hand_over();
    }

    /// What passed through, readable from any thread.
    pub fn counters(&self) -> Arc<SessionCounters> {
        self.counters.clone()
    }

    /// A peer's traffic counters.
    pub fn peer_counters(&self, peer: PeerId) -> Option<&Arc<PeerCounters>> {
        self.peers.get(peer.index()).map(|peer| &peer.counters)
    }

    /// Whether some peer has come to be at another address since this was last asked.
    #[inline]
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// How a peer stands.
    pub fn status(&self, peer: PeerId) -> Option<PeerStatus> {
        let peer = self.peers.get(peer.index())?;
        let counters = peer.counters.clone();
        let (endpoint, handshake_at, path_limit) = (peer.path, peer.handshake_at, peer.path_mtu.limit());
        Some(PeerStatus { endpoint, handshake_at, path_limit, counters })
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.table.len()
    }

    /// How many receiver indices wait to be used.
    pub fn spare_indices(&self) -> usize {
        self.spares.len()
    }

    /// The name of the session that seals for `peer`: the receiver indices it began with, ours first. Equal pairs on both
    /// ends mean the same session.
    pub fn current_session(&mut self, peer: PeerId) -> Option<(u32, u32)> {
        let id = self.peers.get(peer.index())?.slots.current()?;
        self.table.get(id).map(|session| session.name)
    }

    /// The receiver indices that the session which seals for `peer` has now: ours, then the peer's.
    pub fn current_indices(&mut self, peer: PeerId) -> Option<(u32, u32)> {
        let id = self.peers.get(peer.index())?.slots.current()?;
        let session = self.table.get(id)?;
        Some((session.rotator.index(), session.sealer.receiver_index()))
    }
}

#[cfg(test)]
mod tests;
