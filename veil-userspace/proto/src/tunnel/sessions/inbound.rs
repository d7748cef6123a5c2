//! Inbound: a datagram is opened in the session it names, its inner packets are checked against their sender.
//!
//! Before the AEAD has opened, only drop counters move.

use super::{Accepted, Inbound, Opened, Sessions};
use crate::SingleWriter;
use crate::handshake::message::{Header, MAX_HANDSHAKE, TYPE_DATA};
use crate::mux::checksum::accept_partial;
use crate::mux::ecn;
use crate::mux::frame::FLAG_PARTIAL;
use crate::mux::inner::InnerPacket;
use crate::session::limits::{KEEPALIVE, REKEY_AFTER_RECEIVE};
use crate::session::reassembly::Reassembled;
use crate::session::{MIN_DATAGRAM, Role, SessionId};
use crate::timers::NEVER;
use crate::tunnel::{PeerEvent, ToHandshakes};
use crate::{DropReason, Now, Path, PeerId};

impl Sessions {
    /// Unmasks the headers of a run of datagrams, `segment` bytes apart, each for [`open_unmasked`](Self::open_unmasked).
    pub fn unmask_run(&self, run: &mut [u8], segment: usize) {
        self.header_key.mask_run(run, segment);
    }

    /// Opens one datagram from `path` in place.
    pub fn open(&mut self, datagram: &mut [u8], path: &Path, now: Now) -> Inbound {
        self.header_key.mask(datagram);
        self.open_unmasked(datagram, path, now)
    }

    /// Opens one datagram whose header is unmasked already.
    pub fn open_unmasked(&mut self, datagram: &mut [u8], path: &Path, now: Now) -> Inbound {
        let inbound = self.look_up_and_open(datagram, path, now);
        match &inbound {
            Inbound::Data(_) => self.counters.opened.bump(1),
            Inbound::Handshake => self.counters.handshake.bump(1),
            Inbound::Dropped(reason) => self.counters.drops.count(*reason),
        }
        inbound
    }

    fn look_up_and_open(&mut self, datagram: &mut [u8], path: &Path, now: Now) -> Inbound {
        if datagram.len() < MIN_DATAGRAM {
            return Inbound::Dropped(DropReason::TooShort);
        }
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
        match self.open_in(id, header, datagram, path, now) {
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
        header: Header,
        datagram: &mut [u8],
        path: &Path,
        now: Now,
    ) -> Result<Opened, DropReason> {
        let session = self.table.get(id).ok_or(DropReason::UnknownIndex)?;
        if session.expires() <= now.mono {
            return Err(DropReason::SessionExpired);
        }
        let (len, highest) = session.opener.open(header.counter, datagram)?;
        // Authentic and new from here on: state may move.
        let (peer_id, role, created) = (session.peer, session.role, session.created);
        let limit_reached = session.opener.must_rekey();
        let first_under_new_index = session.rotator.arrived(header.index, now.mono);
        let peer = self.peers.get_mut(peer_id.index()).ok_or(DropReason::UnknownPeer)?;
        peer.counters.rx_packets.bump(1);
        peer.counters.rx_bytes.bump(datagram.len() as u64);

        let before = peer.slots.current();
        let moved = peer.slots.opened(id, peer.smaller);
        let is_current = peer.slots.current() == Some(id);
        // What makes its session current in place of another that is in use may be older than what came in that one.
        let may_move = moved.confirmed || before == Some(id);
        if is_current && highest && may_move && peer.path != Some(*path) {
            self.moved |= peer.move_to(*path);
        }
        // What comes in another session does not say that the peer has this one: it may have forgotten it.
        if is_current {
            peer.unanswered_at = NEVER;
        }
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
        if first_under_new_index {
            self.watch_session(id);
        }
        if is_current && before != Some(id) {
            self.became_current(peer_id, id);
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
        let own = self.peers.get(peer.index()).is_some_and(|peer| peer.own.has(header.source));
        if !own && self.allowed_ips.lookup(header.source) != Some(peer) {
            return Err(DropReason::InnerSource);
        }
        let partial = flags & FLAG_PARTIAL != 0;
        if partial {
            accept_partial(&header, packet)?;
        }
        ecn::decapsulate(packet, outer_tos)?;
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
        outer_tos: u8,
        payload: &[u8],
        now: Now,
    ) -> Result<Option<Reassembled>, DropReason> {
        let session = self.table.get(session).ok_or(DropReason::UnknownIndex)?;
        let result = session.reassembly.accept(flags, outer_tos & 0b11 == ecn::CE, payload, now.mono);
        let given_up = session.reassembly.take_given_up();
        self.counters.reassembly_drops.add(DropReason::FragmentIncomplete, given_up);
        result
    }
}
