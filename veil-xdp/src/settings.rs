//! How large a UMEM and its rings are, and why there may be none.

use crate::frame::HEADROOM;
use std::error::Error;
use std::io;

/// How large each frame is. The first 256 bytes are headroom ([`HEADROOM`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSize {
    /// 2048 bytes: enough for an MTU of 1500.
    Small,
    /// 4096 bytes: for an MTU of up to 3822.
    Page,
}

impl FrameSize {
    /// In bytes.
    pub const fn bytes(self) -> usize {
        match self {
            FrameSize::Small => 2048,
            FrameSize::Page => 4096,
        }
    }

    /// Bytes of the longest packet that is received whole, from its Ethernet header on.
    pub const fn longest(self) -> u16 {
        (self.bytes() - HEADROOM) as u16
    }

    /// The smaller size that holds whole Ethernet frames of an interface with this MTU; `None` if neither does.
    pub const fn for_mtu(mtu: usize) -> Option<FrameSize> {
        // Ethernet header and one VLAN tag.
        match mtu + 18 + HEADROOM {
            0..=2048 => Some(FrameSize::Small),
            2049..=4096 => Some(FrameSize::Page),
            _ => None,
        }
    }
}

/// How large a UMEM and the rings of each of its sockets are. Every ring size is a power of two.
#[derive(Clone, Copy, Debug)]
pub struct UmemSettings {
    /// How many frames.
    pub frames: u32,
    pub frame_size: FrameSize,
    /// Whether to try huge pages first. It works where the memory is a whole number of them and the host has reserved
    /// enough; [`Umem::has_huge_pages`](crate::Umem::has_huge_pages) says what came of it.
    pub huge_pages: bool,
    /// Room in each socket's fill ring. Twice its RX ring, or more, rides out bursts.
    pub fill_ring: u32,
    pub rx_ring: u32,
    pub tx_ring: u32,
    /// Room in each socket's completion ring. At least the TX ring, or sending waits for completions.
    pub completion_ring: u32,
}

impl Default for UmemSettings {
    fn default() -> Self {
        UmemSettings {
            frames: 8192,
            frame_size: FrameSize::Small,
            huge_pages: true,
            fill_ring: 4096,
            rx_ring: 2048,
            tx_ring: 2048,
            completion_ring: 2048,
        }
    }
}

impl UmemSettings {
    /// Bytes of all frames together.
    pub(crate) fn bytes(&self) -> usize {
        self.frames as usize * self.frame_size.bytes()
    }
}

/// Why there is no UMEM.
#[derive(Debug, thiserror::Error)]
pub enum UmemError {
    #[error("the settings of the UMEM contradict themselves: {0}")]
    Settings(String),
    #[error("cannot make a UMEM of {bytes} bytes: {error}; {}", cure(error))]
    Kernel { bytes: usize, error: io::Error },
}

fn cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "needs CAP_NET_RAW",
        Some(libc::ENOBUFS) => {
            "more memory may have to be locked: needs CAP_IPC_LOCK, or a higher `ulimit -l`"
        }
        Some(libc::ENOMEM) => "the host has not so much memory: ask for fewer frames",
        Some(libc::EAFNOSUPPORT) => "the kernel is built without AF_XDP (CONFIG_XDP_SOCKETS)",
        _ => "see the kernel's words",
    }
}

/// The system's error number at the bottom of an error's causes.
pub(crate) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let causes = std::iter::successors(Some(error), |error| (**error).source());
    causes.filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error()).last()
}

/// The host's usual huge page, in bytes. A mapping of another length could not be unmapped again.
pub(crate) fn huge_page_size() -> Option<usize> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}
