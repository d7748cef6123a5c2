//! The keys that handshake datagrams are sealed under on the outside: envelopes and cookie replies.
//!
//! Both are ChaCha20-Poly1305 keys that anyone who knows the receiver's public key can derive. They hide the handshake's
//! shape and are the cheap gate before any curve operation; who is who is decided by Noise inside. Nonces are random.

use crate::crypto::kdf::receiver_key;
use crate::crypto::{AeadKey, NetworkSecret, OpenError, PublicKey, Suite};
use zeroize::Zeroizing;

macro_rules! receiver_aead_key {
    ($(#[$doc:meta])* $name:ident, $label:literal) => {
        $(#[$doc])*
        pub struct $name(AeadKey);

        impl $name {
            /// The key of whoever owns `public`.
            pub fn derive(public: &PublicKey, network: &NetworkSecret) -> Self {
                let mut key = Zeroizing::new([0; 32]);
                receiver_key(public, network, $label, key.as_mut_slice());
                $name(AeadKey::new(Suite::ChaCha20Poly1305, &key))
            }

            /// Seals in place: `buf` is the plaintext followed by 16 bytes that become the tag. `nonce` must be random.
            pub fn seal(&self, nonce: [u8; 12], aad: &[u8], buf: &mut [u8]) {
                self.0.seal_with_nonce(nonce, aad, buf);
            }

            /// Opens in place: ciphertext and tag in, the plaintext's part of `buf` out.
            pub fn open<'a>(
                &self,
                nonce: [u8; 12],
                aad: &[u8],
                buf: &'a mut [u8],
            ) -> Result<&'a mut [u8], OpenError> {
                self.0.open_with_nonce(nonce, aad, buf)
            }
        }
    };
}

receiver_aead_key! {
    /// Seals initiations and responses (`env_key` of the receiver).
    EnvelopeKey, "VEIL/1 envelope"
}

receiver_aead_key! {
    /// Seals cookie replies (`ck_key` of the replier).
    CookieKey, "VEIL/1 cookie"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_opens_only_under_the_receivers_envelope_key() {
        let (us, them, none) = (PublicKey([1; 32]), PublicKey([2; 32]), NetworkSecret::default());
        let mut sealed = [5; 40];
        EnvelopeKey::derive(&us, &none).seal([3; 12], b"header", &mut sealed);
        let secret = NetworkSecret::from_bytes([4; 32]);
        assert!(EnvelopeKey::derive(&them, &none).open([3; 12], b"header", &mut sealed.clone()).is_err());
        assert!(EnvelopeKey::derive(&us, &secret).open([3; 12], b"header", &mut sealed.clone()).is_err());
        assert!(CookieKey::derive(&us, &none).open([3; 12], b"header", &mut sealed.clone()).is_err());
        assert_eq!(EnvelopeKey::derive(&us, &none).open([3; 12], b"header", &mut sealed).unwrap(), [5; 24]);
    }
}
