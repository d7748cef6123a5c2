//! The other end of the child's handshakes: it speaks the protocol over any wire and writes down what every handshake's
//! secrets are.

use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow, bail};
use veil_proto::crypto::{HeaderKey, KeyPair, NetworkSecret, PrivateKey, Psk, PublicKey, Suite, Suites};
use veil_proto::handshake::envelope::EnvelopeKey;
use veil_proto::handshake::message::{
    Header, TYPE_DATA, TYPE_INITIATION, TYPE_RESPONSE, open_initiation, open_response,
};
use veil_proto::handshake::{Attempt, HandshakeInitiator, HandshakeResponder, Identity, Load};
use veil_proto::peer::PeerSettings;
use veil_proto::session::TransportSession;
use veil_proto::{Now, Path, PeerId, Tai64n};
use veil_tests::seeded::Seeded;

use crate::transcript::{Agreed, Begun};

/// Carries datagrams to the child and back.
pub trait Wire {
    fn send(&mut self, datagram: &[u8]) -> Result<()>;
    /// The next one, waiting a while for it.
    fn receive(&mut self) -> Result<Vec<u8>>;
}

/// A static private key, which `KeyPair` does not give back, beside the pair.
pub struct StaticKey {
    pub bytes: [u8; 32],
    pub pair: KeyPair,
}

impl StaticKey {
    /// The key of the n-th draw from `seed`.
    pub fn draw(seed: u64, n: u64) -> Self {
        let bytes = draw(seed, n);
        StaticKey { bytes, pair: KeyPair::from_private(PrivateKey::from_bytes(bytes)) }
    }
}

/// 32 bytes of the n-th draw from `seed`.
pub fn draw(seed: u64, n: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    Seeded::draw(seed, n, &mut bytes);
    bytes
}

/// What both ends are made of.
pub struct Pairing<'a> {
    /// The child's static key and the seed of its entropy.
    pub child: (&'a StaticKey, u64),
    /// The same of this end.
    pub own: (&'a StaticKey, u64),
    pub psk: [u8; 32],
    pub network_secret: Option<[u8; 32]>,
    pub suite: Suite,
}

/// A peer of the child.
pub struct OtherEnd<'a, W> {
    pub wire: W,
    with: Pairing<'a>,
    identity: Identity,
    network_secret: NetworkSecret,
    /// Unmasks what is sent to the child.
    child_header: HeaderKey,
    responder: HandshakeResponder,
    entropy: Seeded,
    /// Moves on with each handshake; only the child's clock counts.
    clock: u64,
}

/// A session with the child.
pub struct Session {
    pub agreed: Agreed,
    ends: Box<TransportSession>,
}

impl<'a, W: Wire> OtherEnd<'a, W> {
    pub fn new(with: Pairing<'a>, wire: W) -> Self {
        let mut entropy = Seeded::new(with.own.1);
        let network_secret =
            with.network_secret.map_or_else(NetworkSecret::default, NetworkSecret::from_bytes);
        let settings = PeerSettings {
            public_key: with.child.0.pair.public,
            psk: Psk::from_bytes(with.psk),
            suites: Suites::only(with.suite),
            allowed_ips: Vec::new(),
            keepalive: None,
            lease: false,
            has_endpoint: false,
        };
        let keys = KeyPair::from_private(PrivateKey::from_bytes(with.own.0.bytes));
        OtherEnd {
            identity: Identity::new(keys, network_secret.clone()),
            child_header: HeaderKey::derive(&with.child.0.pair.public, &network_secret),
            responder: HandshakeResponder::new(&[settings], &mut entropy),
            wire,
            with,
            network_secret,
            entropy,
            clock: 0,
        }
    }

    /// A handshake that this end starts, up to the child's answer. The child's session is unconfirmed.
    pub fn shake_hands(&mut self, name: &str) -> Result<Session> {
        let now = self.now();
        let child = self.child();
        let psk = Psk::from_bytes(self.with.psk);
        let attempt = Attempt {
            peer: PeerId(0),
            remote: &child,
            psk: &psk,
            suites: Suites::only(self.with.suite),
            timestamp: now.wall,
            local_index: self.clock as u32,
            path: nowhere(),
            number: 0,
            cookie: None,
        };
        let (pending, initiation) = HandshakeInitiator::start(&self.identity, attempt, &mut self.entropy)
            .map_err(|reason| anyhow!("{reason:?}"))?;
        self.wire.send(&initiation)?;
        let noise = self.noise_1(&child, &self.child_header, initiation)?;
        let begun = Begun::new(name, &self.with.own.0.pair, self.with.own.1, &child, &noise);

        let mut response = self.receive(TYPE_RESPONSE)?;
        let noise = self.noise_2(&self.public(), response.clone())?;
        let agreed = begun.finish(self.with.child.1, &self.with.psk, self.with.suite, &noise);
        let new = pending.finish(&self.identity, &child, &psk, &mut response, now);
        let new = new.map_err(|(_, reason)| anyhow!("the child's response was refused: {reason:?}"))?;
        Ok(Session { agreed, ends: new.session })
    }

