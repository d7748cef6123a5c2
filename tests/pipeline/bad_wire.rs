//! A wire that loses, repeats, holds back and spoils: nothing comes twice or spoilt, and what is dropped has a name.

use std::collections::VecDeque;

use veil_userspace::event_loop::ThreadingMode;

use crate::LIMIT;
use crate::chance::Chance;
use crate::net::Net;
use crate::wire::{Datagram, arrives};

in_each_mode! {
    a_bad_wire_costs_no_more_than_it_spoils
}

const PACKETS: u32 = 1500;

/// What the wire has done to datagrams on their way to a side.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    lost: u64,
    repeated: u64,
    spoilt: u64,
    held_back: u64,
}

struct BadWire {
    chance: Chance,
    done: [Done; 2],
    late: [Option<Datagram>; 2],
}

impl BadWire {
    fn befall(&mut self, to: usize, mut datagram: Datagram, on: &mut VecDeque<Datagram>) {
        let done = &mut self.done[to];
        match self.chance.below(16) {
            0 => done.lost += 1,
            1 => {
                done.repeated += 1;
                on.extend([datagram.clone(), datagram]);
            }
            2 => {
                done.spoilt += 1;
                self.chance.spoil(&mut datagram.bytes);
                on.push_back(datagram);
            }
            3 => {
                done.held_back += 1;
                on.extend(self.late[to].replace(datagram));
            }
            _ => on.push_back(datagram),
        }
    }
}

fn a_bad_wire_costs_no_more_than_it_spoils(mode: ThreadingMode) {
    let mut net = Net::new(mode.into(), LIMIT);
    let mut bad = BadWire { chance: Chance(1), done: Default::default(), late: Default::default() };
    net.pour(|to, datagram, on: &mut VecDeque<_>| bad.befall(to, datagram, on), [PACKETS; 2]);
    for (on, late) in net.wire.on.iter_mut().zip(&mut bad.late) {
        on.extend(late.take());
    }
    net.wait(arrives, Net::is_quiet);
    net.flush(arrives);
    // The session has come to no harm.
    net.exchange(arrives, [100; 2]);
    for (ended, done) in net.stop().iter().zip(bad.done) {
        let Done { lost, repeated, spoilt, held_back } = done;
        assert!(lost > 0 && repeated > 0 && spoilt > 0 && held_back > 0, "{done:?}");
        let drops = &ended.shown.drops;
        assert_eq!(drops["replayed"], repeated, "{done:?}: {drops:#?}");
        assert_eq!(drops.values().sum::<u64>(), repeated + spoilt, "{done:?}: {drops:#?}");
    }
}
