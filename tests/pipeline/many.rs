//! Start, a thousand sessions, stop: all that the sessions were made of is gone afterwards, which LeakSanitizer sees to.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use veil_proto::PeerId;
use veil_proto::crypto::{KeyPair, NetworkSecret, Psk, PublicKey, Suites, generate_x25519_keypair};
use veil_proto::handshake::Identity;
use veil_proto::mux::frame;
use veil_proto::peer::PeerSettings;
use veil_proto::session::{HEADER_LEN, MIN_DATAGRAM};
use veil_proto::tunnel::{HandshakeOutput, Handshakes, Inbound, Outbound, Sessions, ToHandshakes};
use veil_userspace::event_loop::ThreadingMode::{self, Pipeline, SingleThreaded};
use veil_userspace::frame::{Bounded, Inbox, SetName, WideSet};
use veil_userspace::host::{SystemEntropy, now};
use veil_userspace::link::mem::MemLink;
use veil_userspace::link::{LinkRx, LinkTx};

use crate::PATIENCE;
use crate::side::{Other, alone};

const SESSIONS: usize = 1000;
/// Between two handshakes: many at once are load, and then one address, which they all share here, gets 20 in a second.
const PACE: Duration = Duration::from_micros(2500);

const HUB: PeerId = PeerId(0);
const HUB_HOST: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

/// A peer of the hub's, worked by hand.
struct Spoke {
    host: Ipv4Addr,
    sessions: Sessions,
    handshakes: Handshakes,
    out: HandshakeOutput,
    entropy: SystemEntropy,
}

impl Spoke {
    fn new(host: Ipv4Addr, keys: KeyPair, hub: PublicKey) -> Self {
        let settings = [PeerSettings {
            public_key: hub,
            psk: Psk::default(),
            suites: Suites::supported(),
            allowed_ips: Vec::new(),
            keepalive: None,
            has_endpoint: true,
            lease: false,
        }];
        let (none, mut entropy) = (NetworkSecret::default(), SystemEntropy::new());
        let sessions = Sessions::new(&keys.public, &none, &settings, None);
        let handshakes = Handshakes::new(Identity::new(keys, none), &settings, &mut entropy);
        Spoke { host, sessions, handshakes, out: HandshakeOutput::default(), entropy }
    }

    /// Sends a packet to the host behind the hub. False: there is no session yet.
    fn send(&mut self, link: &mut MemLink) -> bool {
        let Outbound::Ready(path) = self.sessions.begin(HUB, now()) else { return false };
        let packet = packet(self.host);
        let mut datagram = vec![0; HEADER_LEN];
        let mut header = [0; frame::HEADER_LEN];
        frame::write_header(&mut header, frame::IP, 0, packet.len() as u16);
        datagram.extend(header.iter().chain(&packet));
        datagram.resize(datagram.len() + MIN_DATAGRAM - HEADER_LEN, 0);
        self.sessions.seal(HUB, &mut datagram, now()).expect("a session to seal under");
        link.tx.send_datagram(&path, &datagram, 0).expect("room in the link");
        true
    }

    /// Takes in what has come by the link, and sends what that leads to.
    fn turn(&mut self, link: &mut MemLink, set: &mut WideSet) {
        let mut came = Bounded::new(1);
        link.rx.receive(set, &mut came, 1).expect("a link in memory");
        while let Some(mut run) = came.pop() {
            if let Inbound::Handshake = self.sessions.open(run.frame.bytes_mut(), &run.path, now()) {
                let bytes = run.frame.bytes().to_vec();
                self.tell(ToHandshakes::Datagram { path: run.path, bytes });
            }
            run.frame.home(set);
        }
        loop {
            if let Some(message) = self.out.to_sessions.pop_front() {
                self.sessions.handle(message);
            } else if let Some(message) = self.sessions.next_message() {
                self.tell(message);
            } else if let Some(peer) = self.out.resolve.pop_front() {
                let addresses = vec!["192.0.2.1:4433".parse().expect("an address")];
                self.tell(ToHandshakes::Resolved { peer, addresses });
            } else if self.handshakes.has_work() {
                self.handshakes.step(now(), &mut self.entropy, &mut self.out);
            } else {
                break;
            }
        }
        while let Some(transmit) = self.out.transmits.pop_front() {
            link.tx.send_datagram(&transmit.path, &transmit.bytes, 0).expect("room in the link");
        }
    }

    fn tell(&mut self, message: ToHandshakes) {
        self.handshakes.handle(message, now(), &mut self.entropy, &mut self.out);
    }
}

/// The host behind spoke `n`.
fn host(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 9, 0, 0)) + n as u32)
}

/// The smallest IPv4 packet to the host behind the hub.
fn packet(from: Ipv4Addr) -> [u8; 20] {
    let mut packet = [0; 20];
    (packet[0], packet[3], packet[8]) = (0x45, 20, 64);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..].copy_from_slice(&HUB_HOST.octets());
    packet
}

fn a_thousand_sessions(mode: ThreadingMode) {
    let mut entropy = SystemEntropy::new();
    let hub = generate_x25519_keypair(&mut entropy);
    let (hub_key, keys) = (hub.public, (0..SESSIONS).map(|_| generate_x25519_keypair(&mut entropy)));
    let keys: Vec<_> = keys.collect();
    let others: Vec<_> = (keys.iter().enumerate())
        .map(|(n, keys)| Other { public_key: keys.public, host: host(n), endpoint: None })
        .collect();
    let (side, mut link) = alone(hub, &others, mode, 64);
    let mut set = WideSet::new(SetName::LinkReceive, 1);
    for (n, keys) in keys.into_iter().enumerate() {
        let (mut spoke, start) = (Spoke::new(host(n), keys, hub_key), Instant::now());
        while !spoke.send(&mut link) {
            assert!(start.elapsed() < PATIENCE, "no session for spoke {n}");
            spoke.turn(&mut link, &mut set);
            thread::sleep(PACE);
        }
        // The hub has its session once the packet is there.
        let arrived = loop {
            assert!(start.elapsed() < PATIENCE, "the packet of spoke {n} is lost");
            match side.host.receive() {
                Some((_, packet)) => break packet,
                None => thread::yield_now(),
            }
        };
        assert_eq!(arrived, packet(host(n)));
    }
    let ended = side.stop();
    ended.assert_at_rest();
    let (counters, sessions) = (&ended.shown.counters, SESSIONS as u64);
    // One more for each that was not answered within the five seconds after which it is tried again.
    let accepted = sessions..=sessions + sessions / 10;
    assert!(accepted.contains(&counters["initiations_accepted"]), "{counters:#?}");
}

#[test]
fn a_thousand_sessions_come_and_go_with_a_single_thread() {
    a_thousand_sessions(SingleThreaded);
}

#[test]
fn a_thousand_sessions_come_and_go_with_a_pipeline() {
    a_thousand_sessions(Pipeline);
}
