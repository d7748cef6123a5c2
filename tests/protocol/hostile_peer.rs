//! A peer that holds the session's keys and says whatever it likes: the other end takes no harm.

use veil_proto::Entropy;
use veil_proto::mux::frame;
use veil_proto::time::{MILLISECOND, SECOND};
use veil_proto::tunnel::Outbound;

use crate::checks::assert_recovers;
use crate::end::{Rng, datagram};
use crate::sim::World;

fn bytes(rng: &mut Rng, most: u64) -> Vec<u8> {
    let mut bytes = vec![0; rng.below(most + 1) as usize];
    rng.fill(&mut bytes);
    bytes
}

/// A frame's payload: noise, or noise behind a beginning that makes a parser go on.
fn payload(rng: &mut Rng, kind: u8) -> Vec<u8> {
    let (number, most) = (rng.below(4) as u8, if rng.percent(10) { 1300 } else { 40 });
    let mut tail = bytes(rng, most);
    if kind == frame::CONTROL && number == 1 && tail.len() > 3 {
        // A Config that begins with a field of a known type.
        tail[0] = 1 + rng.below(5) as u8;
        tail[1] = rng.below(tail.len() as u64 - 2) as u8;
        tail[2] = 0;
    }
    let head: Vec<u8> = match kind {
        _ if rng.percent(20) => Vec::new(),
        frame::IP => vec![[0x45, 0x60][usize::from(number & 1)]],
        frame::FRAGMENT => [&[number, 0, 0, 0, 0, number, 0, 4 * number][..], &vec![0x5a; 512]].concat(),
        // One TLV of a known type; its length is that of what follows, or a little more.
        frame::CONTROL => {
            let len = tail.len() + rng.below(2) as usize;
            vec![number, 0, 0, 0, number, len as u8, (len >> 8) as u8]
        }
        frame::ACK => vec![number, 0, 0, 0],
        frame::PROBE => vec![number, 0, 0, 0, number],
        _ => Vec::new(),
    };
    [head, tail].concat()
}

#[test]
fn whatever_a_peer_seals_is_taken_without_panic_and_both_ends_go_on() {
    let (mut world, mut rng) = (World::pair(990), Rng(990));
    for round in 0..20_000u32 {
        let (peer, now) = (world.peer(0, 1), world.now());
        let Outbound::Ready(path) = world.ends[0].sessions.begin(peer, now) else {
            // There is none yet, or what was said has closed it.
            world.settle(0);
            world.run(SECOND);
            continue;
        };
        let frames: Vec<_> = (0..rng.below(4))
            .map(|_| {
                let kind = rng.below(8) as u8;
                (kind, if rng.percent(80) { 0 } else { rng.below(256) as u8 }, payload(&mut rng, kind))
            })
            .collect();
        let frames: Vec<_> =
            frames.iter().map(|(kind, flags, payload)| (*kind, *flags, &payload[..])).collect();
        let mut sealed = datagram(&frames);
        if rng.percent(30) {
            // Cut somewhere: the tag's place moves into the last frame.
            let len = sealed.len() as u64;
            sealed.truncate((32 + rng.below(len - 31)) as usize);
        }
        world.ends[0].seal(peer, path, sealed, now);
        world.settle(0);
        world.run(if round % 100 == 0 { SECOND } else { 20 * MILLISECOND });
    }
    let refused = &world.ends[1].refused;
    assert!(refused.len() > 5_000, "only {} frames were refused", refused.len());
    assert_recovers(&mut world, 0, 1);
}
