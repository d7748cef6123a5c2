//! The stages stepped by hand, all on one thread, so that the order of things is not left to chance.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::event_loop::testing::{Far, Near, near_and_far};
use crate::host::{SystemEntropy, now};
use crate::link::mem::{MemRx, MemTx};
use crate::tun::mem::{MemTunRx, MemTunTx};

type Loop = ThreadedEventLoop<MemRx, MemTx, MemTunRx, MemTunTx>;

fn still() -> (Loop, Near, Far) {
    let (mut near, far) = near_and_far();
    let parts = near.parts.take().unwrap();
    let joints =
        Joints { path_errors: Box::new(|| None), send_datagram: Box::new(parts.link_tx.datagram_sender()) };
    let entropy = Box::new(SystemEntropy::new());
    (ThreadedEventLoop::new(parts, joints, Settings::default(), entropy).unwrap(), near, far)
}

/// RX takes in what has come by the link.
fn receive(event_loop: &mut Loop) {
    event_loop.rx.look(false).unwrap();
    event_loop.rx.turn().unwrap();
}

#[test]
fn where_a_peer_is_can_be_stored_before_its_first_packet_goes_on_to_the_host() {
    let (mut event_loop, near, mut far) = still();
    far.initiate();
    receive(&mut event_loop);
    event_loop.processor.turn(now());
    event_loop.control.turn(now()).unwrap();
    assert_eq!(near.state.written.load(Relaxed), 1, "the initiation's timestamp");
    far.answered();
    receive(&mut event_loop);
    event_loop.processor.wiring.from_link.refill(BATCH);
    event_loop.processor.take_in(now());
    event_loop.control.turn(now()).unwrap();
    assert_eq!(near.state.written.load(Relaxed), 2, "where the peer is");
    assert!(!event_loop.tx.wiring.to_tun.has_items(), "and the host has nothing to answer yet");
    event_loop.processor.hand_on(true);
    event_loop.tx.turn().unwrap();
    assert!(near.host.receive().is_some());
    event_loop.bring_home();
    assert_eq!(event_loop.incomplete_set(), None);
}

#[cfg(debug_assertions)]
#[test]
fn a_stage_stepped_by_another_thread_than_its_own_is_caught() {
    let is_caught = |misuse: &mut (dyn FnMut() + Send)| {
        let stepped = thread::scope(|scope| scope.spawn(misuse).join());
        let why = stepped.err().and_then(|why| why.downcast::<String>().ok()).unwrap_or_default();
        assert!(why.contains("hand-over without rebind_to_current()"), "{why}");
    };
    let (mut event_loop, ..) = still();
    is_caught(&mut || drop(event_loop.rx.turn()));
    is_caught(&mut || _ = event_loop.processor.turn(now()));
    is_caught(&mut || drop(event_loop.tx.turn()));
}
