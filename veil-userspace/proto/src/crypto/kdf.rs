//! HMAC-SHA256 (RFC 2104) and HKDF-SHA256 (RFC 5869), with outputs in wiping memory.
//!
//! Inputs that belong together come as slices of parts, so that nobody concatenates a secret just to hash it. Called by
//! the handshake, by session key derivation and for everything that `protocol.md` derives from a receiver's public key.

use super::keys::{NetworkSecret, PublicKey};
use hmac::digest::FixedOutput;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// SHA-256 over the concatenation of `parts`.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        Digest::update(&mut hash, part);
    }
    hash.finalize().into()
}

/// HMAC-SHA256 over the concatenation of `parts`; `key` may have any length.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        Mac::update(&mut mac, part);
    }
    let mut out = Zeroizing::new([0; 32]);
    mac.finalize_into((&mut *out).into());
    out
}

/// HKDF-Extract (RFC 5869 2.2). An empty `salt` is the RFC's default of zeros.
pub fn hkdf_extract(salt: &[u8], ikm: &[u8]) -> Zeroizing<[u8; 32]> {
    hmac_sha256(salt, &[ikm])
}

/// HKDF-Expand (RFC 5869 2.3): fills `out`, at most 255 * 32 bytes; `info` is the concatenation of its parts.
///
/// # Panics
/// If `out` is longer than that: output lengths are constants of the protocol.
pub fn hkdf_expand(prk: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    assert!(out.len() <= 255 * 32, "HKDF-SHA256 gives at most 8160 bytes");
    let mut previous = Zeroizing::new([0; 32]);
    for (i, block) in out.chunks_mut(32).enumerate() {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(prk).expect("HMAC takes keys of any length");
        if i > 0 {
            Mac::update(&mut mac, previous.as_slice());
        }
        for part in info {
            Mac::update(&mut mac, part);
        }
        Mac::update(&mut mac, &[(i + 1) as u8]);
        mac.finalize_into((&mut *previous).into());
        block.copy_from_slice(&previous[..block.len()]);
    }
}

/// Extract, then expand.
pub fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let prk = hkdf_extract(salt, ikm);
    hkdf_expand(&prk, info, out);
}

/// The key named `label` of whoever receives under `public` (`protocol.md`, Keys).
pub(crate) fn receiver_key(public: &PublicKey, network: &NetworkSecret, label: &str, out: &mut [u8]) {
    super::scrubbed(|| hkdf_sha256(network.as_slice(), public.as_bytes(), &[label.as_bytes()], out));
}
