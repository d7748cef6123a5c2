//! Outbound: whose a packet is, whether that peer can be sent to, how wide its path is, and sealing.
//!
//! Only a peer's current session seals, and only before its time and its key's limit are over.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use super::{Outbound, Peer, Sessions};
use crate::session::limits::UNANSWERED;
use crate::session::{Exhausted, MIN_DATAGRAM, Role};
use crate::time::SECOND;
use crate::timers::NEVER;
use crate::{DropReason, Now, PeerId};

/// No path is taken to be narrower than IPv6 allows (RFC 8200 5), whatever is said about it.
const PATH_MTU_FLOOR: usize = 1280;
/// How long a path's MTU is believed: as long as the kernel remembers it (RFC 1191 6.3).
const PATH_MTU_BELIEVED: u64 = 600 * SECOND;

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

    pub(super) fn flag(&mut self, peer_id: PeerId) {
        if let Some(peer) = self.peers.get_mut(peer_id.index())
            && !std::mem::replace(&mut peer.flagged, true)
        {
            self.flagged.push_back(peer_id);
        }
    }
}
