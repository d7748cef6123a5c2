//! A set of wide frames: where they come from and where they go home to.
//!
//! The stage that takes frames owns the set; it is created once, whole, at start, and nothing allocates afterwards.
//! Taking is last in, first out, so that the memory in use stays warm. The invariant: `total` frames exist, each
//! either at home or out with exactly one holder.

use super::Home;
use super::wide::WideFrame;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The sets of wide frames ('Where frames live' in the architecture).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetName {
    /// Filled by the link, opened in place, given back after the TUN write.
    LinkReceive,
    /// Filled by the TUN, given back once sealed out of.
    TunReceive,
    /// Sealed into, given back when the send returns.
    LinkTransmit,
    /// Packets put together from pieces, and what must not overtake them.
    Injected,
}

impl SetName {
    /// All sets.
    pub const ALL: [SetName; 4] =
        [SetName::LinkReceive, SetName::TunReceive, SetName::LinkTransmit, SetName::Injected];

    /// The name in logs and in `veil show`.
    pub fn name(self) -> &'static str {
        match self {
            SetName::LinkReceive => "link-receive",
            SetName::TunReceive => "tun-receive",
            SetName::LinkTransmit => "link-transmit",
            SetName::Injected => "injected",
        }
    }
}

/// A fixed number of wide frames.
pub struct WideSet {
    name: SetName,
    id: u32,
    total: usize,
    free: Vec<WideFrame>,
}

impl WideSet {
    /// A set of `count` frames, all at home. Memory is reserved now and touched at first use.
    pub fn new(name: SetName, count: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = NEXT.fetch_add(1, Relaxed);
        WideSet { name, id, total: count, free: (0..count).map(|_| WideFrame::new(name, id)).collect() }
    }

    /// The frame that came home last, empty, with a cleared table.
    #[inline]
    pub fn take(&mut self) -> Option<WideFrame> {
        let mut frame = self.free.pop()?;
        frame.leave();
        Some(frame)
    }

    /// Takes a frame back.
    ///
    /// # Panics
    /// If the frame is another set's: a bug in the caller, never a matter of input.
    #[inline]
    pub fn give(&mut self, mut frame: WideFrame) {
        assert_eq!(frame.owner(), self.id, "{frame:?} given to the wrong set `{}`", self.name.name());
        frame.arrive();
        self.free.push(frame);
    }

    /// Which set this is.
    pub fn name(&self) -> SetName {
        self.name
    }

    /// How many frames exist.
    pub fn total(&self) -> usize {
        self.total
    }

    /// How many frames are at home.
    pub fn home_count(&self) -> usize {
        self.free.len()
    }

    /// Whether every frame is at home.
    pub fn is_whole(&self) -> bool {
        self.free.len() == self.total
    }
}

impl Home for WideSet {
    #[inline]
    fn give(&mut self, frame: WideFrame) {
        WideSet::give(self, frame);
    }
}

/// Two sets whose frames take the same way home.
pub struct TwoHomes<'a>(pub &'a mut WideSet, pub &'a mut WideSet);

impl Home for TwoHomes<'_> {
    #[inline]
    fn give(&mut self, frame: WideFrame) {
        if frame.set() == self.0.name() { self.0.give(frame) } else { self.1.give(frame) }
    }
}

impl fmt::Debug for WideSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WideSet({}, {} of {} home)", self.name.name(), self.free.len(), self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::super::wide::{CAPACITY, MAX_SEGMENTS};
    use super::*;

    #[test]
    fn a_set_is_whole_again_when_every_frame_is_home() {
        let mut set = WideSet::new(SetName::LinkReceive, 3);
        let taken: Vec<_> = std::iter::from_fn(|| set.take()).collect();
        assert_eq!(taken.len(), 3);
        assert_eq!(set.home_count(), 0);
        assert!(!set.is_whole());
        taken.into_iter().for_each(|frame| set.give(frame));
        assert!(set.is_whole());
    }

    #[test]
    fn the_frame_that_came_home_last_is_taken_first_and_is_empty() {
        let mut set = WideSet::new(SetName::TunReceive, 2);
        let (a, mut b) = (set.take().unwrap(), set.take().unwrap());
        b.buffer_mut()[..4].copy_from_slice(b"warm");
        b.set_len(4);
        assert!(b.table_mut().push(4));
        set.give(a);
        set.give(b);
        let mut again = set.take().unwrap();
        assert_eq!(again.bytes(), b"");
        assert!(again.table().is_empty());
        assert_eq!(&again.buffer_mut()[..4], b"warm");
        set.give(again);
    }

    #[test]
    fn a_frame_has_room_for_everything_one_system_call_moves() {
        let mut set = WideSet::new(SetName::LinkTransmit, 1);
        let mut frame = set.take().unwrap();
        assert_eq!(frame.buffer_mut().len(), CAPACITY);
        frame.set_len(CAPACITY);
        assert_eq!(frame.bytes().len(), 65536 + 448);
        (0..MAX_SEGMENTS).for_each(|i| assert!(frame.table_mut().push(i as u16)));
        assert!(!frame.table_mut().push(1));
        assert_eq!(frame.table().lengths()[127], 127);
        set.give(frame);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "dropped away from home")]
    fn dropping_a_frame_panics_in_debug_builds() {
        let mut set = WideSet::new(SetName::Injected, 1);
        drop(set.take());
    }

    #[test]
    #[should_panic(expected = "wrong set")]
    fn a_frame_of_another_set_is_not_taken_in() {
        let (mut ours, mut other) =
            (WideSet::new(SetName::LinkReceive, 1), WideSet::new(SetName::LinkReceive, 1));
        ours.give(other.take().unwrap());
    }
}
