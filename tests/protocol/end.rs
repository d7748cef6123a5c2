//! One end of the tunnel: what an event loop does around `Handshakes` and `Sessions`, without the I/O.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

use veil_proto::allowed_ips::IpNet;
use veil_proto::crypto::{KeyPair, NetworkSecret, PrivateKey, Psk, PublicKey, Suites};
use veil_proto::handshake::Identity;
use veil_proto::mux::Config;
use veil_proto::mux::frame::{self, Frames, Item};
use veil_proto::peer::PeerSettings;
use veil_proto::session::{HEADER_LEN, MIN_DATAGRAM};
use veil_proto::tunnel::{
    HandshakeOutput, Handshakes, Inbound, Opened, Outbound, PeerEvent, Sessions, ToHandshakes,
};
use veil_proto::{DropReason, Entropy, Now, Path, PeerId};

/// Packets that wait for a session, per peer.
const WAITING: usize = 64;
/// An inner packet: IPv4 header and the number that tells it from all others.
pub const PACKET_LEN: usize = 28;

/// A splitmix64 generator: the same seed, the same run.
pub struct Rng(pub u64);

impl Rng {
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n.max(1)
    }

    /// True so many times of 100.
    pub fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }
}

impl Entropy for Rng {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The key pair of end `n`.
pub fn keys(n: usize) -> KeyPair {
    let mut bytes = [0; 32];
    Rng(7000 + n as u64).fill(&mut bytes);
    KeyPair::from_private(PrivateKey::from_bytes(bytes))
}

/// The inner address of end `n`.
pub fn inner(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 8, 0, n as u8 + 1)
}

/// One peer entry of an end.
#[derive(Clone)]
pub struct PeerSpec {
    /// The end it stands for.
    pub end: usize,
    pub public_key: PublicKey,
    pub endpoint: Option<SocketAddr>,
    pub keepalive: Option<u64>,
    /// It may give this end a lease.
    pub lease: bool,
    /// Its allowed IPs are all of 10.8.0.0/24, beside its own address.
    pub wide: bool,
}

/// What an end is made from, and made anew from when it restarts.
#[derive(Clone)]
pub struct Spec {
    pub number: usize,
    pub peers: Vec<PeerSpec>,
}

impl Spec {
    fn settings(&self) -> Vec<PeerSettings> {
        let settings = |peer: &PeerSpec| PeerSettings {
            public_key: peer.public_key,
            psk: Psk::default(),
            suites: Suites::supported(),
            allowed_ips: std::iter::once(IpNet::host(IpAddr::V4(inner(peer.end))))
                .chain(peer.wide.then(|| IpNet { addr: inner(0).into(), prefix: 24 }.network()))
                .collect(),
            keepalive: peer.keepalive,
            has_endpoint: peer.endpoint.is_some(),
            lease: peer.lease,
        };
        self.peers.iter().map(settings).collect()
    }
}

/// An IPv4 packet that carries `id`.
pub fn packet(from: Ipv4Addr, to: Ipv4Addr, id: u64) -> Vec<u8> {
    let mut packet = vec![0; PACKET_LEN];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(PACKET_LEN as u16).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 253]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..].copy_from_slice(&id.to_le_bytes());
    packet
}

/// A datagram to be sealed, of frames given as kind, flags and payload.
pub fn datagram(frames: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    for &(kind, flags, payload) in frames {
        let mut header = [0; frame::HEADER_LEN];
        frame::write_header(&mut header, kind, flags, payload.len() as u16);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(payload);
    }
    bytes.resize(bytes.len() + MIN_DATAGRAM - HEADER_LEN, 0);
    bytes
}

