//! The frame of a UMEM: 2 or 4 KiB that the kernel and VEIL hand to each other without copying.
//!
//! A [`UmemFrame`] is the permission to touch one frame's bytes. It is made when the UMEM is made or when a ring gives
//! its frame back, and it ends by being put on a ring or by [`UmemFrame::retire`]. Dropped anywhere else it is lost:
//! that panics in debug builds and is counted in release ([`lost_frames`]).
//!
//! Unsafe is the way from a frame to its bytes. What makes it sound: the frame's state says `USER` exactly while its
//! one `UmemFrame` exists (`umem.rs` is the only maker), the extent never leaves the frame, frames do not overlap, and
//! the memory is not unmapped before every frame has retired.
#![allow(unsafe_code)]

use crate::umem::Generation;
use std::fmt;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where in a frame the kernel puts a packet it received, and where a packet to send must begin
/// (`XDP_PACKET_HEADROOM`, include/uapi/linux/bpf.h). The bytes before it are free for whoever holds the frame.
pub const HEADROOM: usize = 256;

static LOST: AtomicU64 = AtomicU64::new(0);

/// How many frames were dropped instead of put on a ring or retired, since the program started. Anything but 0 is a
/// bug.
pub fn lost_frames() -> u64 {
    LOST.load(Relaxed)
}

/// One frame, held. 16 bytes, move-only.
///
/// Its extent, `start` and `len` in bytes from the beginning of the frame, is what it holds of a packet.
pub struct UmemFrame {
    generation: NonNull<Generation>,
    index: u32,
    start: u16,
    len: u16,
}

const _: () = assert!(size_of::<UmemFrame>() == 16 && size_of::<Option<UmemFrame>>() == 16);

// SAFETY: the bytes belong to whoever holds the frame, and a `Generation` is `Sync`.
unsafe impl Send for UmemFrame {}
// SAFETY: a shared frame is only read.
unsafe impl Sync for UmemFrame {}

impl UmemFrame {
    /// The frame `index`, with an extent that lies within it.
    ///
    /// # Safety
    /// `generation` comes from its `Arc` and has such a frame, it keeps its memory until the frame is retired, and no
    /// other `UmemFrame` for it exists.
    #[inline]
    pub(crate) unsafe fn new(generation: NonNull<Generation>, index: u32, start: usize, len: usize) -> Self {
        UmemFrame { generation, index, start: start as u16, len: len as u16 }
    }

    #[inline]
    pub(crate) fn generation(&self) -> &Generation {
        // SAFETY: a generation lives until its last frame has retired.
        unsafe { self.generation.as_ref() }
    }

    /// Which of the UMEM's frames this is.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The whole frame's first byte.
    #[inline]
    fn base(&self) -> *mut u8 {
        let generation = self.generation();
        // SAFETY: within the generation's memory, for `index` is one of its frames.
        unsafe { generation.base().add(self.index as usize * generation.frame_size()) }
    }

    /// The bytes from offset `from` on, `len` of them.
    #[inline]
    fn slice(&self, from: usize, len: usize) -> &[u8] {
        debug_assert!(from + len <= self.frame_size());
        // SAFETY: within the frame, as callers here see to; initialised, since the kernel hands out zeroed pages; nobody
        // else has the frame.
        unsafe { slice::from_raw_parts(self.base().add(from), len) }
    }

    #[inline]
    fn slice_mut(&mut self, from: usize, len: usize) -> &mut [u8] {
        debug_assert!(from + len <= self.frame_size());
        // SAFETY: as in `slice`, and `self` is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.base().add(from), len) }
    }

    /// Bytes in the whole frame, headroom included: 2048 or 4096.
    #[inline]
    pub fn frame_size(&self) -> usize {
        self.generation().frame_size()
    }

    /// The extent.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.slice(self.start(), self.len())
    }

    /// The extent, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.slice_mut(self.start(), self.len())
    }

    /// All bytes from the extent's start to the frame's end; write here, then [`set_len`](Self::set_len).
    #[inline]
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        self.slice_mut(self.start(), self.capacity())
    }

    /// All bytes in front of the extent.
    #[inline]
    pub fn headroom_mut(&mut self) -> &mut [u8] {
        self.slice_mut(0, self.start())
    }

    /// Where the extent starts: how many bytes are in front of it.
    #[inline]
    pub fn start(&self) -> usize {
        usize::from(self.start)
    }

    /// How long the extent is.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether the extent is empty. Such a frame cannot be sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How long the extent can become where it starts.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.frame_size() - self.start()
    }

    /// Moves the extent, not the bytes. Clipped to the frame.
    #[inline]
    pub fn set_range(&mut self, start: usize, len: usize) {
        debug_assert!(start.checked_add(len).is_some_and(|end| end <= self.frame_size()));
        self.start = start.min(self.frame_size()) as u16;
        self.len = len.min(self.capacity()) as u16;
    }

    /// Sets the length of the extent, clipped to the capacity.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        debug_assert!(len <= self.capacity());
        self.len = len.min(self.capacity()) as u16;
    }

    /// Lets the extent begin `n` bytes earlier and returns these bytes, to be written; `None`, and nothing changed, if
    /// there are not so many.
    #[inline]
    pub fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        let start = self.start().checked_sub(n)?;
        (self.start, self.len) = (start as u16, (self.len() + n) as u16);
        Some(self.slice_mut(start, n))
    }

    /// Lets the extent begin `n` bytes later; `None`, and nothing changed, if it is shorter than that.
    #[inline]
    pub fn pull_front(&mut self, n: usize) -> Option<()> {
        let len = self.len().checked_sub(n)?;
        (self.start, self.len) = ((self.start() + n) as u16, len as u16);
        Some(())
    }

    /// Moves the packet to where packets to send begin. False, and nothing done, if it does not fit there.
    pub(crate) fn move_to_headroom(&mut self) -> bool {
        if HEADROOM + self.len() > self.frame_size() {
            return false;
        }
        let (from, to) = (self.start(), self.start() + self.len());
        let whole = self.frame_size();
        self.slice_mut(0, whole).copy_within(from..to, HEADROOM);
        self.start = HEADROOM as u16;
        true
    }

    /// Makes the frame the kernel's: its state becomes `state`, its bytes are out of reach. Returns its index.
    #[inline]
    pub(crate) fn surrender(self, state: u16) -> u32 {
        self.generation().set_state(self.index, state);
        let index = self.index;
        std::mem::forget(self);
        index
    }

    /// Ends the frame for good, when its UMEM is no longer used. The memory is freed with the last one.
    pub fn retire(self) {
        let generation = self.generation;
        self.generation().retire(self.index);
        std::mem::forget(self);
        // SAFETY: it lives: this frame counts among those it waits for until here. It is not used afterwards.
        unsafe { Generation::came_home(generation, 1) };
    }
}

