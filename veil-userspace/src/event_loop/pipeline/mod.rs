//! `ThreadingMode::Pipeline`: RX, process and TX on threads of their own, joined by queues of runs, and control beside them
//! on the thread that calls [`run`](ThreadedEventLoop::run).
//!
//! ```text
//! RX ──from_link, from_tun──► process ──to_tun, to_link──► TX
//!  ▲            frames home ◄────┤ ▲                      │
//!  └─────────────────────────────┴─┴─────frames home──────┘
//! ```
//!
//! Stages share no memory but queues with one producer and one consumer each, frames move through them by value, and so do
//! finished sessions from control to the process stage. A stage that has nothing to do spins a little and then sleeps;
//! whoever publishes something for it wakes it ([`Bell`]). While little comes nobody is woken but RX, which then steps the
//! others itself (`carry.rs`). Stopping goes along the packets' way: RX, process, TX.

mod beside;
mod carry;
mod homes;
mod marks;
mod messages;
mod parked;
mod processor;
mod rx;
mod tx;

pub use processor::PipelineProcessor;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, Builder, Scope, ScopedJoinHandle};

use anyhow::{Context, Result};
use veil_proto::thread_checker::ThreadChecker;
use veil_proto::{DropReason, Entropy, Path, PeerId};

use super::control::Control;
use super::cores::{PINNED, pin};
use super::parts::Parts;
use super::priority;
use super::waker::{Bed, Bell};
use crate::control::show::Snapshot;
use crate::frame::{Frame, Inbox, Receiver, SetName, WideSet, queue};
use crate::link::udp::PathError;
use crate::link::{LinkRx, LinkTx};
use crate::tun::{TunRead, TunWrite};
use beside::ControlStage;
use carry::Others;
use homes::{Away, Giver, HomeToRx, HomesOfTx};
use marks::marks;
use messages::{ControlOutbox, control_inbox};
use parked::Parked;
use rx::RxStage;
use tx::TxStage;

/// Runs received, and packets read, in one call; places in each queue of what RX hands on.
const BATCH: usize = 64;
/// Frames in each set of RX: a queue full of them, and those that the other stages have in hand.
const FRAMES: usize = 2 * BATCH;
/// Bytes of runs opened, written or sent before they are passed on.
const BYTES: usize = 128 << 10;
/// Bytes of packets sealed before they are passed on: a super-packet is as much work as a whole batch of small ones.
const SEAL_BYTES: usize = 64 << 10;
/// Turns before RX looks what else there is.
const TURNS_PER_LOOK: usize = 4;
/// Messages that may wait for the process stage.
const MESSAGES: usize = 1024;
/// Looks before a stage sleeps, a few microseconds, where it does not take the core from another stage.
const SPINS: u32 = 100;

/// Where the next thing that this host has said about a destination comes from; asked by the process stage.
pub type PathErrors = Box<dyn FnMut() -> Option<PathError> + Send>;
/// How control sends a handshake datagram.
pub type SendDatagram = Box<dyn FnMut(&Path, &[u8]) -> io::Result<()> + Send>;

/// What pipeline mode needs beside the [`Parts`].
pub struct Joints {
    /// What the link's ends find out about paths.
    pub path_errors: PathErrors,
    /// Sends beside the link's sending end, which belongs to TX.
    pub send_datagram: SendDatagram,
}

/// How stages wait, and where they run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// The cores of RX, process and TX; none: wherever the system likes.
    pub cores: Option<[usize; PINNED]>,
    /// Never sleep.
    pub busy_poll: bool,
    /// There is a core for every stage, so that looking a little longer before sleeping takes nothing from another.
    pub spin: bool,
    /// The nice value of RX, process and TX; none: as this thread's.
    pub nice: Option<i8>,
}

/// How a stage waits.
#[derive(Clone, Copy)]
struct Waiting {
    busy_poll: bool,
    spins: u32,
}

impl Waiting {
    /// Whether it may sleep at all.
    fn sleeps(self) -> bool {
        !self.busy_poll
    }

