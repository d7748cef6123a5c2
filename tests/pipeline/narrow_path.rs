//! A way that takes no large datagrams: packets go in pieces and arrive whole, whether somebody says so or not.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use veil_proto::mux::ecn::{CE, ECT_0};
use veil_userspace::event_loop::ThreadingMode;

use crate::net::Net;
use crate::side::{Ended, link, pair_over};
use crate::wire::{Datagram, arrives};
use crate::{LIMIT, PATIENCE, arrive_in_order, meet, packet};

in_each_mode! {
    packets_wider_than_the_path_arrive_in_pieces
    a_path_that_says_nothing_is_found_to_be_narrow
    what_follows_a_packet_in_pieces_arrives_after_it
    congestion_that_one_piece_met_is_the_packets
}

/// Bytes of the largest datagram that the way takes: an MTU of 1300, over IPv4. Some packets are wider, most are not.
const WIDEST: usize = 1300 - 28;

fn packets_wider_than_the_path_arrive_in_pieces(mode: ThreadingMode) {
    let mut net = Net::new(mode.into(), LIMIT);
    net.wire.ends.iter().for_each(|end| end.rx.narrow(WIDEST));
    // What is refused is lost: that is how a side learns.
    net.pour(arrives, [32; 2]);
    net.flush(arrives);
    net.exchange(arrives, [200; 2]);
    for ended in net.stop() {
        assert_in_pieces(&ended);
        assert!(ended.shown.drops.keys().eq(["link-send"]), "{:#?}", ended.shown);
    }
}

fn a_path_that_says_nothing_is_found_to_be_narrow(mode: ThreadingMode) {
    let mut net = Net::new(mode.into(), LIMIT);
    let swallow = |_: usize, datagram: Datagram, on: &mut VecDeque<_>| {
        if datagram.bytes.len() <= WIDEST {
            on.push_back(datagram);
        }
    };
    let found = |net: &Net| net.sides.iter().all(|s| s.counters.sessions.black_holes.load(Relaxed) > 0);
    while !found(&net) {
        net.pour(swallow, [32; 2]);
    }
    net.flush(swallow);
    net.exchange(swallow, [200; 2]);
    for ended in net.stop() {
        assert_in_pieces(&ended);
        assert!(ended.shown.drops.is_empty(), "{:#?}", ended.shown);
    }
}

fn what_follows_a_packet_in_pieces_arrives_after_it(mode: ThreadingMode) {
    let ends = link(4);
    ends.iter().for_each(|end| end.rx.narrow(WIDEST));
    let sides = pair_over([mode.into(); 2], ends);
    meet(&sides);
    // The first that are too wide are refused and lost: that is how a side learns.
    for (from, to) in [(0, 1), (1, 0)] {
        let mut wide = wide(from);
        wide[28..32].copy_from_slice(&u32::MAX.to_be_bytes());
        let deadline = Instant::now() + PATIENCE;
        while sides[to].host.receive().is_none_or(|(_, packet)| packet.len() < wide.len()) {
            assert!(Instant::now() < deadline, "it is not learned");
            sides[from].host.send(&wide);
        }
    }
    arrive_in_order(sides);
}

/// A packet of a host's that the way does not take in one.
fn wide(from: usize) -> Vec<u8> {
    (0..).map(|number| packet(from, number)).find(|packet| packet.len() > WIDEST).expect("one")
}

fn congestion_that_one_piece_met_is_the_packets(mode: ThreadingMode) {
    let mut net = Net::new(mode.into(), LIMIT);
    net.wire.ends.iter().for_each(|end| end.rx.narrow(WIDEST));
    net.pour(arrives, [32; 2]);
    net.flush(arrives);
    net.exchange(arrives, [200; 2]);
    for marked in 0..2 {
        let mut sent = wide(0);
        sent[1] = ECT_0;
        assert!(net.sides[0].host.send(&sent));
        let mut pieces = 0;
        let mut mark = |to: usize, mut datagram: Datagram, on: &mut VecDeque<_>| {
            // Each piece has the packet's own bits, and nothing else that is sent has them.
            if to == 1 && datagram.tos & 0b11 == ECT_0 {
                datagram.tos |= if pieces == marked { CE } else { 0 };
                pieces += 1;
            }
            on.push_back(datagram);
        };
        let deadline = Instant::now() + PATIENCE;
        let came = loop {
            assert!(Instant::now() < deadline, "it does not arrive");
            net.wire.carry(&mut mark);
            if let Some((_, packet)) = net.sides[1].host.receive() {
                break packet;
            }
        };
        assert_eq!((pieces, came[1] & 0b11), (2, CE), "piece {marked}");
    }
    net.stop();
}

fn assert_in_pieces(ended: &Ended) {
    let counters = &ended.shown.counters;
    assert!(counters["packets_fragmented"] > 0 && counters["ip_reassembled"] > 0, "{counters:#?}");
}
