//! A flood of initiations that are in order but for Noise inside, from addresses that are nobody's: traffic goes on, a peer
//! that starts anew gets in, and nobody is sent more than was sent in his name.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

use veil_proto::crypto::{HeaderKey, NetworkSecret};
use veil_proto::handshake::envelope::EnvelopeKey;
use veil_proto::handshake::message::{Header, TYPE_COOKIE, seal_initiation};
use veil_proto::{DropReason, Entropy};
use veil_userspace::event_loop::ThreadingMode;
use veil_userspace::host::SystemEntropy;

use crate::endings::APART;
use crate::net::Net;
use crate::side::outside;
use crate::wire::{Datagram, Fate, arrives};

in_each_mode! {
    a_flood_of_initiations_keeps_no_known_peer_out
}

/// Initiations at a time. Of the last two bursts some may not have been looked at: a queue of 1024 has room for them.
const BURST: usize = 200;
/// How many of them are to be asked for a cookie, at least.
const ENOUGH: u64 = 4000;
const SOURCES: usize = 500;
/// Runs that the wire holds each way: all answers to the initiations under way, so that none is lost.
const ROOMY: usize = 1024;
/// Packets each way after every burst.
const FEW: u32 = 20;

fn a_flood_of_initiations_keeps_no_known_peer_out(mode: ThreadingMode) {
    let start = Instant::now();
    let mut net = Net::new(mode.into(), ROOMY);
    let mut flood = Flood::new(&net);
    while net.sides[1].counters.handshakes.under_load.load(Relaxed) == 0 {
        flood.burst(&mut net);
        net.exchange(flood.fate(), [FEW; 2]);
    }
    let (mut initiations, mut restarts, mut heard) = (0, 0, 0);
    // Once is enough, unless the machine rests for so long that the load is over.
    while net.sides[0].counters.handshakes.cookies_received.load(Relaxed) == 0 {
        flood.burst(&mut net);
        thread::sleep(APART);
        let ended = net.restart(0, false);
        ended.assert_at_rest();
        initiations += ended.shown.counters["initiations_sent"];
        heard += ended.shown.counters["cookies_received"];
        restarts += 1;
        net.exchange(flood.fate(), [1, 0]);
        net.exchange(flood.fate(), [FEW; 2]);
    }
    while net.sides[1].counters.handshake_drops.of(DropReason::NoCookie) < ENOUGH {
        flood.burst(&mut net);
        net.exchange(flood.fate(), [FEW; 2]);
    }
    let thrown = flood.thrown();
    net.wait(flood.fate(), |net| {
        let own = initiations + net.sides[0].counters.handshakes.initiations_sent.load(Relaxed);
        let accepted = net.sides[1].counters.handshakes.initiations_accepted.load(Relaxed);
        refused(net) == thrown + own - accepted && net.has_taken_all_of(1)
    });
    let took = start.elapsed();

    let [a, b] = net.stop();
    assert_eq!(b.shown.peers[0].endpoint, Some(outside(0).to_string()));
    assert_eq!(b.shown.counters["initiations_accepted"], 1 + restarts);
    let mut drops = b.shown.drops.clone();
    let (asked, worked_on) = (drops.remove("no-cookie"), drops.remove("bad-noise"));
    assert!(asked >= Some(ENOUGH) && drops.is_empty(), "{:#?}", b.shown);
    // Each costs a token while there is no load yet: there are 100 of these, and 500 more each second, however slow we are.
    assert!(worked_on.unwrap_or(0) <= 100 + (500.0 * took.as_secs_f64()) as u64, "{:#?}", b.shown);
    // All cookies went to whom they were for.
    heard += a.shown.counters["cookies_received"] + flood.heard;
    assert!(flood.heard > 0 && heard == b.shown.counters["cookies_sent"], "{heard}: {:#?}", b.shown);
}

/// Initiations that a side has refused.
fn refused(net: &Net) -> u64 {
    net.sides[1].counters.handshake_drops.total()
}

/// Somebody who knows the public key of side 1.
struct Flood {
    envelope: EnvelopeKey,
    header: HeaderKey,
    entropy: SystemEntropy,
    /// The length of each initiation that has not been answered; its place is its number, and the index it names.
    lengths: Vec<Option<usize>>,
    /// Answers to them.
    heard: u64,
}

impl Flood {
    fn new(net: &Net) -> Flood {
        let (key, secret) = (net.public_key(1), NetworkSecret::default());
        let (envelope, header) = (EnvelopeKey::derive(&key, &secret), HeaderKey::derive(&key, &secret));
        Flood { envelope, header, entropy: SystemEntropy::new(), lengths: Vec::new(), heard: 0 }
    }

    fn thrown(&self) -> u64 {
        self.lengths.len() as u64
    }

    /// Puts a burst on the wire to side 1 once there is no more than one before it.
    fn burst(&mut self, net: &mut Net) {
        let thrown = self.thrown();
        net.wait(self.fate(), |net| refused(net) + BURST as u64 >= thrown);
        for number in self.lengths.len()..self.lengths.len() + BURST {
            // Noise message 1 of an initiation without TLVs is so long.
            let mut noise = [0; 113];
            self.entropy.fill(&mut noise);
            let (envelope, header) = (&self.envelope, &self.header);
            let bytes = seal_initiation(envelope, header, number as u32, &noise, None, &mut self.entropy);
            self.lengths.push(Some(bytes.len()));
            let (from, to) = (source(number), outside(1).ip());
            net.wire.on[1].push_back(Datagram { from, to, tos: 0, bytes });
        }
    }

    /// What is for strangers ends here.
    fn fate(&mut self) -> impl Fate {
        |to: usize, datagram: Datagram, on: &mut VecDeque<_>| match datagram.to == outside(to).ip() {
            true => arrives(to, datagram, on),
            false => self.hear(datagram),
        }
    }

    /// That it is a cookie reply, the only one to an initiation from there, and no longer than that.
    fn hear(&mut self, Datagram { to, mut bytes, .. }: Datagram) {
        // A cookie reply is masked as what comes to its sender is.
        self.header.mask(&mut bytes);
        let header = Header::parse(&bytes).expect("an answer with a header");
        let number = header.index as usize;
        assert_eq!((header.kind, to), (TYPE_COOKIE, source(number).ip()));
        let length = self.lengths[number].take().expect("one answer at most");
        assert!(bytes.len() <= length, "{} bytes answer {length}", bytes.len());
        self.heard += 1;
    }
}

/// Where initiation `number` pretends to come from: a network set aside for such tests (RFC 2544).
fn source(number: usize) -> SocketAddr {
    let host = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + (number % SOURCES) as u32);
    SocketAddr::from((host, 1000))
}