/// One end.
pub struct End {
    pub spec: Spec,
    pub sessions: Sessions,
    pub handshakes: Handshakes,
    pub entropy: Rng,
    /// How often it was started; what was under way inside an earlier life is lost.
    pub life: u32,
    pub waiting: Vec<VecDeque<Vec<u8>>>,
    /// Datagrams for the wire.
    pub outbox: VecDeque<(Path, Vec<u8>)>,
    /// Packets delivered to this host: who sent them, their bytes.
    pub inbox: VecDeque<(PeerId, Vec<u8>)>,
    pub events: Vec<PeerEvent>,
    pub refused: Vec<DropReason>,
    /// Packets lost before they were sealed: pushed out of the queue, given up, or with nowhere to go.
    pub unsent: u64,
    pub keepalives_sent: u64,
    /// What this end gives its first peer, and what that one has given it, in this life.
    pub offered: Option<Config>,
    pub leased: Option<Config>,
    /// Datagrams above this size are lost on their way out; nobody says so.
    pub widest: Option<usize>,
    /// Datagrams that reached this end in this life.
    pub received: u64,
}

impl End {
    pub fn new(spec: Spec, seed: u64, life: u32) -> Self {
        let mut entropy = Rng(seed ^ (u64::from(life) << 32) ^ ((spec.number as u64 + 1) << 48));
        let (settings, keys) = (spec.settings(), keys(spec.number));
        let sessions = Sessions::new(&keys.public, &NetworkSecret::default(), &settings, None);
        let identity = Identity::new(keys, NetworkSecret::default());
        let handshakes = Handshakes::new(identity, &settings, &mut entropy);
        End {
            waiting: vec![VecDeque::new(); spec.peers.len()],
            spec,
            sessions,
            handshakes,
            entropy,
            life,
            outbox: VecDeque::new(),
            inbox: VecDeque::new(),
            events: Vec::new(),
            refused: Vec::new(),
            unsent: 0,
            keepalives_sent: 0,
            offered: None,
            leased: None,
            widest: None,
            received: 0,
        }
    }

    /// Sends a packet of the host, or keeps it until there is a session.
    pub fn send_packet(&mut self, packet: Vec<u8>, now: Now) {
        let peer = self.sessions.route(&packet).expect("the packet is for a peer");
        match self.sessions.begin(peer, now) {
            Outbound::Ready(path) => self.seal(peer, path, datagram(&[(frame::IP, 0, &packet)]), now),
            Outbound::Wait => {
                let waiting = &mut self.waiting[peer.index()];
                waiting.push_back(packet);
                if waiting.len() > WAITING {
                    waiting.pop_front();
                    self.unsent += 1;
                }
            }
            Outbound::NoEndpoint => self.unsent += 1,
        }
    }

    /// Seals and sends a datagram; there must be a session for it.
    pub fn seal(&mut self, peer: PeerId, path: Path, mut bytes: Vec<u8>, now: Now) {
        self.sessions.seal(peer, &mut bytes, now).expect("a session to seal under");
        if self.widest.is_none_or(|widest| bytes.len() <= widest) {
            self.outbox.push_back((path, bytes));
        }
    }

    /// Does what the sessions want done: waiting packets first, then the keepalives still owed.
    pub fn settle(&mut self, now: Now) {
        while let Some(event) = self.sessions.next_event() {
            self.events.push(event);
            match event {
                PeerEvent::Usable(peer) => {
                    for packet in std::mem::take(&mut self.waiting[peer.index()]) {
                        self.send_packet(packet, now);
                    }
                }
                PeerEvent::GaveUp(peer) => {
                    self.unsent += std::mem::take(&mut self.waiting[peer.index()]).len() as u64;
                }
                PeerEvent::Closed(..) => {}
                PeerEvent::Leased(peer) => {
                    self.leased = self.sessions.take_lease(peer).or(self.leased.take())
                }
            }
        }
        while let Some(peer) = self.sessions.next_owing() {
            self.send_owed(peer, now);
        }
        while let Some(peer) = self.sessions.next_flagged() {
            if let Outbound::Ready(path) = self.sessions.begin(peer, now) {
                self.keepalives_sent += 1;
                self.seal(peer, path, datagram(&[]), now);
            }
        }
    }

