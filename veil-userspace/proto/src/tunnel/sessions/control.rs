//! The control stream of each session: what comes in is applied, what goes out is kept until it has arrived
//! (`protocol.md`, Control stream).
//!
//! CONTROL and ACK go only under a peer's current session and speak of that session only. What came under another is
//! applied, but not acknowledged; a Config counts while its session is the current one. A stream dies with its session;
//! what still matters then, its owner says again in the next one, so every message is the whole of what it says.

use std::num::NonZeroU64;

use super::{Opened, PeerEvent, Sessions};
use crate::SingleWriter;
use crate::allowed_ips::IpNet;
use crate::mux::control::{CloseReason, read_messages};
use crate::mux::{Config, Message, frame};
use crate::session::SessionId;
use crate::session::retransmit_buffer::{SEQUENCE_LEN, Timeout};
use crate::time::SECOND;
use crate::timers::NEVER;
use crate::{DropReason, Now, PeerId};

/// A peer that has ended its session is asked for another no sooner than this: it would cost both ends curve work, as often
/// as it likes to say so.
const QUIET: u64 = SECOND;
/// A lease that is wanted and has not come is asked for so often: there are pauses between requests, which last 90 s.
const SEEK: u64 = 120 * SECOND;
/// While a session is as young as this, its peer may not know that it is there: the datagram that says so may be lost.
const UNHEARD: u64 = 20 * SECOND;
/// So often it is said again, as long as the lease has not come.
const SAY_AGAIN: u64 = 5 * SECOND;

impl Sessions {
    /// Takes a CONTROL frame's payload in and applies every message that is in order now.
    ///
    /// Config is applied only where the peer may lease to us, and only in its current session: addresses and routes outside
    /// its allowed IPs are left out, and addresses that belong to another peer.
    ///
    /// # Errors
    /// Why the frame was refused; the caller counts it. Nothing has changed then.
    pub fn accept_control(&mut self, from: Opened, payload: &[u8], now: Now) -> Result<(), DropReason> {
        let messages = payload.get(SEQUENCE_LEN..).ok_or(DropReason::FrameMalformed)?;
        read_messages(messages)?;
        let session = self.table.get(from.session).ok_or(DropReason::UnknownIndex)?;
        let in_order = session.control_in.accept(payload)?;
        if self.peers.get(from.peer.index()).is_some_and(|peer| peer.slots.current() == Some(from.session)) {
            session.ack_due = true;
            self.owe(from.peer);
        }
        for message in in_order.iter().flat_map(|frame| read_messages(frame)).flatten() {
            // What comes after a Close comes in no session.
            if self.table.get(from.session).is_none() {
                break;
            }
            self.apply(from, message, now);
        }
        Ok(())
    }

    fn apply(&mut self, from: Opened, message: Message, now: Now) {
        let applied = match message {
            Message::NewIndex { old, new } => {
                self.table.get(from.session).is_some_and(|session| session.sealer.redirect(old, new))
            }
            Message::Close(reason) => self.closed(from, reason, now),
            Message::Config(config) => self.leased(from, config),
            Message::Unknown(_) => false,
        };
        if let (false, Some(peer)) = (applied, self.peers.get(from.peer.index())) {
            peer.counters.drops.count(DropReason::ControlStray);
        }
    }

    /// The peer is done with this session, and so are we.
    fn closed(&mut self, from: Opened, reason: CloseReason, now: Now) -> bool {
        let Some(peer) = self.peers.get_mut(from.peer.index()) else { return false };
        if peer.slots.current() == Some(from.session) {
            (peer.unanswered_at, peer.keepalive_at) = (NEVER, NEVER);
            peer.flagged = false;
            // Who says it without end is heard once: each time is a line in the log.
            let quiet_until = std::mem::replace(&mut peer.quiet_until, now.mono + QUIET);
            if quiet_until <= now.mono {
                self.events.push_back(PeerEvent::Closed(from.peer, reason));
            }
        }
        let other_half = peer.slots.remove(from.session);
        self.wipe(from.session);
        other_half.into_iter().for_each(|id| self.wipe(id));
        self.counters.closed.bump(1);
        true
    }

