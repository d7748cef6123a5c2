//! The UMEM: memory shared with the kernel, cut into frames, and the record of whose each frame is.
//!
//! Each frame has a state: held by VEIL (a [`UmemFrame`] exists), on a fill ring, on a TX ring, or home for good. It is
//! checked whenever a ring gives an address back, so that an address the kernel should not return is counted and its
//! frame never gets a second owner; this, and not trust in the other side, makes the API safe.
//!
//! A UMEM is one generation of sockets. When the interface is gone or its channels changed, the next generation is
//! another UMEM; the old one's memory lives until its last frame has retired, without a count kept per packet: the
//! frames together hold one reference. Who may change a frame's state: the holder of its `UmemFrame`; for a frame on a
//! ring, the half of the socket that takes frames off that ring. So no two threads ever race for one.
//!
//! Unsafe: the memory's address is asked of xsk-rs, and the frames' reference is kept raw.
#![allow(unsafe_code)]

use crate::frame::{HEADROOM, UmemFrame};
use crate::settings::{FrameSize, UmemError, UmemSettings, errno, huge_page_size};
use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU16, AtomicU32};
use xsk_rs::FrameDesc;
use xsk_rs::config::{FrameSize as XskFrameSize, QueueSize, UmemConfig};

/// States: the kind in the low two bits; above it, for a frame on a ring, the number of the socket.
const HOME: u16 = 0;
const USER: u16 = 1;
const FILL: u16 = 2;
const TX: u16 = 3;
/// The most sockets a UMEM can have in its life.
const MAX_SOCKETS: u16 = 1 << 14;

/// The state of a frame on the fill ring, or in the hands of the driver, of a socket.
pub(crate) const fn fill_state(socket: u16) -> u16 {
    socket << 2 | FILL
}

/// The state of a frame on the TX ring of a socket, or sent and not yet completed.
pub(crate) const fn tx_state(socket: u16) -> u16 {
    socket << 2 | TX
}

/// The memory, and what is needed to name its frames to the kernel.
enum Memory {
    /// Registered with the kernel. A descriptor per frame, since xsk-rs alone can make one.
    Kernel { umem: xsk_rs::Umem, descriptors: Box<[FrameDesc]>, huge_pages: bool },
    /// Memory that only this process knows.
    Ordinary(*mut [u8]),
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Memory::Ordinary(bytes) = *self {
            // SAFETY: it came from `Box::into_raw`, and this is its one owner.
            drop(unsafe { Box::from_raw(bytes) });
        }
    }
}

/// A UMEM's memory and the record of its frames.
pub(crate) struct Generation {
    base: *mut u8,
    frame_size: FrameSize,
    states: Box<[AtomicU16]>,
    /// Frames that are home for good.
    home: AtomicU32,
    /// Sockets made so far.
    sockets: AtomicU16,
    memory: Memory,
}

// SAFETY: `base` and `Memory::Ordinary` point to memory this owns; a frame's bytes are reached through its one
// `UmemFrame` alone. The rest is `Sync` by itself.
unsafe impl Send for Generation {}
// SAFETY: as above.
unsafe impl Sync for Generation {}

/// Why an address that a ring gave is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Outside the UMEM.
    Foreign,
    /// Of a frame that was not on this ring.
    NotThere,
}

impl Generation {
    #[inline]
    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    #[inline]
    pub(crate) fn frame_size(&self) -> usize {
        self.frame_size.bytes()
    }

    #[inline]
    pub(crate) fn set_state(&self, index: u32, state: u16) {
        self.states[index as usize].store(state, Relaxed);
    }

    pub(crate) fn retire(&self, index: u32) {
        self.set_state(index, HOME);
    }

    /// Counts `count` frames that are home for good. With the last one goes the frames' reference.
    ///
    /// # Safety
    /// `generation` comes from its `Arc`, which lives; so many frames have been set to `HOME` since the last count.
    pub(crate) unsafe fn came_home(generation: NonNull<Generation>, count: u32) {
        // The total first: once these frames are counted, whoever counts the last may free it all.
        // SAFETY: it lives as long as these frames are not counted.
        let (total, before) = unsafe {
            let this = generation.as_ref();
            (this.states.len() as u32, this.home.fetch_add(count, AcqRel))
        };
        if count > 0 && before + count == total {
            // SAFETY: the reference that `Umem::over` gave to the frames; the count passes `total` once.
            drop(unsafe { Arc::from_raw(generation.as_ptr()) });
        }
    }