    /// Sends the control frames, together, and the probes, each alone, that a peer is owed.
    fn send_owed(&mut self, peer: PeerId, now: Now) {
        let Some(path) = self.sessions.way_to(peer, now) else { return };
        let (mut frames, mut payload) = (Vec::new(), Vec::new());
        while let Some(kind) = self.sessions.next_control_frame(peer, now, &mut payload) {
            frames.push((kind, payload.clone()));
        }
        if !frames.is_empty() {
            let frames: Vec<_> = frames.iter().map(|(kind, payload)| (*kind, 0, &payload[..])).collect();
            self.seal(peer, path, datagram(&frames), now);
        }
        while let Some(probe) = self.sessions.next_probe(peer, now) {
            let mut bytes = datagram(&[(frame::PROBE, 0, &probe.payload)]);
            bytes.resize(bytes.len().max(probe.size), 0);
            self.seal(peer, path, bytes, now);
        }
    }

    /// Takes a datagram off the wire. A handshake one is returned, unmasked, as a message for the handshakes.
    pub fn receive(&mut self, mut bytes: Vec<u8>, path: Path, now: Now) -> Option<ToHandshakes> {
        self.received += 1;
        match self.sessions.open(&mut bytes, &path, now) {
            Inbound::Data(opened) => {
                self.take_frames(opened, &mut bytes, now);
                None
            }
            Inbound::Handshake => Some(ToHandshakes::Datagram { path, bytes }),
            Inbound::Dropped(_) => None,
        }
    }

    fn take_frames(&mut self, opened: Opened, bytes: &mut [u8], now: Now) {
        let plaintext = &mut bytes[HEADER_LEN..HEADER_LEN + opened.len];
        let found: Vec<Item> = Frames::new(plaintext).collect();
        for item in found {
            let accepted = match item {
                Item::Frame(frame) if frame.kind == frame::IP => {
                    let packet = &mut plaintext[frame.payload];
                    self.sessions.accept_ip(opened.peer, frame.flags, packet, 0).map(|_| packet.to_vec())
                }
                Item::Frame(frame) if frame.kind == frame::FRAGMENT => {
                    match self.accept_piece(opened, frame.flags, &plaintext[frame.payload], now) {
                        Ok(None) => continue,
                        Ok(Some(packet)) => Ok(packet),
                        Err(reason) => Err(reason),
                    }
                }
                Item::Frame(frame) => {
                    let payload = &plaintext[frame.payload];
                    let taken = match frame.kind {
                        frame::CONTROL => self.sessions.accept_control(opened, payload, now),
                        frame::ACK => self.sessions.accept_ack(opened, payload, now),
                        frame::PROBE => self.sessions.accept_probe(opened, payload, now),
                        _ => Ok(()), // Skipped.
                    };
                    self.refused.extend(taken.err());
                    continue;
                }
                Item::Refused { reason, .. } => Err(reason),
            };
            match accepted {
                Ok(packet) => {
                    self.sessions.carried(opened, now);
                    self.inbox.push_back((opened.peer, packet));
                }
                Err(reason) => self.refused.push(reason),
            }
        }
    }

    /// Takes a piece in; the packet it completes, if any, is checked like every other.
    fn accept_piece(
        &mut self,
        opened: Opened,
        flags: u8,
        piece: &[u8],
        now: Now,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let Some(mut whole) = self.sessions.accept_fragment(opened.session, flags, 0, piece, now)? else {
            return Ok(None);
        };
        self.sessions.accept_ip(opened.peer, whole.flags, &mut whole.bytes, 0)?;
        Ok(Some(whole.bytes))
    }

    /// Runs the handshakes' waiting work to its end.
    pub fn step(&mut self, now: Now, out: &mut HandshakeOutput) {
        while self.handshakes.has_work() {
            self.handshakes.step(now, &mut self.entropy, out);
        }
    }

    pub fn endpoint(&self, peer: PeerId) -> Option<SocketAddr> {
        self.sessions.status(peer).and_then(|status| status.endpoint).map(|path| path.remote())
    }

    pub fn usable(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, PeerEvent::Usable(_))).count()
    }

    pub fn gave_up(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, PeerEvent::GaveUp(_))).count()
    }

    /// How often the sessions refused a datagram for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.sessions.counters().drops.of(reason)
    }

    pub fn opened(&self) -> u64 {
        self.sessions.counters().opened.load(Relaxed)
    }

    pub fn handshake_datagrams(&self) -> u64 {
        self.sessions.counters().handshake.load(Relaxed)
    }
}
