//! A side's address changes in the middle of a session, and answers follow it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use veil_userspace::event_loop::ThreadingMode;

use crate::LIMIT;
use crate::net::Net;
use crate::side::outside;
use crate::wire::{Datagram, Fate};

in_each_mode! {
    answers_follow_an_initiator_that_moves
    answers_follow_a_responder_that_moves
}

fn answers_follow_an_initiator_that_moves(mode: ThreadingMode) {
    move_about(mode, 0);
}

fn answers_follow_a_responder_that_moves(mode: ThreadingMode) {
    move_about(mode, 1);
}

fn move_about(mode: ThreadingMode, who: usize) {
    let mut net = Net::new(mode.into(), LIMIT);
    let mut last = outside(who);
    for place in 1..=3 {
        net.exchange(arrives_at(who, last), [100; 2]);
        last = SocketAddr::from(([198, 51, 100, place], 7000 + u16::from(place)));
        // Its next packet tells where it is now.
        net.exchange(arrives_at(who, last), if who == 0 { [1, 0] } else { [0, 1] });
    }
    net.exchange(arrives_at(who, last), [100; 2]);
    let ended = net.stop();
    assert_eq!(ended[1 - who].shown.peers[0].endpoint, Some(last.to_string()));
    assert_eq!(ended[who].shown.peers[0].endpoint, Some(outside(1 - who).to_string()));
    for ended in ended {
        assert!(ended.shown.drops.is_empty(), "{:#?}", ended.shown);
    }
}

/// The fate of datagrams while side `who` is at `place` and nowhere else.
fn arrives_at(who: usize, place: SocketAddr) -> impl Fate {
    move |to: usize, mut datagram: Datagram, on: &mut VecDeque<Datagram>| {
        if to != who {
            datagram.from = place;
        } else if datagram.to != place.ip() {
            return;
        }
        on.push_back(datagram);
    }
}
