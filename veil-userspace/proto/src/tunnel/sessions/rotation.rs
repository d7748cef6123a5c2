//! Changing receiver indices: when, to which, and when the old one goes (`protocol.md`, Rotation).

use super::{Opened, Peer, Sessions};
use crate::SingleWriter;
use crate::mux::Message;
use crate::session::SessionId;
use crate::time::SECOND;
use crate::timers::NEVER;
use crate::tunnel::ToHandshakes;
use crate::{Now, PeerId};

/// Indices asked for at a time; more are asked for when half are used up.
const SPARES: usize = 64;
/// Without an index to change to, or a stream to say so on, a session tries again after this long.
const TRY_AGAIN: u64 = SECOND;

impl Sessions {
    /// An IP or FRAGMENT frame has arrived in this session: there is traffic to hide, and its time may be up. So no idle
    /// session is ever woken up for this, and the news of the change joins what goes back anyway.
    #[inline]
    pub fn carried(&mut self, from: Opened, now: Now) {
        if self.table.get(from.session).is_some_and(|session| session.rotator.is_due(now.mono)) {
            self.rotate_if_current(from, now);
        }
    }

    #[cold]
    fn rotate_if_current(&mut self, from: Opened, now: Now) {
        let is_current = |peer: &Peer| peer.slots.current() == Some(from.session);
        let rotated =
            self.peers.get(from.peer.index()).is_some_and(is_current) && self.rotate_session(from.peer, now);
        if let (false, Some(session)) = (rotated, self.table.get(from.session)) {
            session.rotator.postpone(now.mono + TRY_AGAIN);
        }
    }

    /// Gives the peer's current session another receiver index, and tells the peer. False if that cannot be now: there is
    /// no session, no spare index, or the last change is not over yet.
    pub fn rotate_session(&mut self, peer_id: PeerId, now: Now) -> bool {
        self.stock_up();
        let Some(id) = self.peers.get(peer_id.index()).and_then(|peer| peer.slots.current()) else {
            return false;
        };
        let Some(session) = self.table.get(id).filter(|session| !session.rotator.is_changing()) else {
            return false;
        };
        let Some(&new) = self.spares.last() else { return false };
        let (old, mut message) = (session.rotator.index(), Vec::new());
        let written = Message::NewIndex { old, new }.write(&mut message).is_ok();
        if !written || !session.control_out.push(&message) {
            return false;
        }
        self.spares.pop();
        session.rotator.rotate(new, now.mono, self.rotate_after);
        self.table.add_index(new, id);
        self.counters.rotations.bump(1);
        self.owe(peer_id);
        true
    }

    /// Keeps spare indices at hand.
    pub(super) fn stock_up(&mut self) {
        if self.spares.len() < SPARES / 2 && !std::mem::replace(&mut self.spares_asked, true) {
            self.to_handshakes.push_back(ToHandshakes::WantIndices(SPARES));
        }
    }

    pub(super) fn rotation_timer(&mut self, peer_id: PeerId, now: Now) {
        let Some(peer) = self.peers.get(peer_id.index()) else { return };
        for id in peer.slots.all() {
            let Some(session) = self.table.get(id) else { continue };
            if let Some(old) = session.rotator.release(now.mono) {
                self.table.release_index(old);
                self.last_found = None;
                self.to_handshakes.push_back(ToHandshakes::Retired(old));
            }
        }
    }

    /// When a session of the peer's has something to do.
    pub(super) fn sessions_deadline(&mut self, peer_id: PeerId) -> u64 {
        let Some(peer) = self.peers.get(peer_id.index()) else { return NEVER };
        let (current, all) = (peer.slots.current(), peer.slots.all());
        let mut deadline = NEVER;
        for id in all {
            let Some(session) = self.table.get(id) else { continue };
            deadline = deadline.min(session.rotator.deadline());
            // Only under `current` is anything sent again.
            if current == Some(id) {
                deadline = deadline.min(session.control_out.deadline());
            }
        }
        deadline
    }

    /// Something about this session has come to have a time.
    pub(super) fn watch_session(&mut self, id: SessionId) {
        if let Some(session) = self.table.get(id) {
            let deadline = session.rotator.deadline().min(session.control_out.deadline());
            self.deadlines.no_later_than(session.peer.0, deadline);
        }
    }
}
