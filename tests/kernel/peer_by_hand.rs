//! A peer without a daemon: the protocol over one UDP socket, driven by the test, to say what no daemon says yet.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use veil_lab::{Namespace, Node};
use veil_proto::crypto::{KeyPair, NetworkSecret, PrivateKey, Psk, PublicKey, Suites};
use veil_proto::handshake::Identity;
use veil_proto::mux::frame::{self, Frames, Item};
use veil_proto::peer::PeerSettings;
use veil_proto::session::{HEADER_LEN, MIN_DATAGRAM};
use veil_proto::tunnel::{HandshakeOutput, Handshakes, Inbound, Sessions, ToHandshakes};
use veil_proto::{Path, PeerId};
use veil_userspace::host::{SystemEntropy, now};

/// Its only peer.
pub const DAEMON: PeerId = PeerId(0);

/// How long the socket is listened to before timers are looked at.
const LISTEN: Duration = Duration::from_millis(20);

/// The peer.
pub struct PeerByHand {
    pub sessions: Sessions,
    handshakes: Handshakes,
    socket: UdpSocket,
}

impl PeerByHand {
    /// A peer with `node`'s key, listening at `listen` in its namespace, whose peer is the daemon of `other`.
    pub fn new(node: &Node, listen: SocketAddr, other: &Node) -> Result<PeerByHand> {
        let socket = bind(&node.namespace, listen)?;
        let keys = KeyPair::from_private(PrivateKey::from_base64(&node.keys.private)?);
        let settings = [PeerSettings {
            public_key: PublicKey::from_base64(&other.keys.public)?,
            psk: Psk::default(),
            suites: Suites::supported(),
            allowed_ips: Vec::new(),
            keepalive: None,
            has_endpoint: false,
            lease: false,
        }];
        let sessions = Sessions::new(&keys.public, &NetworkSecret::default(), &settings, None);
        let identity = Identity::new(keys, NetworkSecret::default());
        let handshakes = Handshakes::new(identity, &settings, &mut SystemEntropy::new());
        Ok(PeerByHand { sessions, handshakes, socket })
    }

    /// Receives, answers and sends what is owed until `done`.
    pub fn run_until(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let start = Instant::now();
        while !done(self)? {
            ensure!(start.elapsed() < patience, "nothing within {patience:?}");
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        let mut bytes = [0; 2048];
        if let Ok((len, from)) = self.socket.recv_from(&mut bytes) {
            let (path, datagram) = (Path::to(from), &mut bytes[..len]);
            match self.sessions.open(datagram, &path, now()) {
                Inbound::Data(opened) => {
                    let plaintext = &datagram[HEADER_LEN..HEADER_LEN + opened.len];
                    for item in Frames::new(plaintext) {
                        let Item::Frame(found) = item else { continue };
                        let payload = &plaintext[found.payload];
                        let taken = match found.kind {
                            frame::CONTROL => self.sessions.accept_control(opened, payload, now()),
                            frame::ACK => self.sessions.accept_ack(opened, payload, now()),
                            _ => Ok(()),
                        };
                        taken.map_err(|reason| anyhow::anyhow!("refused: {}", reason.name()))?;
                    }
                }
                Inbound::Handshake => {
                    self.handshake(ToHandshakes::Datagram { path, bytes: datagram.to_vec() })?
                }
                Inbound::Dropped(reason) => anyhow::bail!("dropped: {}", reason.name()),
            }
        }
        self.sessions.on_timer(now());
        while let Some(message) = self.sessions.next_message() {
            self.handshake(message)?;
        }
        while let Some(peer) = self.sessions.next_owing() {
            self.send_owed(peer)?;
        }
        while self.sessions.next_flagged().is_some() {}
        Ok(())
    }

    fn handshake(&mut self, message: ToHandshakes) -> Result<()> {
        let (mut out, mut entropy) = (HandshakeOutput::default(), SystemEntropy::new());
        self.handshakes.handle(message, now(), &mut entropy, &mut out);
        while self.handshakes.has_work() {
            self.handshakes.step(now(), &mut entropy, &mut out);
        }
        let to_sessions: VecDeque<_> = std::mem::take(&mut out.to_sessions);
        to_sessions.into_iter().for_each(|message| self.sessions.handle(message));
        for transmit in out.transmits {
            self.socket.send_to(&transmit.bytes, transmit.path.remote())?;
        }
        Ok(())
    }

    fn send_owed(&mut self, peer: PeerId) -> Result<()> {
        let Some(path) = self.sessions.way_to(peer, now()) else { return Ok(()) };
        let mut payload = Vec::new();
        while let Some(kind) = self.sessions.next_control_frame(peer, now(), &mut payload) {
            let mut header = [0; frame::HEADER_LEN];
            frame::write_header(&mut header, kind, 0, payload.len() as u16);
            let mut datagram = vec![0; HEADER_LEN];
            datagram.extend_from_slice(&header);
            datagram.extend_from_slice(&payload);
            datagram.resize(datagram.len() + MIN_DATAGRAM - HEADER_LEN, 0);
            self.sessions.seal(peer, &mut datagram, now())?;
            self.socket.send_to(&datagram, path.remote())?;
        }
        Ok(())
    }
}

fn bind(namespace: &Namespace, listen: SocketAddr) -> Result<UdpSocket> {
    let _inside = namespace.enter()?;
    let socket = UdpSocket::bind(listen).with_context(|| format!("listening at {listen}"))?;
    socket.set_read_timeout(Some(LISTEN))?;
    Ok(socket)
}
