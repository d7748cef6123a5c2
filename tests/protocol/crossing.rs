//! Both ends start a handshake at once: every order and every loss of what they say.
//!
//! A script decides, one by one, which datagram under way arrives next and which is lost; all scripts are tried.

use std::net::SocketAddr;

use veil_proto::handshake::message::{TYPE_DATA, TYPE_INITIATION};
use veil_proto::time::{MILLISECOND, SECOND};

use crate::checks::assert_recovers;
use crate::end::{Rng, keys};
use crate::sim::{Link, World, address};

/// So many datagrams arrive as a script says where offers are changed in between; the others in order.
const DECIDED: usize = 6;

/// Goes through all sequences of choices, whatever their number and widths.
#[derive(Default)]
struct Script {
    made: Vec<(usize, usize)>,
    at: usize,
}

impl Script {
    fn choose(&mut self, of: usize) -> usize {
        if self.at == self.made.len() {
            self.made.push((0, of));
        }
        let (choice, width) = self.made[self.at];
        assert_eq!(width, of, "the same choices lead to the same place");
        self.at += 1;
        choice
    }

    /// On to the next sequence; false after the last.
    fn next(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, of)) = self.made.pop() {
            if choice + 1 < of {
                self.made.push((choice + 1, of));
                return true;
            }
        }
        false
    }
}

/// Has held datagrams arrive, or be lost, as the script says, until none is left or `most` were decided.
fn play(world: &mut World, script: &mut Script, most: usize) -> usize {
    for decided in 0..most {
        if world.held.is_empty() {
            return decided;
        }
        let choice = script.choose(2 * world.held.len());
        let datagram = world.held.remove(choice / 2);
        world.mono += 25 * MILLISECOND;
        if choice.is_multiple_of(2) {
            world.arrive(datagram);
        }
        world.run(0);
    }
    most
}

/// Has one held datagram arrive, which the script chooses.
fn one_arrives(world: &mut World, script: &mut Script) {
    let choice = script.choose(world.held.len());
    let datagram = world.held.remove(choice);
    world.mono += 25 * MILLISECOND;
    world.arrive(datagram);
    world.run(0);
}

/// Like [`play`], but nothing is lost and `copies` datagrams come again later, as the script says.
fn play_doubled(world: &mut World, script: &mut Script, mut copies: usize) {
    while !world.held.is_empty() {
        let choice = script.choose(world.held.len() * (1 + usize::from(copies > 0)));
        let at = choice % world.held.len();
        let datagram = if choice < world.held.len() {
            world.held.remove(at)
        } else {
            copies -= 1;
            world.held[at].clone()
        };
        world.mono += 25 * MILLISECOND;
        world.arrive(datagram);
        world.run(0);
    }
}

/// A pair whose held wire has an initiation of each end.
fn crossed(seed: u64) -> World {
    crossing(World::pair(seed))
}

/// Has both ends begin a handshake on a held wire.
fn crossing(mut world: World) -> World {
    world.hold = true;
    world.send(0, 1);
    world.send(1, 0);
    world.run(0);
    assert_eq!(world.held.len(), 2);
    assert!(world.held.iter().all(|datagram| world.header(datagram).kind == TYPE_INITIATION));
    world
}

#[test]
fn every_order_and_loss_of_two_crossing_handshakes_ends_on_one_session() {
    let (mut script, mut runs, mut longest, mut lossless) = (Script::default(), 0, 0, 0);
    loop {
        let mut world = crossed(1);
        longest = longest.max(play(&mut world, &mut script, 20));
        assert!(world.held.is_empty(), "the script went to its end");
        lossless += usize::from(script.made.iter().all(|(choice, _)| choice.is_multiple_of(2)));
        world.whole_again();
        assert_recovers(&mut world, 0, 1);
        runs += 1;
        if !script.next() {
            break;
        }
    }
    println!("{runs} scripts, {lossless} without loss, the longest of {longest} datagrams");
    assert!(runs > 200 && lossless > 20 && longest >= 6);
}

#[test]
fn in_every_lossless_order_a_few_packets_each_way_suffice_and_none_is_lost() {
    let (mut script, mut runs) = (Script::default(), 0);
    loop {
        let mut world = crossed(2);
        while !world.held.is_empty() {
            one_arrives(&mut world, &mut script);
        }
        world.whole_again();
        for _ in 0..3 {
            world.send(0, 1);
            world.send(1, 0);
            world.run(100 * MILLISECOND);
        }
        assert_eq!(world.undelivered(), 0, "{:?}", script.made);
        assert!(world.agree(0, 1), "{:?}", script.made);
        world.check_conservation();
        runs += 1;
        if !script.next() {
            break;
        }
    }
    assert!(runs > 20, "{runs} scripts");
}

#[test]
fn in_every_order_of_two_crossing_handshakes_each_end_has_in_the_end_what_the_other_offers() {
    let (mut script, mut runs) = (Script::default(), 0);
    loop {
        let mut world = crossing(World::leasing_pair(7));
        let change_at = script.choose(DECIDED);
        for decided in 0..DECIDED {
            if decided == 0 || decided == change_at {
                world.offer(0, 1);
                world.offer(1, 0);
                world.run(0);
            }
            if !world.held.is_empty() {
                one_arrives(&mut world, &mut script);
            }
        }
        world.whole_again();
        for datagram in std::mem::take(&mut world.held) {
            world.arrive(datagram);
            world.run(MILLISECOND);
        }
        assert_recovers(&mut world, 0, 1);
        world.assert_leases_agree(0, 1);
        runs += 1;
        if !script.next() {
            break;
        }
    }
    println!("{runs} orders");
    assert!(runs > 500);
}

