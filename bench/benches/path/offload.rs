//! Super-packets of 64 KiB: cut, joined, and all of their way through the process stage, out and in.
//!
//! One iteration is a super-packet, one element a segment of it.

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::atomic::Ordering::Relaxed;

use criterion::{Bencher, Criterion, Throughput};
use veil_userspace::tun::TunCounters;
use veil_userspace::tun::offload::{Coalescer, Segments};

use crate::ends::{Carried, Ends, RUN, SuperPacket};
use crate::over_runs;

/// Parsed, and each segment written to where it would be sealed.
pub fn split(c: &mut Criterion) {
    each_family(c, "split", |b, packet| {
        let mut out = vec![0; 2 * packet.bytes.len()];
        b.iter(|| {
            let segments = Segments::parse(packet.vnet_hdr, black_box(&packet.bytes)).expect("a good one");
            let mut rest = &mut out[..];
            for index in 0..segments.count() {
                let (segment, after) = rest.split_at_mut(segments.len(index));
                segments.write(index, segment);
                rest = after;
            }
        });
    });
}

/// Taken from opened runs, joined, and handed over as one write.
pub fn coalesce(c: &mut Criterion) {
    each_family(c, "coalesce", |b, packet| {
        let mut coalescer = Coalescer::new();
        coalescer.join(true, true);
        let counters = TunCounters::default();
        let ready = |ends: &mut Ends, carried: &mut Carried| {
            ends.read(packet, carried);
            ends.seal(carried);
            ends.cross(carried);
            ends.open(carried);
        };
        over_super_packets(b, ready, |ends, carried| {
            let sink = |parts: &[IoSlice<'_>]| {
                black_box(parts);
                Ok(())
            };
            coalescer.write(&mut carried.opened, &mut ends.received, &counters, sink);
        });
        let [packets, writes] =
            [&counters.packets_written, &counters.super_packets_written].map(|counter| counter.load(Relaxed));
        assert_eq!(packets, writes * packet.segments, "each was joined to one again");
    });
}

/// `Process::outbound`: routed, split and sealed into runs.
pub fn seal(c: &mut Criterion) {
    each_family(c, "super-packet/seal", |b, packet| {
        over_super_packets(b, |ends, carried| ends.read(packet, carried), Ends::seal);
    });
}

/// `Process::inbound`: its runs opened, every packet checked and marked.
pub fn open(c: &mut Criterion) {
    each_family(c, "super-packet/open", |b, packet| {
        let ready = |ends: &mut Ends, carried: &mut Carried| {
            ends.read(packet, carried);
            ends.seal(carried);
            ends.cross(carried);
        };
        over_super_packets(b, ready, Ends::open);
    });
}

fn each_family(c: &mut Criterion, name: &str, mut bench: impl FnMut(&mut Bencher<'_>, &SuperPacket)) {
    let mut group = c.benchmark_group(name);
    for (family, packet) in SuperPacket::both() {
        group.throughput(Throughput::Elements(packet.segments));
        group.bench_function(family, |b| bench(b, &packet));
    }
    group.finish();
}

fn over_super_packets(
    bencher: &mut Bencher<'_>,
    ready: impl Fn(&mut Ends, &mut Carried),
    step: impl FnMut(&mut Ends, &mut Carried),
) {
    let (mut ends, mut run) = (Ends::new(), [(); RUN].map(|()| Carried::new()));
    let ready_all =
        |ends: &mut Ends, run: &mut [Carried]| run.iter_mut().for_each(|carried| ready(ends, carried));
    over_runs(bencher, &mut ends, &mut run, ready_all, step);
    ends.assert_nothing_dropped();
}
