//! The world between the ends: a virtual clock, and a wire that follows a seed or a script.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use veil_proto::mux::{Config, frame};
use veil_proto::session::MIN_DATAGRAM;
use veil_proto::time::{MILLISECOND, SECOND};
use veil_proto::tunnel::{HandshakeOutput, ToHandshakes, ToSessions, Transmit};
use veil_proto::{Now, Path, PeerId, Tai64n};

use crate::end::{End, PeerSpec, Rng, Spec, datagram, inner, keys, packet};

/// A mux frame of a kind that no version knows.
const UNKNOWN_KIND: u8 = 99;

/// What one direction of the wire does to datagrams.
#[derive(Clone, Copy, Default)]
pub struct Link {
    /// Of 100 datagrams, so many are lost.
    pub loss: u64,
    /// Of 100 datagrams, so many come twice.
    pub doubled: u64,
    /// The least time under way, nanoseconds.
    pub delay: u64,
    /// At most this much more, at random for each: datagrams overtake one another.
    pub jitter: u64,
}

/// A datagram under way.
#[derive(Clone)]
pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

enum Event {
    Arrives(Datagram),
    ToHandshakes(usize, u32, ToHandshakes),
    ToSessions(usize, u32, ToSessions),
    /// A handshake datagram leaves, behind the messages of its step.
    Leaves(usize, u32, Transmit),
}

/// Everything.
pub struct World {
    pub mono: u64,
    pub ends: Vec<End>,
    /// What a datagram from the first end to the second goes through.
    pub links: HashMap<(usize, usize), Link>,
    /// Which end is reached at an address; an address of none is a hole.
    pub routes: HashMap<SocketAddr, usize>,
    /// The address that an end sends from.
    pub addresses: Vec<SocketAddr>,
    /// Datagrams stop here, for a script to deliver, instead of going their way.
    pub hold: bool,
    pub held: Vec<Datagram>,
    /// Every datagram ever sent, if wanted.
    pub tap: Option<Vec<Datagram>>,
    /// The longest a message between an end's halves takes.
    pub message_delay: u64,
    /// Inner packets sent, by number: from, to, delivered.
    pub packets: Vec<(usize, usize, bool)>,
    /// How many leases were given.
    offers: u16,
    rng: Rng,
    seed: u64,
    queue: BTreeMap<(u64, u64), Event>,
    serial: u64,
    /// When the last message of each channel arrives: they never overtake one another.
    channels: HashMap<(usize, bool), u64>,
}

/// The address end `n` starts at.
pub fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n as u8 + 1], 4433))
}

fn peer_spec(end: usize) -> PeerSpec {
    PeerSpec {
        end,
        public_key: keys(end).public,
        endpoint: Some(address(end)),
        keepalive: None,
        lease: false,
        wide: false,
    }
}

impl World {
    /// Ends 0 and 1, each with the other's endpoint, on a perfect wire of 10 ms.
    pub fn pair(seed: u64) -> Self {
        Self::new(seed, (0..2).map(|n| Spec { number: n, peers: vec![peer_spec(1 - n)] }).collect())
    }

    /// The same, with a session that both have used.
    pub fn talking(seed: u64) -> Self {
        let mut world = Self::pair(seed);
        for (from, to) in [(0, 1), (1, 0)] {
            world.send(from, to);
            world.run(SECOND);
        }
        assert!(world.agree(0, 1));
        world
    }

    /// Two ends as in [`pair`](Self::pair), and each may give the other a lease.
    pub fn leasing_pair(seed: u64) -> Self {
        let spec = |n| Spec { number: n, peers: vec![PeerSpec { lease: true, ..peer_spec(1 - n) }] };
        Self::new(seed, (0..2).map(spec).collect())
    }

    /// End 0 with `spokes` peers whose endpoints it does not know; each of them knows end 0's.
    pub fn hub(seed: u64, spokes: usize) -> Self {
        let unknown = |n| PeerSpec { endpoint: None, ..peer_spec(n) };
        let hub = Spec { number: 0, peers: (1..=spokes).map(unknown).collect() };
        let spoke = |n| Spec { number: n, peers: vec![peer_spec(0)] };
        Self::new(seed, std::iter::once(hub).chain((1..=spokes).map(spoke)).collect())
    }

