//! The responder under a flood, and the initiator that has to get through it: `protocol.md`, 'Order at the responder' and
//! cookies. Whole tunnel halves in virtual time; the flood's sources are spoofed, so no reply ever reaches it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

use veil_proto::crypto::{HeaderKey, KeyPair, NetworkSecret, PrivateKey, Psk, PublicKey, Suites};
use veil_proto::handshake::envelope::{CookieKey, EnvelopeKey};
use veil_proto::handshake::message::{COOKIE_LEN, envelope_tag, open_cookie_reply, seal_initiation};
use veil_proto::handshake::{HandshakeResponder, Identity};
use veil_proto::peer::PeerSettings;
use veil_proto::time::{MILLISECOND, SECOND};
use veil_proto::tunnel::{
    HandshakeOutput, Handshakes, Inbound, Outbound, Sessions, ToHandshakes, ToSessions, Transmit,
};
use veil_proto::{DropReason, Entropy, Now, Path, PeerId, Tai64n};

const PEER: PeerId = PeerId(0);
const START: u64 = 1000 * SECOND;
/// Noise message 1 of an initiation without TLVs is so long.
const NOISE_1: usize = 113;

struct Seeded(u64);

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

fn at(mono: u64) -> Now {
    Now { mono, wall: Tai64n::from_unix_nanos(1_700_000_000 * SECOND + mono) }
}

fn keys(seed: u8) -> KeyPair {
    KeyPair::from_private(PrivateKey::from_bytes([seed; 32]))
}

fn path(text: &str) -> Path {
    Path::to(text.parse().unwrap())
}

fn server_path() -> Path {
    path("198.51.100.1:4433")
}

fn client_path() -> Path {
    path("203.0.113.7:50000")
}

fn settings(public_key: PublicKey, has_endpoint: bool) -> PeerSettings {
    PeerSettings {
        public_key,
        psk: Psk::default(),
        suites: Suites::supported(),
        allowed_ips: Vec::new(),
        keepalive: None,
        lease: false,
        has_endpoint,
    }
}

/// One end of a tunnel with one peer.
struct End {
    handshakes: Handshakes,
    sessions: Sessions,
    out: HandshakeOutput,
    entropy: Seeded,
    received: u64,
}

impl End {
    fn new(own: u8, peer: u8, has_endpoint: bool) -> End {
        let (keys, none) = (keys(own), NetworkSecret::default());
        let settings = [settings(self::keys(peer).public, has_endpoint)];
        let mut entropy = Seeded(own.into());
        let sessions = Sessions::new(&keys.public, &none, &settings, None);
        let handshakes = Handshakes::new(Identity::new(keys, none), &settings, &mut entropy);
        End { handshakes, sessions, out: HandshakeOutput::default(), entropy, received: 0 }
    }

    fn client() -> End {
        let mut end = End::new(1, 2, true);
        let addresses = vec![server_path().remote(), path("198.51.100.2:4433").remote()];
        let resolved = ToHandshakes::Resolved { peer: PEER, addresses };
        end.handshakes.handle(resolved, at(START), &mut end.entropy, &mut end.out);
        end
    }

    fn server() -> End {
        End::new(2, 1, false)
    }

    fn receive(&mut self, from: &Path, bytes: &[u8], now: u64) {
        let mut bytes = bytes.to_vec();
        self.received += 1;
        if let Inbound::Handshake = self.sessions.open(&mut bytes, from, at(now)) {
            let datagram = ToHandshakes::Datagram { path: *from, bytes };
            self.handshakes.handle(datagram, at(now), &mut self.entropy, &mut self.out);
        }
        let counters = self.sessions.counters();
        let sum = counters.opened.load(Relaxed) + counters.handshake.load(Relaxed) + counters.drops.total();
        assert_eq!(self.received, sum, "datagrams received = opened + handshake + dropped");
    }

    /// Timers and messages, at most `steps` of the handshakes between them; what is to be sent.
    fn turn(&mut self, steps: usize, now: u64) -> Vec<Transmit> {
        let time = at(now);
        self.sessions.on_timer(time);
        self.handshakes.on_timer(time, &mut self.out);
        self.carry_messages(time);
        for _ in 0..steps {
            self.handshakes.step(time, &mut self.entropy, &mut self.out);
        }
        self.carry_messages(time);
        let mut sent: Vec<_> = self.out.transmits.drain(..).collect();
        while let Some(peer) = self.sessions.next_flagged() {
            let Outbound::Ready(path) = self.sessions.begin(peer, time) else { continue };
            let mut bytes = vec![0; 32];
            self.sessions.seal(peer, &mut bytes, time).unwrap();
            sent.push(Transmit { path, bytes });
        }
        sent
    }

