//! A side ends, with or without a word, and comes up again without a memory: its peer goes on with the new session.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use veil_userspace::event_loop::ThreadingMode;

use crate::LIMIT;
use crate::net::Net;
use crate::wire::{Datagram, arrives};

in_each_mode! {
    a_restarted_initiator_goes_on
    a_restarted_responder_goes_on
    a_farewell_ends_the_session_at_once
}

/// A peer's initiations must be 20 ms apart: one that comes sooner is tried again after five seconds. They are counted from
/// when a thread looked at the clock, and it may have had to wait since.
pub const APART: Duration = Duration::from_millis(250);

fn a_restarted_initiator_goes_on(mode: ThreadingMode) {
    restart_without_a_word(mode, 0);
}

fn a_restarted_responder_goes_on(mode: ThreadingMode) {
    restart_without_a_word(mode, 1);
}

fn restart_without_a_word(mode: ThreadingMode, who: usize) {
    let mut net = side_by_side(mode);
    net.restart(who, false).assert_at_rest();
    // The other side still seals under a session that nobody else knows, until it hears of the new one.
    net.pour(arrives, if who == 0 { [0, 3] } else { [3, 0] });
    assert!(!net.all_arrived());
    net.write_off();
    net.exchange(arrives, if who == 0 { [1, 0] } else { [0, 1] });
    net.exchange(arrives, [200; 2]);
    let ended = net.stop();
    assert!(ended[who].shown.drops["unknown-index"] > 0, "{:#?}", ended[who].shown);
    assert!(ended[1 - who].shown.drops.is_empty(), "{:#?}", ended[1 - who].shown);
}

fn a_farewell_ends_the_session_at_once(mode: ThreadingMode) {
    let mut net = side_by_side(mode);
    net.restart(0, true).assert_at_rest();
    // What was still under way to it finds nobody.
    let nobody = |_: usize, _: Datagram, _: &mut VecDeque<_>| ();
    net.wait(nobody, |net| {
        net.sides[1].counters.sessions.closed.load(Relaxed) == 1 && net.has_taken_all_of(1)
    });
    // It waits for a new session instead of going where nobody is.
    assert!(net.send(1));
    net.wait(arrives, |net| net.sides[1].counters.process.waiting.load(Relaxed) == 1);
    net.exchange(arrives, [1, 0]);
    net.exchange(arrives, [200; 2]);
    let [again, peer] = net.stop();
    assert!(!again.shown.drops.contains_key("unknown-index"), "{:#?}", again.shown);
    assert_eq!(peer.shown.counters["sessions_closed_by_peers"], 1);
}

fn side_by_side(mode: ThreadingMode) -> Net {
    let net = Net::new(mode.into(), LIMIT);
    thread::sleep(APART);
    net
}