    pub fn new(seed: u64, specs: Vec<Spec>) -> Self {
        let count = specs.len();
        World {
            mono: SECOND,
            ends: specs.into_iter().map(|spec| End::new(spec, seed, 0)).collect(),
            links: HashMap::new(),
            routes: (0..count).map(|n| (address(n), n)).collect(),
            addresses: (0..count).map(address).collect(),
            hold: false,
            held: Vec::new(),
            tap: None,
            message_delay: 0,
            packets: Vec::new(),
            offers: 0,
            rng: Rng(seed),
            seed,
            queue: BTreeMap::new(),
            serial: 0,
            channels: HashMap::new(),
        }
    }

    /// Has an end send from another address; what goes to the old one is lost.
    pub fn roam(&mut self, end: usize, to: SocketAddr) {
        let old = std::mem::replace(&mut self.addresses[end], to);
        self.routes.remove(&old);
        self.routes.insert(to, end);
    }

    /// Every direction from now on.
    pub fn set_links(&mut self, link: Link) {
        let count = self.ends.len();
        self.links = (0..count).flat_map(|a| (0..count).map(move |b| ((a, b), link))).collect();
    }

    pub fn now(&self) -> Now {
        Now { mono: self.mono, wall: Tai64n::from_unix_nanos(1_700_000_000 * SECOND + self.mono) }
    }

    /// The id under which `end` knows `other`.
    pub fn peer(&self, end: usize, other: usize) -> PeerId {
        let at = self.ends[end].spec.peers.iter().position(|peer| peer.end == other);
        PeerId(at.expect("they are peers") as u32)
    }

    /// Has `from` send one packet to `to`; returns its number.
    pub fn send(&mut self, from: usize, to: usize) -> u64 {
        let id = self.packets.len() as u64;
        self.packets.push((from, to, false));
        let now = self.now();
        self.ends[from].send_packet(packet(inner(from), inner(to), id), now);
        self.settle(from);
        id
    }

    /// Has `from` give `to` a lease whose number tells it from all others.
    pub fn offer(&mut self, from: usize, to: usize) {
        self.offers += 1;
        let config = Config { mtu: Some(self.offers), ..Config::default() };
        let peer = self.peer(from, to);
        self.ends[from].offered = Some(config.clone());
        self.ends[from].sessions.offer(peer, config);
        self.settle(from);
    }

    /// Has `from` send `to` a datagram of `size` bytes, of which nothing is for the host, if it has a session.
    pub fn send_large(&mut self, from: usize, to: usize, size: usize) {
        let (peer, now) = (self.peer(from, to), self.now());
        let limit = self.ends[from].sessions.path_limit(peer).unwrap_or(size);
        if size > limit {
            self.ends[from].sessions.squeezed(peer, size);
        }
        if let Some(path) = self.ends[from].sessions.way_to(peer, now) {
            let payload = vec![0; size.min(limit) - MIN_DATAGRAM - frame::HEADER_LEN];
            self.ends[from].seal(peer, path, datagram(&[(UNKNOWN_KIND, 0, &payload)]), now);
        }
        self.settle(from);
    }

    /// Ends and begins `end`'s process: all it knew is gone but its configuration.
    pub fn restart(&mut self, end: usize) {
        let (spec, life) = (self.ends[end].spec.clone(), self.ends[end].life + 1);
        self.check_conservation();
        self.ends[end] = End::new(spec, self.seed, life);
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.serial += 1;
        self.queue.insert((at, self.serial), event);
    }

    /// When something for this channel arrives that leaves now.
    fn channel(&mut self, end: usize, to_sessions: bool) -> u64 {
        let delay = if self.message_delay > 0 { self.rng.below(self.message_delay) } else { 0 };
        let last = self.channels.entry((end, to_sessions)).or_default();
        *last = (*last).max(self.mono + delay);
        *last
    }

    /// Carries away all that an end has for others, and for its other half.
    pub fn settle(&mut self, end: usize) {
        let now = self.now();
        self.ends[end].settle(now);
        let life = self.ends[end].life;
        while let Some(message) = self.ends[end].sessions.next_message() {
            let at = self.channel(end, false);
            self.schedule(at, Event::ToHandshakes(end, life, message));
        }
        while let Some((path, bytes)) = self.ends[end].outbox.pop_front() {
            self.transmit(end, path, bytes);
        }
        while let Some((peer, bytes)) = self.ends[end].inbox.pop_front() {
            self.deliver(end, peer, &bytes);
        }
    }

    fn deliver(&mut self, end: usize, peer: PeerId, bytes: &[u8]) {
        let id = bytes.last_chunk().map(|id| u64::from_le_bytes(*id)).expect("a whole packet");
        let (from, to, delivered) = &mut self.packets[id as usize];
        assert_eq!(bytes, packet(inner(*from), inner(*to), id), "packet {id} came changed");
        let sender = self.ends[end].spec.peers[peer.index()].end;
        assert_eq!((*to, *from), (end, sender), "packet {id} went astray");
        assert!(!std::mem::replace(delivered, true), "packet {id} came twice");
    }

