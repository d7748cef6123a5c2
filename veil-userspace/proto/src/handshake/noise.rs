//! Noise_IKpsk2_25519_ChaChaPoly_SHA256, prologue "VEIL/1" (<https://noiseprotocol.org/noise.html>, revision 34).
//!
//! One pattern, so no interpreter: each side is two functions that read like the pattern's lines.
//!
//! ```text
//! <- s
//! ...
//! -> e, es, s, ss        Initiator::start    Responder::read
//! <- e, ee, se, psk      Initiator::finish   Received::respond
//! ```
//!
//! Called by the handshake with the contents of opened envelopes. Invariants: each state is used for one message, every
//! intermediate is in wiping memory, each cipher key seals exactly one message, and a message that fails changes nothing.

use crate::crypto::{
    AeadKey, KeyPair, LowOrder, PrivateKey, Psk, PublicKey, Suite, TAG_LEN, compute_shared_secret,
    generate_x25519_keypair, hkdf_expand, hkdf_extract, scrubbed, sha256,
};
use crate::{DropReason, Entropy};
use zeroize::Zeroizing;

const NAME: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"VEIL/1";
const KEY_LEN: usize = 32;

/// Noise message 1 is its payload and this much more.
pub const MESSAGE_1_OVERHEAD: usize = KEY_LEN + KEY_LEN + TAG_LEN + TAG_LEN;
/// Noise message 2 is its payload and this much more.
pub const MESSAGE_2_OVERHEAD: usize = KEY_LEN + TAG_LEN;

/// What a completed handshake leaves.
pub struct Finished {
    /// Noise's first split key: initiator to responder.
    pub k1: Zeroizing<[u8; 32]>,
    /// Noise's second split key: responder to initiator.
    pub k2: Zeroizing<[u8; 32]>,
    /// The handshake hash: names this very handshake.
    pub h: [u8; 32],
    /// What the other end said in its message.
    pub payload: Vec<u8>,
}

impl Finished {
    fn split(symmetric: &Symmetric, payload: Vec<u8>) -> Self {
        let mut keys = Zeroizing::new([0; 64]);
        hkdf_expand(&hkdf_extract(symmetric.ck.as_slice(), &[]), &[], keys.as_mut_slice());
        let mut finished =
            Finished { k1: Zeroizing::default(), k2: Zeroizing::default(), h: symmetric.h, payload };
        finished.k1.copy_from_slice(&keys[..32]);
        finished.k2.copy_from_slice(&keys[32..]);
        finished
    }
}

/// An initiation that was sent and not yet answered.
pub struct Initiator {
    symmetric: Symmetric,
    ephemeral: PrivateKey,
}

impl Initiator {
    /// Makes message 1 for `remote`, with `payload` sealed inside. Only a low-order `remote` can fail.
    pub fn start(
        local: &KeyPair,
        remote: &PublicKey,
        psk: &Psk,
        payload: &[u8],
        entropy: &mut dyn Entropy,
    ) -> Result<(Initiator, Vec<u8>), LowOrder> {
        // psk2: the key is mixed in while message 2 is read.
        let _ = psk;
        scrubbed(|| {
            let mut symmetric = Symmetric::new(remote);
            let mut message = Vec::with_capacity(MESSAGE_1_OVERHEAD + payload.len());
            let ephemeral = generate_x25519_keypair(entropy);
            message.extend_from_slice(symmetric.mix_ephemeral(&ephemeral.public).as_bytes());
            let key = symmetric.mix_dh(&ephemeral.private, remote)?;
            symmetric.seal_and_hash(key, local.public.as_bytes(), &mut message);
            let key = symmetric.mix_dh(&local.private, remote)?;
            symmetric.seal_and_hash(key, payload, &mut message);
            Ok((Initiator { symmetric, ephemeral: ephemeral.private }, message))
        })
    }

    /// Reads message 2. A message that fails leaves this as it was; after one that succeeds, drop it.
    pub fn finish(&self, local: &KeyPair, psk: &Psk, message: &[u8]) -> Result<Finished, DropReason> {
        let (remote, sealed) = message.split_first_chunk::<KEY_LEN>().ok_or(DropReason::BadNoise)?;
        let remote = PublicKey(*remote);
        scrubbed(|| {
            let mut symmetric = self.symmetric.clone();
            symmetric.mix_ephemeral(&remote);
            symmetric.mix_dh(&self.ephemeral, &remote)?;
            symmetric.mix_dh(&local.private, &remote)?;
            let key = symmetric.mix_psk(psk);
            let payload = symmetric.open_and_hash(key, sealed)?;
            Ok(Finished::split(&symmetric, payload))
        })
    }
}

/// The side that is spoken to first.
pub struct Responder;

/// Message 1, read: who sent it and what it says. Nothing of it is fresh yet: that is what the timestamp is for.
pub struct Received {
    /// The initiator's static key, authenticated by the handshake.
    pub remote: PublicKey,
    /// The initiator's payload.
    pub payload: Zeroizing<Vec<u8>>,
    symmetric: Symmetric,
    ephemeral: PublicKey,
}

