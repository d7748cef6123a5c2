//! What many sessions cost: a packet of 10 000 peers beside a packet of one, by size and by how peers take turns.
//!
//! ```text
//! cargo bench -p veil-bench --bench sessions
//! ```
//!
//! The bar: at most 15 % more when eight packets of a peer come in a row, 50 % when peers take turns at random. Both ends
//! are in one process and take turns too, a loop turn's worth of packets at a time, since a machine's speed changes; a
//! figure is the median of many such turns. Peers are drawn at random among all of them, so that hardly a session is in
//! the caches nearest to the core when it is needed. `in` is [`Process::inbound`], whole: of singles a frame each, of runs
//! a frame each as GRO delivers them. `out` is routing, sealing and masking by `Sessions`: the process stage has one peer's
//! small packets share datagrams, which those of many peers cannot, and that is not what is to be compared.

use std::hint::black_box;
use std::time::Instant;

use veil_bench::{Hub, Seeded, packet};
use veil_proto::PeerId;
use veil_proto::session::{HEADER_LEN, MIN_DATAGRAM};
use veil_proto::tunnel::{AHEAD, Outbound, ToHandshakes};
use veil_userspace::event_loop::process::Process;
use veil_userspace::frame::{Bounded, Inbox, Opened, Outbox, Sealed, SetName, WideSet};
use veil_userspace::heap::in_huge_pages;
use veil_userspace::prefetch::prefetch;

const PEERS: [usize; 2] = [1, 10_000];
/// Bytes of inner packets.
const SIZES: [usize; 2] = [64, 1400];
/// Packets of one peer in a row.
const ROWS: [usize; 2] = [8, 1];
/// Bytes of all that is measured at a time, in huge pages as the daemon's sessions are.
const BYTES: usize = 512 << 20;
/// Rows in a turn of the event loop.
const TURN: usize = 64;
const TURNS: usize = 4000;

fn main() {
    in_huge_pages(BYTES).expect("transparent huge pages can be asked for");
    println!("{:>4} {:>5} {:>9} {:>10} {:>10} {:>7}", "", "bytes", "in a row", "ns, 1", "ns, 10000", "more");
    for (size, in_a_row) in SIZES.into_iter().flat_map(|size| ROWS.map(|row| (size, row))) {
        let ends = PEERS.map(|peers| Inward::new(peers, size, in_a_row));
        report("in", size, in_a_row, ends.map(|mut end| move || end.turn()));
        let ends = PEERS.map(|peers| Outward::new(peers, size, in_a_row));
        report("out", size, in_a_row, ends.map(|mut end| move || end.turn()));
    }
}

/// Lets both ends take turns, and prints what a packet took at each.
fn report(way: &str, size: usize, in_a_row: usize, mut ends: [impl FnMut() -> f64; 2]) {
    let mut took = [(); 2].map(|()| Vec::with_capacity(TURNS));
    for _ in 0..TURNS {
        for (end, took) in ends.iter_mut().zip(&mut took) {
            took.push(end());
        }
    }
    let [one, many] = took.map(|mut took| {
        took.sort_by(f64::total_cmp);
        took[TURNS / 2]
    });
    let more = (many / one - 1.0) * 100.0;
    println!("{way:>4} {size:>5} {in_a_row:>9} {one:>10.1} {many:>10.1} {more:>6.1}%");
}

/// An end that datagrams come to.
struct Inward {
    hub: Hub,
    process: Process,
    peers: usize,
    in_a_row: usize,
    size: usize,
    entropy: Seeded,
    frames: WideSet,
    from_link: Bounded<Sealed>,
    to_tun: Bounded<Opened>,
    to_handshakes: Bounded<ToHandshakes>,
}

