//! A run's way from one core to another: over the daemon's own queue to a second thread, in batches, and its frame home
//! by another queue, as between the stages of the pipeline.
//!
//! One element is a run there and its frame back, so that a hop alone is about half of it. Both threads spin, each pinned
//! to a core of its own: what is timed are the queues, not waking up. Other work on those cores is in the figure.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use core_affinity::{CoreId, set_for_current};
use criterion::{BenchmarkId, Criterion, Throughput};
use veil_proto::Path;
use veil_userspace::frame::{Frame, Inbox, Outbox, Receiver, Sealed, Sender, SetName, WideSet, queue};

/// Items between two stages at most, and frames that there are: the daemon's queues to TX.
const ROOM: usize = 128;
const BATCHES: [usize; 2] = [1, 32];

/// Nothing is measured on a machine with a single core.
pub fn hop(c: &mut Criterion) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [here, .., there] = cores[..] else {
        println!("queue-hop: left out, there is one core only");
        return;
    };
    let mut group = c.benchmark_group("queue-hop");
    group.throughput(Throughput::Elements(1));
    for batch in BATCHES {
        group.bench_function(BenchmarkId::new("batch", batch), |b| {
            b.iter_custom(|count| cross(count as usize, batch, [here, there]));
        });
    }
    group.finish();
}

/// How long `count` runs take. The producer is a thread too: the benchmarks that follow shall not stay on its core.
fn cross(count: usize, batch: usize, [here, there]: [CoreId; 2]) -> Duration {
    let (out, inbox) = queue::<Sealed>(ROOM);
    let (back, home) = queue::<Frame>(ROOM);
    let ready = AtomicBool::new(false);
    thread::scope(|scope| {
        let ready = &ready;
        scope.spawn(move || {
            assert!(set_for_current(there), "cannot be kept on core {}", there.id);
            ready.store(true, Relaxed);
            consume(count, batch, inbox, back);
        });
        let producer = scope.spawn(move || {
            assert!(set_for_current(here), "cannot be kept on core {}", here.id);
            let mut set = WideSet::new(SetName::LinkTransmit, ROOM);
            while !ready.load(Relaxed) {
                spin_loop();
            }
            let start = Instant::now();
            produce(count, batch, &mut set, out, home);
            let elapsed = start.elapsed();
            assert!(set.is_whole(), "every frame came home");
            elapsed
        });
        producer.join().expect("producing does not panic")
    })
}

fn produce(
    count: usize,
    batch: usize,
    set: &mut WideSet,
    mut out: Sender<Sealed>,
    mut home: Receiver<Frame>,
) {
    let (mut sent, mut returned) = (0, 0);
    let path = Path::to(([192, 0, 2, 1], 51820).into());
    while returned < count {
        home.refill(ROOM);
        while let Some(frame) = home.pop() {
            frame.home(set);
            returned += 1;
        }
        let now = batch.min(count - sent);
        // Whole batches only, so that it is them that is paid for.
        if now == 0 || sent - returned + now > ROOM {
            spin_loop();
            continue;
        }
        for _ in 0..now {
            let frame = set.take().expect("as many frames as there is room for").into();
            let run = Sealed { frame, segment: 1452, tos: 0, path };
            assert!(out.push(run).is_ok(), "no more are under way than there is room for");
        }
        out.flush();
        sent += now;
    }
}

fn consume(count: usize, batch: usize, mut inbox: Receiver<Sealed>, mut back: Sender<Frame>) {
    let mut received = 0;
    while received < count {
        if !inbox.refill(batch) {
            spin_loop();
            continue;
        }
        while let Some(run) = inbox.pop() {
            run.frame.home(&mut back);
            received += 1;
        }
        back.flush();
    }
}
