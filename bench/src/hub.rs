//! One end with many peers, a confirmed session with each: what datagrams of ten thousand peers run through.
//!
//! The sessions are put together from keys and not agreed on, because ten thousand handshakes take longer than what is
//! measured. They all open under the same key, each with a schedule of its own: so the hub's memory is that of so many
//! sessions, while the other ends, who only feed it, share one key and stay out of the cache.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use veil_proto::allowed_ips::IpNet;
use veil_proto::crypto::{
    AeadKey, HeaderKey, NetworkSecret, Psk, PublicKey, Suite, Suites, aead_encrypt, generate_x25519_keypair,
};
use veil_proto::handshake::NewSession;
use veil_proto::handshake::message::{Header, TYPE_DATA};
use veil_proto::peer::PeerSettings;
use veil_proto::session::{HEADER_LEN, MIN_DATAGRAM, Opener, Role, Sealer, TransportSession};
use veil_proto::tunnel::{Inbound, Sessions, ToSessions};
use veil_proto::{Entropy, Now, Path, PeerId, Tai64n};

use crate::Seeded;

const KEY: [u8; 32] = [5; 32];
const SUITE: Suite = Suite::Aes256Gcm;

/// A session with `peer`, for datagrams that arrive under `index`; they are sealed under the key all such sessions have.
pub fn session(peer: PeerId, index: u32, peer_header: HeaderKey) -> Box<TransportSession> {
    let sealer = Sealer::new(AeadKey::new(SUITE, &[6; 32]), index, peer_header);
    let opener = Opener::new(AeadKey::new(SUITE, &KEY));
    Box::new(TransportSession::new(peer, Role::Responder, 0, index, sealer, opener))
}

/// `count` different receiver indices, as an allocator would give them out.
pub fn indices(count: usize) -> Vec<u32> {
    let (mut entropy, mut seen) = (Seeded(2), HashSet::new());
    std::iter::repeat_with(|| entropy.next_u32())
        .filter(|&index| index != 0 && seen.insert(index))
        .take(count)
        .collect()
}

/// The end with many peers.
pub struct Hub {
    /// Its sessions.
    pub sessions: Sessions,
    /// The time at which everything happens: no timer is due, no session old.
    pub now: Now,
    /// Where all datagrams come from.
    pub path: Path,
    key: AeadKey,
    header: HeaderKey,
    peers: Vec<(u32, u64)>,
}

impl Hub {
    /// A hub with `count` peers.
    pub fn new(count: usize) -> Self {
        let local = generate_x25519_keypair(&mut Seeded(3)).public;
        let secret = NetworkSecret::default();
        let settings: Vec<_> =
            (0..count as u32).map(PeerId).map(|peer| settings(peer, public_key(peer))).collect();
        let mut hub = Hub {
            sessions: Sessions::new(&local, &secret, &settings, None),
            now: Now { mono: 1, wall: Tai64n::default() },
            path: Path::to(([192, 0, 2, 1], 51820).into()),
            key: AeadKey::new(SUITE, &KEY),
            header: HeaderKey::derive(&local, &secret),
            peers: indices(count).into_iter().map(|index| (index, 0)).collect(),
        };
        for n in 0..count {
            let (peer, index) = (PeerId(n as u32), hub.peers[n].0);
            let session = session(peer, index, hub.header.clone());
            hub.sessions.handle(ToSessions::Ready(NewSession { session, path: hub.path, number: None }));
            // The first datagram confirms the session and tells where the peer is.
            let mut keepalive = [0; MIN_DATAGRAM];
            hub.seal_from(peer, &mut keepalive);
            hub.open(&mut keepalive);
        }
        while hub.sessions.next_message().is_some() || hub.sessions.next_event().is_some() {}
        hub
    }

    /// Takes the sessions out, for a process stage to own; what seals to them stays.
    pub fn take_sessions(&mut self) -> Sessions {
        let none = Sessions::new(&PublicKey([0; 32]), &NetworkSecret::default(), &[], None);
        std::mem::replace(&mut self.sessions, none)
    }

    /// Seals a datagram in place as `peer` does.
    pub fn seal_from(&mut self, peer: PeerId, datagram: &mut [u8]) {
        let (index, counter) = &mut self.peers[peer.index()];
        let (header, body) = datagram.split_at_mut(HEADER_LEN);
        Header { kind: TYPE_DATA, index: *index, counter: *counter }.write(header);
        aead_encrypt(&self.key, *counter, header, body);
        self.header.mask(datagram);
        *counter += 1;
    }

    /// Opens a datagram that some peer has sealed; anything else ends the benchmark, which would measure a refusal.
    #[inline]
    pub fn open(&mut self, datagram: &mut [u8]) -> PeerId {
        self.sessions.unmask_run(datagram, 0);
        self.open_unmasked(datagram)
    }

    /// The same for a datagram whose header is unmasked already.
    #[inline]
    pub fn open_unmasked(&mut self, datagram: &mut [u8]) -> PeerId {
        match self.sessions.open_unmasked(datagram, &self.path, self.now) {
            Inbound::Data(opened) => opened.peer,
            other => panic!("{other:?}"),
        }
    }
}

/// The inner IPv4 address of a peer.
pub fn inner_v4(peer: PeerId) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0001 + peer.0)
}

/// The inner IPv6 address of a peer.
pub fn inner_v6(peer: PeerId) -> Ipv6Addr {
    Ipv6Addr::from_bits((0xfd00 << 112) + 1 + u128::from(peer.0))
}

/// A peer with an inner address of each family.
pub(crate) fn settings(peer: PeerId, public_key: PublicKey) -> PeerSettings {
    PeerSettings {
        public_key,
        psk: Psk::default(),
        suites: Suites::only(SUITE),
        allowed_ips: vec![IpNet::host(inner_v4(peer).into()), IpNet::host(inner_v6(peer).into())],
        keepalive: None,
        has_endpoint: false,
        lease: false,
    }
}

/// Bytes that may be a public key; nobody has the private one.
fn public_key(peer: PeerId) -> PublicKey {
    let mut public_key = [0; 32];
    Seeded(1000 + u64::from(peer.0)).fill(&mut public_key);
    PublicKey(public_key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use veil_proto::tunnel::Outbound;

    #[test]
    fn every_peer_of_a_hub_is_heard_and_can_be_sent_to() {
        let mut hub = Hub::new(20);
        assert_eq!(hub.sessions.session_count(), 20);
        for peer in (0..20).map(PeerId) {
            let mut datagram = [0; 96];
            hub.seal_from(peer, &mut datagram);
            assert_eq!(hub.open(&mut datagram), peer);
            assert_eq!(hub.sessions.begin(peer, hub.now), Outbound::Ready(hub.path));
            assert!(hub.sessions.seal(peer, &mut datagram, hub.now).is_ok());
        }
        assert!(hub.sessions.next_message().is_none());
    }
}