impl Inward {
    fn new(peers: usize, size: usize, in_a_row: usize) -> Self {
        let mut hub = Hub::new(peers);
        Inward {
            process: Process::new(hub.take_sessions(), size as u16),
            hub,
            peers,
            in_a_row,
            size,
            entropy: Seeded(6),
            frames: WideSet::new(SetName::LinkReceive, TURN),
            from_link: Bounded::new(TURN),
            to_tun: Bounded::new(TURN),
            to_handshakes: Bounded::new(1),
        }
    }

    /// Nanoseconds that a packet takes.
    fn turn(&mut self) -> f64 {
        while self.from_link.len() < TURN {
            let peer = PeerId(self.entropy.below(self.peers) as u32);
            let plaintext = packet::plaintext(&packet::ipv4(peer, self.size), 1);
            let segment = plaintext.len() + MIN_DATAGRAM;
            let mut frame = self.frames.take().expect("a frame for each");
            for datagram in frame.buffer_mut()[..self.in_a_row * segment].chunks_mut(segment) {
                datagram[HEADER_LEN..][..plaintext.len()].copy_from_slice(&plaintext);
                self.hub.seal_from(peer, datagram);
            }
            frame.set_len(self.in_a_row * segment);
            let run = Sealed { frame: frame.into(), segment: segment as u16, tos: 0, path: self.hub.path };
            self.from_link.push(run).expect("room for each");
        }
        let start = Instant::now();
        self.process.inbound(
            &mut self.from_link,
            &mut self.to_tun,
            &mut self.to_handshakes,
            &mut self.frames,
            self.hub.now,
        );
        let took = start.elapsed();
        assert_eq!(self.to_tun.len(), TURN, "each has something for the host");
        while let Some(opened) = self.to_tun.pop() {
            opened.frame.home(&mut self.frames);
        }
        took.as_nanos() as f64 / (TURN * self.in_a_row) as f64
    }
}

/// An end that packets leave.
struct Outward {
    hub: Hub,
    peers: usize,
    entropy: Seeded,
    /// Rows of packets to one peer each, in room for datagrams.
    rows: Vec<Vec<u8>>,
    segment: usize,
}

impl Outward {
    fn new(peers: usize, size: usize, in_a_row: usize) -> Self {
        let segment = size + MIN_DATAGRAM;
        let row = vec![0; in_a_row * segment];
        Outward { hub: Hub::new(peers), peers, entropy: Seeded(6), rows: vec![row; TURN], segment }
    }

    /// Nanoseconds that a packet takes.
    fn turn(&mut self) -> f64 {
        let segment = self.segment;
        for row in &mut self.rows {
            // To the peer: as from it, with source and destination the other way round.
            let mut packet =
                packet::ipv4(PeerId(self.entropy.below(self.peers) as u32), segment - MIN_DATAGRAM);
            packet.copy_within(12..16, 16);
            for datagram in row.chunks_mut(segment) {
                datagram[HEADER_LEN..][..packet.len()].copy_from_slice(&packet);
            }
        }
        let start = Instant::now();
        let Hub { sessions, now, .. } = &mut self.hub;
        for batch in self.rows.chunks_mut(AHEAD) {
            let mut ahead = sessions.looks_ahead().then(|| {
                let peers = batch.iter().filter_map(|row| sessions.route(&row[HEADER_LEN..]).ok());
                sessions.look_ahead_outbound(peers, prefetch)
            });
            for row in batch {
                if let Some(ahead) = &mut ahead {
                    sessions.fetch_outbound(ahead, prefetch);
                }
                let mut to = None;
                for datagram in row.chunks_mut(segment) {
                    let peer = sessions.route(&datagram[HEADER_LEN..]).expect("an address of a peer's");
                    assert!(matches!(black_box(sessions.begin(peer, *now)), Outbound::Ready(_)));
                    sessions.seal_unmasked(peer, datagram, *now).expect("a usable session");
                    to = Some(peer);
                }
                sessions.mask_run(to.expect("a row is not empty"), row, segment).expect("a usable session");
            }
        }
        start.elapsed().as_nanos() as f64 / (self.rows.len() * self.rows[0].len() / segment) as f64
    }
}
