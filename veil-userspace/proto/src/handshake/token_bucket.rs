//! Rate limits for handshakes: one lock-free word per bucket, and a fixed table of buckets for all sources
//! there are.
//!
//! Asked by the responder under load. A bucket is the
//! *generic cell rate algorithm* (ITU-T I.371): the word is the time at which the bucket will be full again.
//! A grant moves it one interval on; a request is refused when that would be more than `burst` intervals from
//! now. So one compare-and-swap is the whole state change, and in any span of time no more than `burst` +
//! `per_second` × span are granted, whatever the threads do.

use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Entropy;
use crate::time::SECOND;

/// How much a bucket grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: u64,
    depth: u64,
}

impl Rate {
    /// What one source of initiations gets: 20/s, burst 5.
    pub const INITIATIONS: Rate = Rate::new(20, 5);

    /// `per_second` grants a second, and `burst` at once after a rest. Both are at least 1.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let interval = SECOND / if per_second == 0 { 1 } else { per_second as u64 };
        Rate { interval, depth: interval * if burst == 0 { 1 } else { burst as u64 } }
    }
}

/// One bucket, full at first.
#[derive(Debug, Default)]
pub struct TokenBucket {
    /// Monotonic nanoseconds at which the bucket is full.
    full_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket.
    pub const fn new() -> Self {
        TokenBucket { full_at: AtomicU64::new(0) }
    }

    /// Takes one token at [`Rate::INITIATIONS`], if there is one.
    #[inline]
    pub fn take(&self, now_ns: u64) -> bool {
        self.take_at(Rate::INITIATIONS, now_ns)
    }

    /// Takes one token at `rate`, if there is one. A bucket is always asked with the same rate.
    #[inline]
    pub fn take_at(&self, rate: Rate, now_ns: u64) -> bool {
        // Relaxed: the word is the whole state, it publishes nothing else.
        self.full_at
            .fetch_update(Relaxed, Relaxed, |full_at| {
                let full_at = full_at.max(now_ns).checked_add(rate.interval)?;
                (full_at - now_ns <= rate.depth).then_some(full_at)
            })
            .is_ok()
    }
}

/// How many buckets a table has; sources that share one share its tokens.
pub const BUCKETS: usize = 4096;

/// A bucket for every source: an IPv4 address, or an IPv6 /64.
///
/// The index is a keyed hash, so that nobody can choose addresses that share a bucket with a victim's.
#[derive(Debug)]
pub struct TokenBuckets {
    rate: Rate,
    hash: KeyedHash,
    buckets: Box<[TokenBucket; BUCKETS]>,
}

impl TokenBuckets {
    /// A table of full buckets.
    pub fn new(rate: Rate, entropy: &mut (impl Entropy + ?Sized)) -> Self {
        TokenBuckets {
            rate,
            hash: KeyedHash::new(entropy),
            buckets: Box::new([const { TokenBucket::new() }; BUCKETS]),
        }
    }

    /// Takes one of `source`'s tokens, if there is one; `now_ns` is monotonic.
    pub fn take(&self, source: IpAddr, now_ns: u64) -> bool {
        self.take_for(source, &[], now_ns)
    }

    /// As [`TokenBuckets::take`], from a bucket that `source` has for `subject` alone.
    pub fn take_for(&self, source: IpAddr, subject: &[u8], now_ns: u64) -> bool {
        self.buckets[self.index(source, subject)].take_at(self.rate, now_ns)
    }

    fn index(&self, source: IpAddr, subject: &[u8]) -> usize {
        // Tagged by family, so that an IPv4 address is no IPv6 network.
        let mut key = [0; 9];
        match source.to_canonical() {
            IpAddr::V4(v4) => key[1..5].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => {
                key[0] = 1;
                key[1..9].copy_from_slice(&v6.octets()[..8]);
            }
        }
        let mut hasher = self.hash.build_hasher();
        hasher.write(&key);
        hasher.write(subject);
        hasher.finish() as usize % BUCKETS
    }
}

/// The standard library's SipHash with a random secret in front, given by [`Entropy`] instead of the system.
#[derive(Clone)]
pub struct KeyedHash([u8; 16]);

impl KeyedHash {
    /// A hash that nobody else can compute.
    pub fn new(entropy: &mut (impl Entropy + ?Sized)) -> Self {
        let mut secret = [0; 16];
        entropy.fill(&mut secret);
        KeyedHash(secret)
    }
}

impl BuildHasher for KeyedHash {
    type Hasher = DefaultHasher;

    #[inline]
    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.0);
        hasher
    }
}

