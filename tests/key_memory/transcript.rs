//! Every secret of a handshake, from what went over the wire and from both ends' private keys.
//!
//! Noise_IKpsk2 written down a second time, on plain functions: no message is sealed or opened here, since the chain of
//! keys needs only each message's public bytes. The session keys hang on every step, so finding them in a living child
//! shows that all of it is right.

use veil_proto::crypto::{
    KeyPair, PrivateKey, PublicKey, Suite, compute_shared_secret, derive_session_keys, hkdf_expand,
    hkdf_extract, sha256,
};
use veil_tests::seeded::Seeded;

use crate::secrets::{Secret, private_key, session_key};

/// More draws than any end makes.
const DRAWS: u64 = 100_000;

/// A handshake of which the first message was sent.
pub struct Begun {
    /// What its initiator must keep until the response comes.
    pub pending: Vec<Secret>,
    /// What nobody needs once that message is made, or read.
    pub passing: Vec<Secret>,
    chain: Chain,
    initiator: PublicKey,
    ephemeral: PublicKey,
}

/// A finished handshake.
pub struct Agreed {
    /// What dies with the handshake.
    pub passing: Vec<Secret>,
    /// The keys of both directions.
    pub session: Vec<Secret>,
}

impl Begun {
    /// From Noise message 1. `seed` is of the initiator's entropy, `name` tells this handshake from others.
    pub fn new(name: &str, initiator: &KeyPair, seed: u64, responder: &PublicKey, message: &[u8]) -> Self {
        let (public, rest) = message.split_first_chunk().expect("an ephemeral key");
        let (identity, payload) = rest.split_at(48);
        let (drawn, ephemeral) = ephemeral(seed, public);
        let mut chain = Chain::new(name, responder);
        chain.hash(public);
        chain.mix("e", public, 2);
        // What comes of public bytes only is no secret.
        chain.secrets.clear();
        chain.mix_dh("es", &ephemeral.private, responder);
        chain.hash(identity);
        chain.mix_dh("ss", &initiator.private, responder);
        chain.hash(payload);

        let [key, clamped] = private_key(&format!("{name}: initiator's ephemeral key"), &drawn);
        let mut passing = std::mem::take(&mut chain.secrets);
        passing.retain(|secret| secret.bytes != chain.ck);
        // Made for each use.
        passing.push(clamped);
        let pending = vec![key, chain.secret("chaining key between the messages", &chain.ck)];
        let (initiator, ephemeral) = (initiator.public, ephemeral.public);
        Begun { pending, passing, chain, initiator, ephemeral }
    }

    /// Everything so far.
    pub fn all(&self) -> Vec<Secret> {
        [&self.pending[..], &self.passing].concat()
    }

    /// From Noise message 2. `seed` is of the responder's entropy.
    pub fn finish(&self, seed: u64, psk: &[u8; 32], suite: Suite, message: &[u8]) -> Agreed {
        let mut chain = self.chain.clone();
        let (public, payload) = message.split_first_chunk().expect("an ephemeral key");
        let (drawn, ephemeral) = ephemeral(seed, public);
        chain.hash(public);
        chain.mix("responder's e", public, 2);
        chain.mix_dh("ee", &ephemeral.private, &self.ephemeral);
        chain.mix_dh("se", &ephemeral.private, &self.initiator);
        let hashed = chain.mix("psk", psk, 3);
        chain.hash(&hashed[32..64]);
        chain.hash(payload);
        let split = chain.mix("split", &[], 2);
        let ikm_key = hkdf_extract(&chain.h, &split[..64]);

        let mut passing = self.all();
        passing.extend(private_key(&format!("{}: responder's ephemeral key", chain.name), &drawn));
        passing.push(chain.secret("key that the session keys expand from", ikm_key.as_slice()));
        passing.append(&mut chain.secrets);
        let (k1, k2) = (split.first_chunk().expect("96 bytes"), split[32..].first_chunk().expect("64 bytes"));
        let keys = derive_session_keys(k1, k2, &chain.h, suite);
        let name = |to| format!("{}: key to the {to}", chain.name);
        let mut session = session_key(&name("responder"), suite, &keys.initiator_to_responder);
        session.extend(session_key(&name("initiator"), suite, &keys.responder_to_initiator));
        Agreed { passing, session }
    }
}

impl Agreed {
    /// Everything.
    pub fn all(&self) -> Vec<Secret> {
        [&self.passing[..], &self.session].concat()
    }
}

/// Which draw it was that has this public key.
fn ephemeral(seed: u64, public: &[u8; 32]) -> ([u8; 32], KeyPair) {
    let keys = (0..DRAWS).map(|draw| {
        let mut bytes = [0; 32];
        Seeded::draw(seed, draw, &mut bytes);
        (bytes, KeyPair::from_private(PrivateKey::from_bytes(bytes)))
    });
    keys.into_iter().find(|(_, pair)| pair.public.as_bytes() == public).expect("a key drawn from this seed")
}

/// Noise's chaining key and hash, and every secret met on the way.
#[derive(Clone)]
struct Chain {
    name: String,
    ck: [u8; 32],
    h: [u8; 32],
    secrets: Vec<Secret>,
}

impl Chain {
    fn new(name: &str, responder: &PublicKey) -> Self {
        let h = sha256(&[b"Noise_IKpsk2_25519_ChaChaPoly_SHA256"]);
        let mut chain = Chain { name: name.to_owned(), ck: h, h, secrets: Vec::new() };
        chain.hash(b"VEIL/1");
        chain.hash(responder.as_bytes());
        chain
    }

    fn secret(&self, what: &str, bytes: &[u8]) -> Secret {
        Secret::new(format!("{}: {what}", self.name), bytes)
    }

    fn hash(&mut self, data: &[u8]) {
        self.h = sha256(&[&self.h, data]);
    }

    fn mix_dh(&mut self, token: &str, private: &PrivateKey, public: &PublicKey) {
        let shared = compute_shared_secret(private, public).expect("no key of low order");
        self.secrets.push(self.secret(&format!("shared secret {token}"), shared.as_bytes()));
        self.mix(token, shared.as_bytes(), 2);
    }

    /// HKDF with so many outputs of 32 bytes, of which the first is the next chaining key.
    fn mix(&mut self, token: &str, ikm: &[u8], outputs: usize) -> [u8; 96] {
        let extracted = hkdf_extract(&self.ck, ikm);
        let mut out = [0; 96];
        hkdf_expand(&extracted, &[], &mut out[..32 * outputs]);
        self.secrets.push(self.secret(&format!("what {token} was extracted to"), extracted.as_slice()));
        for (n, output) in out[..32 * outputs].chunks(32).enumerate() {
            self.secrets.push(self.secret(&format!("output {} of {token}", n + 1), output));
        }
        self.ck.copy_from_slice(&out[..32]);
        out
    }
}
