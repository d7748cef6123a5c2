//! The stages stepped by hand, all on one thread, so that the order of things is not left to chance.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;

use veil_proto::Path;
use veil_proto::tunnel::ToSessions;

use super::*;
use crate::event_loop::poll::Poll;
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
    let others = elsewhere(event_loop);
    event_loop.rx.look(false).unwrap();
    event_loop.rx.turn(&others).unwrap();
}

/// The other stages are with their threads.
fn elsewhere(event_loop: &Loop) -> Others<'static, MemTx, MemTunTx> {
    Others { process: Parked::empty(), tx: Parked::empty(), bells: event_loop.control.bells.clone() }
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
    event_loop.tx.turn();
    assert!(near.host.receive().is_some());
    event_loop.bring_home();
    assert_eq!(event_loop.incomplete_set(), None);
}

#[test]
fn a_session_is_there_before_its_first_datagram_whatever_was_said_before_it() {
    let (mut event_loop, near, mut far) = still();
    far.initiate();
    receive(&mut event_loop);
    event_loop.processor.turn(now());
    let path = Path::to(([192, 0, 2, 9], 4433).into());
    for _ in 0..2 * BATCH {
        event_loop.control.control.put_back(ToSessions::NotPending(path));
    }
    event_loop.control.turn(now()).unwrap();
    far.answered();
    receive(&mut event_loop);
    event_loop.processor.turn(now());
    event_loop.tx.turn();
    assert!(near.host.receive().is_some());
    event_loop.bring_home();
    assert_eq!(event_loop.incomplete_set(), None);
}

#[test]
fn a_lone_packet_is_carried_through_stages_that_sleep_and_wakes_nobody() {
    let (mut event_loop, near, mut far) = still();
    far.initiate();
    receive(&mut event_loop);
    event_loop.processor.turn(now());
    event_loop.control.turn(now()).unwrap();
    far.answered();
    receive(&mut event_loop);
    assert!(!elsewhere(&event_loop).carry().unwrap());
    let Loop { processor, tx, control, .. } = &mut event_loop;
    let bells = control.bells.clone();
    let others = Others { process: Parked::new(processor), tx: Parked::new(tx), bells };
    assert!(others.carry().unwrap());
    assert!(near.host.receive().is_some());
    let is_asleep = |bell: &Bell| {
        let mut poll = Poll::new().unwrap();
        poll.add_edge(bell.fd().as_raw_fd(), 0).unwrap();
        bell.set_bed(Bed::Descriptors);
        bell.pushed();
        poll.wait(false).unwrap() == 1
    };
    for bell in [&others.bells.process, &others.bells.tx] {
        assert!(is_asleep(bell), "it lies down again, and whoever has something for it rings");
    }
    drop(others);
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
    let others = elsewhere(&event_loop);
    is_caught(&mut || drop(event_loop.rx.turn(&others)));
    is_caught(&mut || _ = event_loop.processor.turn(now()));
    is_caught(&mut || _ = event_loop.tx.turn());
}
