//! What a stranger throws in among good datagrams does no harm, is not answered, and is counted by its name.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use veil_userspace::event_loop::ThreadingMode;

use crate::LIMIT;
use crate::chance::Chance;
use crate::net::Net;
use crate::wire::{Datagram, arrives};

in_each_mode! {
    bad_input_does_no_harm_and_is_counted_by_its_name
}

const ROUNDS: usize = 10;

type Spoil = fn(&mut Vec<u8>, &mut Chance);

/// What a stranger makes of a good datagram, and the name it is dropped by.
const BAD: &[(&str, Spoil)] = &[
    ("too-short", |bytes, chance| *bytes = chance.noise(1..32)),
    // Of the masked header: the type, the receiver index, the counter.
    ("bad-header", |bytes, _| bytes[0] ^= 0x80),
    ("unknown-index", |bytes, _| bytes[4] ^= 1),
    ("bad-tag", |bytes, _| bytes[8] ^= 1),
    ("bad-tag", |bytes, _| bytes.push(0)),
    ("bad-tag", |bytes, _| *bytes.last_mut().expect("a datagram") ^= 1),
    ("replayed", |_, _| ()),
];

fn bad_input_does_no_harm_and_is_counted_by_its_name(mode: ThreadingMode) {
    let stranger = SocketAddr::from(([203, 0, 113, 9], 9));
    let (mut tape, mut chance, mut expected) = (Vec::new(), Chance(2), BTreeMap::<String, u64>::new());
    let record = |to: usize, datagram: Datagram, on: &mut VecDeque<_>| {
        if to == 1 {
            tape.push(datagram.clone());
        }
        on.push_back(datagram);
    };
    let mut net = Net::begun(mode.into(), LIMIT, record);
    let no_answer = |to: usize, datagram: Datagram, on: &mut VecDeque<_>| {
        assert_ne!(datagram.to, stranger.ip());
        arrives(to, datagram, on);
    };
    // The first that there was is the initiation.
    let (initiation, data) = tape.split_first().expect("it was recorded");
    for _ in 0..ROUNDS {
        let mut throw = |name: &str, bytes: Vec<u8>| {
            *expected.entry(name.into()).or_default() += 1;
            net.wire.on[1].push_back(Datagram { from: stranger, bytes, ..initiation.clone() });
            net.exchange(no_answer, [2; 2]);
        };
        for (name, spoil) in BAD {
            let mut bytes = data[chance.below(data.len())].bytes.clone();
            spoil(&mut bytes, &mut chance);
            throw(name, bytes);
        }
        throw("bad-header", chance.noise(32..1500));
        throw("replayed-initiation", initiation.bytes.clone());
    }
    let [a, b] = net.stop();
    assert!(a.shown.drops.is_empty(), "{:#?}", a.shown);
    assert_eq!(b.shown.drops, expected);
    assert_eq!(b.shown.counters["initiations_accepted"], 1);
    assert_eq!(b.shown.peers[0].endpoint, Some(initiation.from.to_string()));
}
