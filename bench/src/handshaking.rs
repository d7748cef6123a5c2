//! Two ends that shake hands as often as they are asked to, and the pair of sessions that comes of it.
//!
//! Called by the handshake benchmark step by step, and by all that want a session's two halves through [`Pair::new`].
//! Virtual time moves on with every answer, because a responder refuses initiations that follow each other too closely.

use veil_proto::crypto::{HeaderKey, NetworkSecret, Psk, Suite, Suites, generate_x25519_keypair};
use veil_proto::handshake::timestamp::MIN_INTERVAL;
use veil_proto::handshake::{
    Answer, Attempt, HandshakeInitiator, HandshakeResponder, Identity, Load, NewSession,
};
use veil_proto::peer::PeerSettings;
use veil_proto::session::TransportSession;
use veil_proto::tunnel::{Sessions, ToSessions};
use veil_proto::{Now, Path, PeerId, Tai64n};

use crate::Seeded;

/// An initiator and a responder who know each other.
pub struct Handshaking {
    initiator: Identity,
    responder: Identity,
    answers: HandshakeResponder,
    psk: Psk,
    suites: Suites,
    timestamp: Tai64n,
    now: Now,
    entropy: Seeded,
}

impl Handshaking {
    /// Two ends that will agree on `suite`.
    pub fn new(suite: Suite) -> Self {
        let mut entropy = Seeded(1);
        let secret = network_secret();
        let initiator = Identity::new(generate_x25519_keypair(&mut entropy), secret.clone());
        let responder = Identity::new(generate_x25519_keypair(&mut entropy), secret);
        let (psk, suites) = (Psk::from_bytes([9; 32]), Suites::only(suite));
        let peer = PeerSettings {
            public_key: initiator.keys.public,
            psk: psk.clone(),
            suites,
            allowed_ips: Vec::new(),
            keepalive: None,
            has_endpoint: false,
            lease: false,
        };
        let answers = HandshakeResponder::new(&[peer], &mut entropy);
        let timestamp = Tai64n::from_unix_nanos(0);
        let now = Now { mono: 0, wall: timestamp };
        Handshaking { initiator, responder, answers, psk, suites, timestamp, now, entropy }
    }

    /// The initiator's first step: a pending attempt and the datagram it sends.
    pub fn initiate(&mut self) -> (Box<HandshakeInitiator>, Vec<u8>) {
        self.timestamp = self.timestamp.next();
        let attempt = Attempt {
            peer: PeerId(0),
            remote: &self.responder.keys.public,
            psk: &self.psk,
            suites: self.suites,
            timestamp: self.timestamp,
            local_index: 1,
            path: path(),
            number: 1,
            cookie: None,
        };
        HandshakeInitiator::start(&self.initiator, attempt, &mut self.entropy).expect("a good public key")
    }

    /// All of the responder's work on an initiation while it is not under load; they must come in the order they were made.
    pub fn answer(&mut self, initiation: &mut [u8]) -> Answer {
        self.now.mono += MIN_INTERVAL;
        self.responder.header_key.mask(initiation);
        let (path, now) = (path(), self.now);
        let opened = self
            .answers
            .open_envelope(&self.responder, initiation, &path, Load::Light, now, &mut self.entropy)
            .expect("a good envelope");
        self.answers
            .handle_init(&self.responder, opened, path, 2, now, &mut self.entropy)
            .expect("an initiation of a known peer")
    }

    /// The initiator's last step.
    pub fn finish(&mut self, pending: Box<HandshakeInitiator>, response: &mut [u8]) -> NewSession {
        self.initiator.header_key.mask(response);
        pending
            .finish(&self.initiator, &self.responder.keys.public, &self.psk, response, self.now)
            .map_err(|(_, reason)| reason)
            .expect("the response to this attempt")
    }

    /// A whole handshake: the initiator's session and the responder's.
    pub fn shake(&mut self) -> (NewSession, NewSession) {
        let (pending, mut initiation) = self.initiate();
        let Answer { session, mut response, .. } = self.answer(&mut initiation);
        (self.finish(pending, &mut response), session)
    }