    fn settle_handshakes(&mut self, end: usize, mut out: HandshakeOutput) {
        let now = self.now();
        let life = self.ends[end].life;
        self.ends[end].step(now, &mut out);
        for message in std::mem::take(&mut out.to_sessions) {
            let at = self.channel(end, true);
            self.schedule(at, Event::ToSessions(end, life, message));
        }
        for transmit in std::mem::take(&mut out.transmits) {
            let at = self.channel(end, true);
            self.schedule(at, Event::Leaves(end, life, transmit));
        }
        for peer in std::mem::take(&mut out.resolve) {
            let endpoint = self.ends[end].spec.peers[peer.index()].endpoint;
            let addresses = endpoint.into_iter().collect();
            let at = self.channel(end, false);
            self.schedule(at, Event::ToHandshakes(end, life, ToHandshakes::Resolved { peer, addresses }));
        }
    }

    fn transmit(&mut self, end: usize, path: Path, bytes: Vec<u8>) {
        let datagram = Datagram { from: self.addresses[end], to: path.remote(), bytes };
        if let Some(tap) = &mut self.tap {
            tap.push(datagram.clone());
        }
        if self.hold {
            return self.held.push(datagram);
        }
        let Some(&to) = self.routes.get(&datagram.to) else { return };
        let link = self.links.get(&(end, to)).copied();
        let link = link.unwrap_or(Link { delay: 10 * MILLISECOND, ..Link::default() });
        let copies = if self.rng.percent(link.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.rng.percent(link.loss) {
                let at = self.mono + link.delay + self.rng.below(link.jitter + 1);
                self.schedule(at, Event::Arrives(datagram.clone()));
            }
        }
    }

    /// A datagram arrives right now, whoever sent it.
    pub fn arrive(&mut self, datagram: Datagram) {
        let Some(&end) = self.routes.get(&datagram.to) else { return };
        let (now, path) = (self.now(), Path::to(datagram.from));
        if let Some(message) = self.ends[end].receive(datagram.bytes, path, now) {
            let (at, life) = (self.channel(end, false), self.ends[end].life);
            self.schedule(at, Event::ToHandshakes(end, life, message));
        }
        self.settle(end);
    }

    fn happen(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Arrives(datagram) => self.arrive(datagram),
            Event::ToHandshakes(n, life, message) if self.ends[n].life == life => {
                let (mut out, end) = (HandshakeOutput::default(), &mut self.ends[n]);
                end.handshakes.handle(message, now, &mut end.entropy, &mut out);
                self.settle_handshakes(n, out);
            }
            Event::ToSessions(n, life, message) if self.ends[n].life == life => {
                self.ends[n].sessions.handle(message);
                self.settle(n);
            }
            Event::Leaves(n, life, out) if self.ends[n].life == life => self.transmit(n, out.path, out.bytes),
            _ => {} // Lost with the process it belonged to.
        }
    }

    fn timers(&mut self) {
        let now = self.now();
        for n in 0..self.ends.len() {
            if self.ends[n].sessions.next_deadline().is_some_and(|at| at <= now.mono) {
                self.ends[n].sessions.on_timer(now);
                self.settle(n);
            }
            if self.ends[n].handshakes.next_deadline().is_some_and(|at| at <= now.mono) {
                let (mut out, end) = (HandshakeOutput::default(), &mut self.ends[n]);
                end.handshakes.on_timer(now, &mut out);
                self.settle_handshakes(n, out);
            }
        }
    }

    /// Lets `nanos` pass, and everything happen that is due until then.
    pub fn run(&mut self, nanos: u64) {
        let until = self.mono + nanos;
        for _ in 0..10_000_000 {
            let timers = |end: &End| [end.sessions.next_deadline(), end.handshakes.next_deadline()];
            let event = self.queue.first_key_value().map(|(&(at, _), _)| at);
            let next = self.ends.iter().flat_map(timers).flatten().chain(event).min();
            match next.filter(|&at| at <= until) {
                None => {
                    self.mono = until;
                    return;
                }
                Some(at) => self.mono = self.mono.max(at),
            }
            match self.queue.first_entry() {
                Some(entry) if entry.key().0 <= self.mono => {
                    let event = entry.remove();
                    self.happen(event);
                }
                _ => self.timers(),
            }
        }
        panic!("time stands still at {} ns", self.mono);
    }
}
