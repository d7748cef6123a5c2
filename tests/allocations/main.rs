//! Nothing per packet that can be once per run of the daemon: the data path allocates nothing once it is warm.
//!
//! Two ends in one thread, over real UDP sockets on the loopback interface, with sessions they agreed on: what a host
//! gives is split, sealed, sent, received, opened, joined and given to the other host, both ways, by the stages and the
//! code of the daemon ([`end`]). Only the TUN device is missing, since it takes privileges: its two ends are one `readv`
//! and one `writev` around what is here. An allocator counts for each thread what it is asked for ([`counting`]).

mod counting;
mod end;
mod traffic;

use std::hint::black_box;

use counting::{Counts, counted};
use end::{Pair, Transfer};
use traffic::{Batch, Family, HOSTS};

/// Rounds before anything is counted, each a batch in both directions.
const WARM_UP: usize = 300;
const MEASURED: usize = 300;

/// Sends `batches[n]` from end `n`, round after round; what the rounds after the warm-up came to.
fn measured(pair: &mut Pair, batches: &[Batch; 2]) -> Transfer {
    let mut all = Transfer::default();
    for round in 0..WARM_UP + MEASURED {
        for (from, batch) in batches.iter().enumerate() {
            let transfer = pair.transfer(from, batch);
            assert_eq!(transfer.delivered, batch.packets, "round {round}: packets that the other host got");
            if round >= WARM_UP {
                all += transfer;
            }
        }
    }
    pair.assert_at_rest();
    all
}

/// One shape of traffic, both ways, over IPv4 and over IPv6; `as_meant` says whether it took the way it is here for.
/// (Datagrams are counted with what travels beside packets, such as path MTU probes.)
fn assert_allocates_nothing(
    ready: impl Fn(&mut Pair),
    make: impl Fn(Family, [usize; 2]) -> Batch,
    as_meant: impl Fn(&Transfer) -> bool,
) {
    for family in [Family::V4, Family::V6] {
        let mut pair = Pair::new();
        ready(&mut pair);
        let all = measured(&mut pair, &HOSTS.map(|hosts| make(family, hosts)));
        assert_eq!([all.sending, all.receiving], [Counts::default(); 2], "{family:?}");
        assert!(as_meant(&all), "{family:?}: {all:?}");
    }
}

fn as_it_is(_: &mut Pair) {}

#[test]
fn super_packets_are_split_sealed_opened_and_joined() {
    let make = |family, hosts| Batch::tcp_super_packets(family, hosts, 2);
    assert_allocates_nothing(as_it_is, make, |all| all.joined > 0 && all.datagrams >= all.delivered);
}

#[test]
fn super_packets_of_small_datagrams_are_split_and_joined() {
    let make = |family, hosts| Batch::udp_super_packets(family, hosts, 2);
    assert_allocates_nothing(as_it_is, make, |all| all.joined > 0 && all.datagrams < all.delivered);
}

#[test]
fn small_packets_share_datagrams() {
    let make = |family, hosts| Batch::singles(family, hosts, 40, 64);
    assert_allocates_nothing(as_it_is, make, |all| all.datagrams < all.delivered);
}

#[test]
fn large_packets_fill_a_run() {
    let make = |family, hosts| Batch::singles(family, hosts, 30, 1400);
    assert_allocates_nothing(as_it_is, make, |all| all.datagrams >= all.delivered);
}

#[test]
fn a_packet_comes_alone() {
    let make = |family, hosts| Batch::singles(family, hosts, 1, 84);
    assert_allocates_nothing(as_it_is, make, |all| all.joined == 0 && all.datagrams >= all.delivered);
}

#[test]
fn super_packets_are_cut_shorter_for_a_narrow_path() {
    let make = |family, hosts| Batch::tcp_super_packets(family, hosts, 1).cut_for(1300);
    assert_allocates_nothing(|pair| pair.narrow_to(1300), make, |all| all.datagrams >= all.delivered);
}

/// The exception: a packet wider than its path arrives in pieces and is put together in memory of its own, because how
/// many such packets a session has under way is the peer's to say. Two allocations each, its bytes and the list of its
/// pieces, and both are freed with it. Cutting it to pieces costs none.
#[test]
fn a_packet_in_pieces_costs_its_receiver_two_allocations() {
    let mut pair = Pair::new();
    pair.narrow_to(1300);
    let batches = HOSTS.map(|hosts| Batch::singles(Family::V4, hosts, 10, 1400));
    let all = measured(&mut pair, &batches);
    assert_eq!(all.sending, Counts::default());
    assert!(all.datagrams >= 2 * all.delivered, "every packet went in two pieces: {all:?}");
    assert!(all.receiving.allocations <= 2 * all.delivered, "{all:?}");
    assert_eq!(all.receiving.allocations, all.receiving.deallocations, "nothing is kept");
}

/// Otherwise all of the above would hold of any code.
#[test]
fn the_counter_counts() {
    let (kept, counts) = counted(|| vec![0u8; black_box(100)]);
    assert_eq!(counts, Counts { allocations: 1, deallocations: 0 });
    let (mut grown, counts) = counted(move || {
        let mut grown = kept;
        grown.reserve_exact(black_box(1000));
        grown
    });
    assert_eq!(counts, Counts { allocations: 1, deallocations: 1 }, "to grow is to allocate and to free");
    let ((), counts) = counted(move || grown.clear());
    assert_eq!(counts, Counts { allocations: 0, deallocations: 1 });
    let ((), counts) = counted(|| std::thread::scope(|scope| _ = scope.spawn(|| ()).join()));
    assert!(counts.allocations > 0, "a thread is not started for nothing");

    let mut pair = Pair::new();
    let batch = Batch::singles(Family::V4, HOSTS[0], 1, 84);
    pair.plant = true;
    let transfer = pair.transfer(0, &batch);
    assert!(transfer.receiving.allocations > 0, "a host that copies what it is given is noticed");
}