    /// Looks a little longer: true if there is something to do.
    fn comes(self, mut ready: impl FnMut() -> bool) -> bool {
        for _ in 0..self.spins {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if self.busy_poll {
            thread::yield_now();
        }
        false
    }

    /// Between two looks of who never sleeps.
    fn pause(self) {
        thread::yield_now();
    }
}

/// The event loop of pipeline mode.
pub struct ThreadedEventLoop<R, S, T, W> {
    rx: RxStage<R, T>,
    processor: PipelineProcessor,
    tx: TxStage<S, W>,
    control: ControlStage,
    cores: Option<[usize; PINNED]>,
    nice: Option<i8>,
    checker: ThreadChecker,
}

impl<R, S, T, W> ThreadedEventLoop<R, S, T, W>
where
    R: LinkRx + Send,
    S: LinkTx + Send,
    T: TunRead + Send,
    W: TunWrite + Send,
{
    /// Stages of `parts`, not running yet; handshakes draw from `entropy`.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new(
        parts: Parts<R, S, T, W>,
        joints: Joints,
        settings: Settings,
        entropy: Box<dyn Entropy>,
    ) -> Result<Self> {
        let Parts { link_rx, link_tx, tun_rx, tun_tx, process, handshakes, endpoints, .. } = parts;
        let Joints { path_errors, send_datagram } = joints;
        let (facts, gauges) = (parts.facts, parts.gauges);
        let control = Control::new(
            handshakes,
            entropy,
            endpoints,
            parts.leases,
            parts.state,
            parts.control,
            facts,
            gauges,
        )?;
        let bells = Bells::new().context("cannot create an eventfd")?;
        let waiting = Waiting {
            busy_poll: settings.busy_poll,
            spins: if settings.spin || settings.busy_poll { SPINS } else { 0 },
        };
        let sets = [SetName::LinkReceive, SetName::TunReceive].map(|set| WideSet::new(set, FRAMES));
        let totals = [&sets[0], &sets[1]].map(|set| (set.name(), set.total()));
        let own: usize = process.sets().iter().map(|set| set.total()).sum();
        let away = Arc::new(Away::default());

        let (from_link_in, from_link) = queue(BATCH);
        let (from_tun_in, from_tun) = queue(BATCH);
        // The runs of a batch, and for each a frame of packets that follow it.
        let (to_tun, to_tun_out) = queue(2 * BATCH);
        let (to_link, to_link_out) = queue(2 * BATCH);
        // As large as the sets whose frames take them.
        let (process_to_rx, rx_from_process) = queue::<Frame>(2 * FRAMES);
        let (tx_to_rx, rx_from_tx) = queue::<Frame>(2 * FRAMES);
        let (tx_to_process, process_from_tx) = queue::<Frame>(own);
        let (to_process, messages) = queue(MESSAGES);
        let inbox = control_inbox();
        let [(link_came, link_marks), (tun_came, tun_marks)] = [marks(), marks()];
        let [(to_tun_marks, tun_leaves), (to_link_marks, link_leaves)] = [marks(), marks()];

        let failed = "cannot create an epoll instance";
        let wiring = rx::Wiring {
            from_link: from_link_in,
            from_tun: from_tun_in,
            homes: [rx_from_process, rx_from_tx],
            away: away.clone(),
            marks: [link_came, tun_came],
            bells: bells.clone(),
        };
        let rx = RxStage::new(link_rx, tun_rx, sets, wiring, waiting).context(failed)?;
        let wiring = tx::Wiring {
            to_link: to_link_out,
            to_tun: to_tun_out,
            homes: HomesOfTx { rx: HomeToRx::new(tx_to_rx, away.clone(), Giver::Tx), process: tx_to_process },
            marks: [tun_leaves, link_leaves],
            added: control.gauges.added.clone(),
            bells: bells.clone(),
        };
        let tx = TxStage::new(link_tx, tun_tx, wiring, waiting);
        let wiring = processor::Wiring {
            from_link,
            from_tun,
            messages,
            home: process_from_tx,
            to_tun,
            to_link,
            to_control: ControlOutbox::new(inbox.clone(), bells.control.clone()),
            home_to_rx: HomeToRx::new(process_to_rx, away.clone(), Giver::Process),
            away,
            totals,
            marks: [(link_marks, to_tun_marks), (tun_marks, to_link_marks)],
            bells: bells.clone(),
        };
        let (facts, gauges) = (control.facts.clone(), control.gauges.clone());
        let processor = PipelineProcessor::new(process, wiring, path_errors, facts, gauges, waiting);
        let processor = processor.context("cannot create a timer")?;
        let control = ControlStage::new(control, inbox, to_process, send_datagram, bells, processor.timer());
        let control = control.context(failed)?;
        let Settings { cores, nice, .. } = settings;
        let checker = ThreadChecker::default();
        Ok(ThreadedEventLoop { rx, processor, tx, control, cores, nice, checker })
    }

