//! Asking others: pending initiations, their retries, what answers them, and the cookies that peers gave us.

use std::net::SocketAddr;

use super::{
    BRING_FORWARD_EVERY, Cookie, HandshakeCounters, HandshakeOutput, Handshakes, RESPONSE_QUEUE, Request,
    Transmit,
};
use crate::crypto::scrubbed;
use crate::handshake::cookie::COOKIE_LIFE;
use crate::handshake::message::{Header, MAX_HANDSHAKE, MIN_RESPONSE};
use crate::handshake::{Attempt, HandshakeInitiator};
use crate::session::limits::{GIVE_UP, RETRY, RETRY_JITTER};
use crate::tunnel::ToSessions;
use crate::{DropReason, Entropy, Now, Path, PeerId};

impl Handshakes {
    pub(super) fn initiate(
        &mut self,
        peer_id: PeerId,
        number: u64,
        path: Option<Path>,
        now: Now,
        out: &mut HandshakeOutput,
    ) {
        self.cancel(peer_id, out);
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        peer.heard_at = path.or(peer.heard_at);
        let request = Request { number, started: now.mono, retry_at: now.mono, attempts: 0, pending: None };
        peer.request = Some(request);
        if peer.has_endpoint && peer.addresses.is_empty() {
            out.resolve.push_back(peer_id);
        }
        self.due_first.push_back(peer_id);
    }

    /// Makes the first initiation that is due.
    pub(super) fn attempt_one(&mut self, now: Now, entropy: &mut dyn Entropy, out: &mut HandshakeOutput) {
        while let Some(peer_id) = self.due_first.pop_front().or_else(|| self.due.pop_front()) {
            // Meanwhile the request may have been answered, or another one been made.
            let request = self.peers.get(peer_id.index()).and_then(|peer| peer.request.as_ref());
            if request.is_some_and(|request| request.retry_at <= now.mono) {
                return self.attempt(peer_id, now, entropy, out);
            }
        }
    }

    /// Sends a new initiation for the peer's request and sets the time of the next one.
    fn attempt(&mut self, peer_id: PeerId, now: Now, entropy: &mut dyn Entropy, out: &mut HandshakeOutput) {
        self.forget_pending(peer_id, out);
        let index = self.allocate(entropy);
        let jitter = u64::from(entropy.next_u32()) * RETRY_JITTER / u64::from(u32::MAX);
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        let path = peer.path(peer.request.as_ref().map_or(0, |r| r.attempts));
        let Some(request) = peer.request.as_mut() else {
            self.indices.remove(&index);
            return;
        };
        // The last wait ends with the request: what is pending is wiped after 90 s, not at the next retry.
        request.retry_at = (now.mono + RETRY + jitter).min(request.started + GIVE_UP);
        self.deadlines.no_later_than(peer_id.0, request.retry_at);
        let Some(path) = path else {
            self.indices.remove(&index);
            return;
        };
        request.attempts += 1;
        peer.last_sent = now.wall.max(peer.last_sent.next());
        let usable = |c: &&Cookie| now.mono.saturating_sub(c.received_at) < COOKIE_LIFE;
        let cookie = peer.cookie.as_ref().filter(usable);
        let attempt = Attempt {
            peer: peer_id,
            remote: &peer.public_key,
            psk: &peer.psk,
            suites: peer.suites,
            timestamp: peer.last_sent,
            local_index: index,
            path,
            number: request.number,
            cookie: cookie.map(|cookie| &cookie.value),
        };
        match HandshakeInitiator::start(&self.identity, attempt, entropy) {
            Ok((pending, bytes)) => {
                request.pending = Some(pending);
                HandshakeCounters::count(&self.counters.initiations_sent);
                if self.pending.insert(peer_id, index, &path) {
                    out.to_sessions.push_back(ToSessions::Pending(path));
                }
                out.transmits.push_back(Transmit { path, bytes });
            }
            Err(reason) => {
                self.indices.remove(&index);
                self.drops.count(reason);
            }
        }
    }

    pub(super) fn resolved(&mut self, peer_id: PeerId, addresses: Vec<SocketAddr>, now: Now) {
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        // A name that does not resolve just now keeps the addresses it had.
        if addresses.is_empty() || addresses == peer.addresses {
            return;
        }
        peer.addresses = addresses;
        if let Some(request) = peer.request.as_mut().filter(|request| request.pending.is_none()) {
            request.retry_at = now.mono;
            self.due_first.push_back(peer_id);
        }
    }

