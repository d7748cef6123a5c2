//! Packets from the host that wait for a handshake: copied, the newest 64 per peer.

use std::collections::{HashMap, VecDeque};

use veil_proto::PeerId;

/// Packets that wait for one peer, at most; older ones give way.
const PER_PEER: usize = 64;

/// A packet that waits.
pub struct WaitingPacket {
    /// The inner packet.
    pub bytes: Vec<u8>,
    /// Its mux flags.
    pub flags: u8,
}

/// All packets that wait.
#[derive(Default)]
pub struct Waiting {
    peers: HashMap<PeerId, VecDeque<WaitingPacket>>,
}

impl Waiting {
    /// Keeps a copy of `packet`. True if an older one was dropped for it.
    pub fn push(&mut self, peer: PeerId, packet: &[u8], flags: u8) -> bool {
        let queue = self.peers.entry(peer).or_default();
        let full = queue.len() == PER_PEER;
        if full {
            queue.pop_front();
        }
        queue.push_back(WaitingPacket { bytes: packet.to_vec(), flags });
        full
    }

    /// Whether any waits for `peer`.
    pub fn has(&self, peer: PeerId) -> bool {
        self.peers.contains_key(&peer)
    }

    /// The oldest that waits for `peer`.
    pub fn pop(&mut self, peer: PeerId) -> Option<WaitingPacket> {
        let queue = self.peers.get_mut(&peer)?;
        let packet = queue.pop_front();
        if queue.is_empty() {
            self.peers.remove(&peer);
        }
        packet
    }

    /// All that waits for `peer`, oldest first.
    pub fn take(&mut self, peer: PeerId) -> impl ExactSizeIterator<Item = WaitingPacket> + use<> {
        self.peers.remove(&peer).unwrap_or_default().into_iter()
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.peers.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_64_packets_wait_in_order() {
        let mut waiting = Waiting::default();
        let dropped = (0..100u8).filter(|&n| waiting.push(PeerId(1), &[n], 0)).count();
        assert_eq!((dropped, waiting.len()), (36, 64));
        assert!(waiting.has(PeerId(1)) && !waiting.has(PeerId(2)));
        assert_eq!(waiting.pop(PeerId(1)).map(|packet| packet.bytes[0]), Some(36));
        let kept: Vec<u8> = waiting.take(PeerId(1)).map(|p| p.bytes[0]).collect();
        assert_eq!(kept, (37..100).collect::<Vec<_>>());
        assert!(!waiting.has(PeerId(1)) && waiting.pop(PeerId(1)).is_none());
        assert_eq!(waiting.len(), 0);
    }
}
