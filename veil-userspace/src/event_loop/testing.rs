//! What an event loop is made of, in memory, and the peer at the far end of its link, worked by hand.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use veil_proto::crypto::{
    AeadKey, HeaderKey, KeyPair, NetworkSecret, PrivateKey, Psk, PublicKey, Suite, Suites,
};
use veil_proto::handshake::{Identity, NewSession};
use veil_proto::mux::frame;
use veil_proto::peer::PeerSettings;
use veil_proto::session::{HEADER_LEN, MIN_DATAGRAM, Opener, Role, Sealer, TransportSession};
use veil_proto::tunnel::{
    HandshakeOutput, Handshakes, Inbound, Outbound, Sessions, ToHandshakes, ToSessions,
};
use veil_proto::{Entropy, Path, PeerId};

use super::parts::Parts;
use super::process::Process;
use crate::config::Config;
use crate::control::lease::Leases;
use crate::control::socket::ControlSocket;
use crate::control::state::{StateCounters, StateFile};
use crate::control::status::{Facts, Gauges};
use crate::event_loop::ThreadingMode;
use crate::frame::{Bounded, Inbox, SetName, WideSet};
use crate::host::{SystemEntropy, now};
use crate::link::mem::{MemLink, MemRx, MemTx, pair};
use crate::link::{LinkRx, LinkTx};
use crate::tun::mem::{MemHost, MemTunRx, MemTunTx, tun};

const PEER: PeerId = PeerId(0);
/// Runs that a link in memory holds each way.
pub const LINK_RUNS: usize = 128;

/// The parts of a loop that knows one peer, but not where it is.
pub struct Near {
    pub parts: Option<Parts<MemRx, MemTx, MemTunRx, MemTunTx>>,
    pub host: MemHost,
    /// What is written to the state file.
    pub state: Arc<StateCounters>,
    _folder: tempfile::TempDir,
}

/// That peer.
pub struct Far {
    link: MemLink,
    received: WideSet,
    sessions: Sessions,
    handshakes: Handshakes,
    out: HandshakeOutput,
    hub: SocketAddr,
}

fn keys() -> KeyPair {
    let mut bytes = [0; 32];
    SystemEntropy::new().fill(&mut bytes);
    KeyPair::from_private(PrivateKey::from_bytes(bytes))
}

fn protocol(keys: KeyPair, settings: PeerSettings) -> (Handshakes, Sessions) {
    let (none, settings) = (NetworkSecret::default(), [settings]);
    let sessions = Sessions::new(&keys.public, &none, &settings, None);
    (Handshakes::new(Identity::new(keys, none), &settings, &mut SystemEntropy::new()), sessions)
}

fn settings(public_key: PublicKey, has_endpoint: bool) -> PeerSettings {
    PeerSettings {
        public_key,
        psk: Psk::default(),
        suites: Suites::supported(),
        allowed_ips: vec!["10.8.0.2/32".parse().expect("a network")],
        keepalive: None,
        has_endpoint,
        lease: false,
    }
}

/// Both, joined.
pub fn near_and_far() -> (Near, Far) {
    let [a, b] = ["192.0.2.1:4433", "192.0.2.2:4433"].map(|at| at.parse().expect("an address"));
    let (near, link) = pair(a, b, LINK_RUNS).expect("descriptors");
    let (own, theirs) = (keys(), keys());
    let (own_key, their_key) = (own.public, theirs.public);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (handshakes, sessions) = protocol(own, settings(their_key, false));
    let text = format!(
        "[interface]\naddresses = []\nprivate-key = \"{}\"\n[[peer]]\npublic-key = \"{their_key}\"\nallowed-ips = [\"10.8.0.2/32\"]\n",
        *keys().private.to_base64()
    );
    let path = folder.path().join("veil.toml");
    std::fs::write(&path, text).expect("room on the disk");
    // It holds a key.
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a file of ours");
    let config = Config::load(&path).expect("a right configuration");
    let (tun_rx, tun_tx, host) = tun(16).expect("descriptors");
    let state = StateFile::open(folder.path().join("veil.state"), &[their_key]);
    let gauges = Gauges {
        link: near.tx.shared_counters(),
        tun: tun_rx.shared_counters(),
        handshake_drops: handshakes.drops(),
        handshakes: handshakes.counters(),
        handshakes_out: Arc::default(),
        state: state.counters(),
        added: Default::default(),
        #[cfg(feature = "xdp")]
        xdp: None,
    };
    let facts = (ThreadingMode::Pipeline, String::new());
    let counters = state.counters();
    let parts = Parts {
        link_rx: near.rx,
        link_tx: near.tx,
        tun_rx,
        tun_tx,
        process: Process::new(sessions, config.mtu),
        handshakes,
        endpoints: vec![None],
        leases: Leases::new(&config.name, config.mtu),
        state,
        control: ControlSocket::bind(&folder.path().join("veil.sock")).expect("a socket in a scratch folder"),
        facts: Facts::new(&config, Vec::new(), String::new(), facts, now()),
        gauges,
    };
    let (handshakes, sessions) = protocol(theirs, settings(own_key, true));
    let received = WideSet::new(SetName::LinkReceive, 1);
    let far = Far { link, received, sessions, handshakes, out: HandshakeOutput::default(), hub: a };
    (Near { parts: Some(parts), host, state: counters, _folder: folder }, far)
}

