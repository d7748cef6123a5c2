//! Answering initiations: cheap gates first, curve work last, every refusal counted (`protocol.md`, Order at the responder).

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::envelope::EnvelopeKey;
use super::message::{InitiationPayload, ResponsePayload, open_initiation, seal_cookie_reply, seal_response};
use super::timestamp::LastTimestamp;
use super::token_bucket::{Rate, TokenBuckets};
use super::{CookieSecrets, HandshakeReplayCache, Identity, Load, NewSession, Outcome, make_session, noise};
use crate::crypto::{HeaderKey, Psk, PublicKey, Suites};
use crate::peer::PeerSettings;
use crate::session::Role;
use crate::{DropReason, Entropy, Now, Path, PeerId, Tai64n};

/// A peer as the responder needs it.
struct Known {
    id: PeerId,
    psk: Psk,
    suites: Suites,
    last: LastTimestamp,
}

/// Answers initiations. `Sync`: all it changes is atomic buckets, the cookie secrets behind their lock, and what is behind
/// the replay cache's and each peer's own mutex.
pub struct HandshakeResponder {
    peers: HashMap<PublicKey, Known>,
    replays: HandshakeReplayCache,
    cookies: CookieSecrets,
    /// Cookie replies that one initiation, by its envelope's tag, may still bring its source. Not all initiations of a
    /// source together: whoever floods in a peer's name would use up what the peer needs to prove its address.
    cookie_replies: TokenBuckets,
    /// Initiations that a source, proven by its cookie, may still make us work on.
    proven: TokenBuckets,
}

/// An initiation whose envelope has opened: cheap so far, curve work comes next.
pub struct OpenedEnvelope {
    sender: u32,
    noise: Vec<u8>,
    /// Length of the whole datagram: an answer is never longer.
    datagram_len: usize,
}

/// A refused initiation.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: DropReason,
    /// A cookie reply to send to where it came from; never longer than the initiation.
    pub reply: Option<Vec<u8>>,
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Refused { reason, reply: None }
    }
}

/// An accepted initiation.
pub struct Answer {
    /// Its timestamp, to be stored before the response is sent.
    pub timestamp: Tai64n,
    /// The session, to be handed over before the response is sent.
    pub session: NewSession,
    /// The response datagram.
    pub response: Vec<u8>,
}

impl HandshakeResponder {
    /// A responder to `peers`, numbered in their order.
    pub fn new(peers: &[PeerSettings], entropy: &mut dyn Entropy) -> Self {
        let known = |(n, peer): (usize, &PeerSettings)| {
            let psk = Psk::from_bytes(*peer.psk.as_bytes());
            let known =
                Known { id: PeerId(n as u32), psk, suites: peer.suites, last: LastTimestamp::default() };
            (peer.public_key, known)
        };
        HandshakeResponder {
            peers: peers.iter().enumerate().map(known).collect(),
            replays: HandshakeReplayCache::new(HandshakeReplayCache::DEFAULT_CAPACITY, entropy),
            cookies: CookieSecrets::new(entropy),
            cookie_replies: TokenBuckets::new(Rate::INITIATIONS, entropy),
            proven: TokenBuckets::new(Rate::INITIATIONS, entropy),
        }
    }

    /// Takes over the peer's last timestamp from before a restart.
    pub fn restore(&self, peer: &PublicKey, timestamp: Tai64n) {
        if let Some(known) = self.peers.get(peer) {
            known.last.restore(timestamp);
        }
    }

    /// The cheap gates: opens the envelope of an unmasked initiation from `path`, under load asks for a cookie and limits
    /// whoever has one, and looks whether it was handled before.
    ///
    /// # Errors
    /// The reason for the first gate that refused it, with a cookie reply if that is the cure.
    pub fn open_envelope(
        &self,
        identity: &Identity,
        datagram: &mut [u8],
        path: &Path,
        load: Load,
        now: Now,
        entropy: &mut dyn Entropy,
    ) -> Result<OpenedEnvelope, Refused> {
        let datagram_len = datagram.len();
        // mac2 covers the sealed bytes and is looked at after the envelope, which opens in place.
        let sealed = (load == Load::Heavy).then(|| datagram.to_vec());
        let opened = open_initiation(&identity.envelope_key, datagram)?;
        if let Some(sealed) = sealed {
            if let Err(cookie) = self.cookies.verify(&sealed, path, now, entropy) {
                let may_reply = self.cookie_replies.take_for(path.remote().ip(), &opened.tag, now.mono);
                let reply = may_reply.then(|| {
                    let (ck, hp) = (&identity.cookie_key, &identity.header_key);
                    seal_cookie_reply(ck, hp, opened.sender, &opened.tag, &cookie, datagram_len, entropy)
                });
                return Err(Refused { reason: DropReason::NoCookie, reply });
            }
            if !self.proven.take(path.remote().ip(), now.mono) {
                return Err(DropReason::RateLimited.into());
            }
        }
        if self.replays.mark_and_check(Sha256::digest(opened.noise).into()) {
            return Err(DropReason::ReplayedInitiation.into());
        }
        Ok(OpenedEnvelope { sender: opened.sender, noise: opened.noise.to_vec(), datagram_len })
    }

    /// The curve work: authenticates the initiator and answers it from `path` with a session under `local_index`.
    ///
    /// # Errors
    /// The reason why it is refused. The peer's last timestamp has moved only if the initiation was authentic and new.
    pub fn handle_init(
        &self,
        identity: &Identity,
        opened: OpenedEnvelope,
        path: Path,
        local_index: u32,
        now: Now,
        entropy: &mut dyn Entropy,
    ) -> Result<Answer, DropReason> {
        let received = noise::Responder::read(&identity.keys, &opened.noise)?;
        let remote = received.remote;
        let peer = self.peers.get(&remote).ok_or(DropReason::UnknownPeer)?;
        let payload = InitiationPayload::parse(&received.payload)?;
        if payload.sender != opened.sender {
            return Err(DropReason::BadNoise);
        }
        peer.last.accept(payload.timestamp, now.mono)?;
        let suite = peer.suites.choose(payload.suites).ok_or(DropReason::NoCommonSuite)?;

        let reply = ResponsePayload { sender: local_index, suite }.encode();
        let (message, finished) = received.respond(&peer.psk, &reply, entropy)?;
        let envelope = EnvelopeKey::derive(&remote, &identity.network_secret);
        let header = HeaderKey::derive(&remote, &identity.network_secret);
        let response =
            seal_response(&envelope, &header, payload.sender, &message, opened.datagram_len, entropy);
        let outcome = Outcome {
            peer: peer.id,
            role: Role::Responder,
            suite,
            local_index,
            receiver_index: payload.sender,
            now: now.mono,
        };
        let session = make_session(identity, &remote, &finished, outcome);
        Ok(Answer {
            timestamp: payload.timestamp,
            session: NewSession { session, path, number: None },
            response,
        })
    }
}