    /// The frame at `address`, which a ring gave back that holds frames in state `expected`; with the extent of `len`
    /// bytes from that address, or an empty one and `false` if it would not fit.
    #[inline]
    pub(crate) fn take(
        self: &Arc<Self>,
        address: u64,
        len: u32,
        expected: u16,
    ) -> Result<(UmemFrame, bool), Refused> {
        let size = self.frame_size() as u64;
        let index = address / size;
        let state =
            usize::try_from(index).ok().and_then(|index| self.states.get(index)).ok_or(Refused::Foreign)?;
        if state.load(Relaxed) != expected {
            return Err(Refused::NotThere);
        }
        state.store(USER, Relaxed);
        let start = address % size;
        let fits = start + u64::from(len) <= size;
        let (start, len) = if fits { (start as usize, len as usize) } else { (HEADROOM, 0) };
        // SAFETY: the state said that the frame was on a ring, so no `UmemFrame` exists, and says from now on that one
        // does. Its memory stays, since it has not retired.
        Ok((unsafe { UmemFrame::new(self.pointer(), index as u32, start, len) }, fits))
    }

    #[inline]
    fn pointer(self: &Arc<Self>) -> NonNull<Generation> {
        NonNull::new(Arc::as_ptr(self).cast_mut()).expect("an Arc is not null")
    }

    /// Takes home what was on the rings of a socket that is gone. Nobody gets these frames any more, since a driver may
    /// still be writing to them; they wait only for the memory to go.
    fn reclaim(self: &Arc<Self>, socket: u16) {
        let mut count = 0;
        for state in &self.states {
            if [fill_state(socket), tx_state(socket)].contains(&state.load(Relaxed)) {
                state.store(HOME, Relaxed);
                count += 1;
            }
        }
        // SAFETY: `self` keeps it alive, and `count` frames have just been set to `HOME`.
        unsafe { Generation::came_home(self.pointer(), count) };
    }

    /// xsk-rs's UMEM, and its descriptors by frame; `None` for ordinary memory.
    pub(crate) fn kernel(&self) -> Option<(&xsk_rs::Umem, &[FrameDesc])> {
        match &self.memory {
            Memory::Kernel { umem, descriptors, .. } => Some((umem, descriptors)),
            Memory::Ordinary(_) => None,
        }
    }
}

/// A socket's number within its UMEM; both halves hold it, and when both are gone the socket's frames are taken home.
pub(crate) struct Membership {
    pub(crate) generation: Arc<Generation>,
    pub(crate) number: u16,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.generation.reclaim(self.number);
    }
}

/// The owner's handle on a UMEM: makes sockets over it and says whether its frames are home. Dropping it frees nothing
/// that is still in use.
pub struct Umem {
    generation: Arc<Generation>,
    settings: UmemSettings,
}

