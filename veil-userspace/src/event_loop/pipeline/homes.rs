//! The ways home of frames that belong to the RX stage or to the process stage, and how many are away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use veil_proto::SingleWriter;

use crate::control::show::FrameSet;
use crate::frame::{Frame, Home, Receiver, Sender, SetName, WideFrame};

/// How many frames of the RX stage's sets have left it, and how many each other stage has sent home. One writer each, so
/// that the process stage can tell what is away without asking anybody.
#[derive(Default)]
pub struct Away {
    taken: [AtomicU64; SetName::ALL.len()],
    given: [[AtomicU64; SetName::ALL.len()]; 2],
}

/// Who gives frames back.
#[derive(Clone, Copy)]
pub enum Giver {
    Process,
    Tx,
}

impl Away {
    /// The RX stage has handed on `frames` of `set`.
    #[inline]
    pub fn taken(&self, set: SetName, frames: usize) {
        self.taken[set as usize].bump(frames as u64);
    }

    /// How `set`, of `total` frames, is just now.
    pub fn frames(&self, set: SetName, total: usize) -> FrameSet {
        let of = |counters: &[AtomicU64]| counters[set as usize].load(Relaxed);
        // Frames given are read first: at worst one seems to be away that has just come home.
        let given = self.given.iter().map(|counters| of(counters)).sum::<u64>();
        let away = of(&self.taken).saturating_sub(given);
        FrameSet { total: total as u64, home: (total as u64).saturating_sub(away) }
    }
}

/// The way home to the RX stage.
pub struct HomeToRx {
    queue: Sender<Frame>,
    away: Arc<Away>,
    giver: Giver,
}

impl HomeToRx {
    /// A way home by `queue`, counted as `giver`'s.
    pub fn new(queue: Sender<Frame>, away: Arc<Away>, giver: Giver) -> Self {
        HomeToRx { queue, away, giver }
    }

    /// Publishes what was given. True if that was anything.
    #[inline]
    pub fn flush(&mut self) -> bool {
        self.queue.flush()
    }
}

impl Home for HomeToRx {
    #[inline]
    fn give(&mut self, frame: WideFrame) {
        self.away.given[self.giver as usize][frame.set() as usize].bump(1);
        self.queue.give(frame);
    }
}

/// The TX stage's ways home: frames filled by receiving go to RX, those filled by the process stage to it.
pub struct HomesOfTx {
    pub rx: HomeToRx,
    pub process: Sender<Frame>,
}

impl Home for HomesOfTx {
    #[inline]
    fn give(&mut self, frame: WideFrame) {
        match frame.set() {
            SetName::LinkReceive | SetName::TunReceive => self.rx.give(frame),
            SetName::LinkTransmit | SetName::Injected => self.process.give(frame),
        }
    }
}

/// Takes in all frames that have come home by `queue`.
#[inline]
pub fn take_home(queue: &mut Receiver<Frame>, mut home: impl FnMut(Frame)) {
    use crate::frame::Inbox;
    queue.refill(usize::MAX);
    while let Some(frame) = queue.pop() {
        home(frame);
    }
}
