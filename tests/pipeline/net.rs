//! Two sides, the wire between them and the hosts behind them, all worked by the one thread of the test: it sends, carries
//! and receives, and waits for nothing but events. Every packet that arrives must be one that was sent, and comes once.

use std::collections::HashSet;
use std::mem;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

use veil_proto::Entropy;
use veil_proto::crypto::{KeyPair, PrivateKey, PublicKey};
use veil_userspace::host::SystemEntropy;
use veil_userspace::link::mem::MemLink;

use crate::side::{Ended, Other, Setup, Side, host, link, outside};
use crate::wire::{Fate, Wire, arrives};
use crate::{PATIENCE, number_of, packet};

/// Packets under way at a time in each direction: fewer than what any queue between two hosts holds.
const WINDOW: u32 = 32;

pub struct Net {
    pub sides: [Side; 2],
    pub wire: Wire,
    /// This host does not take what has arrived for it.
    pub deaf: [bool; 2],
    setup: Setup,
    limit: usize,
    keys: [[u8; 32]; 2],
    /// Packets that each host has sent, and of these, since its side came up.
    sent: [u32; 2],
    sent_lately: [u64; 2],
    /// The numbers of those that have arrived at each host.
    arrived: [HashSet<u32>; 2],
    /// How many will never.
    lost: [u64; 2],
    /// When the test has taken too long, however often it waited.
    end: Instant,
}

impl Net {
    /// Two sides, and a session between them that the first has begun; the wire's ends hold `limit` runs each way.
    pub fn new(setup: Setup, limit: usize) -> Net {
        Net::begun(setup, limit, arrives)
    }

    /// The same, over a wire that already does what it likes.
    pub fn begun(setup: Setup, limit: usize, mut fate: impl Fate) -> Net {
        let keys = [(); 2].map(|()| {
            let mut bytes = [0; 32];
            SystemEntropy::new().fill(&mut bytes);
            bytes
        });
        let [(a, left), (b, right)] = [0, 1].map(|n| start(n, &keys, setup, limit));
        let mut net = Net {
            sides: [a, b],
            wire: Wire::new([left, right]),
            deaf: [false; 2],
            setup,
            limit,
            keys,
            sent: [0; 2],
            sent_lately: [0; 2],
            arrived: Default::default(),
            lost: [0; 2],
            end: Instant::now() + 10 * PATIENCE,
        };
        net.exchange(&mut fate, [1, 0]);
        net.exchange(&mut fate, [WINDOW; 2]);
        net
    }

    /// A side ends and comes up again, with the same keys and without a memory; its peer hears of its end or does not.
    pub fn restart(&mut self, who: usize, farewell: bool) -> Ended {
        let (side, end) = start(who, &self.keys, self.setup, self.limit);
        let ended = mem::replace(&mut self.sides[who], side).stop();
        if farewell {
            self.wire.carry_last_of(who);
        }
        self.wire.ends[who] = end;
        self.sent_lately[who] = 0;
        ended
    }

    /// The hosts send `count` packets each, and all of them arrive.
    pub fn exchange(&mut self, mut fate: impl Fate, count: [u32; 2]) {
        self.send_and_settle(&mut fate, count, Net::all_arrived);
    }

    /// The same, again and again until `done`.
    pub fn exchange_until(&mut self, mut fate: impl Fate, done: impl Fn(&Net) -> bool) {
        while !done(self) {
            self.exchange(&mut fate, [WINDOW; 2]);
        }
    }

    /// The hosts send `count` packets each, of which not all need arrive, and nothing stays under way.
    pub fn pour(&mut self, mut fate: impl Fate, count: [u32; 2]) {
        self.send_and_settle(&mut fate, count, Net::is_quiet);
    }

    fn send_and_settle(&mut self, fate: &mut impl Fate, mut left: [u32; 2], settled: impl Fn(&Net) -> bool) {
        while left != [0; 2] {
            for (from, left) in left.iter_mut().enumerate() {
                let now = WINDOW.min(*left);
                *left -= now;
                for _ in 0..now {
                    assert!(self.send(from), "a TUN that is full of {WINDOW} packets");
                }
            }
            self.wait(&mut *fate, &settled);
        }
    }

    /// One packet from a host; false: its TUN has no room.
    pub fn send(&mut self, from: usize) -> bool {
        let taken = self.sides[from].host.send(&packet(from, self.sent[from]));
        self.sent[from] += u32::from(taken);
        self.sent_lately[from] += u64::from(taken);
        taken
    }

    /// Carries and receives until `done`.
    pub fn wait(&mut self, mut fate: impl Fate, done: impl Fn(&Net) -> bool) {
        let deadline = self.deadline();
        while !done(self) {
            assert!(Instant::now() < deadline, "stuck: {}", self.report());
            if !self.step(&mut fate) {
                thread::yield_now();
            }
        }
    }

