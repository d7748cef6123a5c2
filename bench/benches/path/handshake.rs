//! Handshakes: both ends' work, and the responder's alone, which bounds how many peers can come back at once.

use criterion::{Criterion, Throughput};
use veil_bench::Handshaking;
use veil_proto::crypto::Suite;
use veil_proto::handshake::Answer;

use crate::over_runs;

pub fn handshake(c: &mut Criterion) {
    let mut group = c.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    group.bench_function("both ends", |b| {
        let mut ends = Handshaking::new(Suite::Aes256Gcm);
        // The wiping of the sessions comes much later, and is not counted.
        b.iter_with_large_drop(|| ends.shake());
    });
    group.bench_function("responder", |b| {
        let mut ends = Handshaking::new(Suite::Aes256Gcm);
        let mut run: [(Vec<u8>, Option<Answer>); 16] = Default::default();
        let initiate_all = |ends: &mut Handshaking, run: &mut [(Vec<u8>, Option<Answer>)]| {
            for item in run {
                *item = (ends.initiate().1, None);
            }
        };
        over_runs(b, &mut ends, &mut run, initiate_all, |ends, (initiation, answer)| {
            *answer = Some(ends.answer(initiation));
        });
    });
    group.finish();
}
