//! Whole event loops on threads, over a link and a TUN in memory: no privileges, no kernel, and so the place where
//! ThreadSanitizer and LeakSanitizer look (`cargo xtask ci`, steps `races` and `leaks`).

/// Has scenarios run with both sides in each threading mode.
macro_rules! in_each_mode {
    ($($scenario:ident)*) => {
        mod single {
            $(#[test]
            fn $scenario() {
                super::$scenario(veil_userspace::event_loop::ThreadingMode::SingleThreaded);
            })*
        }
        mod pipeline {
            $(#[test]
            fn $scenario() {
                super::$scenario(veil_userspace::event_loop::ThreadingMode::Pipeline);
            })*
        }
    };
}

mod bad_input;
mod bad_wire;
mod chance;
mod endings;
mod flood;
mod many;
mod narrow_path;
mod net;
mod planted;
mod pressure;
mod renewal;
mod roaming;
mod side;
mod super_packets;
mod wire;

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use side::{Ended, MTU, Setup, Side, pair};
use veil_userspace::event_loop::ThreadingMode::{self, Pipeline, SingleThreaded};
use veil_userspace::event_loop::pipeline::Settings;
use veil_userspace::tun::mem::MemHost;

/// Long enough for a machine busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
const PACKETS: u32 = 5000;
/// Runs that a wire worked by a test holds each way.
const LIMIT: usize = 64;

/// An IPv4 packet from one host to the other that carries a number; successive ones are of very different sizes.
fn packet(from: usize, number: u32) -> Vec<u8> {
    const LEAST: usize = 28 + 4;
    let sizes = usize::from(MTU) - LEAST + 1;
    let mut packet = vec![0; LEAST + (number as usize).wrapping_mul(389) % sizes];
    let len = (packet.len() as u16).to_be_bytes();
    packet[..20].copy_from_slice(&[
        0x45,
        0,
        len[0],
        len[1],
        0,
        0,
        0x40,
        0,
        64,
        17,
        0,
        0,
        10,
        8,
        0,
        from as u8 + 1,
        10,
        8,
        0,
        2 - from as u8,
    ]);
    packet[28..32].copy_from_slice(&number.to_be_bytes());
    packet
}

fn number_of(packet: &[u8]) -> u32 {
    packet[28..32].try_into().map(u32::from_be_bytes).expect("four bytes")
}

/// Sends until there is an answer from the other side: the first packets may be lost to the handshake.
fn meet(sides: &[Side; 2]) {
    let deadline = Instant::now() + PATIENCE;
    for (from, to) in [(0, 1), (1, 0)] {
        while sides[to].host.receive().is_none() {
            assert!(Instant::now() < deadline, "no session");
            sides[from].host.send(&packet(from, u32::MAX));
            thread::sleep(Duration::from_millis(1));
        }
    }
    thread::sleep(Duration::from_millis(20));
    sides.iter().for_each(|side| while side.host.receive().is_some() {});
}

fn send_all(host: &MemHost, from: usize) {
    for number in 0..PACKETS {
        while !host.send(&packet(from, number)) {
            thread::yield_now();
        }
    }
}

/// Takes what arrives; numbers grow, since nothing in memory reorders.
fn receive_all(host: &MemHost) -> usize {
    let (mut seen, mut last) = (HashSet::new(), None);
    let mut quiet_since = Instant::now();
    while seen.len() < PACKETS as usize && quiet_since.elapsed() < Duration::from_secs(5) {
        let Some((_, packet)) = host.receive() else {
            thread::yield_now();
            continue;
        };
        quiet_since = Instant::now();
        let number = number_of(&packet);
        if number == u32::MAX {
            continue;
        }
        assert!(last < Some(number), "{number} after {last:?}");
        last = Some(number);
        seen.insert(number);
    }
    seen.len()
}

/// A lot of packets both ways at once, over a link that is full most of the time.
fn both_ways(modes: [ThreadingMode; 2], settings: Settings) {
    let sides = pair(modes.map(|mode| Setup { settings, ..mode.into() }), 4);
    meet(&sides);
    arrive_in_order(sides);
}

