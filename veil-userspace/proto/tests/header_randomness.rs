//! The 16 header bytes of a session's datagrams look uniformly random to whoever does not know the receiver's key
//! (`protocol.md`, Must hold). The same statistics must catch a counter that is left in the clear.

use veil_proto::PeerId;
use veil_proto::crypto::{AeadKey, HeaderKey, NetworkSecret, PrivateKey, Suite, generate_x25519_keypair};
use veil_proto::session::{HEADER_LEN, MIN_DATAGRAM, Opener, Role, Sealer, TransportSession};

/// A fixed stream of bytes (splitmix64), so that the test is the same every time.
struct Seeded(u64);

impl veil_proto::Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = (z ^ (z >> 31)) as u8;
        }
    }
}

const DATAGRAMS: usize = 40_000;

/// The headers of datagrams sealed one after another in one session, all with the same plaintext.
fn headers(suite: Suite) -> Vec<[u8; HEADER_LEN]> {
    let mut entropy = Seeded(7);
    let receiver = generate_x25519_keypair(&mut entropy);
    let mask = HeaderKey::derive(&receiver.public, &NetworkSecret::default());
    let sealer = Sealer::new(AeadKey::new(suite, &[3; 32]), 0x0102_0304, mask);
    let opener = Opener::new(AeadKey::new(suite, &[4; 32]));
    let mut session = TransportSession::new(PeerId(0), Role::Initiator, 0, 1, sealer, opener);
    let mut seal = || {
        let mut datagram = [0; MIN_DATAGRAM + 64];
        session.sealer.seal(&mut datagram).expect("far from any limit");
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&datagram[..HEADER_LEN]);
        header
    };
    (0..DATAGRAMS).map(|_| seal()).collect()
}

/// How many standard deviations the worst of the statistics lies from what uniform bytes give.
fn worst_deviation(headers: &[[u8; HEADER_LEN]]) -> f64 {
    let positions = 0..HEADER_LEN;
    positions
        .map(|at| headers.iter().map(|h| h[at]).collect::<Vec<u8>>())
        .map(|c| deviation(&c))
        .fold(0.0, f64::max)
}

fn deviation(bytes: &[u8]) -> f64 {
    [frequency(bytes), runs(bytes), serial_correlation(bytes)].into_iter().fold(0.0, f64::max)
}

/// Chi-squared over the 256 values: mean 255, variance 510.
fn frequency(bytes: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    bytes.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
    let expected = bytes.len() as f64 / 256.0;
    let chi: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
    ((chi - 255.0) / 510f64.sqrt()).abs()
}

/// The number of runs of equal lowest bits (NIST SP 800-22 2.3, for a fair coin).
fn runs(bytes: &[u8]) -> f64 {
    let changes = bytes.windows(2).filter(|pair| (pair[0] ^ pair[1]) & 1 == 1).count() as f64;
    let n = (bytes.len() - 1) as f64;
    ((changes - n / 2.0) / (n / 4.0).sqrt()).abs()
}

/// Pearson's correlation of each byte with the next datagram's; for independent ones its deviation is 1/sqrt(n).
fn serial_correlation(bytes: &[u8]) -> f64 {
    let values: Vec<f64> = bytes.iter().map(|&b| f64::from(b)).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    if variance == 0.0 {
        return f64::INFINITY;
    }
    let covariance: f64 = values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum();
    (covariance / variance * (values.len() as f64).sqrt()).abs()
}

/// 16 positions times 3 statistics stay below this for uniform bytes but for one time in many millions.
const LIMIT: f64 = 6.0;

#[test]
fn the_headers_of_a_session_look_uniformly_random() {
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let worst = worst_deviation(&headers(suite));
        assert!(worst < LIMIT, "{}: {worst} standard deviations", suite.name());
    }
}

#[test]
fn a_counter_left_in_the_clear_is_caught() {
    let mut planted = headers(Suite::Aes256Gcm);
    for (counter, header) in planted.iter_mut().enumerate() {
        header[8] = counter as u8;
    }
    assert!(worst_deviation(&planted) > LIMIT);
}

#[test]
fn a_receiver_index_left_in_the_clear_is_caught() {
    let mut planted = headers(Suite::Aes256Gcm);
    planted.iter_mut().for_each(|header| header[4..8].copy_from_slice(&[4, 3, 2, 1]));
    assert!(worst_deviation(&planted) > LIMIT);
}

#[test]
fn who_knows_the_receivers_key_reads_the_headers() {
    let private = PrivateKey::from_bytes([9; 32]);
    let mask = HeaderKey::derive(&private.public(), &NetworkSecret::default());
    let same = HeaderKey::derive(&private.public(), &NetworkSecret::default());
    let mut datagram = [5u8; MIN_DATAGRAM];
    assert!(mask.mask(&mut datagram));
    assert_ne!(datagram[..HEADER_LEN], [5; HEADER_LEN]);
    assert!(same.mask(&mut datagram));
    assert_eq!(datagram, [5; MIN_DATAGRAM]);
}