/// A process stage with a session with each of `count` peers, all of which are owed a keepalive.
pub fn talking_to_many(count: u32) -> Process {
    let (secret, now) = (NetworkSecret::default(), now());
    let key = |n: u32| PublicKey(std::array::from_fn(|at| n.to_le_bytes()[at % 4]));
    let peers: Vec<_> =
        (1..=count).map(|n| PeerSettings { allowed_ips: Vec::new(), ..settings(key(n), true) }).collect();
    let mut sessions = Sessions::new(&key(0), &secret, &peers, None);
    for (n, peer) in (0..count).map(|n| (n, PeerId(n))) {
        assert!(matches!(sessions.begin(peer, now), Outbound::Wait));
        let aead = || AeadKey::new(Suite::ChaCha20Poly1305, &[7; 32]);
        let sealer = Sealer::new(aead(), n + 1, HeaderKey::derive(&key(n + 1), &secret));
        let session =
            TransportSession::new(peer, Role::Initiator, now.mono, n + 1, sealer, Opener::new(aead()));
        let (session, path) = (Box::new(session), Path::to(([192, 0, 2, 2], 4433).into()));
        sessions.handle(ToSessions::Ready(NewSession { session, path, number: Some(1) }));
    }
    while sessions.next_message().is_some() {}
    Process::new(sessions, 1416)
}

impl Far {
    /// How many datagrams have come and are still to be looked at.
    pub fn came(&mut self) -> usize {
        let (mut came, mut datagrams) = (Bounded::new(1), 0);
        while self.link.rx.receive(&mut self.received, &mut came, 1).is_ok_and(|received| received.runs > 0) {
            let run = came.pop().expect("a run");
            datagrams += run.datagrams();
            run.frame.home(&mut self.received);
        }
        datagrams
    }

    /// Asks for a session.
    pub fn initiate(&mut self) {
        assert!(matches!(self.sessions.begin(PEER, now()), Outbound::Wait));
        self.settle();
    }

    /// Takes in the answer, and sends the first packet.
    pub fn answered(&mut self) {
        let mut came = Bounded::new(1);
        self.link.rx.receive(&mut self.received, &mut came, 1).expect("a link in memory");
        let mut run = came.pop().expect("an answer");
        assert!(matches!(self.sessions.open(run.frame.bytes_mut(), &run.path, now()), Inbound::Handshake));
        self.tell(ToHandshakes::Datagram { path: run.path, bytes: run.frame.bytes().to_vec() });
        run.frame.home(&mut self.received);
        self.settle();

        let Outbound::Ready(path) = self.sessions.begin(PEER, now()) else { panic!("no session") };
        let mut packet = [0; 20];
        (packet[0], packet[3], packet[8]) = (0x45, 20, 64);
        packet[12..].copy_from_slice(&[10, 8, 0, 2, 10, 8, 0, 1]);
        let (mut datagram, mut header) = (vec![0; HEADER_LEN], [0; frame::HEADER_LEN]);
        frame::write_header(&mut header, frame::IP, 0, packet.len() as u16);
        datagram.extend(header.iter().chain(&packet));
        datagram.resize(datagram.len() + MIN_DATAGRAM - HEADER_LEN, 0);
        self.sessions.seal(PEER, &mut datagram, now()).expect("a session to seal under");
        self.link.tx.send_datagram(&path, &datagram, 0).expect("room in the link");
    }

    fn settle(&mut self) {
        loop {
            if let Some(message) = self.out.to_sessions.pop_front() {
                self.sessions.handle(message);
            } else if let Some(message) = self.sessions.next_message() {
                self.tell(message);
            } else if let Some(peer) = self.out.resolve.pop_front() {
                self.tell(ToHandshakes::Resolved { peer, addresses: vec![self.hub] });
            } else if self.handshakes.has_work() {
                self.handshakes.step(now(), &mut SystemEntropy::new(), &mut self.out);
            } else {
                break;
            }
        }
        while let Some(transmit) = self.out.transmits.pop_front() {
            self.link.tx.send_datagram(&transmit.path, &transmit.bytes, 0).expect("room in the link");
        }
    }

    fn tell(&mut self, message: ToHandshakes) {
        self.handshakes.handle(message, now(), &mut SystemEntropy::new(), &mut self.out);
    }
}