/// A lot of packets both ways at once between two sides that have met: none is missing.
fn arrive_in_order(sides: [Side; 2]) {
    let (got, [a, b]) = in_order(sides);
    // What the receiving host had no room for is counted as dropped, and nothing else is missing.
    for (n, ended) in [&b, &a].into_iter().enumerate() {
        let dropped: u64 = ended.shown.drops.values().sum();
        assert!(got[n] as u64 + dropped >= u64::from(PACKETS), "{}: {dropped} {:#?}", got[n], ended.shown);
    }
}

/// What arrives is in order. Returns how many packets have come from each side, and how the sides ended.
fn in_order(sides: [Side; 2]) -> ([usize; 2], [Ended; 2]) {
    let got = thread::scope(|scope| {
        let receivers = [&sides[1].host, &sides[0].host].map(|host| scope.spawn(|| receive_all(host)));
        let senders = [0, 1].map(|n: usize| (n, &sides[n].host));
        let senders = senders.map(|(n, host)| scope.spawn(move || send_all(host, n)));
        senders.into_iter().for_each(|sender| sender.join().expect("a sender"));
        receivers.map(|receiver| receiver.join().expect("packets in order"))
    });
    let ended = sides.map(Side::stop);
    ended.iter().for_each(Ended::assert_at_rest);
    (got, ended)
}

/// The hosts send from the first moment on: what waits for a session goes out before what comes when it is there.
#[test]
fn packets_that_waited_for_a_session_are_not_overtaken() {
    for mode in [Pipeline, SingleThreaded] {
        let (got, _) = in_order(pair([mode.into(); 2], 4));
        assert!(got.iter().all(|&count| count > 0), "{got:?}");
    }
}

#[test]
fn packets_cross_both_ways_between_pipelines() {
    both_ways([Pipeline, Pipeline], Settings::default());
}

#[test]
fn packets_cross_between_a_pipeline_and_a_single_thread() {
    both_ways([Pipeline, SingleThreaded], Settings::default());
}

#[test]
fn packets_cross_between_single_threads() {
    both_ways([SingleThreaded, SingleThreaded], Settings::default());
}

#[test]
fn packets_cross_between_pipelines_that_never_sleep() {
    both_ways([Pipeline, Pipeline], Settings { busy_poll: true, ..Settings::default() });
}

#[test]
fn packets_cross_between_single_threads_that_never_sleep() {
    both_ways([SingleThreaded, SingleThreaded], Settings { busy_poll: true, ..Settings::default() });
}

/// Sends without end until `sides` are told to stop, at many different moments.
fn stop_under_load(mode: ThreadingMode) {
    for round in 0..20 {
        let sides = pair([mode.into(); 2], 8);
        meet(&sides);
        let hosts = [sides[0].host.clone(), sides[1].host.clone()];
        let over = std::sync::atomic::AtomicBool::new(false);
        let ended = thread::scope(|scope| {
            let mut senders = Vec::new();
            for (n, host) in hosts.iter().enumerate() {
                let over = &over;
                senders.push(scope.spawn(move || {
                    while !over.load(std::sync::atomic::Ordering::Relaxed) {
                        host.send(&packet(n, 7));
                        host.receive();
                    }
                }));
            }
            // Where in its work each of them is then is anybody's guess: that is the point.
            thread::sleep(Duration::from_micros(500 * round));
            let stopping = sides.map(|side| scope.spawn(|| side.stop())).map(|stopping| stopping.join());
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            // One by one: what the end of a scope waits for, ThreadSanitizer does not see.
            senders.into_iter().for_each(|sender| sender.join().expect("a sender"));
            stopping.map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        ended.iter().for_each(|ended| ended.assert_at_rest());
    }
}

#[test]
fn a_pipeline_stopped_under_load_has_every_frame_home() {
    stop_under_load(Pipeline);
}

#[test]
fn a_single_thread_stopped_under_load_has_every_frame_home() {
    stop_under_load(SingleThreaded);
}