    /// Takes a lease of the peer's. What was said last in a session counts while that is the current one, which both ends
    /// agree on sooner or later: of two crossed sessions, only the peer knows in which it spoke last. False if the peer may
    /// give us none, or the session is a former one: what was said there may be late.
    fn leased(&mut self, from: Opened, config: Config) -> bool {
        let Some(peer) = self.peers.get(from.peer.index()) else { return false };
        let Some(session) = self.table.get(from.session) else { return false };
        if peer.lease_within.is_empty() || !peer.slots.is_current_or_next(from.session) {
            return false;
        }
        session.leased = Some(Box::new(config));
        if peer.slots.current() == Some(from.session) {
            self.take_over(from.peer, from.session);
        }
        true
    }

    /// From now on what of a session's lease lies within the peer's allowed IPs is in force, if it has one.
    fn take_over(&mut self, peer_id: PeerId, id: SessionId) {
        let Some(mut config) = self.table.get(id).and_then(|session| session.leased.as_deref().cloned())
        else {
            return;
        };
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        peer.lease_at = NEVER;
        config.addresses.retain(|net| self.allowed_ips.lookup(net.addr) == Some(peer_id));
        // An address brings a route to its whole network, so all of that has to be the peer's to give.
        let own = |net: &IpNet| peer.lease_within.iter().any(|allowed| allowed.covers(*net));
        config.addresses.retain(own);
        config.routes.retain(own);
        let every = config.keepalive.and_then(|seconds| NonZeroU64::new(u64::from(seconds) * SECOND));
        let every = every.or(peer.own_keepalive);
        if peer.keepalive_every != every {
            peer.keepalive_every = every;
            peer.persistent_at = every.map_or(NEVER, |_| 0);
            self.deadlines.no_later_than(peer_id.0, peer.persistent_at);
        }
        if peer.lease.replace(config).is_none() {
            self.events.push_back(PeerEvent::Leased(peer_id));
        }
    }

    /// What the peer has given us since this was last asked.
    pub fn take_lease(&mut self, peer: PeerId) -> Option<Config> {
        self.peers.get_mut(peer.index())?.lease.take()
    }

    /// Begins a session for the sake of the lease that the peer may give us, and again until one has come, if it be of
    /// nothing.
    pub fn seek_lease(&mut self, peer_id: PeerId) {
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        if !peer.lease_within.is_empty() {
            peer.lease_at = 0;
            self.deadlines.no_later_than(peer_id.0, 0);
        }
    }

    pub(super) fn lease_timer(&mut self, peer_id: PeerId, now: Now) {
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        if peer.lease_at > now.mono {
            return;
        }
        let current = peer.slots.current().and_then(|id| self.table.get(id));
        let unheard = current.is_some_and(|session| now.mono < session.created + UNHEARD);
        peer.lease_at = now.mono + if unheard { SAY_AGAIN } else { SEEK };
        if unheard {
            self.flag(peer_id);
        } else if self.way_to(peer_id, now).is_none() {
            // In a session it comes by itself, if there is one: for its sake none is renewed.
            self.begin(peer_id, now);
        }
    }

    /// A session that this end has begun is there: a lease that has not come is looked for in it.
    pub(super) fn lease_may_come(&mut self, peer_id: PeerId, created: u64) {
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        if peer.lease_at != NEVER {
            peer.lease_at = created + SAY_AGAIN;
            self.deadlines.no_later_than(peer_id.0, peer.lease_at);
        }
    }

    /// Gives the peer a lease: in the current session, and in every later one.
    pub fn offer(&mut self, peer_id: PeerId, config: Config) {
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        peer.offer = Some(config);
        peer.offers += 1;
        if let Some(id) = peer.slots.current() {
            self.say_again(peer_id, id);
        }
    }

    /// `id` seals from now on: what still matters is said in its stream, unless it has been, and what came in it counts.
    pub(super) fn became_current(&mut self, peer_id: PeerId, id: SessionId) {
        self.stock_up();
        self.say_again(peer_id, id);
        self.take_over(peer_id, id);
        self.watch_session(id);
        self.owe(peer_id);
    }

    fn say_again(&mut self, peer_id: PeerId, id: SessionId) {
        let Some(peer) = self.peers.get(peer_id.index()) else { return };
        let offers = peer.offers;
        if self.table.get(id).is_none_or(|session| session.offers_said == offers) {
            return;
        }
        let Some(config) = peer.offer.clone() else { return };
        if self.say(peer_id, id, Message::Config(config))
            && let Some(session) = self.table.get(id)
        {
            session.offers_said = offers;
        }
    }

