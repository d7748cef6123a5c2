//! All of `Sessions` for one small datagram, by how many sessions there are and how they take turns.
//!
//! The bar: with 10 000 sessions a packet in a run of eight costs little more than with one session, and a packet
//! that comes alone not much more.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use veil_bench::{Hub, Seeded};
use veil_proto::PeerId;
use veil_proto::session::MIN_DATAGRAM;
use veil_proto::tunnel::{AHEAD, Outbound};
use veil_userspace::prefetch::prefetch;

use crate::over_batches;

/// Peers, and how many datagrams of one peer come in a row.
const SHAPES: [(usize, usize); 5] = [(1, 1), (1_000, 8), (1_000, 1), (10_000, 8), (10_000, 1)];
const DATAGRAM: usize = 64 + MIN_DATAGRAM;
const DATAGRAMS: usize = 512;

type Datagram = (PeerId, [u8; DATAGRAM]);

/// Unmask, look ahead, classify, find, open, replay, and what `Sessions` keeps about the peer.
pub fn inbound(c: &mut Criterion) {
    let seal = |hub: &mut Hub, (peer, bytes): &mut Datagram| hub.seal_from(*peer, bytes);
    bench(c, "tunnel/open", seal, |hub, batch| {
        for (_, bytes) in &mut *batch {
            hub.sessions.unmask_run(bytes, 0);
        }
        let datagrams = batch.iter().map(|(_, bytes)| &bytes[..]);
        let mut ahead =
            hub.sessions.looks_ahead().then(|| hub.sessions.look_ahead_inbound(datagrams, prefetch));
        for (_, bytes) in batch {
            if let Some(ahead) = &mut ahead {
                hub.sessions.fetch_inbound(ahead, prefetch);
            }
            black_box(hub.open_unmasked(bytes));
        }
    });
}

/// Look ahead, look whether the peer can be sent to, then seal.
pub fn outbound(c: &mut Criterion) {
    bench(
        c,
        "tunnel/seal",
        |_, _| {},
        |hub, batch| {
            let peers = batch.iter().map(|&(peer, _)| peer);
            let mut ahead =
                hub.sessions.looks_ahead().then(|| hub.sessions.look_ahead_outbound(peers, prefetch));
            for (peer, bytes) in batch {
                if let Some(ahead) = &mut ahead {
                    hub.sessions.fetch_outbound(ahead, prefetch);
                }
                assert!(matches!(black_box(hub.sessions.begin(*peer, hub.now)), Outbound::Ready(_)));
                hub.sessions.seal(*peer, bytes, hub.now).expect("a usable session");
            }
        },
    );
}

fn bench(
    c: &mut Criterion,
    name: &str,
    prepare: impl Fn(&mut Hub, &mut Datagram),
    step: impl Fn(&mut Hub, &mut [Datagram]),
) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    for (peers, in_a_row) in SHAPES {
        group.bench_function(BenchmarkId::new(format!("{in_a_row} in a row"), peers), |b| {
            let (mut hub, mut entropy) = (Hub::new(peers), Seeded(6));
            let mut run = vec![(PeerId(0), [3; DATAGRAM]); DATAGRAMS];
            let prepare_all = |hub: &mut Hub, run: &mut [Datagram]| {
                for row in run.chunks_mut(in_a_row) {
                    let peer = PeerId(entropy.below(peers) as u32);
                    for datagram in row {
                        datagram.0 = peer;
                        prepare(hub, datagram);
                    }
                }
            };
            over_batches(b, &mut hub, &mut run, AHEAD, prepare_all, &step);
        });
    }
    group.finish();
}