    /// Waits for an initiation of the child's and leaves it unanswered.
    pub fn await_initiation(&mut self, name: &str) -> Result<(Begun, Vec<u8>)> {
        let initiation = self.receive(TYPE_INITIATION)?;
        let envelope = EnvelopeKey::derive(&self.public(), &self.network_secret);
        let opened = open_noise_1(&envelope, &mut initiation.clone())?;
        let (child, seed) = self.with.child;
        Ok((Begun::new(name, &child.pair, seed, &self.public(), &opened), initiation))
    }

    /// Answers it.
    pub fn answer(&mut self, begun: &Begun, mut initiation: Vec<u8>) -> Result<Session> {
        let now = self.now();
        let (identity, entropy) = (&self.identity, &mut self.entropy);
        let opened = self
            .responder
            .open_envelope(identity, &mut initiation, &nowhere(), Load::Light, now, entropy)
            .map_err(|refused| anyhow!("{refused:?}"))?;
        let answer = self
            .responder
            .handle_init(identity, opened, nowhere(), self.clock as u32, now, entropy)
            .map_err(|reason| anyhow!("{reason:?}"))?;
        self.wire.send(&answer.response)?;
        let mut response = answer.response;
        let child = self.child();
        HeaderKey::derive(&child, &self.network_secret).mask(&mut response);
        let noise = self.noise_2(&child, response)?;
        let agreed = begun.finish(self.with.own.1, &self.with.psk, self.with.suite, &noise);
        Ok(Session { agreed, ends: answer.session.session })
    }

    /// Sends a datagram of padding, as long as a packet, in `session`.
    pub fn send_data(&mut self, session: &mut Session) -> Result<()> {
        let mut datagram = vec![0; 1200];
        session.ends.sealer.seal(&mut datagram)?;
        self.wire.send(&datagram)
    }

    /// Waits for a datagram with something in it in `session`. False: one has come in another session.
    pub fn await_data(&mut self, session: &mut Session) -> Result<bool> {
        loop {
            let mut datagram = self.receive(TYPE_DATA)?;
            let header = Header::parse(&datagram).map_err(|reason| anyhow!("{reason:?}"))?;
            if header.index != session.ends.rotator.index() {
                return Ok(false);
            }
            let opened = session.ends.opener.open(header.counter, &mut datagram);
            if opened.map_err(|reason| anyhow!("{reason:?}"))?.0 > 0 {
                return Ok(true);
            }
        }
    }

    /// The child's next datagram of that type, unmasked; others are passed over.
    fn receive(&mut self, kind: u8) -> Result<Vec<u8>> {
        loop {
            let mut datagram = self.wire.receive()?;
            self.identity.header_key.mask(&mut datagram);
            match Header::parse(&datagram) {
                Ok(header) if header.kind == kind => return Ok(datagram),
                Ok(_) => {}
                Err(reason) => bail!("the child sent what cannot be read: {reason:?}"),
            }
        }
    }

    fn noise_1(&self, to: &PublicKey, header: &HeaderKey, mut datagram: Vec<u8>) -> Result<Vec<u8>> {
        header.mask(&mut datagram);
        open_noise_1(&EnvelopeKey::derive(to, &self.network_secret), &mut datagram)
    }

    fn noise_2(&self, to: &PublicKey, mut unmasked: Vec<u8>) -> Result<Vec<u8>> {
        let envelope = EnvelopeKey::derive(to, &self.network_secret);
        open_response(&envelope, &mut unmasked).map(<[u8]>::to_vec).map_err(|reason| anyhow!("{reason:?}"))
    }

    fn child(&self) -> PublicKey {
        self.with.child.0.pair.public
    }

    fn public(&self) -> PublicKey {
        self.identity.keys.public
    }

    fn now(&mut self) -> Now {
        self.clock += 1;
        let mono = self.clock * 1_000_000_000;
        Now { mono, wall: Tai64n::from_unix_nanos(1_700_000_000_000_000_000 + mono) }
    }
}

fn open_noise_1(envelope: &EnvelopeKey, unmasked: &mut [u8]) -> Result<Vec<u8>> {
    let opened = open_initiation(envelope, unmasked).ok().context("the envelope does not open")?;
    Ok(opened.noise.to_vec())
}

/// Where datagrams go is the wire's business.
fn nowhere() -> Path {
    Path::to(SocketAddr::from(([192, 0, 2, 1], 4433)))
}