    /// The initiator's `Sessions` and the responder's after a handshake, all inner addresses being behind the other end,
    /// and the time it is then. The responder's session waits for the first datagram.
    pub fn sessions(&mut self) -> ([Sessions; 2], Now) {
        let (initiated, answered) = self.shake();
        let end = |own: &Identity, other: &Identity, has_endpoint| {
            let peer = PeerSettings {
                public_key: other.keys.public,
                psk: self.psk.clone(),
                suites: self.suites,
                allowed_ips: ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a network")).into(),
                keepalive: None,
                has_endpoint,
                lease: false,
            };
            Sessions::new(&own.keys.public, &network_secret(), &[peer], None)
        };
        let mut initiator = end(&self.initiator, &self.responder, true);
        let mut responder = end(&self.responder, &self.initiator, false);
        // A session answers a request: this is the first.
        initiator.begin(PeerId(0), self.now);
        while initiator.next_message().is_some() {}
        initiator.handle(ToSessions::Ready(initiated));
        responder.handle(ToSessions::Ready(answered));
        ([initiator, responder], self.now)
    }
}

/// Two ends of one session.
pub struct Pair {
    /// The end that started it.
    pub initiator: Box<TransportSession>,
    /// The end that answered.
    pub responder: Box<TransportSession>,
    /// Unmasks what the responder receives.
    pub responder_header: HeaderKey,
}

impl Pair {
    /// A session under `suite`, made by a handshake.
    pub fn new(suite: Suite) -> Self {
        let mut ends = Handshaking::new(suite);
        let (initiator, responder) = ends.shake();
        Pair {
            initiator: initiator.session,
            responder: responder.session,
            responder_header: ends.responder.header_key,
        }
    }
}

fn network_secret() -> NetworkSecret {
    NetworkSecret::from_bytes([7; 32])
}

fn path() -> Path {
    Path::to(([192, 0, 2, 1], 51820).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use veil_proto::handshake::message::Header;
    use veil_proto::session::HEADER_LEN;
    use veil_proto::tunnel::{Inbound, Outbound};

    #[test]
    fn what_the_initiator_seals_the_responder_opens() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let Pair { mut initiator, mut responder, responder_header } = Pair::new(suite);
            let mut datagram = [3; 100];
            for expected in 0..3 {
                initiator.sealer.seal(&mut datagram).unwrap();
                responder_header.mask(&mut datagram);
                let header = Header::parse(&datagram).unwrap();
                assert_eq!((header.index, header.counter), (responder.rotator.index(), expected));
                assert_eq!(responder.opener.open(header.counter, &mut datagram), Ok((68, true)));
                assert_eq!(datagram[HEADER_LEN..][..68], [3; 68]);
            }
        }
    }

    #[test]
    fn ends_shake_hands_again_and_again() {
        let mut ends = Handshaking::new(Suite::ChaCha20Poly1305);
        for _ in 0..3 {
            let (initiator, responder) = ends.shake();
            assert_eq!((initiator.session.rotator.index(), responder.session.rotator.index()), (1, 2));
        }
    }

    #[test]
    fn the_ends_of_a_tunnel_can_be_sent_to_once_the_initiator_has_spoken() {
        let ([mut initiator, mut responder], now) = Handshaking::new(Suite::Aes256Gcm).sessions();
        let (peer, mut datagram) = (PeerId(0), [3; 100]);
        assert_eq!(initiator.begin(peer, now), Outbound::Ready(path()));
        assert!(!matches!(responder.begin(peer, now), Outbound::Ready(_)));
        initiator.seal(peer, &mut datagram, now).unwrap();
        assert!(matches!(responder.open(&mut datagram, &path(), now), Inbound::Data(_)));
        assert_eq!(responder.begin(peer, now), Outbound::Ready(path()));
    }
}