impl Responder {
    /// Reads message 1, addressed to `local`.
    pub fn read(local: &KeyPair, message: &[u8]) -> Result<Received, DropReason> {
        let (ephemeral, rest) = message.split_first_chunk::<KEY_LEN>().ok_or(DropReason::BadNoise)?;
        let (identity, sealed) =
            rest.split_first_chunk::<{ KEY_LEN + TAG_LEN }>().ok_or(DropReason::BadNoise)?;
        let ephemeral = PublicKey(*ephemeral);
        scrubbed(|| {
            let mut symmetric = Symmetric::new(&local.public);
            symmetric.mix_ephemeral(&ephemeral);
            let key = symmetric.mix_dh(&local.private, &ephemeral)?;
            let identity = symmetric.open_and_hash(key, identity)?;
            let remote = PublicKey(identity.try_into().map_err(|_| DropReason::BadNoise)?);
            let key = symmetric.mix_dh(&local.private, &remote)?;
            let payload = Zeroizing::new(symmetric.open_and_hash(key, sealed)?);
            Ok(Received { remote, payload, symmetric, ephemeral })
        })
    }
}

impl Received {
    /// Makes message 2, with `payload` sealed inside, and completes the handshake.
    pub fn respond(
        mut self,
        psk: &Psk,
        payload: &[u8],
        entropy: &mut dyn Entropy,
    ) -> Result<(Vec<u8>, Finished), DropReason> {
        scrubbed(move || {
            let mut message = Vec::with_capacity(MESSAGE_2_OVERHEAD + payload.len());
            let ephemeral = generate_x25519_keypair(entropy);
            message.extend_from_slice(self.symmetric.mix_ephemeral(&ephemeral.public).as_bytes());
            self.symmetric.mix_dh(&ephemeral.private, &self.ephemeral)?;
            self.symmetric.mix_dh(&ephemeral.private, &self.remote)?;
            drop(ephemeral);
            let key = self.symmetric.mix_psk(psk);
            self.symmetric.seal_and_hash(key, payload, &mut message);
            let finished = Finished::split(&self.symmetric, std::mem::take(&mut *self.payload));
            Ok((message, finished))
        })
    }
}

/// Noise's SymmetricState. The chaining key is boxed, so that moving the state leaves no copy of it.
#[derive(Clone)]
struct Symmetric {
    ck: Box<Zeroizing<[u8; 32]>>,
    h: [u8; 32],
}

/// Noise's CipherState, for the one message it seals: its nonce is always 0, and using it consumes it.
struct CipherKey(Zeroizing<[u8; 32]>);

impl Symmetric {
    /// InitializeSymmetric, the prologue and the pre-message `<- s`.
    fn new(responder: &PublicKey) -> Self {
        let h = sha256(&[NAME]);
        let mut symmetric = Symmetric { ck: Box::new(Zeroizing::new(h)), h };
        symmetric.mix_hash(PROLOGUE);
        symmetric.mix_hash(responder.as_bytes());
        symmetric
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.h = sha256(&[&self.h, data]);
    }

    /// MixKey: HKDF with two outputs.
    fn mix_key(&mut self, ikm: &[u8]) -> CipherKey {
        let mut out = Zeroizing::new([0; 64]);
        hkdf_expand(&hkdf_extract(self.ck.as_slice(), ikm), &[], out.as_mut_slice());
        self.ck.copy_from_slice(&out[..32]);
        CipherKey::of(&out[32..])
    }

    /// Token `e`: with a psk in the pattern, it is mixed into the key as well (section 9.2).
    fn mix_ephemeral<'a>(&mut self, public: &'a PublicKey) -> &'a PublicKey {
        self.mix_hash(public.as_bytes());
        self.mix_key(public.as_bytes());
        public
    }

    /// Tokens `es`, `ss`, `ee`, `se`.
    fn mix_dh(&mut self, private: &PrivateKey, public: &PublicKey) -> Result<CipherKey, LowOrder> {
        let shared = compute_shared_secret(private, public)?;
        Ok(self.mix_key(shared.as_bytes()))
    }

    /// Token `psk`: MixKeyAndHash, HKDF with three outputs.
    fn mix_psk(&mut self, psk: &Psk) -> CipherKey {
        let mut out = Zeroizing::new([0; 96]);
        hkdf_expand(&hkdf_extract(self.ck.as_slice(), psk.as_bytes()), &[], out.as_mut_slice());
        self.ck.copy_from_slice(&out[..32]);
        self.mix_hash(&out[32..64]);
        CipherKey::of(&out[64..])
    }

    /// EncryptAndHash; what is sealed is appended to `message`.
    fn seal_and_hash(&mut self, key: CipherKey, plaintext: &[u8], message: &mut Vec<u8>) {
        let start = message.len();
        message.extend_from_slice(plaintext);
        message.extend_from_slice(&[0; TAG_LEN]);
        let sealed = &mut message[start..];
        key.schedule().seal_with_nonce([0; 12], &self.h, sealed);
        self.mix_hash(sealed);
    }

    /// DecryptAndHash.
    fn open_and_hash(&mut self, key: CipherKey, sealed: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut buf = sealed.to_vec();
        let opened = key.schedule().open_with_nonce([0; 12], &self.h, &mut buf);
        let len = opened.map_err(|_| DropReason::BadNoise)?.len();
        buf.truncate(len);
        self.mix_hash(sealed);
        Ok(buf)
    }
}

impl CipherKey {
    /// `bytes` are the 32 bytes of an HKDF output.
    fn of(bytes: &[u8]) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(bytes);
        CipherKey(key)
    }

    fn schedule(self) -> AeadKey {
        AeadKey::new(Suite::ChaCha20Poly1305, &self.0)
    }
}