    /// Gives up what took too long; what is to be tried again waits for [`step`](Self::step).
    pub fn on_timer(&mut self, now: Now, out: &mut HandshakeOutput) {
        while let Some(owner) = self.deadlines.pop_due(now.mono) {
            let peer_id = PeerId(owner);
            let Some(peer) = self.peers.get(peer_id.index()) else { continue };
            let Some(request) = &peer.request else { continue };
            if request.retry_at > now.mono {
                self.deadlines.no_later_than(owner, request.retry_at);
            } else if now.mono.saturating_sub(request.started) >= GIVE_UP {
                let number = request.number;
                self.cancel(peer_id, out);
                out.to_sessions.push_back(ToSessions::GaveUp { peer: peer_id, number });
            } else {
                if peer.has_endpoint {
                    out.resolve.push_back(peer_id);
                }
                let brought_forward = peer.brought_forward_at == Some(request.retry_at);
                let due = if brought_forward { &mut self.due_first } else { &mut self.due };
                due.push_back(peer_id);
            }
        }
    }

    pub(super) fn cancel(&mut self, peer_id: PeerId, out: &mut HandshakeOutput) {
        self.forget_pending(peer_id, out);
        if let Some(peer) = self.peers.get_mut(peer_id.index()) {
            peer.request = None;
        }
    }

    /// Wipes the peer's pending initiation; its index is free again.
    fn forget_pending(&mut self, peer_id: PeerId, out: &mut HandshakeOutput) {
        let Some(request) = self.peers.get_mut(peer_id.index()).and_then(|p| p.request.as_mut()) else {
            return;
        };
        if let Some(pending) = request.pending.take() {
            self.indices.remove(&pending.local_index());
            if self.pending.remove(peer_id, pending.local_index(), &pending.path()) {
                out.to_sessions.push_back(ToSessions::NotPending(pending.path()));
            }
        }
    }

    /// Only what answers a pending initiation gets a place: nobody else can fill the queue.
    pub(super) fn enqueue_response(
        &mut self,
        header: Header,
        path: Path,
        bytes: Vec<u8>,
    ) -> Result<(), DropReason> {
        if bytes.len() < MIN_RESPONSE {
            return Err(DropReason::TooShort);
        }
        if bytes.len() > MAX_HANDSHAKE {
            return Err(DropReason::BadEnvelope);
        }
        if header.counter != 0 {
            return Err(DropReason::BadHeader);
        }
        self.pending.with_index(header.index).ok_or(DropReason::NotPending)?;
        if self.responses.len() >= RESPONSE_QUEUE.max(self.pending.len()) {
            return Err(DropReason::HandshakeQueueFull);
        }
        self.responses.push_back((path, bytes));
        Ok(())
    }

    pub(super) fn finish(
        &mut self,
        bytes: &mut [u8],
        now: Now,
        out: &mut HandshakeOutput,
    ) -> Result<(), DropReason> {
        let header = Header::parse(bytes)?;
        let peer_id = self.pending.with_index(header.index).ok_or(DropReason::NotPending)?;
        let peer = self.peers.get_mut(peer_id.index()).ok_or(DropReason::NotPending)?;
        let request = peer.request.as_mut().ok_or(DropReason::NotPending)?;
        let pending = request.pending.take().ok_or(DropReason::NotPending)?;
        let went_to = pending.path();
        let finished = scrubbed(|| pending.finish(&self.identity, &peer.public_key, &peer.psk, bytes, now));
        match finished {
            Ok(session) => {
                peer.request = None;
                if self.pending.remove(peer_id, header.index, &went_to) {
                    out.to_sessions.push_back(ToSessions::NotPending(went_to));
                }
                out.to_sessions.push_back(ToSessions::Ready(session));
                Ok(())
            }
            Err((pending, reason)) => {
                request.pending = Some(pending);
                Err(reason)
            }
        }
    }

    /// Tries what made no sense as a cookie reply of a peer that an initiation is pending to, there. A valid one serves the
    /// peer's next initiations and brings the next one forward to now; it moves nothing else.
    pub(super) fn take_cookie(
        &mut self,
        path: &Path,
        mut bytes: Vec<u8>,
        reason: DropReason,
        now: Now,
    ) -> Result<(), DropReason> {
        // As it was received.
        self.identity.header_key.mask(&mut bytes);
        for &peer_id in self.pending.at(path) {
            let Some(peer) = self.peers.get_mut(peer_id.index()) else { continue };
            let Some(request) = peer.request.as_mut() else { continue };
            let Some(pending) = request.pending.as_mut() else { continue };
            let value = match pending.open_cookie_reply(&self.identity, &peer.public_key, &mut bytes) {
                Ok(value) => value,
                Err(DropReason::BadHeader) => continue,
                Err(refused) => return Err(refused),
            };
            HandshakeCounters::count(&self.counters.cookies_received);
            peer.cookie = Some(Cookie { value, received_at: now.mono });
            let since = |at| now.mono.saturating_sub(at) < BRING_FORWARD_EVERY;
            if !peer.brought_forward_at.is_some_and(since) {
                peer.brought_forward_at = Some(now.mono);
                // The same address once more: it is the one that asked.
                request.attempts = request.attempts.saturating_sub(1);
                request.retry_at = now.mono;
                self.deadlines.no_later_than(peer_id.0, now.mono);
            }
            return Ok(());
        }
        Err(reason)
    }
}