impl Drop for UmemFrame {
    fn drop(&mut self) {
        LOST.fetch_add(1, Relaxed);
        if cfg!(debug_assertions) && !std::thread::panicking() {
            panic!("UMEM frame {} was dropped away from home", self.index);
        }
    }
}

/// Says which frame it is and how much it holds, never what.
impl fmt::Debug for UmemFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UmemFrame({}, {} bytes at {})", self.index, self.len, self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FrameSize, Umem, UmemSettings};

    fn one_frame(frame_size: FrameSize) -> (Umem, UmemFrame) {
        let settings = UmemSettings { frames: 2, frame_size, ..UmemSettings::default() };
        let (umem, frames) = Umem::simulated(settings);
        let [first, second] = frames.try_into().expect("two frames");
        first.retire();
        (umem, second)
    }

    #[test]
    fn headers_are_put_before_a_packet_and_taken_off_without_moving_it() {
        for (size, bytes) in [(FrameSize::Small, 2048), (FrameSize::Page, 4096)] {
            let (umem, mut frame) = one_frame(size);
            assert!(umem.owns(&frame));
            assert_eq!((frame.start(), frame.len(), frame.frame_size()), (HEADROOM, 0, bytes));
            assert_eq!(frame.buffer_mut().len(), bytes - HEADROOM);
            frame.buffer_mut()[..6].copy_from_slice(b"packet");
            frame.set_len(6);
            frame.push_front(4).expect("there is headroom").copy_from_slice(b"head");
            assert_eq!(frame.bytes(), b"headpacket");
            assert!(frame.push_front(HEADROOM).is_none());
            assert_eq!(frame.headroom_mut().len(), HEADROOM - 4);
            assert!(frame.pull_front(11).is_none());
            frame.pull_front(4).expect("so long");
            assert_eq!(frame.bytes(), b"packet");
            frame.set_range(bytes - 3, 3);
            frame.bytes_mut().fill(1);
            assert_eq!((frame.capacity(), frame.bytes()), (3, &[1; 3][..]));
            frame.retire();
        }
    }

    #[test]
    fn a_packet_is_moved_to_where_it_can_be_sent_if_it_fits_there() {
        let (_umem, mut frame) = one_frame(FrameSize::Small);
        frame.set_range(300, 5);
        frame.bytes_mut().copy_from_slice(b"moved");
        assert!(frame.move_to_headroom());
        assert_eq!((frame.start(), frame.bytes()), (HEADROOM, &b"moved"[..]));
        frame.set_range(0, 2048);
        assert!(!frame.move_to_headroom());
        frame.retire();
    }

    #[test]
    fn frames_outlive_the_handle_and_each_keeps_its_bytes() {
        let (umem, mut frames) = Umem::simulated(UmemSettings { frames: 8, ..UmemSettings::default() });
        drop(umem);
        let number = |frame: &UmemFrame| frame.index() as u8;
        for frame in &mut frames {
            let number = number(frame);
            frame.set_range(0, 2048);
            frame.bytes_mut().fill(number);
        }
        let movers = frames.into_iter().map(|frame| {
            std::thread::spawn(move || {
                assert!(frame.bytes().iter().all(|byte| *byte == number(&frame)));
                frame.retire();
            })
        });
        let movers: Vec<_> = movers.collect();
        movers.into_iter().for_each(|mover| mover.join().expect("no frame was written by another"));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "dropped away from home")]
    fn dropping_a_frame_panics_in_debug_builds() {
        drop(one_frame(FrameSize::Small).1);
    }

    #[test]
    #[cfg(not(debug_assertions))]
    fn dropping_a_frame_is_counted_in_release_builds() {
        let before = lost_frames();
        drop(one_frame(FrameSize::Small).1);
        assert_eq!(lost_frames(), before + 1);
    }
}