    /// Runs until `stop` can be read. Control stays on this thread; when this returns, every other has been joined.
    ///
    /// # Errors
    /// The first that any stage met: the TUN or the link is gone, or the kernel refuses to wait.
    pub fn run(&mut self, stop: &impl AsFd) -> Result<()> {
        self.checker.rebind_to_current();
        let ThreadedEventLoop { rx, processor, tx, control, cores, nice, .. } = self;
        let nice = *nice;
        let [rx_core, process_core, tx_core] = cores.map_or([None; PINNED], |cores| cores.map(Some));
        let bells = control.bells.clone();
        let others = Others { process: Parked::new(processor), tx: Parked::new(tx), bells: bells.clone() };
        let result = thread::scope(|scope| {
            let (Others { process, tx, .. }, ended) = (&others, || Ended(bells.clone()));
            let threads = [
                start(scope, "veil-rx", (rx_core, nice), ended(), || rx.run(&others)),
                start(scope, "veil-process", (process_core, nice), ended(), || {
                    PipelineProcessor::run(process, &bells.process)
                }),
                start(scope, "veil-tx", (tx_core, nice), ended(), || TxStage::run(tx, &bells.tx)),
            ];
            let mut result = if threads.iter().all(Result::is_ok) { control.run(stop) } else { Ok(()) };
            // The packets' way: what a stage hands on while it ends finds the next one alive.
            for (thread, bell) in threads.into_iter().zip([&bells.rx, &bells.process, &bells.tx]) {
                bell.stop();
                result = result.and(thread.and_then(join));
            }
            result
        });
        drop(others);
        self.bring_home();
        for peer in self.control.peers() {
            self.store_endpoint(peer);
        }
        result
    }

    /// All stages have ended: drops what they have handed on to each other and could not use any more, counted, and takes
    /// in every frame.
    fn bring_home(&mut self) {
        let ThreadedEventLoop { rx, processor, .. } = self;
        let wiring = &mut processor.wiring;
        drain(&mut wiring.from_link, |run| {
            rx.link.counters().receive_drops.add(DropReason::NoFrame, run.datagrams() as u64);
            run.frame.home(&mut wiring.home_to_rx);
        });
        drain(&mut wiring.from_tun, |inner| {
            rx.tun.counters().read_drops.count(DropReason::NoFrame);
            inner.frame.home(&mut wiring.home_to_rx);
        });
        wiring.home_to_rx.flush();
        rx.bring_home();
        processor.bring_home();
    }

    /// Stores where a peer is now, for the next start.
    fn store_endpoint(&mut self, peer: PeerId) {
        let status = self.processor.process.sessions().status(peer);
        if let Some(path) = status.and_then(|status| status.endpoint) {
            self.control.reached(peer, &path);
        }
    }

    /// The name of a frame set that is not whole, if there is one. Once it has run there is none.
    pub fn incomplete_set(&self) -> Option<&'static str> {
        let mut sets = [&self.rx.received, &self.rx.read].into_iter().chain(self.processor.process.sets());
        sets.find(|set| !set.is_whole()).map(|set| set.name().name())
    }

    /// Everything about the tunnel, while it does not run.
    pub fn snapshot(&self) -> Snapshot {
        self.processor.snapshot()
    }
}

fn drain<T>(queue: &mut Receiver<T>, mut end: impl FnMut(T)) {
    while queue.has_items() {
        queue.refill(BATCH);
        while let Some(item) = queue.pop() {
            end(item);
        }
    }
}

/// A stage on a thread of its own.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    (core, nice): (Option<usize>, Option<i8>),
    ended: Ended,
    stage: impl FnOnce() -> Result<()> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<()>>> {
    let run = move || {
        let _ended = ended;
        pin(core);
        priority::set(nice);
        stage()
    };
    Builder::new().name(name.into()).spawn_scoped(scope, run).context("cannot start a thread")
}

/// What a thread came to; a panic goes on here.
fn join(thread: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Every stage's bell.
#[derive(Clone)]
struct Bells {
    rx: Arc<Bell>,
    process: Arc<Bell>,
    tx: Arc<Bell>,
    control: Arc<Bell>,
}

impl Bells {
    fn new() -> io::Result<Self> {
        let bell = |bed| Bell::new(bed).map(Arc::new);
        let (rx, control) = (bell(Bed::Descriptors)?, bell(Bed::Descriptors)?);
        Ok(Bells { rx, process: bell(Bed::Bell)?, tx: bell(Bed::Bell)?, control })
    }
}

/// A thread that ends, in whatever way, ends control, which ends the others.
struct Ended(Bells);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.control.stop();
    }
}

#[cfg(test)]
mod tests;