    fn carry_messages(&mut self, time: Now) {
        loop {
            let mut any = false;
            while let Some(message) = self.sessions.next_message() {
                self.handshakes.handle(message, time, &mut self.entropy, &mut self.out);
                any = true;
            }
            while let Some(message) = self.out.to_sessions.pop_front() {
                self.sessions.handle(message);
                any = true;
            }
            if !any {
                return;
            }
        }
    }

    fn begin(&mut self, now: u64) -> Outbound {
        self.sessions.begin(PEER, at(now))
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.handshakes.drops().of(reason)
    }

    fn is_up(&mut self) -> bool {
        self.sessions.current_indices(PEER).is_some()
    }
}

/// Sources that are not who they say.
struct Flood {
    envelope: EnvelopeKey,
    header: HeaderKey,
    entropy: Seeded,
    sent: u32,
}

impl Flood {
    fn new() -> Flood {
        let (server, none) = (keys(2).public, NetworkSecret::default());
        let (envelope, header) = (EnvelopeKey::derive(&server, &none), HeaderKey::derive(&server, &none));
        Flood { envelope, header, entropy: Seeded(77), sent: 0 }
    }

    /// From 10 000 sources in turn.
    fn source(&mut self) -> Path {
        self.sent += 1;
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 2, 0)) + self.sent % 10_000);
        Path::to(SocketAddr::new(IpAddr::V4(ip), 1000))
    }

    /// By someone who knows the server's public key: everything but Noise is in order.
    fn knowing(&mut self, cookie: Option<&[u8; COOKIE_LEN]>) -> Vec<u8> {
        let mut noise = [0; NOISE_1];
        self.entropy.fill(&mut noise);
        let sender = self.entropy.next_u32();
        seal_initiation(&self.envelope, &self.header, sender, &noise, cookie, &mut self.entropy)
    }

    fn ignorant(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 179 + self.entropy.next_u32() as usize % 1000];
        self.entropy.fill(&mut bytes);
        bytes
    }

    fn load(&mut self, server: &mut End, now: u64) {
        for _ in 0..200 {
            let (source, bytes) = (self.source(), self.knowing(None));
            server.receive(&source, &bytes, now);
        }
        server.turn(300, now);
        assert!(!server.handshakes.has_work());
    }
}

/// 20 000 datagrams a second; after a second of them the client wants a session. How long it took, in milliseconds.
fn handshake_in_a_flood(source: fn(&mut Flood) -> Path, datagram: fn(&mut Flood) -> Vec<u8>) -> (u64, End) {
    let (mut client, mut server, mut flood) = (End::client(), End::server(), Flood::new());
    const DELAY: u64 = 20;
    let mut wire: Vec<(u64, bool, Vec<u8>)> = Vec::new();
    for tick in 0..3000 {
        let now = START + tick * MILLISECOND;
        if tick == 1000 {
            assert_eq!(client.begin(now), Outbound::Wait);
        }
        for _ in 0..20 {
            let (source, bytes) = (source(&mut flood), datagram(&mut flood));
            server.receive(&source, &bytes, now);
        }
        for (due, to_server, bytes) in std::mem::take(&mut wire) {
            match (due > tick, to_server) {
                (true, _) => wire.push((due, to_server, bytes)),
                (_, true) => server.receive(&client_path(), &bytes, now),
                (_, false) => client.receive(&server_path(), &bytes, now),
            }
        }
        wire.extend(client.turn(1, now).into_iter().map(|sent| (tick + DELAY, true, sent.bytes)));
        // Two steps in a millisecond: at most 40 % of a core is spent on curve work.
        let sent = server.turn(2, now);
        assert!(sent.len() <= 2 * 64 + 2, "{} datagrams in one turn", sent.len());
        let to_client = sent.into_iter().filter(|sent| sent.path == client_path());
        wire.extend(to_client.map(|sent| (tick + DELAY, false, sent.bytes)));
        if tick > 1000 && client.is_up() && server.is_up() {
            return (tick - 1000, server);
        }
    }
    panic!("no session within 2 s: {:?}", server.handshakes.drops().nonzero().collect::<Vec<_>>());
}

