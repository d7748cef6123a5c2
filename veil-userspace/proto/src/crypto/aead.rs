//! The AEADs, and key schedules that are wiped.
//!
//! [`AeadKey`] holds one of ring's keys, which have no `Drop`: it is boxed (moving a session moves a pointer), built below
//! a frame whose stack is then scrubbed, and overwritten in place by the zero key's schedule when dropped. The data path
//! uses it through [`aead_encrypt`] and [`aead_decrypt`], whose nonce is a counter; handshake envelopes, whose nonce is
//! random, through `seal_with_nonce` and `open_with_nonce`. Invariant: no plaintext comes out of bytes that did not verify.

use super::wipe::scrub_stack;
use ring::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::hint::black_box;

/// Length of every tag, in bytes.
pub const TAG_LEN: usize = 16;

/// An AEAD that data may be sealed with; the value is its bit on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D).
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// Its bit's value: 1 or 2.
    pub fn bit(self) -> u8 {
        self as u8
    }

    /// The suite whose bit this is; exactly one bit must be set.
    pub fn from_bit(bit: u8) -> Option<Self> {
        match bit {
            1 => Some(Suite::Aes256Gcm),
            2 => Some(Suite::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// The name shown by `veil show` and used in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Aes256Gcm => "aes-256-gcm",
            Suite::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

/// A set of suites, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Suites(u8);

impl Suites {
    const KNOWN: u8 = Suite::Aes256Gcm as u8 | Suite::ChaCha20Poly1305 as u8;

    /// What this machine offers: AES only with hardware AES and carry-less multiply (anything else is slow, or leaks by timing).
    pub fn supported() -> Self {
        let aes = if aes_in_hardware() { Suite::Aes256Gcm.bit() } else { 0 };
        Suites(aes | Suite::ChaCha20Poly1305.bit())
    }

    /// Just this one: a peer pinned by configuration.
    pub fn only(suite: Suite) -> Self {
        Suites(suite.bit())
    }

    /// As it goes on the wire.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// As it came from the wire; unknown bits are ignored.
    pub fn from_bits(bits: u8) -> Self {
        Suites(bits & Self::KNOWN)
    }

    /// Whether `suite` is in the set.
    pub fn contains(self, suite: Suite) -> bool {
        self.0 & suite.bit() != 0
    }

    /// The suite both sets have, AES preferred.
    pub fn choose(self, other: Suites) -> Option<Suite> {
        let both = Suites(self.0 & other.0);
        [Suite::Aes256Gcm, Suite::ChaCha20Poly1305].into_iter().find(|&suite| both.contains(suite))
    }
}

fn aes_in_hardware() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

/// The AEAD did not verify; the bytes it was given are undefined now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the AEAD did not open")]
pub struct OpenError;

/// A key schedule, on as few cache lines as it can be: all of them are read for each datagram.
#[repr(align(64))]
pub(crate) struct Schedule(LessSafeKey);

/// A key schedule, wiped on drop.
pub struct AeadKey {
    schedule: Box<Schedule>,
    suite: Suite,
}

impl AeadKey {
    /// Builds the schedule of `key` on a scrubbed stack, and scrubs it again.
    pub fn new(suite: Suite, key: &[u8; 32]) -> Self {
        // Before: a move copies the unused bytes of ring's key too, and what older work left there would go on the heap.
        scrub_stack();
        let schedule = build(suite, key);
        scrub_stack();
        AeadKey { schedule, suite }
    }

    /// Where the key schedule lies; nothing can be read of it this way.
    pub(crate) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The AEAD this is a key of.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Seals `buf`, which is the plaintext and 16 bytes of room for the tag, under a nonce the caller vouches for.
    #[inline(never)]
    pub(crate) fn seal_with_nonce(&self, nonce: [u8; 12], aad: &[u8], buf: &mut [u8]) {
        let (plaintext, tag) = buf.split_last_chunk_mut::<TAG_LEN>().expect("room for the tag");
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self.schedule.0.seal_in_place_separate_tag(nonce, Aad::from(aad), plaintext);
        tag.copy_from_slice(sealed.expect("a datagram is far below the AEAD's length limit").as_ref());
    }

    /// Opens `buf`, which is ciphertext and tag, in place.
    #[inline(never)]
    pub(crate) fn open_with_nonce<'a>(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        buf: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.schedule.0.open_in_place(nonce, Aad::from(aad), buf).map_err(|_| OpenError)
    }
}

impl Drop for AeadKey {
    fn drop(&mut self) {
        // Before, as in `new`: ring leaves its cipher state, key included, on the stack that the zero key is built on.
        scrub_stack();
        overwrite(&mut self.schedule, self.suite);
    }
}

#[inline(never)]
fn build(suite: Suite, key: &[u8; 32]) -> Box<Schedule> {
    Box::new(schedule(suite, key))
}

/// The zero key's schedule has the same shape as any other of its suite, so it covers every byte of it.
#[inline(never)]
fn overwrite(place: &mut Schedule, suite: Suite) {
    *place = schedule(suite, &[0; 32]);
    black_box(place);
}

fn schedule(suite: Suite, key: &[u8; 32]) -> Schedule {
    let key = UnboundKey::new(suite.algorithm(), key).expect("both suites take 32-byte keys");
    Schedule(LessSafeKey::new(key))
}

/// Seals a datagram in place: `buf` is the plaintext followed by 16 bytes that become the tag.
///
/// The nonce is 4 zero bytes and `counter`, little-endian: a counter must be used once per key.
///
/// # Panics
/// If `buf` has no room for the tag: nothing that was not sealed may leave here.
#[inline]
pub fn aead_encrypt(key: &AeadKey, counter: u64, aad: &[u8], buf: &mut [u8]) {
    if cfg!(veil_null_cipher) {
        buf.last_chunk_mut::<TAG_LEN>().expect("room for the tag").fill(0);
        return;
    }
    key.seal_with_nonce(nonce(counter), aad, buf);
}

/// Opens a datagram in place: ciphertext and tag in, the plaintext's part of `buf` out.
///
/// On an error `buf` holds nothing of use.
#[inline]
pub fn aead_decrypt<'a>(
    key: &AeadKey,
    counter: u64,
    aad: &[u8],
    buf: &'a mut [u8],
) -> Result<&'a mut [u8], OpenError> {
    if cfg!(veil_null_cipher) {
        return buf.split_last_chunk_mut::<TAG_LEN>().map(|(plaintext, _)| plaintext).ok_or(OpenError);
    }
    key.open_with_nonce(nonce(counter), aad, buf)
}

