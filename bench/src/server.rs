//! One end that answers whoever comes, and those who come: all that an initiation runs through, but the sockets.
//!
//! Unlike a [`Hub`](crate::Hub), which has its sessions from the start, a [`Server`] agrees on them as the event loop does:
//! a datagram is unmasked by `Sessions`, copied to `Handshakes`, stepped there, and messages go back and forth.

use veil_proto::crypto::{
    HeaderKey, KeyPair, NetworkSecret, Psk, PublicKey, Suite, Suites, generate_x25519_keypair,
};
use veil_proto::handshake::envelope::EnvelopeKey;
use veil_proto::handshake::{Attempt, HandshakeInitiator, Identity};
use veil_proto::session::MIN_DATAGRAM;
use veil_proto::tunnel::{HandshakeOutput, Handshakes, Inbound, Sessions, ToHandshakes, Transmit};
use veil_proto::{DropReason, Now, Path, PeerId, Tai64n};

use crate::Seeded;
use crate::hub::settings;

/// What everybody here can seal with.
const SUITE: Suite = Suite::Aes256Gcm;

/// The end that answers.
pub struct Server {
    /// Its sessions.
    pub sessions: Sessions,
    /// Its handshakes.
    pub handshakes: Handshakes,
    /// The key it is known by.
    pub public_key: PublicKey,
    /// Seals initiations to it.
    pub envelope_key: EnvelopeKey,
    /// Masks what is sent to it.
    pub header_key: HeaderKey,
    /// The time; every datagram received moves it on by `tick`.
    pub now: Now,
    /// Nanoseconds from one datagram to the next.
    pub tick: u64,
    /// What it sent last.
    pub sent: Option<Transmit>,
    received: u64,
    out: HandshakeOutput,
    entropy: Seeded,
}

impl Server {
    /// A server that knows `peers`, numbered in their order. Its datagrams come so slowly that it is not under load.
    pub fn new(peers: &[PublicKey]) -> Self {
        let mut entropy = Seeded(6);
        let keys = generate_x25519_keypair(&mut entropy);
        let (public_key, none) = (keys.public, NetworkSecret::default());
        let numbered = peers.iter().enumerate();
        let settings: Vec<_> = numbered.map(|(n, key)| settings(PeerId(n as u32), *key)).collect();
        Server {
            sessions: Sessions::new(&public_key, &none, &settings, None),
            envelope_key: EnvelopeKey::derive(&public_key, &none),
            header_key: HeaderKey::derive(&public_key, &none),
            handshakes: Handshakes::new(Identity::new(keys, none), &settings, &mut entropy),
            public_key,
            now: Now { mono: 1, wall: Tai64n::default() },
            tick: 10_000_000,
            sent: None,
            received: 0,
            out: HandshakeOutput::default(),
            entropy,
        }
    }

    /// Takes a datagram from `path` all the way.
    #[inline]
    pub fn receive(&mut self, path: &Path, datagram: &mut [u8]) {
        self.received += 1;
        self.now.mono += self.tick;
        if let Inbound::Handshake = self.sessions.open(datagram, path, self.now) {
            let message = ToHandshakes::Datagram { path: *path, bytes: datagram.to_vec() };
            self.handshakes.handle(message, self.now, &mut self.entropy, &mut self.out);
            self.handshakes.step(self.now, &mut self.entropy, &mut self.out);
        }
        while let Some(message) = self.out.to_sessions.pop_front() {
            self.sessions.handle(message);
        }
        while let Some(message) = self.sessions.next_message() {
            self.handshakes.handle(message, self.now, &mut self.entropy, &mut self.out);
        }
        while let Some(transmit) = self.out.transmits.pop_front() {
            self.sent = Some(transmit);
        }
        self.out.accepted.clear();
    }

    /// Agrees on a session with `client`, which must be one of the peers, and lets it confirm that.
    pub fn shake(&mut self, client: &mut Client, path: &Path) {
        let (pending, mut initiation) = client.initiate(&self.public_key);
        self.receive(path, &mut initiation);
        let mut response = self.sent.take().expect("a response").bytes;
        client.identity.header_key.mask(&mut response);
        let finished =
            pending.finish(&client.identity, &self.public_key, &client.psk, &mut response, self.now);
        let mut session = finished.map_err(|(_, reason)| reason).expect("a session").session;
        let mut keepalive = [0; MIN_DATAGRAM];
        session.sealer.seal(&mut keepalive).expect("a fresh key");
        self.receive(path, &mut keepalive);
        while self.sessions.next_event().is_some() {}
    }

    /// How many datagrams came, and how many of them were refused for `reason`.
    pub fn refused(&self, reason: DropReason) -> (u64, u64) {
        let refused = self.handshakes.drops().of(reason) + self.sessions.counters().drops.of(reason);
        (self.received, refused)
    }
}

/// Somebody who initiates.
pub struct Client {
    identity: Identity,
    psk: Psk,
    timestamp: Tai64n,
    entropy: Seeded,
}

impl Client {
    /// Client number `n`, always the same one.
    pub fn new(n: u64) -> Self {
        let keys = Self::keys(n);
        let identity = Identity::new(keys, NetworkSecret::default());
        let timestamp = Tai64n::from_unix_nanos(0);
        Client { identity, psk: Psk::default(), timestamp, entropy: Seeded(n) }
    }

    /// The public key of client number `n`.
    pub fn public_key(n: u64) -> PublicKey {
        Self::keys(n).public
    }

    fn keys(n: u64) -> KeyPair {
        generate_x25519_keypair(&mut Seeded(1_000_000 + n))
    }

    /// A new attempt to reach `server`, and its datagram.
    pub fn initiate(&mut self, server: &PublicKey) -> (Box<HandshakeInitiator>, Vec<u8>) {
        self.timestamp = self.timestamp.next();
        let attempt = Attempt {
            peer: PeerId(0),
            remote: server,
            psk: &self.psk,
            suites: Suites::only(SUITE),
            timestamp: self.timestamp,
            local_index: 1,
            path: Path::to(([192, 0, 2, 2], 51820).into()),
            number: 1,
            cookie: None,
        };
        HandshakeInitiator::start(&self.identity, attempt, &mut self.entropy).expect("a good public key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_it_knows_get_sessions_and_strangers_none() {
        let mut server = Server::new(&[Client::public_key(0), Client::public_key(1)]);
        let path = Path::to(([192, 0, 2, 1], 51820).into());
        for n in 0..2 {
            server.shake(&mut Client::new(n), &path);
            assert!(server.sessions.current_indices(PeerId(n as u32)).is_some());
        }
        let (_, mut initiation) = Client::new(2).initiate(&server.public_key);
        server.receive(&path, &mut initiation);
        assert_eq!(server.refused(DropReason::UnknownPeer), (5, 1));
    }
}
