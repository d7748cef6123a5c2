//! Answering initiations: cheap gates first, curve work last, every refusal counted (`protocol.md`, Order at the responder).

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::envelope::EnvelopeKey;
use super::message::{InitiationPayload, ResponsePayload, open_initiation, seal_response};
use super::timestamp::LastTimestamp;
use super::{HandshakeReplayCache, Identity, NewSession, Outcome, make_session, noise};
use crate::crypto::{HeaderKey, Psk, PublicKey, Suites};
use crate::peer::PeerSettings;
use crate::session::Role;
use crate::{DropReason, Entropy, Now, Path, PeerId};

/// A peer as the responder needs it.
struct Known {
    id: PeerId,
    psk: Psk,
    suites: Suites,
    last: LastTimestamp,
}

/// Answers initiations. `Sync`: all it changes is behind the replay cache's and each peer's own mutex.
pub struct HandshakeResponder {
    peers: HashMap<PublicKey, Known>,
    replays: HandshakeReplayCache,
}

/// An initiation whose envelope has opened: cheap so far, curve work comes next.
pub struct OpenedEnvelope {
    sender: u32,
    noise: Vec<u8>,
    /// Length of the whole datagram: an answer is never longer.
    datagram_len: usize,
}

/// An accepted initiation.
pub struct Answer {
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
        }
    }

    /// The cheap gates: opens the envelope of an unmasked initiation and looks whether it was handled before.
    ///
    /// # Errors
    /// The reason for the first gate that refused it.
    pub fn open_envelope(
        &self,
        identity: &Identity,
        datagram: &mut [u8],
    ) -> Result<OpenedEnvelope, DropReason> {
        let datagram_len = datagram.len();
        let opened = open_initiation(&identity.envelope_key, datagram)?;
        if self.replays.mark_and_check(Sha256::digest(opened.noise).into()) {
            return Err(DropReason::ReplayedInitiation);
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
        Ok(Answer { session: NewSession { session, path, number: None }, response })
    }
}
