//! Cryptography as free functions over wiping types.
//!
//! Owns the key types, X25519, HKDF, the data AEAD and the header mask; called by the handshake (curve, HKDF, envelopes)
//! and by the data path (AEAD, mask). Nothing here shares state, so every function may be called from any thread.
//! Invariant: a secret lives in memory that is wiped when its owner drops it, and work on secrets is done below a frame
//! whose stack is scrubbed afterwards ([`scrubbed`]).

pub mod aead;
pub mod header;
pub mod kdf;
pub mod keys;
#[cfg(test)]
mod vectors;
pub mod wipe;

pub use aead::{AeadKey, OpenError, Suite, Suites, TAG_LEN, aead_decrypt, aead_encrypt};
pub use header::HeaderKey;
pub use kdf::{hkdf_expand, hkdf_extract, hkdf_sha256, hmac_sha256, sha256};
pub use keys::{KeyError, KeyPair, LowOrder, NetworkSecret, PrivateKey, Psk, PublicKey, SharedSecret};
pub use wipe::{scrub_shallow_stack, scrub_stack, scrubbed, scrubbed_shallow, secure_zero};

use crate::entropy::Entropy;
use zeroize::Zeroizing;

/// A fresh X25519 key pair (RFC 7748): the private key is 32 bytes of `entropy`, clamped when used.
pub fn generate_x25519_keypair(entropy: &mut dyn Entropy) -> KeyPair {
    let mut bytes = Zeroizing::new([0; 32]);
    entropy.fill(bytes.as_mut_slice());
    KeyPair::from_private(PrivateKey::from_bytes(*bytes))
}

/// X25519 (RFC 7748 6.1). A public key of low order gives the all-zero secret and is refused, in constant time.
pub fn compute_shared_secret(private: &PrivateKey, public: &PublicKey) -> Result<SharedSecret, LowOrder> {
    private.diffie_hellman(public)
}

/// The two keys of a session, one per direction.
pub struct SessionKeys {
    /// Seals what the handshake's initiator sends.
    pub initiator_to_responder: Zeroizing<[u8; 32]>,
    /// Seals what the handshake's responder sends.
    pub responder_to_initiator: Zeroizing<[u8; 32]>,
}

/// Session keys from Noise's split `k1`, `k2` and handshake hash `h` (`protocol.md`, Sessions), bound to `suite`.
pub fn derive_session_keys(k1: &[u8; 32], k2: &[u8; 32], h: &[u8; 32], suite: Suite) -> SessionKeys {
    let mut keys = SessionKeys {
        initiator_to_responder: Zeroizing::new([0; 32]),
        responder_to_initiator: Zeroizing::new([0; 32]),
    };
    scrubbed(|| {
        let mut ikm = Zeroizing::new([0; 64]);
        ikm[..32].copy_from_slice(k1);
        ikm[32..].copy_from_slice(k2);
        let prk = hkdf_extract(h, ikm.as_slice());
        let suite = [suite.bit()];
        hkdf_expand(&prk, &[b"VEIL/1 i2r", &suite], keys.initiator_to_responder.as_mut_slice());
        hkdf_expand(&prk, &[b"VEIL/1 r2i", &suite], keys.responder_to_initiator.as_mut_slice());
    });
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_keys_differ_by_direction_and_by_suite() {
        let keys = |suite| derive_session_keys(&[1; 32], &[2; 32], &[3; 32], suite);
        let (aes, chacha) = (keys(Suite::Aes256Gcm), keys(Suite::ChaCha20Poly1305));
        let all = [
            *aes.initiator_to_responder,
            *aes.responder_to_initiator,
            *chacha.initiator_to_responder,
            *chacha.responder_to_initiator,
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b));
        }
        assert_eq!(all[0], *keys(Suite::Aes256Gcm).initiator_to_responder);
    }

    #[test]
    fn session_keys_are_hkdf_as_the_protocol_page_says() {
        let keys = derive_session_keys(&[1; 32], &[2; 32], &[3; 32], Suite::ChaCha20Poly1305);
        let mut expected = [0; 32];
        let ikm = [[1; 32], [2; 32]].concat();
        hkdf_sha256(&[3; 32], &ikm, &[b"VEIL/1 r2i\x02"], &mut expected);
        assert_eq!(*keys.responder_to_initiator, expected);
    }
}