#[test]
fn a_flood_that_knows_our_public_key_does_not_keep_a_known_peer_out() {
    let (took, server) = handshake_in_a_flood(Flood::source, |flood| flood.knowing(None));
    println!("{took} ms");
    assert!(took < 2000);
    assert!(server.dropped(DropReason::NoCookie) > 15_000);
    let curve_work = server.dropped(DropReason::BadNoise) + server.dropped(DropReason::LowOrderKey);
    assert!(curve_work < 300, "{curve_work} of the flood led to curve work");
    assert_eq!(server.dropped(DropReason::HandshakeQueueFull), 0);
}

#[test]
fn a_flood_in_its_own_name_does_not_keep_a_known_peer_out() {
    let (took, server) = handshake_in_a_flood(|_| client_path(), |flood| flood.knowing(None));
    assert!(took < 2000, "{took} ms");
    assert!(server.dropped(DropReason::NoCookie) > 15_000);
}

#[test]
fn a_flood_that_does_not_know_our_public_key_reaches_no_gate() {
    let (took, server) = handshake_in_a_flood(Flood::source, Flood::ignorant);
    assert!(took < 200, "{took} ms");
    assert_eq!(server.handshakes.drops().total(), 0);
    assert_eq!(server.handshakes.counters().under_load.load(Relaxed), 0);
}

#[test]
fn no_reply_is_longer_than_what_it_answers_and_goes_anywhere_else() {
    let (mut server, mut flood) = (End::server(), Flood::new());
    flood.load(&mut server, START);
    let mut replies = 0;
    for n in 0..3000 {
        let now = START + n * 50_000;
        let (source, bytes) = (flood.source(), flood.knowing(None));
        server.receive(&source, &bytes, now);
        for reply in server.turn(1, now) {
            replies += 1;
            assert!(reply.bytes.len() <= bytes.len(), "{} after {}", reply.bytes.len(), bytes.len());
            assert_eq!(reply.path, source);
        }
    }
    assert!(replies > 1000, "{replies}");
}

#[test]
fn a_replayed_initiation_is_soon_answered_no_more_and_takes_nothing_from_another() {
    let (mut server, mut flood) = (End::server(), Flood::new());
    flood.load(&mut server, START);
    let ask = |server: &mut End, source: &str, bytes: &[u8]| {
        (0..40).for_each(|_| server.receive(&path(source), bytes, START));
        server.turn(40, START).len()
    };
    let (one, another) = (flood.knowing(None), flood.knowing(None));
    assert_eq!(ask(&mut server, "203.0.113.1:1", &one), 5);
    assert_eq!(ask(&mut server, "203.0.113.1:2", &one), 0, "another port is no other source");
    assert_eq!(ask(&mut server, "203.0.113.2:1", &one), 5);
    assert_eq!(ask(&mut server, "203.0.113.1:1", &another), 5);
}

#[test]
fn a_source_that_has_a_cookie_is_held_to_its_rate() {
    let (mut server, mut flood, source) = (End::server(), Flood::new(), path("203.0.113.1:1"));
    flood.load(&mut server, START);
    let bytes = flood.knowing(None);
    server.receive(&source, &bytes, START);
    let mut reply = server.turn(1, START).remove(0).bytes;
    flood.header.mask(&mut reply);
    let key = CookieKey::derive(&keys(2).public, &NetworkSecret::default());
    let cookie = open_cookie_reply(&key, &envelope_tag(&bytes).unwrap(), &mut reply).unwrap();
    let worked_on = server.dropped(DropReason::BadNoise);
    (0..30).for_each(|_| server.receive(&source, &flood.knowing(Some(&cookie)), START));
    // Another source has nothing of this cookie.
    server.receive(&path("203.0.113.1:2"), &flood.knowing(Some(&cookie)), START);
    let no_cookie = server.dropped(DropReason::NoCookie);
    server.turn(40, START);
    let worked_on = server.dropped(DropReason::BadNoise) - worked_on;
    assert_eq!((worked_on, server.dropped(DropReason::RateLimited)), (5, 25));
    assert_eq!(server.dropped(DropReason::NoCookie) - no_cookie, 1);
}

#[test]
fn the_queue_of_initiations_is_bounded_in_number_and_bytes() {
    let (mut server, mut flood) = (End::server(), Flood::new());
    for _ in 0..20_000 {
        let (source, bytes) = (flood.source(), flood.knowing(None));
        server.receive(&source, &bytes, START);
    }
    assert_eq!(server.dropped(DropReason::HandshakeQueueFull), 20_000 - 1024);
    let mut long = flood.knowing(None);
    flood.header.mask(&mut long);
    long.resize(1233, 0);
    flood.header.mask(&mut long);
    let dropped = server.sessions.counters().drops.of(DropReason::BadEnvelope);
    server.receive(&client_path(), &long, START);
    assert_eq!(server.sessions.counters().drops.of(DropReason::BadEnvelope), dropped + 1);
}

