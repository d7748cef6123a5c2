//! What a packet's path costs, step by step: `cargo bench -p veil-bench`, about a minute on an idle machine.
//!
//! Here are the fixtures the benchmarks share: a session made without a handshake, and inner packets. Everything goes
//! through `veil-proto`'s public API.

use veil_proto::crypto::{AeadKey, HeaderKey, NetworkSecret, Suite, generate_x25519_keypair};
use veil_proto::session::{MIN_DATAGRAM, Opener, Sealer};
use veil_proto::{Entropy, PeerId};

/// A seeded stream of bytes (splitmix64): the same at every run.
pub struct Seeded(pub u64);

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *byte = (z ^ (z >> 27)) as u8;
        }
    }
}

/// The two ends of one direction of a session, and the receiver's header key.
pub struct Direction {
    /// Seals.
    pub sealer: Sealer,
    /// Opens what `sealer` sealed.
    pub opener: Opener,
    /// Unmasks it first.
    pub header_key: HeaderKey,
}

/// One direction under `suite`.
pub fn direction(suite: Suite) -> Direction {
    let receiver = generate_x25519_keypair(&mut Seeded(1));
    let header_key = || HeaderKey::derive(&receiver.public, &NetworkSecret::default());
    let key = || AeadKey::new(suite, &[7; 32]);
    Direction {
        sealer: Sealer::new(key(), 99, header_key()),
        opener: Opener::new(key()),
        header_key: header_key(),
    }
}

/// A datagram with room for `plaintext` bytes.
pub fn datagram(plaintext: usize) -> Vec<u8> {
    vec![0; MIN_DATAGRAM + plaintext]
}

/// An IPv4 UDP packet of `len` bytes from 10.x.y.z for peer number xyz.
pub fn inner_packet(peer: PeerId, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..16].copy_from_slice(&(0x0a00_0000 | peer.0).to_be_bytes());
    packet[16..20].copy_from_slice(&(0x0a00_0000 | peer.0).to_be_bytes());
    packet
}