impl std::fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyedHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;

    /// Numbers from a 64-bit counter, mixed: good enough to spread buckets.
    struct Seeded(u64);

    impl Entropy for Seeded {
        fn fill(&mut self, out: &mut [u8]) {
            for byte in out {
                self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *byte = (self.0 >> 56) as u8;
            }
        }
    }

    #[test]
    fn a_rested_bucket_grants_its_burst_and_then_its_rate() {
        let bucket = TokenBucket::new();
        let start = 77 * SECOND;
        for _ in 0..5 {
            assert!(bucket.take(start));
        }
        assert!(!bucket.take(start));
        assert!(!bucket.take(start + 50 * MILLISECOND - 1));
        assert!(bucket.take(start + 50 * MILLISECOND));
        assert!(!bucket.take(start + 50 * MILLISECOND));
        let later = start + 10 * SECOND;
        assert_eq!((0..100).filter(|_| bucket.take(later)).count(), 5);
    }

    #[test]
    fn asking_in_vain_costs_nothing() {
        let bucket = TokenBucket::new();
        for _ in 0..1000 {
            bucket.take(0);
        }
        assert!(bucket.take(50 * MILLISECOND));
    }

    #[test]
    fn a_bucket_at_the_end_of_time_refuses() {
        let bucket = TokenBucket::new();
        assert!(!bucket.take(u64::MAX));
        assert_eq!((0..100).filter(|_| bucket.take(u64::MAX - SECOND)).count(), 5);
    }

    #[test]
    fn a_rate_of_nothing_is_a_rate_of_one() {
        assert_eq!(Rate::new(0, 0), Rate::new(1, 1));
    }

    #[test]
    fn many_threads_never_get_more_than_the_budget() {
        const ROUNDS: u64 = 4000;
        for _ in 0..5 {
            let bucket = TokenBucket::new();
            let granted = AtomicUsize::new(0);
            std::thread::scope(|s| {
                for thread in 0..4 {
                    let (bucket, granted) = (&bucket, &granted);
                    s.spawn(move || {
                        for round in 0..ROUNDS {
                            // Threads read the clock a little apart from one another.
                            if bucket.take(round * MILLISECOND + thread) {
                                granted.fetch_add(1, Relaxed);
                            }
                        }
                    });
                }
            });
            let span_ms = ROUNDS - 1;
            let most = 5 + (span_ms / 50) as usize;
            let granted = granted.load(Relaxed);
            assert!((5..=most).contains(&granted), "{granted} granted, budget {most}");
        }
    }

    #[test]
    fn at_one_moment_many_threads_get_exactly_the_burst() {
        for _ in 0..50 {
            let bucket = TokenBucket::new();
            let granted = AtomicUsize::new(0);
            std::thread::scope(|s| {
                for _ in 0..4 {
                    s.spawn(|| {
                        granted.fetch_add((0..10).filter(|_| bucket.take(SECOND)).count(), Relaxed);
                    });
                }
            });
            assert_eq!(granted.load(Relaxed), 5);
        }
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_slash_64() {
        let table = TokenBuckets::new(Rate::INITIATIONS, &mut Seeded(1));
        let index = |text: &str| table.index(text.parse().unwrap(), &[]);
        assert_eq!(index("2001:db8::1"), index("2001:db8::ffff:ffff:ffff:ffff"));
        assert_eq!(index("192.0.2.1"), index("::ffff:192.0.2.1"));
        assert_ne!(index("192.0.2.1"), index("192.0.2.2"));
        assert_ne!(index("2001:db8::1"), index("2001:db8:0:1::1"));
        let source = "192.0.2.1".parse().unwrap();
        assert_eq!((0..20).filter(|_| table.take(source, SECOND)).count(), 5);
        assert!(table.take("192.0.2.2".parse().unwrap(), SECOND));
    }

    #[test]
    fn a_source_has_a_bucket_for_each_subject() {
        let table = TokenBuckets::new(Rate::INITIATIONS, &mut Seeded(1));
        let source = "192.0.2.1".parse().unwrap();
        assert_eq!((0..20).filter(|_| table.take_for(source, b"one", SECOND)).count(), 5);
        assert_eq!((0..20).filter(|_| table.take_for(source, b"another", SECOND)).count(), 5);
    }

    #[test]
    fn another_secret_is_another_arrangement() {
        let tables = [1, 2].map(|seed| TokenBuckets::new(Rate::INITIATIONS, &mut Seeded(seed)));
        let indices =
            tables.map(|t| (0..64u8).map(|i| t.index([192, 0, 2, i].into(), &[])).collect::<Vec<_>>());
        assert_ne!(indices[0], indices[1]);
    }

    proptest! {
        #[test]
        fn no_span_of_time_sees_more_than_burst_and_rate(
            per_second in 1u32..200, burst in 1u32..20,
            steps in prop::collection::vec(0u64..200 * MILLISECOND, 1..200),
        ) {
            let rate = Rate::new(per_second, burst);
            let bucket = TokenBucket::new();
            let mut now = SECOND;
            let mut granted = Vec::new();
            for step in steps {
                now += step;
                if bucket.take_at(rate, now) {
                    granted.push(now);
                }
            }
            for (i, from) in granted.iter().enumerate() {
                for (n, to) in granted[i..].iter().enumerate() {
                    let most = u64::from(burst) + (to - from) / rate.interval;
                    prop_assert!((n as u64) < most);
                }
            }
        }
    }
}
