//! What sessions come from and end by: the handshakes' messages, and each peer's timers.
//!
//! At most one request per peer is under way; whatever leaves a slot is wiped, and its receiver index given back.

use super::{Outbound, Peer, Sessions};
use crate::handshake::NewSession;
use crate::session::{SessionId, SessionRotator};
use crate::timers::NEVER;
use crate::tunnel::{PeerEvent, ToHandshakes, ToSessions};
use crate::{DropReason, Now, Path, PeerId};

impl Sessions {
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
            ToSessions::Indices(indices) => {
                self.spares.extend(indices);
                self.spares_asked = false;
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
            self.moved |= peer.move_to(path);
            self.request(peer_id);
        }
    }

    fn ready(&mut self, new: NewSession) {
        let NewSession { mut session, path, number } = new;
        let (peer_id, created) = (session.peer, session.created);
        let overtaken = |p: &Peer| number.is_some() && p.request != number;
        if self.peers.get(peer_id.index()).is_none_or(overtaken) {
            // Its datagram is counted as a handshake already: this is a session dropped, not a datagram.
            if let Some(peer) = self.peers.get(peer_id.index()) {
                peer.counters.drops.count(DropReason::Overtaken);
            }
            self.to_handshakes.push_back(ToHandshakes::Retired(session.rotator.index()));
            return;
        }
        let expires = session.expires();
        session.rotator = SessionRotator::new(session.rotator.index(), created, self.rotate_after);
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
            self.moved |= peer.move_to(path);
        }
        let retired = peer.slots.initiator_ready(id);
        for old in retired.into_iter().flatten() {
            self.wipe(old);
        }
        self.events.push_back(PeerEvent::Usable(peer_id));
        self.flag(peer_id);
        self.lease_may_come(peer_id, created);
        self.became_current(peer_id, id);
    }

    /// Asks for a handshake, unless one is going on.
    pub(super) fn request(&mut self, peer_id: PeerId) {
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

    pub(super) fn wipe(&mut self, id: SessionId) {
        self.last_found = None;
        let unfinished = self.table.get(id).map_or(0, |session| session.reassembly.unfinished());
        self.counters.reassembly_drops.add(DropReason::FragmentIncomplete, unfinished);
        self.to_handshakes.extend(self.table.remove(id).map(ToHandshakes::Retired));
    }

    /// Does what is due: expired sessions are wiped, keepalives flagged, unanswered peers asked anew.
    pub fn on_timer(&mut self, now: Now) {
        while let Some(owner) = self.deadlines.pop_due(now.mono) {
            let peer_id = PeerId(owner);
            self.expire(peer_id, now);
            self.control_timer(peer_id, now);
            self.rotation_timer(peer_id, now);
            self.probe_timer(peer_id, now);
            self.lease_timer(peer_id, now);
            let sessions_at = self.sessions_deadline(peer_id);
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
            let wanted = peer.wanted && peer.quiet_until <= now.mono;
            if wanted {
                peer.wanted = false;
            }
            if persistent {
                peer.persistent_at = peer.keepalive_every.map_or(NEVER, |every| now.mono + every.get());
            }
            self.deadlines.no_later_than(owner, peer.next_timer().min(sessions_at));
            if unanswered {
                self.request(peer_id);
            }
            if wanted {
                // Only if no session has come meanwhile.
                self.begin(peer_id, now);
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
            let other_half = self.peers.get_mut(peer_id.index()).and_then(|peer| peer.slots.remove(id));
            self.wipe(id);
            other_half.into_iter().for_each(|id| self.wipe(id));
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
}
