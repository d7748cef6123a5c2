//! How long and how much a key may be used: the table and the times of `protocol.md`, Sessions.
//!
//! AES-256-GCM is limited by blocks (RFC 9001 B.1: confidentiality wears off with the blocks encrypted under
//! one key), ChaCha20-Poly1305 by datagrams, as its nonce is. A [`Budget`] counts one key's use; it is
//! exhausted early enough that the largest datagram cannot pass the limit.

use crate::time::{MILLISECOND, SECOND};

/// A session of this age is to be replaced when its initiator sends.
pub const REKEY_AFTER: u64 = 120 * SECOND;
/// A session of this age is to be replaced when its initiator receives.
pub const REKEY_AFTER_RECEIVE: u64 = 165 * SECOND;
/// A session of this age is wiped.
pub const REJECT_AFTER: u64 = 180 * SECOND;
/// An initiation unanswered for so long, plus jitter, is followed by a new one.
pub const RETRY: u64 = 5 * SECOND;
/// The most that is added, at random, to [`RETRY`].
pub const RETRY_JITTER: u64 = 333 * MILLISECOND;
/// Retries end so long after the first initiation.
pub const GIVE_UP: u64 = 90 * SECOND;
/// A keepalive answers traffic that went unanswered so long.
pub const KEEPALIVE: u64 = 10 * SECOND;
/// A handshake starts when our data went unanswered so long.
pub const UNANSWERED: u64 = 15 * SECOND;

/// The longest plaintext a datagram can hold: a UDP length field's worth.
const MAX_PLAINTEXT: usize = u16::MAX as usize;
const BLOCK: usize = 16;

/// What one key may be used for: AES blocks, or ChaCha20 datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A key used so much is to be replaced.
    pub rekey_after: u64,
    /// A key is never used more than this.
    pub reject_after: u64,
    /// Whether a datagram costs its blocks, or 1.
    by_block: bool,
}

impl Limits {
    /// AES-256-GCM: 2^34 and 2^35 blocks.
    pub const AES_256_GCM: Limits = Limits { rekey_after: 1 << 34, reject_after: 1 << 35, by_block: true };
    /// ChaCha20-Poly1305: 2^60 and 2^64 - 2^13 datagrams.
    pub const CHACHA20_POLY1305: Limits =
        Limits { rekey_after: 1 << 60, reject_after: u64::MAX - (1 << 13) + 1, by_block: false };

    /// The limits of a suite: AES-256-GCM if `aes`, else ChaCha20-Poly1305.
    pub const fn of(aes: bool) -> Limits {
        if aes { Self::AES_256_GCM } else { Self::CHACHA20_POLY1305 }
    }

    /// What sealing or opening a datagram with this plaintext costs: with AES 1 + ⌈length / 16⌉.
    #[inline]
    pub const fn cost(&self, plaintext_len: usize) -> u64 {
        if self.by_block { 1 + plaintext_len.div_ceil(BLOCK) as u64 } else { 1 }
    }
}

/// One key's use so far, against its limits.
#[derive(Clone, Debug)]
pub struct Budget {
    used: u64,
    aes: bool,
}

impl Budget {
    /// The budget of a fresh key.
    pub const fn new(aes: bool) -> Self {
        Budget { used: 0, aes }
    }

    /// The budget of a key that has been used so much already.
    #[cfg(test)]
    pub(crate) const fn worn(aes: bool, used: u64) -> Self {
        Budget { used, aes }
    }

    /// Counts one datagram. Ask [`exhausted`](Self::exhausted) first.
    #[inline]
    pub fn charge(&mut self, plaintext_len: usize) {
        self.used = self.used.saturating_add(self.limits().cost(plaintext_len));
    }

    /// Whether the key has been used so much that a new one is to be agreed.
    #[inline]
    pub fn must_rekey(&self) -> bool {
        self.used >= self.limits().rekey_after
    }

    /// Whether one more datagram of any length could pass the limit: then the key is not used again.
    #[inline]
    pub fn exhausted(&self) -> bool {
        let limits = self.limits();
        self.used > limits.reject_after - limits.cost(MAX_PLAINTEXT)
    }

    /// Blocks or datagrams charged so far.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The limits that hold for this key.
    #[inline]
    pub fn limits(&self) -> Limits {
        Limits::of(self.aes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn used(aes: bool, used: u64) -> Budget {
        Budget::worn(aes, used)
    }

    #[test]
    fn the_table_is_the_protocols() {
        assert_eq!(Limits::of(true).rekey_after, 2u64.pow(34));
        assert_eq!(Limits::of(true).reject_after, 2u64.pow(35));
        assert_eq!(Limits::of(false).rekey_after, 2u64.pow(60));
        assert_eq!(u128::from(Limits::of(false).reject_after), 2u128.pow(64) - 2u128.pow(13));
    }

    #[test]
    fn an_aes_datagram_costs_its_blocks_and_one() {
        for (len, cost) in [(0, 1), (1, 2), (16, 2), (17, 3), (1420, 90), (65_535, 4097)] {
            assert_eq!(Limits::of(true).cost(len), cost);
            assert_eq!(Limits::of(false).cost(len), 1);
        }
    }

    #[test]
    fn a_key_asks_for_rekeying_at_its_limit_and_not_before() {
        for aes in [true, false] {
            let limit = Limits::of(aes).rekey_after;
            assert!(!Budget::new(aes).must_rekey());
            assert!(!used(aes, limit - 1).must_rekey());
            assert!(used(aes, limit).must_rekey());
            assert!(!used(aes, limit).exhausted());
        }
    }

    #[test]
    fn chacha_seals_its_last_datagram_and_no_more() {
        let mut budget = used(false, Limits::of(false).reject_after - 1);
        assert!(!budget.exhausted());
        budget.charge(65_535);
        assert_eq!(budget.used(), Limits::of(false).reject_after);
        assert!(budget.exhausted());
    }

    #[test]
    fn aes_leaves_room_for_the_largest_datagram_and_no_more() {
        let mut budget = used(true, (1 << 35) - 4097);
        assert!(!budget.exhausted());
        budget.charge(65_535);
        assert_eq!(budget.used(), 1 << 35);
        assert!(budget.exhausted());
        assert!(used(true, (1 << 35) - 4096).exhausted());
    }

    #[test]
    fn a_budget_never_becomes_new_again() {
        let mut budget = used(false, u64::MAX);
        budget.charge(1);
        assert!(budget.exhausted() && budget.must_rekey());
    }

    proptest! {
        #[test]
        fn no_sequence_of_datagrams_passes_the_limit(
            aes: bool, room in 0u64..20_000, lens in prop::collection::vec(0usize..=65_535, 1..40),
        ) {
            let mut budget = used(aes, Limits::of(aes).reject_after - room);
            for len in lens {
                if budget.exhausted() {
                    break;
                }
                budget.charge(len);
                prop_assert!(budget.used() <= Limits::of(aes).reject_after);
            }
        }
    }
}
