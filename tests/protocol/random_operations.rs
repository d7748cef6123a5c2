//! Any sequence of what users, wires and clocks can do: nothing comes twice or from nowhere, and in the end both talk.

use proptest::prelude::*;
use veil_proto::time::{MILLISECOND, SECOND};

use crate::checks::assert_recovers;
use crate::sim::{Datagram, World, address};

/// One thing that happens. Places on the wire are taken modulo what is there.
#[derive(Clone, Debug)]
enum Operation {
    Send(usize),
    Arrive(usize),
    ArriveAndStay(usize),
    Lose(usize),
    /// Any datagram ever sent arrives again, from another address if so wanted.
    Replay(usize, bool),
    Advance(u64),
    Restart(usize),
    /// An end's source address changes; the other can still be reached at its configured one.
    Roam(usize, usize),
    /// An end changes the index under which it is reached, if it can now.
    Rotate(usize),
    /// An end gives the other a lease, with a number of its own.
    Offer(usize),
    /// An end says that it ends its session, and does, and comes back.
    Close(usize),
    /// An end sends datagrams so large that its path is probed; above a width they are lost.
    Large(usize, Option<usize>),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        6 => (0usize..2).prop_map(Send),
        8 => any::<usize>().prop_map(Arrive),
        1 => any::<usize>().prop_map(ArriveAndStay),
        2 => any::<usize>().prop_map(Lose),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, elsewhere)| Replay(at, elsewhere)),
        3 => (0..200 * MILLISECOND).prop_map(Advance),
        2 => (0..20 * SECOND).prop_map(Advance),
        1 => (0..200 * SECOND).prop_map(Advance),
        1 => (0usize..2).prop_map(Restart),
        1 => ((0usize..2), (5usize..8)).prop_map(|(end, to)| Roam(end, to)),
        2 => (0usize..2).prop_map(Rotate),
        2 => (0usize..2).prop_map(Offer),
        1 => (0usize..2).prop_map(Close),
        1 => ((0usize..2), prop::option::of(1252usize..1452)).prop_map(|(end, widest)| Large(end, widest)),
    ]
}

/// Takes a datagram off the held wire.
fn take(world: &mut World, at: usize) -> Option<Datagram> {
    let count = world.held.len();
    (count > 0).then(|| world.held.remove(at % count))
}

fn perform(world: &mut World, operation: Operation) {
    match operation {
        Operation::Send(end) => {
            world.send(end, 1 - end);
        }
        Operation::Arrive(at) => {
            if let Some(datagram) = take(world, at) {
                world.arrive(datagram);
            }
        }
        Operation::ArriveAndStay(at) => {
            if let Some(datagram) = take(world, at) {
                world.held.push(datagram.clone());
                world.arrive(datagram);
            }
        }
        Operation::Lose(at) => drop(take(world, at)),
        Operation::Replay(at, elsewhere) => {
            let sent = world.tap.as_deref().unwrap_or_default();
            if let Some(mut datagram) = sent.get(at % sent.len().max(1)).cloned() {
                if elsewhere {
                    datagram.from = address(9);
                }
                world.arrive(datagram);
            }
        }
        Operation::Advance(nanos) => world.run(nanos),
        Operation::Restart(end) => world.restart(end),
        Operation::Roam(end, to) => {
            // Both addresses lead to it: what is on its way to the old one may still arrive.
            world.addresses[end] = address(to + 3 * end);
            world.routes.insert(address(to + 3 * end), end);
        }
        Operation::Rotate(end) => {
            let (peer, now) = (world.peer(end, 1 - end), world.now());
            world.ends[end].sessions.rotate_session(peer, now);
            world.settle(end);
        }
        Operation::Offer(end) => world.offer(end, 1 - end),
        Operation::Close(end) => {
            world.ends[end].sessions.close_all();
            world.settle(end);
            world.restart(end);
        }
        Operation::Large(end, widest) => {
            world.ends[end].widest = widest;
            world.send_large(end, 1 - end, 1452);
        }
    }
    world.run(0);
}

fn play(seed: u64, delay: u64, operations: Vec<Operation>) {
    let mut world = World::leasing_pair(seed);
    world.hold = true;
    world.tap = Some(Vec::new());
    world.message_delay = delay;
    for operation in operations {
        perform(&mut world, operation);
    }
    world.tap = None;
    world.whole_again();
    // What an earlier life of the wire still holds arrives late, in between.
    for datagram in std::mem::take(&mut world.held) {
        world.run(MILLISECOND);
        world.arrive(datagram);
    }
    world.ends.iter_mut().for_each(|end| end.widest = None);
    assert_recovers(&mut world, 0, 1);
    world.assert_leases_agree(0, 1);
}

/// A share of the cases, of which there are 300, or as many as `VEIL_CASES` says: CI wants ten thousand.
fn cases(percent: u32) -> ProptestConfig {
    let all = match std::env::var("VEIL_CASES") {
        Ok(number) => number.parse().expect("VEIL_CASES is a number"),
        Err(_) => 300,
    };
    // Whoever reads a failure wants it small, but today.
    ProptestConfig {
        cases: all * percent / 100,
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    }
}

/// How late messages between an end's halves are, at most.
fn delay() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..100 * MILLISECOND]
}

// Two tests, so that two cores share the cases: many short sequences take as long as few long ones.
proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn after_a_short_sequence_nothing_came_twice_or_from_nowhere_and_both_ends_find_together_again(
        seed: u64, delay in delay(), operations in prop::collection::vec(operation(), 1..40),
    ) {
        play(seed, delay, operations);
    }
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn after_a_long_sequence_nothing_came_twice_or_from_nowhere_and_both_ends_find_together_again(
        seed: u64, delay in delay(), operations in prop::collection::vec(operation(), 40..150),
    ) {
        play(seed, delay, operations);
    }
}
