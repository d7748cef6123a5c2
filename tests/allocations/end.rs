//! Two ends of a tunnel, each with the daemon's stages in the order in which its event loop steps them.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::AddAssign;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use veil_proto::allowed_ips::IpNet;
use veil_proto::crypto::{KeyPair, NetworkSecret, Psk, PublicKey, Suites, generate_x25519_keypair};
use veil_proto::handshake::Identity;
use veil_proto::peer::PeerSettings;
use veil_proto::time::MILLISECOND;
use veil_proto::tunnel::{HandshakeOutput, Handshakes, Sessions, ToHandshakes};
use veil_proto::{Now, Tai64n};
use veil_tests::seeded::Seeded;
use veil_userspace::event_loop::process::Process;
use veil_userspace::frame::{Bounded, Inbox, Inner, Opened, Outbox, Sealed, SetName, TwoHomes, WideSet};
use veil_userspace::link::udp::{UdpLink, UdpRx, UdpTx};
use veil_userspace::link::{LinkRx, LinkTx, SendResult};
use veil_userspace::tun::TunCounters;
use veil_userspace::tun::offload::Coalescer;

use crate::counting::{Counts, counted};
use crate::traffic::{Batch, Family, MTU};

/// As many as the event loop moves in one turn.
const BATCH: usize = 64;
/// What is on the loopback interface has arrived long before.
const PATIENCE: Duration = Duration::from_secs(20);

/// One end.
struct End {
    process: Process,
    handshakes: Handshakes,
    entropy: Seeded,
    rx: UdpRx,
    tx: UdpTx,
    /// Where the other end is.
    remote: SocketAddr,
    coalescer: Coalescer,
    tun: TunCounters,
    received: WideSet,
    read: WideSet,
    from_link: Bounded<Sealed>,
    to_tun: Bounded<Opened>,
    from_tun: Bounded<Inner>,
    to_link: Bounded<Sealed>,
    to_handshakes: Bounded<ToHandshakes>,
    output: HandshakeOutput,
}

impl End {
    fn new(own: usize, keys: KeyPair, other: PublicKey, link: (UdpRx, UdpTx), remote: SocketAddr) -> End {
        let (secret, mut entropy) = (NetworkSecret::default(), Seeded::new(10 + own as u64));
        let settings = [PeerSettings {
            public_key: other,
            psk: Psk::default(),
            suites: Suites::supported(),
            allowed_ips: [Family::V4, Family::V6].map(|family| IpNet::host(family.address(1 - own))).into(),
            keepalive: None,
            has_endpoint: true,
            lease: false,
        }];
        let sessions = Sessions::new(&keys.public, &secret, &settings, None);
        let mut coalescer = Coalescer::new();
        coalescer.join(true, true);
        End {
            process: Process::new(sessions, MTU),
            handshakes: Handshakes::new(Identity::new(keys, secret), &settings, &mut entropy),
            entropy,
            rx: link.0,
            tx: link.1,
            remote,
            coalescer,
            tun: TunCounters::default(),
            received: WideSet::new(SetName::LinkReceive, BATCH),
            read: WideSet::new(SetName::TunReceive, BATCH),
            from_link: Bounded::new(BATCH),
            to_tun: Bounded::new(2 * BATCH),
            from_tun: Bounded::new(BATCH),
            to_link: Bounded::new(2 * BATCH),
            to_handshakes: Bounded::new(BATCH),
            output: HandshakeOutput::default(),
        }
    }

    /// Reads a batch from the host and sends it.
    fn outbound(&mut self, batch: &Batch, now: Now) {
        for (vnet_hdr, packet) in &batch.reads {
            let mut frame = self.read.take().expect("as many frames as packets");
            frame.buffer_mut()[..packet.len()].copy_from_slice(packet);
            frame.set_len(packet.len());
            assert!(self.from_tun.push(Inner { frame: frame.into(), vnet_hdr: *vnet_hdr }).is_ok());
        }
        self.process.outbound(&mut self.from_tun, &mut self.read, &mut self.to_link, now);
        self.settle(now);
    }

    /// Receives what waits, and gives the host what is for it; with `plant`, a copy of it.
    fn inbound(&mut self, plant: bool, now: Now) {
        self.rx.receive(&mut self.received, &mut self.from_link, BATCH).expect("sockets that work");
        let (queue, home) = (&mut self.to_handshakes, &mut self.received);
        self.process.inbound(&mut self.from_link, &mut self.to_tun, queue, home, now);
        let mut homes = TwoHomes(&mut self.received, self.process.injected_set());
        self.coalescer.write(&mut self.to_tun, &mut homes, &self.tun, |parts: &[IoSlice<'_>]| {
            if plant {
                std::hint::black_box(parts.iter().flat_map(|part| part.to_vec()).collect::<Vec<u8>>());
            }
            Ok(())
        });
        self.settle(now);
    }

    /// What the event loop does at the end of a turn.
    fn settle(&mut self, now: Now) {
        if self.process.next_deadline().is_some_and(|at| at <= now.mono) {
            self.process.on_timer(now);
        }
        self.shake_hands(now);
        self.process.settle(&mut self.to_link, now);
        let sent = self.tx.send(&mut self.to_link, self.process.transmit_set());
        assert_eq!(sent, SendResult::Drained, "the loopback interface is never full");
    }