#[test]
fn in_no_order_does_a_late_datagram_lead_back_to_where_a_roaming_end_was() {
    let mut late = 0;
    for roaming in [0, 1] {
        let (other, mut script) = (1 - roaming, Script::default());
        loop {
            let mut world = crossed(3);
            let mut kept = None;
            while !world.held.is_empty() {
                let choice = script.choose(world.held.len() * (1 + usize::from(kept.is_none())));
                let datagram = world.held.remove(choice % (world.held.len()));
                world.mono += 25 * MILLISECOND;
                let keeps = choice > world.held.len() && world.header(&datagram).kind == TYPE_DATA;
                if keeps && datagram.from == address(roaming) {
                    kept = Some(datagram);
                } else {
                    world.arrive(datagram);
                }
                world.run(0);
            }
            world.whole_again();
            let new = SocketAddr::from(([203, 0, 113, 99], 9));
            world.roam(roaming, new);
            world.send(roaming, other);
            world.run(100 * MILLISECOND);
            let place = |world: &World| world.ends[other].endpoint(world.peer(other, roaming));
            // Unless what was kept was needed for a session: then there is nothing to lead back from.
            if let Some(kept) = kept
                && place(&world) == Some(new)
            {
                let before = world.ends[other].usable();
                world.arrive(kept);
                world.run(0);
                // What confirms a session says where it is.
                if world.ends[other].usable() == before {
                    late += 1;
                    assert_eq!(place(&world), Some(new), "{roaming} {:?}", script.made);
                }
            }
            if !script.next() {
                break;
            }
        }
    }
    assert!(late > 10, "{late}");
}

#[test]
fn in_every_order_with_one_datagram_doubled_both_ends_finish_on_one_session() {
    let (mut script, mut runs) = (Script::default(), 0);
    loop {
        let mut world = crossed(4);
        play_doubled(&mut world, &mut script, 1);
        world.whole_again();
        for _ in 0..3 {
            world.send(0, 1);
            world.send(1, 0);
            world.run(100 * MILLISECOND);
        }
        assert_eq!(world.undelivered(), 0, "{:?}", script.made);
        assert!(world.agree(0, 1), "{:?}", script.made);
        runs += 1;
        if !script.next() {
            break;
        }
    }
    assert!(runs > 500, "{runs} scripts");
}

#[test]
fn every_order_and_loss_of_two_crossing_rekeys_ends_on_one_session() {
    // Both ends ask anew although a session is there: each has sent for 15 s and heard nothing.
    let (mut script, mut runs) = (Script::default(), 0);
    loop {
        let mut world = World::pair(3);
        world.send(0, 1);
        world.run(SECOND);
        world.send(1, 0);
        world.run(11 * SECOND);
        world.hold = true;
        world.send(0, 1);
        world.send(1, 0);
        world.run(16 * SECOND);
        let mut held = std::mem::take(&mut world.held);
        held.retain(|datagram| world.header(datagram).kind == TYPE_INITIATION);
        world.held = held;
        assert_eq!(world.held.len(), 2, "an initiation each");
        play(&mut world, &mut script, 20);
        world.whole_again();
        assert_recovers(&mut world, 0, 1);
        runs += 1;
        if !script.next() {
            break;
        }
    }
    assert!(runs > 100, "{runs} scripts");
}

#[test]
fn a_session_of_the_other_ends_making_ends_our_own_attempts() {
    for lost in [0, 1] {
        let mut world = crossed(6);
        world.tap = Some(Vec::new());
        let other = world.held.remove(1 - lost);
        world.held.clear();
        world.whole_again();
        world.arrive(other);
        world.run(60 * SECOND);
        assert!(world.agree(0, 1));
        assert_eq!(world.tapped(TYPE_INITIATION).len(), 0, "end {lost} tried again");
        assert_eq!(world.undelivered(), 0);
    }
}

#[test]
fn crossing_handshakes_whose_ends_are_slow_inside_end_on_one_session() {
    // Messages between the halves of an end take their time too; too many orders to try all.
    for seed in 0..400 {
        let mut world = World::pair(seed);
        let mut rng = Rng(seed);
        world.message_delay = 60 * MILLISECOND;
        let loss = [0, 25, 50][rng.below(3) as usize];
        world.set_links(Link { loss, doubled: 25, delay: 0, jitter: 60 * MILLISECOND });
        world.send(0, 1);
        world.run(rng.below(60 * MILLISECOND));
        world.send(1, 0);
        world.run(300 * MILLISECOND);
        world.whole_again();
        assert_recovers(&mut world, 0, 1);
    }
}

#[test]
fn after_a_full_crossing_the_session_of_the_smaller_key_stays() {
    let mut world = crossed(5);
    let (first, second) = (world.held.remove(0), world.held.remove(0));
    for initiation in [first, second] {
        world.arrive(initiation);
    }
    world.run(0);
    let responses = std::mem::take(&mut world.held);
    assert_eq!(responses.len(), 2);
    for response in responses {
        world.arrive(response);
    }
    world.run(0);
    let smaller = if keys(0).public < keys(1).public { 0 } else { 1 };
    let its_own = world.current(smaller, 1 - smaller);
    world.whole_again();
    assert_recovers(&mut world, 0, 1);
    assert_eq!(world.current(smaller, 1 - smaller), its_own);
}
