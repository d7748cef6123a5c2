//! Outbound: whose a packet is, whether that peer can be sent to, and sealing.
//!
//! Only a peer's current session seals, and only before its time and its key's limit are over.

use super::{Outbound, Sessions};
use crate::SingleWriter;
use crate::session::limits::UNANSWERED;
use crate::session::{Exhausted, MIN_DATAGRAM, Role};
use crate::timers::NEVER;
use crate::{DropReason, Now, Path, PeerId};

impl Sessions {
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
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return Outbound::NoEndpoint };
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
        if peer.quiet_until > now.mono {
            peer.wanted = true;
            self.deadlines.no_later_than(peer_id.0, peer.quiet_until);
        } else {
            self.request(peer_id);
        }
        Outbound::Wait
    }

    /// Where `peer` can be sent to at this moment, if it can; starts nothing.
    pub fn way_to(&mut self, peer_id: PeerId, now: Now) -> Option<Path> {
        let peer = self.peers.get(peer_id.index())?;
        let session = peer.slots.current().and_then(|id| self.table.get(id))?;
        let usable = session.expires() > now.mono && !session.sealer.exhausted();
        peer.path.filter(|_| usable)
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
        self.seal_unmasked(peer_id, datagram, now)?;
        self.mask_run(peer_id, datagram, 0)
    }

    /// Masks the headers of a run to `peer` whose datagrams, `segment` bytes apart, were sealed by
    /// [`seal_unmasked`](Self::seal_unmasked) since anything else happened.
    ///
    /// # Errors
    /// [`Exhausted`] if there is no session that could have sealed them; they must not be sent.
    pub fn mask_run(&mut self, peer: PeerId, run: &mut [u8], segment: usize) -> Result<(), Exhausted> {
        let peer = self.peers.get(peer.index()).ok_or(Exhausted)?;
        let session = peer.slots.current().and_then(|id| self.table.get(id)).ok_or(Exhausted)?;
        session.sealer.mask_run(run, segment);
        Ok(())
    }

    /// The same as [`seal`](Self::seal) with the header left as it is: [`mask_run`](Self::mask_run) comes before sending.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    #[inline]
    pub fn seal_unmasked(&mut self, peer_id: PeerId, datagram: &mut [u8], now: Now) -> Result<(), Exhausted> {
        let peer = self.peers.get_mut(peer_id.index()).ok_or(Exhausted)?;
        let session = peer.slots.current().and_then(|id| self.table.get(id)).ok_or(Exhausted)?;
        if session.expires() <= now.mono {
            return Err(Exhausted);
        }
        session.sealer.seal_unmasked(datagram)?;
        peer.counters.tx_packets.bump(1);
        peer.counters.tx_bytes.bump(datagram.len() as u64);
        self.counters.sealed.bump(1);
        peer.flagged = false;
        peer.keepalive_at = NEVER;
        if let Some(every) = peer.keepalive_every {
            peer.persistent_at = now.mono + every.get();
        }
        if peer.path_mtu.sent(datagram.len()) {
            self.deadlines.no_later_than(peer_id.0, peer.path_mtu.deadline());
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

    pub(super) fn flag(&mut self, peer_id: PeerId) {
        if let Some(peer) = self.peers.get_mut(peer_id.index())
            && !std::mem::replace(&mut peer.flagged, true)
        {
            self.flagged.push_back(peer_id);
        }
    }
}