    fn shake_hands(&mut self, now: Now) {
        let End { process, handshakes, entropy, output, .. } = self;
        while let Some(message) = self.to_handshakes.pop() {
            handshakes.handle(message, now, entropy, output);
        }
        if handshakes.has_work() {
            handshakes.step(now, entropy, output);
        }
        while let Some(message) = process.next_message() {
            handshakes.handle(message, now, entropy, output);
        }
        while let Some(peer) = output.resolve.pop_front() {
            let addresses = vec![self.remote];
            handshakes.handle(ToHandshakes::Resolved { peer, addresses }, now, entropy, output);
        }
        while let Some(message) = output.to_sessions.pop_front() {
            process.handle(message);
        }
        while let Some(transmit) = output.transmits.pop_front() {
            self.tx
                .send_datagram(&transmit.path, &transmit.bytes, 0)
                .expect("a datagram to the loopback interface");
        }
    }

    /// Packets and super-packets that the host was given so far, and datagrams received and sent.
    fn totals(&self) -> [u64; 4] {
        let (tun, link) = (&self.tun, self.rx.counters());
        let all = [
            &tun.packets_written,
            &tun.super_packets_written,
            &link.datagrams_received,
            &link.datagrams_sent,
        ];
        all.map(|counter| counter.load(Relaxed))
    }
}

/// What became of a batch, or of many.
#[derive(Debug, Default)]
pub struct Transfer {
    /// Packets the other host got, those joined counted one by one.
    pub delivered: u64,
    /// Super-packets it got.
    pub joined: u64,
    /// Datagrams that carried them.
    pub datagrams: u64,
    /// What was asked of the allocator.
    pub sending: Counts,
    pub receiving: Counts,
}

impl AddAssign for Transfer {
    fn add_assign(&mut self, other: Transfer) {
        self.delivered += other.delivered;
        self.joined += other.joined;
        self.datagrams += other.datagrams;
        self.sending += other.sending;
        self.receiving += other.receiving;
    }
}

/// Both ends, with a session.
pub struct Pair {
    ends: [End; 2],
    now: Now,
    /// The hosts copy what they are given: so that somebody allocates.
    pub plant: bool,
}

impl Pair {
    pub fn new() -> Pair {
        let open = || UdpLink::open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 0).expect("a free port");
        let [(rx_a, tx_a, port_a), (rx_b, tx_b, port_b)] = [open(), open()];
        let mut entropy = Seeded::new(1);
        let [a, b] = [(); 2].map(|()| generate_x25519_keypair(&mut entropy));
        let (public_a, public_b) = (a.public, b.public);
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let ends = [
            End::new(0, a, public_b, (rx_a, tx_a), at(port_b)),
            End::new(1, b, public_a, (rx_b, tx_b), at(port_a)),
        ];
        let now = Now { mono: 1, wall: Tai64n::from_unix_nanos(1) };
        let mut pair = Pair { ends, now, plant: false };
        pair.connect();
        pair
    }

    /// A packet each way: the first waits for the handshake.
    fn connect(&mut self) {
        let [there, back] = crate::HOSTS.map(|hosts| Batch::singles(Family::V4, hosts, 1, 84));
        let deadline = Instant::now() + PATIENCE;
        self.ends[0].outbound(&there, self.now);
        while self.ends[1].tun.packets_written.load(Relaxed) == 0 {
            assert!(Instant::now() < deadline, "no session came of the handshake");
            self.ends.iter_mut().for_each(|end| end.inbound(false, self.now));
        }
        assert_eq!(self.transfer(1, &back).delivered, 1);
    }

    /// Tells both ends that their way to each other takes IP packets of `mtu` bytes.
    pub fn narrow_to(&mut self, mtu: u32) {
        for end in &mut self.ends {
            end.process.path_mtu(Ipv4Addr::LOCALHOST.into(), mtu, self.now);
        }
    }

    /// Sends a batch from one host to the other, and waits until all of it has arrived.
    pub fn transfer(&mut self, from: usize, batch: &Batch) -> Transfer {
        self.now.mono += MILLISECOND;
        let (now, plant) = (self.now, self.plant);
        let [sender, receiver] = match &mut self.ends {
            [a, b] if from == 0 => [a, b],
            [a, b] => [b, a],
        };
        let before = receiver.totals();
        let ((), sending) = counted(|| sender.outbound(batch, now));
        let deadline = Instant::now() + PATIENCE;
        let mut receiving = Counts::default();
        while receiver.totals()[2] < sender.totals()[3] {
            assert!(Instant::now() < deadline, "a datagram is lost between two sockets of this process");
            let ((), counts) = counted(|| receiver.inbound(plant, now));
            receiving += counts;
        }
        let after = receiver.totals();
        let [delivered, joined, datagrams] = [0, 1, 2].map(|at| after[at] - before[at]);
        Transfer { delivered, joined, datagrams, sending, receiving }
    }

    /// Every frame is at home.
    pub fn assert_at_rest(&self) {
        for end in &self.ends {
            let own = [&end.received, &end.read];
            assert!(own.into_iter().chain(end.process.sets()).all(WideSet::is_whole));
        }
    }
}