    /// Puts a message on a session's stream. False if it finds no place there, which is counted.
    fn say(&mut self, peer_id: PeerId, id: SessionId, message: Message) -> bool {
        let mut bytes = Vec::new();
        let written = message.write(&mut bytes).is_ok();
        let said = written && self.table.get(id).is_some_and(|session| session.control_out.push(&bytes));
        if said {
            self.owe(peer_id);
        } else if let Some(peer) = self.peers.get(peer_id.index()) {
            peer.counters.drops.count(DropReason::ControlLost);
        }
        said
    }

    /// Tells every peer, once, that its session ends. They are not waited for.
    pub fn close_all(&mut self) {
        for peer_id in (0..self.peers.len() as u32).map(PeerId) {
            if let Some(id) = self.peers.get(peer_id.index()).and_then(|peer| peer.slots.current()) {
                self.say(peer_id, id, Message::Close(CloseReason::SHUTDOWN));
            }
        }
    }

    /// Takes an ACK frame's payload in: it speaks of the session it came in.
    ///
    /// # Errors
    /// [`DropReason::FrameMalformed`], also for an acknowledgement of what was never sent.
    pub fn accept_ack(&mut self, from: Opened, payload: &[u8], now: Now) -> Result<(), DropReason> {
        let &[a, b, c, d, ref bitmap @ ..] = payload else { return Err(DropReason::FrameMalformed) };
        let bitmap = bitmap.try_into().map_err(|_| DropReason::FrameMalformed)?;
        let session = self.table.get(from.session).ok_or(DropReason::UnknownIndex)?;
        let next = u32::from_le_bytes([a, b, c, d]);
        session.control_out.process_ack(next, u64::from_le_bytes(bitmap), now.mono)?;
        let has_room = session.control_out.outstanding() == 0;
        self.watch_session(from.session);
        if has_room
            && self.peers.get(from.peer.index()).and_then(|peer| peer.slots.current()) == Some(from.session)
        {
            // An offer may have found none.
            self.say_again(from.peer, from.session);
        }
        Ok(())
    }

    /// How many control frames of the peer's current session it is not known to have; none without a session.
    pub fn unacknowledged(&mut self, peer: PeerId) -> Option<usize> {
        let id = self.peers.get(peer.index())?.slots.current()?;
        self.table.get(id).map(|session| session.control_out.outstanding())
    }

    pub(super) fn control_timer(&mut self, peer_id: PeerId, now: Now) {
        let Some(id) = self.peers.get(peer_id.index()).and_then(|peer| peer.slots.current()) else { return };
        let Some(session) = self.table.get(id) else { return };
        match session.control_out.on_timer(now.mono) {
            Timeout::NotYet => {}
            Timeout::Retransmit(frames) => {
                self.counters.control_resent.bump(frames);
                self.owe(peer_id);
            }
            Timeout::Exhausted => {
                self.counters.control_given_up.bump(1);
                self.request(peer_id);
            }
        }
    }

    /// The next peer that is owed a control frame, an acknowledgement or a probe: ask
    /// [`next_control_frame`](Self::next_control_frame) and [`next_probe`](Self::next_probe) until there is none.
    pub fn next_owing(&mut self) -> Option<PeerId> {
        let peer_id = self.owing.pop_front()?;
        if let Some(peer) = self.peers.get_mut(peer_id.index()) {
            peer.owing = false;
        }
        Some(peer_id)
    }

    /// Something is owed to the peer, or still is.
    pub fn owe(&mut self, peer_id: PeerId) {
        if let Some(peer) = self.peers.get_mut(peer_id.index())
            && !std::mem::replace(&mut peer.owing, true)
        {
            self.owing.push_back(peer_id);
        }
    }

    /// Writes the payload of the next frame that is to go under the peer's current session, and gives its kind. From here
    /// on the frame counts as sent.
    pub fn next_control_frame(&mut self, peer_id: PeerId, now: Now, payload: &mut Vec<u8>) -> Option<u8> {
        let id = self.peers.get(peer_id.index())?.slots.current()?;
        let session = self.table.get(id)?;
        payload.clear();
        if std::mem::take(&mut session.ack_due) {
            let (next, bitmap) = session.control_in.ack();
            payload.extend_from_slice(&next.to_le_bytes());
            payload.extend_from_slice(&bitmap.to_le_bytes());
            self.counters.acks_sent.bump(1);
            return Some(frame::ACK);
        }
        payload.extend_from_slice(session.control_out.next_due(now.mono)?);
        self.counters.control_sent.bump(1);
        self.watch_session(id);
        Some(frame::CONTROL)
    }
}
