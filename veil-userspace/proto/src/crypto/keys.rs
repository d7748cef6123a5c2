//! The keys a configuration names: static key pairs, pre-shared keys, the network secret.
//!
//! Secret keys are boxed, so that moving an owner moves a pointer and leaves no copy behind; they have no `Debug` and are
//! wiped on drop. Public keys are plain values. All are written as WireGuard writes them: base64, 44 characters.

use super::wipe::secure_zero;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

/// Why a key in a configuration was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes.
    #[error("wrong length: a key is 32 bytes, written as 44 characters of base64")]
    WrongLength,
    /// Characters or padding that base64 does not have.
    #[error("not base64: a key is 44 characters of A-Z, a-z, 0-9, + and /, ending in =")]
    NotBase64,
    /// 32 zero bytes.
    #[error("all zero: this is no key; leave the entry out or generate one")]
    AllZero,
}

/// A public key of low order: the shared secret would be zero, whatever the private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a public key of low order")]
pub struct LowOrder;

impl From<LowOrder> for crate::DropReason {
    fn from(_: LowOrder) -> Self {
        crate::DropReason::LowOrderKey
    }
}

/// An X25519 private key (RFC 7748).
pub struct PrivateKey(Box<StaticSecret>);

impl PrivateKey {
    /// Any 32 bytes are a private key: they are clamped when used.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let key = PrivateKey(Box::new(StaticSecret::from(bytes)));
        secure_zero(&mut bytes);
        key
    }

    /// The private key a configuration spells in base64.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| PrivateKey::from_bytes(*bytes))
    }

    /// The public key that belongs to this one.
    pub fn public(&self) -> PublicKey {
        super::scrubbed(|| PublicKey(x25519_dalek::PublicKey::from(&*self.0).to_bytes()))
    }

    /// As a configuration spells it.
    pub fn to_base64(&self) -> Zeroizing<String> {
        // Room first: a string that grew would leave its shorter self on the heap.
        let mut text = Zeroizing::new(String::with_capacity(64));
        STANDARD.encode_string(self.0.as_bytes(), &mut text);
        text
    }

    pub(super) fn diffie_hellman(&self, public: &PublicKey) -> Result<SharedSecret, LowOrder> {
        let shared = self.0.diffie_hellman(&x25519_dalek::PublicKey::from(public.0));
        if !shared.was_contributory() {
            return Err(LowOrder);
        }
        Ok(SharedSecret(Box::new(shared)))
    }
}

/// What two key pairs agree on; wiped on drop.
pub struct SharedSecret(Box<x25519_dalek::SharedSecret>);

impl SharedSecret {
    /// The 32 bytes, to be hashed, never used as a key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

/// An X25519 public key: any 32 bytes, compared as bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The public key a configuration spells in base64.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| PublicKey(*bytes))
    }

    /// The 32 bytes that go on the wire.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        base64::display::Base64Display::new(&self.0, &STANDARD).fmt(f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key beside its public one.
pub struct KeyPair {
    /// Stays here.
    pub private: PrivateKey,
    /// Given to everyone who shall reach us.
    pub public: PublicKey,
}

impl KeyPair {
    /// The pair of a private key.
    pub fn from_private(private: PrivateKey) -> Self {
        let public = private.public();
        KeyPair { private, public }
    }
}

/// A pre-shared key; absent (`Default`) it is 32 zero bytes, as Noise's psk modifier then wants.
#[derive(Clone, Default)]
pub struct Psk(Box<Zeroizing<[u8; 32]>>);

impl Psk {
    /// A pre-shared key of these bytes; all zero means none.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let psk = Psk(Box::new(Zeroizing::new(bytes)));
        secure_zero(&mut bytes);
        psk
    }

    /// The pre-shared key a configuration spells in base64; an explicit all-zero key is an error.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| Psk::from_bytes(*bytes))
    }

    /// The 32 bytes that are mixed into the handshake.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A secret shared by a whole network, salt of all receiver keys; absent (`Default`) the salt is empty.
#[derive(Clone, Default)]
pub struct NetworkSecret(Option<Box<Zeroizing<[u8; 32]>>>);

impl NetworkSecret {
    /// A network secret of these bytes.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let secret = NetworkSecret(Some(Box::new(Zeroizing::new(bytes))));
        secure_zero(&mut bytes);
        secret
    }

    /// The network secret a configuration spells in base64; an explicit all-zero one is an error.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| NetworkSecret::from_bytes(*bytes))
    }

    /// The 32 bytes, or none when the network has no secret.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Some(bytes) => bytes.as_slice(),
            None => &[],
        }
    }
}

/// 32 bytes, not all zero, from base64 with whitespace around it; everything decoded is wiped.
fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let text = text.trim();
    if !text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=')) {
        return Err(KeyError::NotBase64);
    }
    if text.len() != 44 {
        return Err(KeyError::WrongLength);
    }
    let mut decoded = Zeroizing::new([0; 33]);
    let len = STANDARD.decode_slice(text, decoded.as_mut_slice()).map_err(|_| KeyError::NotBase64)?;
    let mut key = Zeroizing::new([0; 32]);
    if len != key.len() {
        return Err(KeyError::WrongLength);
    }
    key.copy_from_slice(&decoded[..32]);
    if *key == [0; 32] {
        return Err(KeyError::AllZero);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7748 6.1, Alice, as `wg` would print her.
    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn keys_read_and_write_base64_with_whitespace_around_it() {
        let private = PrivateKey::from_base64(&format!("  {PRIVATE}\n")).unwrap();
        assert_eq!(*private.to_base64(), PRIVATE);
        assert_eq!(private.public().to_string(), PUBLIC);
        assert_eq!(format!("{:?}", PublicKey::from_base64(PUBLIC).unwrap()), PUBLIC);
    }

    #[test]
    fn a_wrong_key_is_refused_with_the_reason() {
        let error = |text: &str| PublicKey::from_base64(text).unwrap_err();
        assert_eq!(error(""), KeyError::WrongLength);
        assert_eq!(error(&PUBLIC[..40]), KeyError::WrongLength);
        assert_eq!(error(&"A".repeat(44)), KeyError::WrongLength);
        assert_eq!(error(&format!("{}==", "A".repeat(42))), KeyError::WrongLength);
        assert_eq!(error(&PUBLIC.replace('S', "-")), KeyError::NotBase64);
        assert_eq!(error(&format!("={}", &PUBLIC[1..])), KeyError::NotBase64);
        // 43 characters carry 258 bits: the last two must be zero.
        assert_eq!(error(&PUBLIC.replace("mo=", "mp=")), KeyError::NotBase64);
        assert_eq!(error(&format!("{}=", "A".repeat(43))), KeyError::AllZero);
    }

    #[test]
    fn an_explicit_zero_psk_or_network_secret_is_refused_and_an_absent_one_is_not() {
        let zeros = format!("{}=", "A".repeat(43));
        assert_eq!(Psk::from_base64(&zeros).err(), Some(KeyError::AllZero));
        assert_eq!(NetworkSecret::from_base64(&zeros).err(), Some(KeyError::AllZero));
        assert_eq!(Psk::default().as_bytes(), &[0; 32]);
        assert!(NetworkSecret::default().as_slice().is_empty());
        assert_eq!(NetworkSecret::from_base64(PRIVATE).unwrap().as_slice().len(), 32);
    }
}
