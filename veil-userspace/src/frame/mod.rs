//! Frames: the memory packets live in, the sets they come from, the items that carry them between stages.
//!
//! A packet lives in a frame and a frame has one owner: frames are move-only, and holding one is the permission to
//! touch its bytes. Every frame is taken from a set and goes home to that set; the three item types below say what
//! state its bytes are in. RX stages make items, the process stage turns one kind into another, TX stages use them
//! up.
//!
//! The one invariant: at rest every set is whole (`WideSet::is_whole`).
//!
//! Sealed, opened and inner items are different types, so plaintext cannot reach the link:
//!
//! ```
//! use veil_userspace::frame::{Bounded, Outbox, Sealed};
//! fn to_link(outbox: &mut Bounded<Sealed>, run: Sealed) { let _ = outbox.push(run); }
//! ```
//! ```compile_fail,E0308
//! use veil_userspace::frame::{Bounded, Outbox, Opened, Sealed};
//! fn to_link(outbox: &mut Bounded<Sealed>, run: Opened) { let _ = outbox.push(run); }
//! ```
//! ```compile_fail,E0308
//! use veil_userspace::frame::{Bounded, Inner, Outbox, Sealed};
//! fn to_link(outbox: &mut Bounded<Sealed>, packet: Inner) { let _ = outbox.push(packet); }
//! ```

mod mark;
mod queue;
mod set;
mod vnet_hdr;
mod wide;

pub use mark::{InnerMark, MARK_LEN, Marks};
pub use queue::{Receiver, Sender, queue};
pub use set::{SetName, TwoHomes, WideSet};
pub use vnet_hdr::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET_HDR_LEN, VnetHdr};
pub use wide::{CAPACITY, MAX_SEGMENTS, SegmentTable, WideFrame, lost_frames};

use std::collections::VecDeque;
use std::ops::Range;
use veil_proto::Path;

/// A frame of any kind. One kind so far; AF_XDP adds its own.
#[derive(Debug)]
pub enum Frame {
    /// 64 KiB of ordinary memory.
    Wide(WideFrame),
}

impl Frame {
    /// The valid extent.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Frame::Wide(wide) => wide.bytes(),
        }
    }

    /// The valid extent, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Frame::Wide(wide) => wide.bytes_mut(),
        }
    }

    /// The valid extent and the table of its segments, both to be changed.
    #[inline]
    pub fn split_mut(&mut self) -> (&mut [u8], &mut SegmentTable) {
        match self {
            Frame::Wide(wide) => wide.split_mut(),
        }
    }

    /// The whole room after the headroom; write here, then `set_len`.
    #[inline]
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        match self {
            Frame::Wide(wide) => wide.buffer_mut(),
        }
    }

    /// Sets the length of the valid extent, clipped to the capacity.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        match self {
            Frame::Wide(wide) => wide.set_len(len),
        }
    }

    /// How long the valid extent can become.
    #[inline]
    pub fn capacity(&self) -> usize {
        match self {
            Frame::Wide(wide) => wide.capacity(),
        }
    }

    /// The plaintext lengths of the run in this frame.
    #[inline]
    pub fn table(&self) -> &SegmentTable {
        match self {
            Frame::Wide(wide) => wide.table(),
        }
    }

    /// The plaintext lengths of the run in this frame, to be filled.
    #[inline]
    pub fn table_mut(&mut self) -> &mut SegmentTable {
        match self {
            Frame::Wide(wide) => wide.table_mut(),
        }
    }

    /// The set this frame was taken from and goes home to.
    pub fn set(&self) -> SetName {
        match self {
            Frame::Wide(wide) => wide.set(),
        }
    }

    /// Gives the frame back. The only way for a frame to end.
    #[inline]
    pub fn home(self, home: &mut impl Home) {
        match self {
            Frame::Wide(wide) => home.give(wide),
        }
    }
}

impl From<WideFrame> for Frame {
    fn from(wide: WideFrame) -> Self {
        Frame::Wide(wide)
    }
}

/// Where frames go home to: the set itself, or the queue that leads to the stage that owns it.
pub trait Home {
    /// Takes a frame back; never fails, since a home queue is as large as its set.
    fn give(&mut self, frame: WideFrame);
}

/// A run of sealed datagrams: from the link before opening, or to the link after sealing.
///
/// Datagram `i` begins at byte `i * segment`; all are `segment` bytes long, but the last may be shorter.
#[derive(Debug)]
pub struct Sealed {
    pub frame: Frame,
    pub segment: u16,
    /// The outer TOS or traffic class byte; on the way out only its ECN bits are used.
    pub tos: u8,
    pub path: Path,
}

