//! Whose initiations are pending, found by our receiver index and by where they went.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::{Path, PeerId};

/// At most one pending initiation per peer.
#[derive(Debug, Default)]
pub struct Pending {
    by_index: HashMap<u32, PeerId>,
    by_remote: HashMap<[u8; 18], Vec<PeerId>>,
}

impl Pending {
    /// Enters an initiation. True if it is the only one to that remote address.
    pub fn insert(&mut self, peer: PeerId, index: u32, path: &Path) -> bool {
        self.by_index.insert(index, peer);
        let there = self.by_remote.entry(path.remote_bytes()).or_default();
        there.push(peer);
        there.len() == 1
    }

    /// Takes an initiation out. True if it was the last one to that remote address.
    pub fn remove(&mut self, peer: PeerId, index: u32, path: &Path) -> bool {
        self.by_index.remove(&index);
        let Entry::Occupied(mut there) = self.by_remote.entry(path.remote_bytes()) else { return false };
        there.get_mut().retain(|&other| other != peer);
        let last = there.get().is_empty();
        if last {
            there.remove();
        }
        last
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_index.len()
    }

    /// Whose initiation has this receiver index.
    pub fn with_index(&self, index: u32) -> Option<PeerId> {
        self.by_index.get(&index).copied()
    }

    /// Whose initiations went to where `path` leads.
    pub fn at(&self, path: &Path) -> &[PeerId] {
        self.by_remote.get(&path.remote_bytes()).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_peers_at_one_address_are_both_found_there() {
        let (mut pending, there) = (Pending::default(), Path::to("192.0.2.1:4433".parse().unwrap()));
        assert!(pending.insert(PeerId(1), 11, &there));
        assert!(!pending.insert(PeerId(2), 22, &there));
        assert_eq!(
            (pending.at(&there), pending.with_index(22)),
            (&[PeerId(1), PeerId(2)][..], Some(PeerId(2)))
        );
        assert!(!pending.remove(PeerId(1), 11, &there));
        assert!(pending.remove(PeerId(2), 22, &there));
        assert_eq!((pending.at(&there), pending.with_index(11)), (&[][..], None));
        assert!(!pending.remove(PeerId(2), 22, &there));
    }
}
