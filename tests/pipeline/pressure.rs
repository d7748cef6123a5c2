//! A side that cannot get rid of what it has: a blocked link stops only what goes out, a host that takes nothing only what
//! comes in. What is held is bounded, and what was taken is not lost but by its name.

use std::sync::atomic::Ordering::Relaxed;

use veil_userspace::event_loop::ThreadingMode;

use crate::net::Net;
use crate::side::TUN_QUEUE;
use crate::wire::arrives;

in_each_mode! {
    a_blocked_link_stops_only_what_goes_out
    a_host_that_takes_nothing_stops_only_what_comes_in
}

/// Runs that the wire holds: soon full.
const FEW: usize = 4;

fn a_blocked_link_stops_only_what_goes_out(mode: ThreadingMode) {
    let mut net = Net::new(mode.into(), FEW);
    net.wire.shut[0] = true;
    // The host is refused in the end, while the other way is open as before: nobody keeps more and more.
    while net.send(0) {
        while net.send(0) {}
        net.exchange(arrives, [0, 200]);
    }
    assert!(net.sides[0].counters.link.blocked.load(Relaxed) > 0);
    assert!(net.sent(0) - net.arrived(1) > TUN_QUEUE as u64);
    net.wire.shut[0] = false;
    net.wait(arrives, Net::all_arrived);
    net.exchange(arrives, [50; 2]);
    for ended in net.stop() {
        assert!(ended.shown.drops.is_empty(), "{:#?}", ended.shown);
    }
}

fn a_host_that_takes_nothing_stops_only_what_comes_in(mode: ThreadingMode) {
    let mut net = Net::new(mode.into(), FEW);
    let before = net.arrived(0);
    net.deaf[0] = true;
    let too_many = 3 * TUN_QUEUE as u32;
    net.pour(arrives, [0, too_many]);
    net.exchange(arrives, [1000, 0]);
    net.deaf[0] = false;
    net.wait(arrives, |net| net.arrived(0) - before == TUN_QUEUE as u64);
    net.flush(arrives);
    net.exchange(arrives, [50; 2]);
    let [a, b] = net.stop();
    assert_eq!(a.shown.drops["tun-write"], u64::from(too_many) - TUN_QUEUE as u64);
    assert_eq!((a.shown.drops.len(), b.shown.drops.len()), (1, 0));
}
