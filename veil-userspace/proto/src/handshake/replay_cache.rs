//! Initiations handled lately, by the SHA-256 of Noise message 1: the same one again is dropped before any
//! curve work.
//!
//! It only saves work; what makes replays harmless is the timestamp behind it. So it may be small, and may
//! forget: the least recently seen goes first. Finding, marking and forgetting are one step under one mutex,
//! each O(1), and nothing is allocated after creation.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::token_bucket::KeyedHash;
use crate::Entropy;

/// A bounded set of digests; the least recently seen one makes room for a new one.
#[derive(Debug)]
pub struct HandshakeReplayCache(Mutex<Lru>);

impl HandshakeReplayCache {
    /// As many initiations as the token buckets let through for a while.
    pub const DEFAULT_CAPACITY: usize = 4096;

    /// An empty cache of at most `capacity` digests (at least 1).
    pub fn new(capacity: usize, entropy: &mut (impl Entropy + ?Sized)) -> Self {
        HandshakeReplayCache(Mutex::new(Lru::new(capacity.clamp(1, NONE as usize), KeyedHash::new(entropy))))
    }

    /// Remembers `digest`, and returns whether it was remembered before.
    pub fn mark_and_check(&self, digest: [u8; 32]) -> bool {
        // The lists are changed without calls that panic, so that a poisoned lock still guards a whole cache.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).mark_and_check(digest)
    }
}

/// No entry.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Entry {
    digest: [u8; 32],
    newer: u32,
    older: u32,
}

/// Entries in a `Vec`, found by a map and linked from the newest to the oldest.
#[derive(Debug)]
struct Lru {
    capacity: usize,
    found: HashMap<[u8; 32], u32, KeyedHash>,
    entries: Vec<Entry>,
    newest: u32,
    oldest: u32,
}

impl Lru {
    fn new(capacity: usize, hash: KeyedHash) -> Self {
        Lru {
            capacity,
            // Twice the room: then the map rehashes in place when removals have worn it, and does not grow.
            found: HashMap::with_capacity_and_hasher(2 * capacity, hash),
            entries: Vec::with_capacity(capacity),
            newest: NONE,
            oldest: NONE,
        }
    }

    fn mark_and_check(&mut self, digest: [u8; 32]) -> bool {
        if let Some(&at) = self.found.get(&digest) {
            self.unlink(at);
            self.link_newest(at);
            return true;
        }
        let at = if self.entries.len() < self.capacity {
            self.entries.push(Entry { digest, newer: NONE, older: NONE });
            (self.entries.len() - 1) as u32
        } else {
            let at = self.oldest;
            self.unlink(at);
            let forgotten = std::mem::replace(&mut self.entries[at as usize].digest, digest);
            self.found.remove(&forgotten);
            at
        };
        self.link_newest(at);
        self.found.insert(digest, at);
        false
    }

    fn unlink(&mut self, at: u32) {
        let Entry { newer, older, .. } = self.entries[at as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let older = std::mem::replace(&mut self.newest, at);
        let entry = &mut self.entries[at as usize];
        (entry.newer, entry.older) = (NONE, older);
        match older {
            NONE => self.oldest = at,
            older => self.entries[older as usize].newer = at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    struct Fixed;

    impl Entropy for Fixed {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(0x5a);
        }
    }

    fn digest(n: u64) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_le_bytes());
        digest
    }

    #[test]
    fn the_same_initiation_again_is_known() {
        let cache = HandshakeReplayCache::new(8, &mut Fixed);
        assert!(!cache.mark_and_check(digest(1)));
        assert!(!cache.mark_and_check(digest(2)));
        assert!(cache.mark_and_check(digest(1)));
    }

    #[test]
    fn the_least_recently_seen_is_forgotten_first() {
        let cache = HandshakeReplayCache::new(2, &mut Fixed);
        cache.mark_and_check(digest(1));
        cache.mark_and_check(digest(2));
        assert!(cache.mark_and_check(digest(1)));
        assert!(!cache.mark_and_check(digest(3)));
        assert!(cache.mark_and_check(digest(1)));
        assert!(!cache.mark_and_check(digest(2)));
    }

    #[test]
    fn a_cache_of_nothing_remembers_one() {
        let cache = HandshakeReplayCache::new(0, &mut Fixed);
        assert!(!cache.mark_and_check(digest(1)));
        assert!(cache.mark_and_check(digest(1)));
        assert!(!cache.mark_and_check(digest(2)));
        assert!(!cache.mark_and_check(digest(1)));
    }

    #[test]
    fn a_flood_of_new_initiations_grows_nothing() {
        let mut lru = Lru::new(64, KeyedHash::new(&mut Fixed));
        let (map, entries) = (lru.found.capacity(), lru.entries.capacity());
        for n in 0..200_000 {
            assert!(!lru.mark_and_check(digest(n)));
            assert!(lru.found.len() <= 64);
        }
        assert_eq!(lru.entries.capacity(), entries);
        assert!(lru.found.capacity() <= map);
    }

    #[test]
    fn of_many_threads_with_one_initiation_exactly_one_is_first() {
        const DIGESTS: u64 = 2000;
        let cache = HandshakeReplayCache::new(DIGESTS as usize, &mut Fixed);
        let first = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let new = (0..DIGESTS).filter(|&n| !cache.mark_and_check(digest(n))).count();
                    first.fetch_add(new, Relaxed);
                });
            }
        });
        assert_eq!(first.load(Relaxed), DIGESTS as usize);
    }

    proptest! {
        #[test]
        fn the_cache_remembers_as_a_list_does(
            capacity in 1usize..12, asked in prop::collection::vec(0u64..20, 0..300),
        ) {
            let cache = HandshakeReplayCache::new(capacity, &mut Fixed);
            let mut model = VecDeque::new();
            for n in asked {
                let known = model.iter().position(|&m| m == n).inspect(|&i| { model.remove(i); }).is_some();
                model.push_back(n);
                if model.len() > capacity {
                    model.pop_front();
                }
                prop_assert_eq!(cache.mark_and_check(digest(n)), known);
            }
        }
    }
}
