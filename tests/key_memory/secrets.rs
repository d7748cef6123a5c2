//! Secrets as the scanner looks for them: a name for whoever must find the leak, and the bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use veil_proto::crypto::Suite;

/// Bytes that must not stay behind, and what they are.
#[derive(Clone)]
pub struct Secret {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Secret {
    pub fn new(name: impl Into<String>, bytes: &[u8]) -> Self {
        Secret { name: name.into(), bytes: bytes.to_vec() }
    }

    /// As a key file spells it.
    pub fn base64(&self) -> String {
        STANDARD.encode(&self.bytes)
    }

    /// The secret as a log, a key file or `Debug` would spell it.
    pub fn spelled(&self) -> [Secret; 4] {
        let hex = |upper: bool| -> String {
            let digits = |byte: &u8| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") };
            self.bytes.iter().map(digits).collect()
        };
        let spell = |how, text: String| Secret::new(format!("{} in {how}", self.name), text.as_bytes());
        [
            spell("base64", self.base64()),
            spell("hex", hex(false)),
            spell("upper-case hex", hex(true)),
            spell("decimal", format!("{:?}", self.bytes)),
        ]
    }
}

/// The forms an X25519 private key takes: as it was drawn, and clamped for use (RFC 7748 5).
pub fn private_key(name: &str, bytes: &[u8; 32]) -> [Secret; 2] {
    let mut clamped = *bytes;
    clamped[0] &= 248;
    clamped[31] = clamped[31] & 127 | 64;
    [Secret::new(name, bytes), Secret::new(format!("{name}, clamped"), &clamped)]
}

/// The forms a session key takes: itself, which both AEADs keep, and AES's further round keys, any two of which in a row
/// give the key away.
pub fn session_key(name: &str, suite: Suite, key: &[u8; 32]) -> Vec<Secret> {
    let mut secrets = vec![Secret::new(name, key)];
    if suite == Suite::Aes256Gcm {
        let further = round_keys(key).into_iter().enumerate().skip(2);
        secrets.extend(further.map(|(n, bytes)| Secret::new(format!("{name}, round key {n}"), &bytes)));
    }
    secrets
}

/// AES-256's key expansion (FIPS 197 5.2).
fn round_keys(key: &[u8; 32]) -> [[u8; 16]; 15] {
    let sbox = sbox();
    let mut words = [[0u8; 4]; 60];
    for (word, bytes) in words.iter_mut().zip(key.chunks(4)) {
        word.copy_from_slice(bytes);
    }
    let mut constant = 1;
    for n in 8..60 {
        let mut word = words[n - 1];
        if n % 8 == 0 {
            word.rotate_left(1);
        }
        if n % 4 == 0 {
            word = word.map(|byte| sbox[usize::from(byte)]);
        }
        if n % 8 == 0 {
            word[0] ^= constant;
            constant = times_x(constant);
        }
        words[n] = std::array::from_fn(|i| word[i] ^ words[n - 8][i]);
    }
    std::array::from_fn(|round| std::array::from_fn(|i| words[4 * round + i / 4][i % 4]))
}

/// The S-box (FIPS 197 5.1.1): 3 generates the field, so walking its powers both ways meets each inverse.
fn sbox() -> [u8; 256] {
    let mut sbox = [0x63; 256];
    let powers: Vec<u8> = std::iter::successors(Some(1), |&p| Some(p ^ times_x(p))).take(255).collect();
    for (n, &power) in powers.iter().enumerate() {
        let inverse = powers[(255 - n) % 255];
        let turned = (1..=4).fold(inverse, |sum, by| sum ^ inverse.rotate_left(by));
        sbox[usize::from(power)] = turned ^ 0x63;
    }
    sbox
}

/// Multiplication by x in AES's field.
fn times_x(byte: u8) -> u8 {
    byte << 1 ^ if byte & 0x80 == 0 { 0 } else { 0x1b }
}

#[test]
fn the_round_keys_are_those_of_fips_197() {
    // Appendix A.3 of FIPS 197: w0 to w7 are the key; w8 and w59.
    let key = [
        0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77, 0x81, 0x1f,
        0x35, 0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14, 0xdf, 0xf4,
    ];
    let keys = round_keys(&key);
    assert_eq!(keys[..2].concat(), key);
    assert_eq!(keys[2][..4], [0x9b, 0xa3, 0x54, 0x11]);
    assert_eq!(keys[14][12..], [0x70, 0x6c, 0x63, 0x1e]);
}