    /// Carries one run each way, and has both hosts take what has come. True if anything happened.
    fn step(&mut self, fate: &mut impl Fate) -> bool {
        let mut moved = self.wire.carry(fate);
        for to in [0, 1] {
            while !self.deaf[to]
                && let Some((_, came)) = self.sides[to].host.receive()
            {
                let number = number_of(&came);
                assert!(number < self.sent[1 - to], "packet {number} was never sent");
                assert_eq!(came, packet(1 - to, number), "not as it was sent");
                assert!(self.arrived[to].insert(number), "packet {number} came twice");
                moved = true;
            }
        }
        moved
    }

    /// One more packet each way arrives, behind all others: what has not arrived by then never will.
    pub fn flush(&mut self, mut fate: impl Fate) {
        let last = self.sent;
        assert!(self.send(0) && self.send(1), "a TUN that is full");
        self.wait(&mut fate, |net| (0..2).all(|to| net.arrived[to].contains(&last[1 - to])));
        self.write_off();
    }

    /// What has not arrived by now never will.
    pub fn write_off(&mut self) {
        self.lost = [0, 1].map(|to| self.sent(1 - to) - self.arrived(to));
    }

    /// What others know a side by.
    pub fn public_key(&self, who: usize) -> PublicKey {
        KeyPair::from_private(PrivateKey::from_bytes(self.keys[who])).public
    }

    /// How many packets have arrived at a host.
    pub fn arrived(&self, to: usize) -> u64 {
        self.arrived[to].len() as u64
    }

    /// How many packets a host has sent.
    pub fn sent(&self, from: usize) -> u64 {
        self.sent[from].into()
    }

    /// Whether all that can arrive, and has not been lost, is there.
    pub fn all_arrived(&self) -> bool {
        [0, 1].into_iter().all(|to| {
            self.deaf[to] || self.wire.shut[1 - to] || self.arrived(to) + self.lost[to] == self.sent(1 - to)
        })
    }

    /// Whether all that was sent has come to its end: nothing is in a TUN, in a side or on the wire.
    pub fn is_quiet(&self) -> bool {
        [0, 1].into_iter().all(|from| {
            let [near, far] = [from, 1 - from].map(|n| &self.sides[n].counters);
            near.packets_taken() == self.sent_lately[from]
                && self.has_taken_all_of(from)
                && self.wire.on[1 - from].is_empty()
                && far.datagrams_opened() == self.wire.given(1 - from)
                && far.packets_handed_on() == far.packets_accepted()
        })
    }

    /// Whether the wire has taken all datagrams that a side has made.
    pub fn has_taken_all_of(&self, from: usize) -> bool {
        let side = &self.sides[from].counters;
        side.datagrams_handed_on() == side.datagrams_made()
            && side.link.datagrams_sent.load(Relaxed) == self.wire.taken(from)
    }

    /// Stops both sides once they have taken in what the wire has given them. Their books must balance.
    pub fn stop(self) -> [Ended; 2] {
        let deadline = self.deadline();
        while (0..2)
            .any(|n| self.wire.given(n) != self.sides[n].counters.link.datagrams_received.load(Relaxed))
        {
            assert!(Instant::now() < deadline, "not received: {}", self.report());
            thread::yield_now();
        }
        let ended = self.sides.map(Side::stop);
        ended.iter().for_each(Ended::assert_at_rest);
        ended
    }

    /// When a wait that begins now has taken too long.
    fn deadline(&self) -> Instant {
        self.end.min(Instant::now() + PATIENCE)
    }

    fn report(&self) -> String {
        let of = |n: usize| {
            let (own, sent, arrived, lost) =
                (&self.sides[n].counters, self.sent[n], self.arrived(n), self.lost[n]);
            let (taken, given, on) = (self.wire.taken(n), self.wire.given(n), self.wire.on[n].len());
            format!(
                "host {n}: {sent} sent, {arrived} arrived, {lost} lost; wire: {taken} taken, {given} given, {on} waiting; {own}"
            )
        };
        format!("{}\n{}", of(0), of(1))
    }
}

/// Side number `who` of the two with these private keys, and the far end of its link.
fn start(who: usize, keys: &[[u8; 32]; 2], setup: Setup, limit: usize) -> (Side, MemLink) {
    let [own, peer] = [who, 1 - who].map(|n| KeyPair::from_private(PrivateKey::from_bytes(keys[n])));
    let endpoint = Some(outside(1 - who).to_string());
    let other = Other { public_key: peer.public, host: host(1 - who), endpoint };
    let mut ends = link(limit);
    if who == 1 {
        ends.reverse();
    }
    let [near, far] = ends;
    (Side::start(who, own, &[other], near, setup), far)
}