#[test]
fn responses_to_nothing_take_no_place_in_the_queue() {
    let (mut client, header) = (End::client(), HeaderKey::derive(&keys(1).public, &NetworkSecret::default()));
    for n in 1..200u32 {
        let mut bytes = vec![9; 120];
        bytes[..16].fill(0);
        bytes[0] = 2;
        bytes[4..8].copy_from_slice(&n.to_le_bytes());
        header.mask(&mut bytes);
        client.receive(&server_path(), &bytes, START);
    }
    assert!(!client.handshakes.has_work());
    assert_eq!(client.dropped(DropReason::NotPending), 199);
}

/// A client whose initiation met load, and the server's cookie reply to it.
fn refused_client() -> (End, End, Vec<u8>) {
    let (mut client, mut server) = (End::client(), End::server());
    Flood::new().load(&mut server, START);
    client.begin(START);
    let initiation = client.turn(1, START).remove(0);
    assert_eq!(initiation.path, server_path());
    server.receive(&client_path(), &initiation.bytes, START);
    let reply = server.turn(1, START).remove(0);
    assert_eq!(reply.path, client_path());
    (client, server, reply.bytes)
}

#[test]
fn a_cookie_brings_the_retry_forward_to_the_same_address_and_it_passes() {
    let (mut client, mut server, reply) = refused_client();
    let now = START + 10 * MILLISECOND;
    client.receive(&server_path(), &reply, now);
    assert_eq!(client.handshakes.next_deadline(), Some(now));
    let retry = client.turn(1, now).remove(0);
    assert_eq!(retry.path, server_path());
    server.receive(&client_path(), &retry.bytes, now);
    let response = server.turn(1, now).remove(0);
    client.receive(&server_path(), &response.bytes, now);
    let keepalive = client.turn(1, now).remove(0);
    server.receive(&client_path(), &keepalive.bytes, now);
    assert!(client.is_up() && server.is_up());
    // Nothing is pending now: what makes no sense is dropped by the data path, as ever.
    client.receive(&server_path(), &reply, now);
    assert_eq!(client.sessions.counters().drops.total(), 1);
    // The server was not told twice about the timestamp.
    assert_eq!(server.out.accepted.len(), 1);
}

#[test]
fn a_cookie_reply_moves_no_endpoint_and_counts_once_and_only_from_where_it_was_asked() {
    let (mut client, _server, reply) = refused_client();
    let now = START + 10 * MILLISECOND;
    client.receive(&path("198.51.100.9:4433"), &reply, now);
    assert_eq!(client.sessions.counters().drops.of(DropReason::BadHeader), 1);
    client.receive(&server_path(), &[7; 100], now);
    assert_eq!(client.dropped(DropReason::BadHeader), 1);
    assert_eq!(client.handshakes.counters().cookies_received.load(Relaxed), 0);
    assert!(client.turn(1, now).is_empty());

    client.receive(&server_path(), &reply, now);
    client.receive(&server_path(), &reply, now);
    assert_eq!(client.handshakes.counters().cookies_received.load(Relaxed), 1);
    assert_eq!(client.dropped(DropReason::NotPending), 1);
    assert_eq!(client.sessions.status(PEER).unwrap().endpoint, None);
    assert_eq!(client.turn(1, now).len(), 1, "one retry");
    // The retry is another initiation: the old reply says nothing about it.
    client.receive(&server_path(), &reply, now);
    assert_eq!(client.handshakes.counters().cookies_received.load(Relaxed), 1);
    assert!(client.turn(1, now + 4 * SECOND).is_empty());
}

#[test]
fn a_tampered_cookie_reply_changes_nothing() {
    let (mut client, _server, reply) = refused_client();
    for at in 0..reply.len() {
        let mut bytes = reply.clone();
        bytes[at] ^= 1;
        client.receive(&server_path(), &bytes, START);
    }
    assert_eq!(client.handshakes.counters().cookies_received.load(Relaxed), 0);
    assert_eq!(client.handshakes.drops().total(), reply.len() as u64);
    client.receive(&server_path(), &reply, START);
    assert_eq!(client.handshakes.counters().cookies_received.load(Relaxed), 1);
}

