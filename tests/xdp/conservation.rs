//! No frame is lost, and none gets a second owner, whatever a kernel does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use veil_xdp::{HEADROOM, Umem, UmemFrame, UmemSettings, XskRx, XskTx, lost_frames};

use crate::simulated::{Kernel, Random, Side, Tally};

const FRAMES: usize = 1024;
const RING: usize = 128;
const SOCKETS: usize = 2;

fn settings() -> UmemSettings {
    UmemSettings { frames: FRAMES as u32, tx_ring: RING as u32, ..UmemSettings::default() }
}

/// Packets to move: `VEIL_PACKETS`, else ten million where the compiler has optimised and fewer where not.
fn packets() -> u64 {
    let asked = std::env::var("VEIL_PACKETS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(if cfg!(debug_assertions) { 300_000 } else { 10_000_000 })
}

struct Station {
    kernel: Rc<RefCell<Kernel>>,
    rx: XskRx<Side>,
    tx: XskTx<Side>,
}

/// Who holds frames in user space, checked at each crossing, beside and unlike the library's own record.
struct Books(Vec<bool>);

impl Books {
    /// A frame that has come: nobody had it. It is stamped, so that a second owner would be seen writing.
    fn came(&mut self, frame: &mut UmemFrame) {
        let held = &mut self.0[frame.index() as usize];
        assert!(!*held, "{frame:?} has a second owner");
        *held = true;
        let index = frame.index();
        frame.headroom_mut().first_chunk_mut().into_iter().for_each(|stamp| *stamp = index.to_be_bytes());
    }

    /// A frame about to go: it was ours all the time.
    fn goes(&mut self, frame: &mut UmemFrame) {
        assert!(self.0[frame.index() as usize], "{frame:?} was not held");
        let index = frame.index();
        let stamp = frame.headroom_mut().first_chunk::<4>().copied();
        assert!(stamp.is_none_or(|stamp| stamp == index.to_be_bytes()), "{frame:?} was written by another");
    }

    /// Notes which of the frames that were to go have gone.
    fn gone(&mut self, were: &[u32], left: impl Iterator<Item = u32>) {
        were.iter().for_each(|index| self.0[*index as usize] = false);
        left.for_each(|index| self.0[index as usize] = true);
    }
}

#[test]
fn no_frame_is_lost_or_owned_twice_over_millions_of_packets() {
    let seed = std::env::var("VEIL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let random = Random(seed);
    let (umem, free) = Umem::simulated(settings());
    let (other, mut strangers) = Umem::simulated(settings());
    let frame_size = umem.settings().frame_size.bytes();
    let mut stations: Vec<Station> = (0..SOCKETS as u64)
        .map(|number| {
            let kernel = Kernel::new(seed + 100 * number, FRAMES, frame_size, RING);
            let (rx, tx) = umem.join(Side(Rc::clone(&kernel)), Side(Rc::clone(&kernel)));
            Station { kernel, rx, tx }
        })
        .collect();
    let mut play =
        Play { free, outbound: VecDeque::new(), books: Books(vec![false; FRAMES]), random, unsendable: 0 };
    play.free.iter_mut().for_each(|frame| play.books.came(frame));
    let target = packets();
    let (mut moved, mut quiet, mut idle) = (0, false, 0);
    while moved < target || !quiet {
        // In the last turn the kernel behaves.
        quiet = moved >= target;
        let station = &mut stations[play.random.below(SOCKETS)];
        station.kernel.borrow_mut().evil = !quiet;
        let before = moved;
        moved += play.turn(station);
        idle = if moved > before { 0 } else { idle + 1 };
        assert!(idle < 100_000, "nothing moves any more: the frames are gone");
        if play.random.one_in(200)
            && let Some(stranger) = strangers.pop()
        {
            moved += play.too_late(station, stranger, &other);
        }
    }
    let Play { mut free, mut outbound, books, unsendable, .. } = play;
    check_counters(&stations, unsendable);
    let held: usize = stations.iter().map(|station| station.kernel.borrow().held()).sum();
    assert_eq!(free.len() + outbound.len() + held, FRAMES, "a frame is nowhere or twice");
    assert_eq!(books.0.iter().filter(|held| **held).count(), free.len() + outbound.len());
    // The sockets die with frames on all their rings: these are taken home. The rest comes by itself.
    drop(stations);
    assert_eq!(umem.home_count(), held);
    free.drain(..).chain(outbound.drain(..)).for_each(UmemFrame::retire);
    assert_eq!(umem.home_count(), FRAMES);
    assert!(strangers.len() < FRAMES, "no frame came too late");
    strangers.drain(..).for_each(UmemFrame::retire);
    assert_eq!(other.home_count(), FRAMES, "late frames of another generation went home too");
    assert_eq!(lost_frames(), 0);
}

/// The user's side: the frames in hand, those waiting to be sent, and the dice.
struct Play {
    free: Vec<UmemFrame>,
    outbound: VecDeque<UmemFrame>,
    books: Books,
    random: Random,
    unsendable: u64,
}

impl Play {
    /// One turn of a loop as the tunnel has it; returns how many packets crossed.
    fn turn(&mut self, station: &mut Station) -> u64 {
        let received = self.receive(&mut station.rx);
        let count = self.random.below(self.free.len().min(100) + 1);
        let mut some = self.free.split_off(self.free.len() - count);
        some.iter_mut().for_each(|frame| self.books.goes(frame));
        let were: Vec<u32> = some.iter().map(UmemFrame::index).collect();
        // An error of the wake-up changes nothing about what was filled.
        let _ = station.rx.fill(&mut some);
        self.books.gone(&were, some.iter().map(UmemFrame::index));
        self.free.append(&mut some);
        received + self.send(&mut station.tx)
    }

    fn receive(&mut self, rx: &mut XskRx<Side>) -> u64 {
        let mut fresh = Vec::new();
        let received = rx.receive(&mut fresh, 1 + self.random.below(150));
        assert_eq!(received, fresh.len());
        for mut frame in fresh {
            self.books.came(&mut frame);
            assert!(frame.start() + frame.len() <= frame.frame_size());
            // Half of what comes goes out again, moved if it does not begin where it must.
            if self.random.one_in(2) {
                let fits = !frame.is_empty() && HEADROOM + frame.len() <= frame.frame_size();
                self.unsendable += u64::from(!fits);
                self.outbound.push_back(frame);
            } else {
                self.free.push(frame);
            }
        }
        received as u64
    }

    fn send(&mut self, tx: &mut XskTx<Side>) -> u64 {
        self.outbound.iter_mut().for_each(|frame| self.books.goes(frame));
        // What cannot be sent is refused by the socket and comes with the completions, so it is not held meanwhile.
        let were: Vec<u32> = self.outbound.iter().map(UmemFrame::index).collect();
        tx.send(&mut self.outbound);
        self.books.gone(&were, self.outbound.iter().map(UmemFrame::index));
        let _ = tx.kick();
        let mut fresh = Vec::new();
        let completed = tx.complete(&mut fresh);
        assert_eq!(completed, fresh.len());
        for mut frame in fresh {
            self.books.came(&mut frame);
            assert!(frame.is_empty() && frame.start() == HEADROOM);
            self.free.push(frame);
        }
        completed as u64
    }

    /// Hands a frame of another generation to one of the halves, which sends it home as soon as its ring has room.
    fn too_late(&mut self, station: &mut Station, stranger: UmemFrame, other: &Umem) -> u64 {
        let home = other.home_count();
        let (mut frames, mut queue) = (Vec::new(), VecDeque::new());
        if self.random.one_in(2) {
            frames.push(stranger)
        } else {
            queue.push_back(stranger)
        }
        let mut moved = 0;
        while !frames.is_empty() || !queue.is_empty() {
            let _ = station.rx.fill(&mut frames);
            station.tx.send(&mut queue);
            moved += self.turn(station);
        }
        assert_eq!(other.home_count(), home + 1);
        moved
    }
}

/// What the sockets counted is what the kernel did.
fn check_counters(stations: &[Station], unsendable: u64) {
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    let mut refused = 0;
    for Station { kernel, rx, tx } in stations {
        let tally = kernel.borrow().tally;
        let (rx, tx) = (rx.counters(), tx.counters());
        let counted = Tally {
            good: read(&rx.received) + read(&tx.completed),
            foreign: [read(&rx.refused.foreign), read(&tx.refused.foreign)],
            not_there: [read(&rx.refused.not_there), read(&tx.refused.not_there)],
            bad_descriptors: read(&rx.bad_descriptors),
            ..tally
        };
        assert_eq!(counted, tally);
        let injected = [tally.foreign, tally.not_there].concat();
        assert!(injected.iter().all(|count| *count > 0), "nothing was injected: {tally:?}");
        assert!(tally.dropped > 0 && tally.refusals > 0 && tally.bad_descriptors > 0, "{tally:?}");
        assert!(read(&tx.moved) > 0 && read(&tx.later) > 0);
        refused += read(&tx.unsendable);
    }
    assert!(refused <= unsendable && refused > 0, "{refused} of {unsendable} refused");
}
