//! Sessions and receiver indices are replaced while packets flow, and no packet is lost to it.

use std::sync::atomic::Ordering::Relaxed;

use veil_proto::time::MILLISECOND;
use veil_userspace::event_loop::ThreadingMode;

use crate::LIMIT;
use crate::net::Net;
use crate::side::{Setup, Timers};
use crate::wire::arrives;

in_each_mode! {
    sessions_are_renewed_while_packets_flow
    receiver_indices_change_while_packets_flow
}

/// Much longer than a peer's initiations must be apart: a thread may have to wait between looking at the clock and what it
/// does then, and a session counts as so much older.
const REKEY_AFTER: u64 = 500 * MILLISECOND;
const ROTATE_AFTER: u64 = 15 * MILLISECOND;
const TIMES: u64 = 4;

fn sessions_are_renewed_while_packets_flow(mode: ThreadingMode) {
    let timers = Timers { rekey_after: Some(REKEY_AFTER), rotate_after: None };
    let mut net = Net::new(Setup { timers, ..mode.into() }, LIMIT);
    net.exchange_until(arrives, |net| {
        let accepted =
            net.sides.iter().map(|side| side.counters.handshakes.initiations_accepted.load(Relaxed));
        accepted.sum::<u64>() > TIMES
    });
    assert_nothing_dropped(net);
}

/// An old index lingers for ten seconds, in which its session changes it once: it takes several sessions to see several.
fn receiver_indices_change_while_packets_flow(mode: ThreadingMode) {
    let timers = Timers { rekey_after: Some(REKEY_AFTER), rotate_after: Some(ROTATE_AFTER) };
    let mut net = Net::new(Setup { timers, ..mode.into() }, LIMIT);
    net.exchange_until(arrives, |net| {
        net.sides.iter().all(|side| side.counters.sessions.rotations.load(Relaxed) >= TIMES)
    });
    assert_nothing_dropped(net);
}

fn assert_nothing_dropped(net: Net) {
    for ended in net.stop() {
        assert!(ended.shown.drops.is_empty(), "{:#?}", ended.shown);
    }
}
