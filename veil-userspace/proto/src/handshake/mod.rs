//! Agreeing on a session: Noise IKpsk2 in an envelope that hides it (`protocol.md`, Handshake).
//!
//! [`HandshakeInitiator`] is one attempt of ours; [`HandshakeResponder`] answers everybody else's. Both end in a
//! [`NewSession`], the value that [`Sessions`](crate::tunnel::Sessions) takes over.

pub mod cookie;
pub mod envelope;
mod initiator;
pub mod load;
pub mod message;
pub mod noise;
pub mod replay_cache;
mod responder;
pub mod timestamp;
pub mod token_bucket;

pub use cookie::CookieSecrets;
pub use initiator::{Attempt, HandshakeInitiator};
pub use load::{Load, LoadMeter};
pub use replay_cache::HandshakeReplayCache;
pub use responder::{Answer, HandshakeResponder, OpenedEnvelope, Refused};
pub use token_bucket::TokenBucket;

use crate::crypto::{AeadKey, HeaderKey, KeyPair, NetworkSecret, PublicKey, Suite, derive_session_keys};
use crate::session::{Opener, Role, Sealer, TransportSession};
use crate::{Path, PeerId};
use envelope::{CookieKey, EnvelopeKey};
use noise::Finished;

/// Our own identity: the key pair, the network secret, and the keys that others derive to reach us.
pub struct Identity {
    /// The static key pair.
    pub keys: KeyPair,
    /// The network secret; empty when there is none.
    pub network_secret: NetworkSecret,
    /// Masks the headers of datagrams sent to us.
    pub header_key: HeaderKey,
    /// Seals the handshakes sent to us.
    pub envelope_key: EnvelopeKey,
    /// Seals the cookie replies we send.
    pub cookie_key: CookieKey,
}

impl Identity {
    /// The identity of `keys` within the network of `network_secret`.
    pub fn new(keys: KeyPair, network_secret: NetworkSecret) -> Self {
        let header_key = HeaderKey::derive(&keys.public, &network_secret);
        let envelope_key = EnvelopeKey::derive(&keys.public, &network_secret);
        let cookie_key = CookieKey::derive(&keys.public, &network_secret);
        Identity { keys, network_secret, header_key, envelope_key, cookie_key }
    }
}

/// A session that a handshake has just made.
pub struct NewSession {
    /// The session; its owner from now on is whoever takes this.
    pub session: Box<TransportSession>,
    /// Where the handshake's datagrams went: nothing is sent there before the session is current.
    pub path: Path,
    /// The number of the request that started it, when it was ours.
    pub number: Option<u64>,
}

/// Everything but the Noise result that shapes a session.
struct Outcome {
    peer: PeerId,
    role: Role,
    suite: Suite,
    local_index: u32,
    receiver_index: u32,
    now: u64,
}

/// Turns a finished Noise handshake into a session.
fn make_session(
    identity: &Identity,
    remote: &PublicKey,
    finished: &Finished,
    outcome: Outcome,
) -> Box<TransportSession> {
    let Outcome { peer, role, suite, local_index, receiver_index, now } = outcome;
    let keys = derive_session_keys(&finished.k1, &finished.k2, &finished.h, suite);
    let (send, receive) = match role {
        Role::Initiator => (&keys.initiator_to_responder, &keys.responder_to_initiator),
        Role::Responder => (&keys.responder_to_initiator, &keys.initiator_to_responder),
    };
    let receiver_header = HeaderKey::derive(remote, &identity.network_secret);
    let sealer = Sealer::new(AeadKey::new(suite, send), receiver_index, receiver_header);
    let opener = Opener::new(AeadKey::new(suite, receive));
    Box::new(TransportSession::new(peer, role, now, local_index, sealer, opener))
}