#[test]
fn a_second_cookie_within_5_s_brings_nothing_forward() {
    let (mut client, mut server, reply) = refused_client();
    client.receive(&server_path(), &reply, START);
    let retry = client.turn(1, START).remove(0);
    // The server sees it from elsewhere, as behind a NAT that has just forgotten: the cookie is wrong there.
    server.receive(&path("203.0.113.7:50001"), &retry.bytes, START);
    let second = server.turn(1, START).remove(0);
    client.receive(&server_path(), &second.bytes, START);
    assert_eq!(client.handshakes.counters().cookies_received.load(Relaxed), 2);
    assert!(client.turn(1, START + 4 * SECOND).is_empty());
    assert_eq!(client.turn(1, START + 6 * SECOND).len(), 1);
}

#[test]
fn after_a_restart_with_its_state_a_captured_initiation_is_refused() {
    let (mut client, mut server) = (End::client(), End::server());
    client.begin(START);
    let captured = client.turn(1, START).remove(0).bytes;
    server.receive(&client_path(), &captured, START);
    assert_eq!(server.turn(1, START).len(), 1);
    let accepted = server.out.accepted.pop_front().unwrap();
    assert_eq!(accepted.peer, PEER);

    let mut restarted = End::server();
    restarted.handshakes.restore(accepted.peer, accepted.timestamp);
    restarted.receive(&client_path(), &captured, START + SECOND);
    assert!(restarted.turn(1, START + SECOND).is_empty());
    assert_eq!(restarted.dropped(DropReason::OldTimestamp), 1);
    let mut forgetful = End::server();
    forgetful.receive(&client_path(), &captured, START + SECOND);
    assert_eq!(forgetful.turn(1, START + SECOND).len(), 1, "it is the state that refuses it");
}

#[test]
fn a_restarted_end_initiates_to_the_endpoint_it_knows() {
    let mut server = End::server();
    assert!(server.turn(1, START).is_empty());
    server.sessions.restore(PEER, client_path());
    let sent = server.turn(1, START);
    assert_eq!((sent.len(), sent[0].path), (1, client_path()));
    let mut client = End::client();
    client.receive(&server_path(), &sent[0].bytes, START);
    let response = client.turn(1, START).remove(0);
    server.receive(&client_path(), &response.bytes, START);
    let keepalive = server.turn(1, START).remove(0);
    client.receive(&server_path(), &keepalive.bytes, START);
    assert!(client.is_up() && server.is_up());
}

#[test]
fn sessions_are_told_where_initiations_are_pending_and_when_no_more() {
    let mut client = End::client();
    client.begin(START);
    while let Some(message) = client.sessions.next_message() {
        client.handshakes.handle(message, at(START), &mut client.entropy, &mut client.out);
    }
    client.handshakes.step(at(START), &mut client.entropy, &mut client.out);
    let told = |client: &mut End| client.out.to_sessions.pop_front();
    assert!(matches!(told(&mut client), Some(ToSessions::Pending(path)) if path == server_path()));
    client.handshakes.handle(ToHandshakes::Confirmed(PEER), at(START), &mut client.entropy, &mut client.out);
    assert!(matches!(told(&mut client), Some(ToSessions::NotPending(path)) if path == server_path()));
    assert!(told(&mut client).is_none());
}

#[test]
fn initiations_due_at_once_are_made_one_a_step_and_once_each() {
    const PEERS: u32 = 100;
    let settings: Vec<_> = (0..PEERS as u8).map(|n| settings(keys(100 + n).public, true)).collect();
    let identity = Identity::new(keys(1), NetworkSecret::default());
    let (mut entropy, mut out) = (Seeded(1), HandshakeOutput::default());
    let mut handshakes = Handshakes::new(identity, &settings, &mut entropy);
    for peer in (0..PEERS).map(PeerId) {
        let addresses = vec![server_path().remote()];
        handshakes.handle(ToHandshakes::Resolved { peer, addresses }, at(START), &mut entropy, &mut out);
        for number in 1..=2 {
            let request = ToHandshakes::Initiate { peer, number, path: None };
            handshakes.handle(request, at(START), &mut entropy, &mut out);
        }
    }
    for made in 1..=PEERS as usize {
        handshakes.step(at(START), &mut entropy, &mut out);
        assert_eq!(out.transmits.len(), made);
    }
    handshakes.step(at(START), &mut entropy, &mut out);
    assert_eq!(out.transmits.len(), PEERS as usize, "each made once, for the newer request");
    assert!(!handshakes.has_work());
}

#[test]
fn the_responder_is_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<HandshakeResponder>();
}