impl Sealed {
    /// How many datagrams the run holds.
    pub fn datagrams(&self) -> usize {
        datagram_count(self.frame.bytes().len(), self.segment)
    }

    /// The byte range of each datagram, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        datagram_ranges(self.frame.bytes().len(), self.segment)
    }
}

/// A run opened in place: datagram `i` still begins at `i * segment`, its plaintext 16 bytes further on. The frame's
/// table holds each plaintext's length (0: refused), and an [`InnerMark`] stands before each inner packet.
#[derive(Debug)]
pub struct Opened {
    pub frame: Frame,
    pub segment: u16,
}

/// One packet or super-packet from the host, as the TUN delivered it.
#[derive(Debug)]
pub struct Inner {
    pub frame: Frame,
    pub vnet_hdr: VnetHdr,
}

// An item fits a cache line: queues move items, never packets.
const _: () = assert!(size_of::<Sealed>() <= 64 && size_of::<Opened>() <= 64 && size_of::<Inner>() <= 64);
const _: () = assert!(size_of::<WideFrame>() == 8 || cfg!(not(target_pointer_width = "64")));

/// How many datagrams `len` bytes are when cut every `segment` bytes. A segment of 0 means one datagram.
#[inline]
pub fn datagram_count(len: usize, segment: u16) -> usize {
    match segment {
        0 => usize::from(len > 0),
        segment => len.div_ceil(usize::from(segment)),
    }
}

/// The byte range of each datagram in a run of `len` bytes.
#[inline]
pub fn datagram_ranges(len: usize, segment: u16) -> impl Iterator<Item = Range<usize>> {
    let step = if segment == 0 { len.max(1) } else { usize::from(segment) };
    (0..len).step_by(step).map(move |start| start..len.min(start + step))
}

/// The sending half of a queue of items between two stages.
pub trait Outbox<T> {
    /// How many pushes will succeed now.
    fn room(&self) -> usize;

    /// Hands an item on, or back when there is no room.
    fn push(&mut self, item: T) -> Result<(), T>;
}

/// The receiving half of a queue of items between two stages.
pub trait Inbox<T> {
    /// The oldest item.
    fn pop(&mut self) -> Option<T>;

    /// Whether `pop` would find nothing.
    fn is_empty(&self) -> bool;

    /// The item that the `n`-th `pop` after the next would find, where the queue can tell.
    fn peek(&self, _n: usize) -> Option<&T> {
        None
    }
}

/// A bounded queue for one thread; it never allocates after creation.
#[derive(Debug)]
pub struct Bounded<T> {
    items: VecDeque<T>,
    limit: usize,
}

impl<T> Bounded<T> {
    /// An empty queue with room for `limit` items.
    pub fn new(limit: usize) -> Self {
        Bounded { items: VecDeque::with_capacity(limit), limit }
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl<T> Outbox<T> for Bounded<T> {
    #[inline]
    fn room(&self) -> usize {
        self.limit - self.items.len()
    }

    #[inline]
    fn push(&mut self, item: T) -> Result<(), T> {
        if self.items.len() == self.limit {
            return Err(item);
        }
        self.items.push_back(item);
        Ok(())
    }
}

impl<T> Inbox<T> for Bounded<T> {
    #[inline]
    fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    #[inline]
    fn peek(&self, n: usize) -> Option<&T> {
        self.items.get(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_hands_the_item_back_and_keeps_its_order() {
        let mut queue = Bounded::new(2);
        assert_eq!(queue.room(), 2);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));
        assert_eq!(queue.push(3), Err(3));
        assert_eq!(queue.room(), 0);
        assert_eq!(queue.pop(), Some(1));
        assert_eq!(queue.push(3), Ok(()));
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(2), Some(3), None));
    }

    #[test]
    fn only_the_last_datagram_of_a_run_is_shorter() {
        assert_eq!(datagram_ranges(25, 10).collect::<Vec<_>>(), [0..10, 10..20, 20..25]);
        assert_eq!(datagram_count(25, 10), 3);
        assert_eq!(datagram_ranges(20, 10).count(), datagram_count(20, 10));
        assert_eq!(datagram_ranges(7, 0).collect::<Vec<_>>(), vec![0..7]);
        assert_eq!(datagram_ranges(0, 0).count(), datagram_count(0, 0));
        assert_eq!(datagram_ranges(0, 9).count(), 0);
    }
}
