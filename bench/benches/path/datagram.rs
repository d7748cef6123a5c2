//! One session's datagrams: the header mask, the header, opening, the replay window, sealing.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use veil_bench::Pair;
use veil_proto::crypto::{HeaderKey, NetworkSecret, PublicKey, Suite};
use veil_proto::handshake::message::{Header, TYPE_DATA};
use veil_proto::session::{MIN_DATAGRAM, ReplayWindow};

use crate::over_runs;

/// Plaintext bytes: what a path of 1500 leaves in a datagram, and a small packet.
const SIZES: [usize; 2] = [1420, 64];
const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
/// Datagrams in a run: about what one receive call brings.
const RUN: usize = 64;

pub fn mask(c: &mut Criterion) {
    let key = HeaderKey::derive(&PublicKey([1; 32]), &NetworkSecret::default());
    let mut datagram = vec![3; SIZES[0] + MIN_DATAGRAM];
    let mut group = c.benchmark_group("mask");
    group.throughput(Throughput::Elements(1));
    group.bench_function("datagram", |b| b.iter(|| key.mask(black_box(&mut datagram))));
    group.finish();
}

pub fn classify(c: &mut Criterion) {
    let header = Header { kind: TYPE_DATA, index: 1, counter: 2 }.to_bytes();
    let mut group = c.benchmark_group("classify");
    group.throughput(Throughput::Elements(1));
    group.bench_function("header", |b| b.iter(|| Header::parse(black_box(&header))));
    group.finish();
}

pub fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    group.throughput(Throughput::Elements(1));
    for (suite, size) in SUITES.into_iter().flat_map(|suite| SIZES.map(|size| (suite, size))) {
        group.bench_function(BenchmarkId::new(suite.name(), size), |b| {
            let mut pair = Pair::new(suite);
            let mut run = vec![(0, vec![3; size + MIN_DATAGRAM]); RUN];
            let seal_all = |pair: &mut Pair, run: &mut [(u64, Vec<u8>)]| {
                for (counter, datagram) in run {
                    pair.initiator.sealer.seal(datagram).expect("a young key");
                    pair.responder_header.mask(datagram);
                    *counter = Header::parse(datagram).expect("our own header").counter;
                }
            };
            over_runs(b, &mut pair, &mut run, seal_all, |pair, (counter, datagram)| {
                black_box(pair.responder.opener.open(*counter, datagram).expect("a good datagram"));
            });
        });
    }
    group.finish();
}

pub fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Elements(1));
    for (suite, size) in SUITES.into_iter().flat_map(|suite| SIZES.map(|size| (suite, size))) {
        group.bench_function(BenchmarkId::new(suite.name(), size), |b| {
            let mut pair = Pair::new(suite);
            let mut run = vec![vec![3; size + MIN_DATAGRAM]; RUN];
            over_runs(
                b,
                &mut pair,
                &mut run,
                |_, _| {},
                |pair, datagram| {
                    pair.initiator.sealer.seal(black_box(datagram)).expect("a young key");
                },
            );
        });
    }
    group.finish();
}

pub fn replay(c: &mut Criterion) {
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(1));
    // Counters as they arrive: one after another; each eight of them backwards; each eight followed by a replay of them.
    let orders =
        [("in order", (|n| n) as fn(u64) -> u64), ("reordered", |n| n ^ 7), ("half replayed", |n| n & !8)];
    for (name, order) in orders {
        group.bench_function(name, |b| {
            let (mut window, mut n) = (ReplayWindow::default(), 0);
            b.iter(|| {
                n += 1;
                window.check_and_mark(black_box(order(n)))
            });
        });
    }
    group.finish();
}