/// Stored as it is loaded, in a word of 8 bytes and one of 4: a load of what two stores have written waits for both.
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&(counter << 32).to_le_bytes());
    nonce[8..].copy_from_slice(&((counter >> 32) as u32).to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

    #[test]
    fn aes_is_preferred_where_both_offer_it() {
        let all = Suites::from_bits(0xff);
        assert_eq!(all.bits(), 3);
        assert_eq!(all.choose(all), Some(Suite::Aes256Gcm));
        assert_eq!(all.choose(Suites::only(Suite::ChaCha20Poly1305)), Some(Suite::ChaCha20Poly1305));
        assert_eq!(Suites::only(Suite::Aes256Gcm).choose(Suites::only(Suite::ChaCha20Poly1305)), None);
        assert!(Suites::supported().contains(Suite::ChaCha20Poly1305));
        assert!(BOTH.iter().all(|&s| Suite::from_bit(s.bit()) == Some(s)));
        assert_eq!((Suite::from_bit(0), Suite::from_bit(3)), (None, None));
    }

    #[cfg(not(veil_null_cipher))]
    #[test]
    fn a_datagram_opens_only_under_its_key_counter_and_header() {
        for suite in BOTH {
            let key = AeadKey::new(suite, &[7; 32]);
            let mut sealed = *b"some plaintext bytes................";
            aead_encrypt(&key, 5, b"header", &mut sealed);
            assert_ne!(&sealed[..20], b"some plaintext bytes");
            assert_eq!(aead_decrypt(&key, 6, b"header", &mut sealed.clone()), Err(OpenError));
            assert_eq!(aead_decrypt(&key, 5, b"Header", &mut sealed.clone()), Err(OpenError));
            let other = AeadKey::new(suite, &[8; 32]);
            assert_eq!(aead_decrypt(&other, 5, b"header", &mut sealed.clone()), Err(OpenError));
            for short in 0..sealed.len() {
                assert!(aead_decrypt(&key, 5, b"header", &mut { sealed }[..short]).is_err());
            }
            assert_eq!(aead_decrypt(&key, 5, b"header", &mut sealed).unwrap(), b"some plaintext bytes");
        }
    }

    #[test]
    fn an_overwritten_schedule_is_the_zero_keys() {
        for suite in BOTH {
            let mut key = AeadKey::new(suite, &[7; 32]);
            overwrite(&mut key.schedule, suite);
            let (mut left, mut right) = ([1; 40], [1; 40]);
            key.seal_with_nonce([9; 12], b"", &mut left);
            AeadKey::new(suite, &[0; 32]).seal_with_nonce([9; 12], b"", &mut right);
            assert_eq!(left, right);
        }
    }

    #[test]
    fn the_nonce_is_four_zero_bytes_and_the_counter_little_endian() {
        assert_eq!(nonce(0x0807_0605_0403_0201), [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
