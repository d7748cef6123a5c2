//! What a refused initiation costs the end that it comes to, at each gate: all of its way from the link to the refusal.
//!
//! The gates are in the order of `protocol.md`, Order at the responder. Initiations are of random length, as they are on
//! the wire: 179 to 1232 bytes, 706 in the mean. Those that a busy responder refuses come ten thousand a second in virtual
//! time, those that cost curve work come UNHURRIED enough to be let through to it.

use std::net::Ipv4Addr;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use veil_bench::{Client, Seeded, Server};
use veil_proto::crypto::NetworkSecret;
use veil_proto::handshake::envelope::CookieKey;
use veil_proto::handshake::message::{COOKIE_LEN, envelope_tag, open_cookie_reply, seal_initiation};
use veil_proto::{DropReason, Entropy, Path, PeerId, Tai64n};

use crate::over_runs;

/// From one initiation to the next: too often to be worked on without a cookie.
const BUSY: u64 = 100_000;
/// Far more often than a source with a cookie may ask.
const VERY_BUSY: u64 = 1_000;
/// So seldom that each is worked on.
const UNHURRIED: u64 = 10_000_000;
/// Bytes of Noise message 1 of an initiation without TLVs.
const NOISE_1: usize = 113;
const RUN: usize = 64;

struct Scene {
    server: Server,
    /// One that the server does not know, and one that it does.
    stranger: Client,
    peer: Client,
    cookie: Option<[u8; COOKIE_LEN]>,
    /// What the server has seen before.
    seen: Vec<Vec<u8>>,
    entropy: Seeded,
    sent: u32,
}

/// A datagram and where it comes from.
type Item = (Path, Vec<u8>);

impl Scene {
    fn new(tick: u64) -> Scene {
        let mut server = Server::new(&[Client::public_key(1)]);
        server.handshakes.restore(PeerId(0), Tai64n::from_bytes([0xff; 12]));
        server.tick = tick;
        let (stranger, peer) = (Client::new(0), Client::new(1));
        Scene { server, stranger, peer, cookie: None, seen: Vec::new(), entropy: Seeded(8), sent: 0 }
    }

    /// A server that has been asked so often that it is under load, and from now on comes one initiation each `tick`.
    fn busy(tick: u64) -> Scene {
        let mut scene = Scene::new(0);
        // The first hundred are a burst; until those are over each is worked on.
        for _ in 0..200 {
            let (path, mut bytes) = scene.spoofed();
            scene.server.receive(&path, &mut bytes);
        }
        scene.server.tick = tick;
        scene
    }

    /// A server that has worked on initiations which will come again.
    fn after_a_run(tick: u64) -> Scene {
        let mut scene = Scene::new(tick);
        scene.seen = (0..RUN).map(|_| scene.garbage()).collect();
        for bytes in &scene.seen {
            scene.server.receive(&here(), &mut bytes.clone());
        }
        scene
    }

    /// An initiation by whoever knows the server's key: nothing is wrong with it but Noise inside.
    fn garbage(&mut self) -> Vec<u8> {
        let mut noise = [0; NOISE_1];
        self.entropy.fill(&mut noise);
        let (envelope, header) = (&self.server.envelope_key, &self.server.header_key);
        seal_initiation(envelope, header, 1, &noise, self.cookie.as_ref(), &mut self.entropy)
    }

    /// The same, from one of ten thousand sources.
    fn spoofed(&mut self) -> Item {
        self.sent += 1;
        let source = Ipv4Addr::from_bits(0xc612_0000 + self.sent % 10_000);
        (Path::to((source, 1000).into()), self.garbage())
    }

    fn unspoofed(&mut self) -> Item {
        (here(), self.garbage())
    }

    fn replay(&mut self) -> Item {
        self.sent += 1;
        (here(), self.seen[self.sent as usize % RUN].clone())
    }

    /// Has the server send a cookie to where we are.
    fn get_cookie(&mut self) {
        let mut bytes = self.garbage();
        let tag = envelope_tag(&bytes).expect("an initiation");
        self.server.receive(&here(), &mut bytes);
        let mut reply = self.server.sent.take().expect("a cookie reply").bytes;
        self.server.header_key.mask(&mut reply);
        let key = CookieKey::derive(&self.server.public_key, &NetworkSecret::default());
        self.cookie = Some(open_cookie_reply(&key, &tag, &mut reply).expect("a cookie"));
    }
}

fn here() -> Path {
    Path::to(([192, 0, 2, 1], 51820).into())
}

pub fn refuse(c: &mut Criterion) {
    let mut group = c.benchmark_group("refuse");
    group.throughput(Throughput::Elements(1));

    again(&mut group, "too short", DropReason::TooShort, 31);
    again(&mut group, "bad header", DropReason::BadHeader, 706);
    each(
        &mut group,
        "bad envelope",
        DropReason::BadEnvelope,
        || Scene::busy(BUSY),
        |scene| {
            let (path, mut bytes) = scene.spoofed();
            // In the envelope's tag, before mac2.
            let at = bytes.len() - 20;
            bytes[at] ^= 1;
            (path, bytes)
        },
    );
    each(&mut group, "no cookie, answered", DropReason::NoCookie, || Scene::busy(BUSY), Scene::spoofed);
    each(
        &mut group,
        "no cookie, unanswered",
        DropReason::NoCookie,
        || Scene::busy(VERY_BUSY),
        Scene::unspoofed,
    );
    let with_cookie = || {
        let mut scene = Scene::busy(VERY_BUSY);
        scene.get_cookie();
        scene
    };
    each(&mut group, "rate limited", DropReason::RateLimited, with_cookie, Scene::unspoofed);
    let unhurried = || Scene::new(UNHURRIED);
    each(
        &mut group,
        "replayed",
        DropReason::ReplayedInitiation,
        || Scene::after_a_run(UNHURRIED),
        Scene::replay,
    );
    each(&mut group, "bad noise", DropReason::BadNoise, unhurried, Scene::unspoofed);
    each(&mut group, "unknown peer", DropReason::UnknownPeer, unhurried, |scene| {
        (here(), scene.stranger.initiate(&scene.server.public_key).1)
    });
    each(&mut group, "old timestamp", DropReason::OldTimestamp, unhurried, |scene| {
        (here(), scene.peer.initiate(&scene.server.public_key).1)
    });
    group.finish();
}

/// Refuses the same datagram of random bytes again and again: unmasking what has been unmasked makes no more sense of it.
fn again(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, reason: DropReason, len: usize) {
    group.bench_function(name, |b| {
        let (mut server, mut datagram, path) = (Server::new(&[]), vec![0; len], here());
        Seeded(9).fill(&mut datagram);
        b.iter(|| server.receive(&path, &mut datagram));
        check(&server, reason);
    });
}

/// Refuses a new one each time.
fn each(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    reason: DropReason,
    scene: impl Fn() -> Scene,
    mut make: impl FnMut(&mut Scene) -> Item,
) {
    group.bench_function(name, |b| {
        let mut scene = scene();
        let mut run = vec![(here(), Vec::new()); RUN];
        let make_all = |scene: &mut Scene, run: &mut [Item]| run.fill_with(|| make(scene));
        over_runs(b, &mut scene, &mut run, make_all, |scene, (path, bytes)| {
            scene.server.receive(path, bytes);
        });
        check(&scene.server, reason);
    });
}

/// That the benchmark measured the refusal it is named after, but for the few that set the scene.
fn check(server: &Server, reason: DropReason) {
    let (received, refused) = server.refused(reason);
    assert!(refused + 210 + received / 100 >= received, "{refused} of {received} {}", reason.name());
}