impl Umem {
    /// A UMEM that the kernel knows, and all its frames.
    ///
    /// # Errors
    /// Needs CAP_NET_RAW; the memory is locked, so CAP_IPC_LOCK or a high enough limit too.
    pub fn new(settings: UmemSettings) -> Result<(Umem, Vec<UmemFrame>), UmemError> {
        let wrong = |error: &dyn fmt::Display| UmemError::Settings(error.to_string());
        let ring = |size| QueueSize::new(size).map_err(|e| wrong(&e));
        for size in [settings.rx_ring, settings.tx_ring] {
            ring(size)?;
        }
        let frames = NonZeroU32::new(settings.frames).ok_or_else(|| wrong(&"no frames"))?;
        let config = UmemConfig::builder()
            .frame_size(XskFrameSize::new(settings.frame_size.bytes() as u32).map_err(|e| wrong(&e))?)
            .fill_queue_size(ring(settings.fill_ring)?)
            .comp_queue_size(ring(settings.completion_ring)?)
            .frame_headroom(0)
            .build()
            .map_err(|e| wrong(&e))?;
        let huge =
            settings.huge_pages && huge_page_size().is_some_and(|page| settings.bytes().is_multiple_of(page));
        let made = match huge.then(|| xsk_rs::Umem::new(config, frames, true)) {
            Some(Ok(made)) => Ok((made, true)),
            Some(Err(_)) | None => xsk_rs::Umem::new(config, frames, false).map(|made| (made, false)),
        };
        let ((umem, descriptors), huge_pages) = made.map_err(|error| {
            let error = errno(&error)
                .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
            UmemError::Kernel { bytes: settings.bytes(), error }
        })?;
        let first = descriptors.first().expect("as many descriptors as frames");
        debug_assert_eq!(first.addr(), HEADROOM);
        // SAFETY: a descriptor of this UMEM, no byte of which anyone else reaches yet.
        let packet = unsafe { umem.data(first) }.contents().as_ptr();
        // xsk-rs gives out single frames only; the mapping is theirs, made by mmap, so its provenance is exposed.
        let base = ptr::with_exposed_provenance_mut(packet.addr() - first.addr());
        let memory = Memory::Kernel { umem, descriptors: descriptors.into_boxed_slice(), huge_pages };
        Ok(Self::over(settings, base, memory))
    }

    /// A UMEM of ordinary memory that no kernel knows, and all its frames: for tests and simulation, with rings of your
    /// own ([`Umem::join`]). Needs no privilege.
    pub fn simulated(settings: UmemSettings) -> (Umem, Vec<UmemFrame>) {
        let bytes = Box::into_raw(vec![0_u8; settings.bytes()].into_boxed_slice());
        Self::over(settings, bytes.cast(), Memory::Ordinary(bytes))
    }

    fn over(settings: UmemSettings, base: *mut u8, memory: Memory) -> (Umem, Vec<UmemFrame>) {
        let generation = Arc::new(Generation {
            base,
            frame_size: settings.frame_size,
            states: (0..settings.frames).map(|_| AtomicU16::new(USER)).collect(),
            home: AtomicU32::new(0),
            sockets: AtomicU16::new(0),
            memory,
        });
        // SAFETY: each index once, with the state `USER`; the reference given to the frames below keeps the memory.
        let frame = |index| unsafe { UmemFrame::new(generation.pointer(), index, HEADROOM, 0) };
        let frames: Vec<_> = (0..settings.frames).map(frame).collect();
        if !frames.is_empty() {
            std::mem::forget(Arc::clone(&generation));
        }
        (Umem { generation, settings }, frames)
    }

    /// What the UMEM was made from.
    pub fn settings(&self) -> &UmemSettings {
        &self.settings
    }

    /// Whether the memory is in huge pages.
    pub fn has_huge_pages(&self) -> bool {
        matches!(self.generation.memory, Memory::Kernel { huge_pages: true, .. })
    }

    /// Whether the frame is one of this UMEM's.
    #[inline]
    pub fn owns(&self, frame: &UmemFrame) -> bool {
        ptr::eq(frame.generation(), &*self.generation)
    }

    /// How many frames there are.
    pub fn total(&self) -> usize {
        self.generation.states.len()
    }

    /// How many frames are home for good: retired, or left on the rings of a socket that is gone.
    pub fn home_count(&self) -> usize {
        self.generation.home.load(Acquire) as usize
    }

    pub(crate) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// A number for a new socket; `None` when this UMEM has had too many.
    pub(crate) fn new_member(&self) -> Option<Arc<Membership>> {
        let next = |number| (number < MAX_SOCKETS).then_some(number + 1);
        let number = self.generation.sockets.fetch_update(Relaxed, Relaxed, next).ok()?;
        Some(Arc::new(Membership { generation: Arc::clone(&self.generation), number }))
    }
}

impl fmt::Debug for Umem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.settings.frame_size.bytes();
        write!(f, "Umem({} of {} frames of {size} bytes home)", self.home_count(), self.total())
    }
}
