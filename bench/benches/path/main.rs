//! The steps of a packet's path in the order a packet takes them, inbound first; the crate's page says how to run it.
//!
//! A datagram can be opened once only, so what opens is timed over short runs that are sealed anew while the clock stands
//! ([`over_runs`]); everything else leaves its input as it was, and loops.

mod datagram;
mod ends;
mod gates;
mod handshake;
mod hop;
mod inner;
mod lookup;
mod offload;
mod tunnel;

use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, criterion_group, criterion_main};

/// Times `step` on every item of `run`, again and again, after `prepare` has readied as many of them as are to come.
fn over_runs<S, T>(
    bencher: &mut Bencher<'_>,
    state: &mut S,
    run: &mut [T],
    prepare: impl FnMut(&mut S, &mut [T]),
    mut step: impl FnMut(&mut S, &mut T),
) {
    over_batches(bencher, state, run, 1, prepare, |state, batch| step(state, &mut batch[0]));
}

/// The same for what works on `size` items at a time, or on as many as are left.
fn over_batches<S, T>(
    bencher: &mut Bencher<'_>,
    state: &mut S,
    run: &mut [T],
    size: usize,
    mut prepare: impl FnMut(&mut S, &mut [T]),
    mut step: impl FnMut(&mut S, &mut [T]),
) {
    bencher.iter_custom(|count| {
        let (mut left, mut elapsed) = (count as usize, Duration::ZERO);
        while left > 0 {
            let len = left.min(run.len());
            let now = &mut run[..len];
            prepare(state, now);
            let start = Instant::now();
            for batch in now.chunks_mut(size) {
                step(state, batch);
            }
            elapsed += start.elapsed();
            left -= len;
        }
        elapsed
    });
}

/// Short enough that all of it takes about a minute.
fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700))
        .sample_size(30)
        .without_plots()
}

criterion_group! {
    name = path;
    config = short();
    targets =
        datagram::mask,
        datagram::classify,
        lookup::session,
        datagram::open,
        datagram::replay,
        inner::accept,
        lookup::allowed_ips,
        inner::checksum,
        offload::coalesce,
        offload::split,
        datagram::seal,
        tunnel::inbound,
        tunnel::outbound,
        offload::open,
        offload::seal,
        hop::hop,
        handshake::handshake,
        gates::refuse,
}
criterion_main!(path);
