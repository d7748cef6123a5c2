//! The wire between two sides, worked by the test: it carries when it is told to, and asks what is to become of each
//! datagram. What it has taken from one side and not yet given to the other is bounded, so that it fills up as a network
//! does.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

use veil_proto::Path;
use veil_userspace::frame::{Bounded, Inbox, SetName, WideSet};
use veil_userspace::link::mem::MemLink;
use veil_userspace::link::{LinkRx, LinkTx};

/// A datagram under way.
#[derive(Clone)]
pub struct Datagram {
    pub from: SocketAddr,
    pub to: IpAddr,
    pub tos: u8,
    pub bytes: Vec<u8>,
}

/// What becomes of a datagram to side number `to`: it and others join what is on its way there, or do not.
pub trait Fate: FnMut(usize, Datagram, &mut VecDeque<Datagram>) {}

impl<F: FnMut(usize, Datagram, &mut VecDeque<Datagram>)> Fate for F {}

/// The fate of datagrams that nothing happens to.
pub fn arrives(_to: usize, datagram: Datagram, on: &mut VecDeque<Datagram>) {
    on.push_back(datagram);
}

pub struct Wire {
    /// The far ends of both sides' links.
    pub ends: [MemLink; 2],
    /// Nothing is taken from this side.
    pub shut: [bool; 2],
    /// What is on its way to each side.
    pub on: [VecDeque<Datagram>; 2],
    set: WideSet,
}

impl Wire {
    pub fn new(ends: [MemLink; 2]) -> Wire {
        let set = WideSet::new(SetName::LinkReceive, 1);
        Wire { ends, shut: [false; 2], on: Default::default(), set }
    }

    /// Moves one run from each side on, and what is on its way as far as there is room. True if anything moved.
    pub fn carry(&mut self, fate: &mut impl Fate) -> bool {
        let mut moved = false;
        for from in [0, 1] {
            let to = 1 - from;
            if !self.shut[from] && self.on[to].is_empty() {
                moved |= self.take(from, fate);
            }
            moved |= self.give(to);
        }
        moved
    }

    /// Carries all that a side which has ended has left behind.
    pub fn carry_last_of(&mut self, from: usize) {
        while self.take(from, &mut arrives) || !self.on[1 - from].is_empty() {
            self.give(1 - from);
        }
    }

    fn take(&mut self, from: usize, fate: &mut impl Fate) -> bool {
        let mut came = Bounded::new(1);
        self.ends[from].rx.receive(&mut self.set, &mut came, 1).expect("a link in memory");
        let Some(run) = came.pop() else { return false };
        for range in run.ranges() {
            let bytes = run.frame.bytes()[range].to_vec();
            let to = run.path.local().expect("a link in memory knows where its datagrams go");
            let datagram = Datagram { from: run.path.remote(), to, tos: run.tos, bytes };
            fate(1 - from, datagram, &mut self.on[1 - from]);
        }
        run.frame.home(&mut self.set);
        true
    }

    fn give(&mut self, to: usize) -> bool {
        let (tx, on) = (&mut self.ends[to].tx, &mut self.on[to]);
        let before = on.len();
        while let Some(Datagram { from, to, tos, bytes }) = on.front() {
            tx.move_to(*from);
            let path = Path::to(SocketAddr::new(*to, from.port()));
            if tx.send_datagram(&path, bytes, *tos).is_err() {
                break;
            }
            on.pop_front();
        }
        on.len() < before
    }

    /// Datagrams taken from a side.
    pub fn taken(&self, from: usize) -> u64 {
        self.ends[from].rx.counters().datagrams_received.load(Relaxed)
    }

    /// Datagrams given to a side.
    pub fn given(&self, to: usize) -> u64 {
        self.ends[to].tx.counters().datagrams_sent.load(Relaxed)
    }
}
