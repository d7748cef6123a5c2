//! The wide frame: room for the largest thing one system call moves, and the table of what is in it.
//!
//! A wide frame holds a GRO or GSO run, or one super-packet from the TUN. It is one pointer, so that moving it
//! through a queue moves 8 bytes. Only `WideSet` makes wide frames; only giving one back to its set ends it. One that
//! is dropped anywhere else is a hole in a set: that panics in debug builds, and is counted in release
//! (`lost_frames`).

use super::set::SetName;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The longest extent: the largest IP packet or UDP run, and slack for tags and padding behind it.
pub const CAPACITY: usize = 65536 + SLACK;

const SLACK: usize = 448;

/// The most datagrams a run may hold (`UDP_MAX_SEGMENTS`, include/linux/udp.h since 6.9).
pub const MAX_SEGMENTS: usize = 128;

static LOST: AtomicU64 = AtomicU64::new(0);

/// How many frames were dropped away from home since the program started. Anything but 0 is a bug.
pub fn lost_frames() -> u64 {
    LOST.load(Relaxed)
}

/// A move-only frame of 64 KiB and more.
pub struct WideFrame(Box<Body>);

struct Body {
    buffer: Box<[u8; CAPACITY]>,
    len: usize,
    table: SegmentTable,
    set: SetName,
    owner: u32,
    at_home: bool,
}

impl WideFrame {
    /// A frame lying at home in the set numbered `owner`; its pages are not touched yet.
    pub(super) fn new(set: SetName, owner: u32) -> Self {
        let Ok(buffer) = vec![0; CAPACITY].into_boxed_slice().try_into() else {
            unreachable!("CAPACITY bytes")
        };
        WideFrame(Box::new(Body {
            buffer,
            len: 0,
            table: SegmentTable::default(),
            set,
            owner,
            at_home: true,
        }))
    }

    pub(super) fn leave(&mut self) {
        self.0.at_home = false;
        self.0.len = 0;
        self.0.table.clear();
    }

    pub(super) fn arrive(&mut self) {
        self.0.at_home = true;
    }

    pub(super) fn owner(&self) -> u32 {
        self.0.owner
    }

    /// The valid extent.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.0.buffer[..self.0.len]
    }

    /// The valid extent, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0.buffer[..self.0.len]
    }

    /// The valid extent and the table, both to be changed.
    #[inline]
    pub fn split_mut(&mut self) -> (&mut [u8], &mut SegmentTable) {
        let Body { buffer, len, table, .. } = &mut *self.0;
        (&mut buffer[..*len], table)
    }

    /// The whole room; write here, then `set_len`.
    #[inline]
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.0.buffer[..]
    }

    /// Sets the length of the valid extent, clipped to the capacity.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        debug_assert!(len <= CAPACITY);
        self.0.len = len.min(CAPACITY);
    }

    /// How long the valid extent can become.
    #[inline]
    pub fn capacity(&self) -> usize {
        CAPACITY
    }

    /// The plaintext lengths of the run in this frame.
    #[inline]
    pub fn table(&self) -> &SegmentTable {
        &self.0.table
    }

    /// The plaintext lengths of the run in this frame, to be filled.
    #[inline]
    pub fn table_mut(&mut self) -> &mut SegmentTable {
        &mut self.0.table
    }

    /// The set this frame was taken from.
    pub fn set(&self) -> SetName {
        self.0.set
    }
}

impl Drop for WideFrame {
    fn drop(&mut self) {
        if self.0.at_home {
            return;
        }
        LOST.fetch_add(1, Relaxed);
        if cfg!(debug_assertions) && !std::thread::panicking() {
            panic!("a frame of set `{}` was dropped away from home", self.0.set.name());
        }
    }
}

/// Says where the frame belongs and how much it holds, never what.
impl fmt::Debug for WideFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WideFrame({}, {} bytes)", self.0.set.name(), self.0.len)
    }
}

/// The length of each plaintext in a run, in the run's order; 0 says that the datagram was refused.
#[derive(Clone)]
pub struct SegmentTable {
    lengths: [u16; MAX_SEGMENTS],
    used: u8,
}

impl SegmentTable {
    /// Forgets all entries.
    #[inline]
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Adds the next datagram's plaintext length; `false` when the table is full.
    #[inline]
    pub fn push(&mut self, length: u16) -> bool {
        let Some(slot) = self.lengths.get_mut(usize::from(self.used)) else { return false };
        *slot = length;
        self.used += 1;
        true
    }

    /// How many datagrams have an entry.
    pub fn len(&self) -> usize {
        usize::from(self.used)
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The lengths, in order.
    #[inline]
    pub fn lengths(&self) -> &[u16] {
        &self.lengths[..usize::from(self.used)]
    }

    /// The lengths, in order, to be changed.
    #[inline]
    pub fn lengths_mut(&mut self) -> &mut [u16] {
        &mut self.lengths[..usize::from(self.used)]
    }
}

impl Default for SegmentTable {
    fn default() -> Self {
        SegmentTable { lengths: [0; MAX_SEGMENTS], used: 0 }
    }
}
