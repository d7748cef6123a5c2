//! What a NIC's queue can do, asked of the kernel by binding a bare AF_XDP socket to it: no steering program, no rings
//! in use, nothing of VEIL's. When a daemon does not get what the probe got, the fault is the daemon's.
//!
//! What the unsafe here guarantees: every pointer handed to the kernel is to a local that lives through the call and
//! of the length that is passed with it; the memory registered with a socket is a mapping of its own, which lives as
//! long as the socket and which nobody reads or writes.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use anyhow::{Context, Result};
use libc::{c_int, c_void};

/// How a packet gets from the NIC to an AF_XDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    ZeroCopy,
    Copy,
}

impl Rung {
    pub fn named(name: &str) -> Option<Rung> {
        [Rung::ZeroCopy, Rung::Copy].into_iter().find(|rung| rung.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Rung::ZeroCopy => "zero-copy",
            Rung::Copy => "copy",
        }
    }
}

const FRAMES: usize = 64;
const FRAME: usize = 4096;
const MEMORY: usize = FRAMES * FRAME;

/// A bound socket; while it lives the queue is taken.
#[derive(Debug)]
pub struct Bound {
    socket: OwnedFd,
    _memory: Memory,
}

/// Binds to queue 0 of an interface that is up, in the calling thread's namespace; the kernel refuses what it cannot.
pub fn bind(interface: &str, rung: Rung) -> Result<io::Result<Bound>> {
    let memory = Memory::new().context("mapping memory")?;
    // SAFETY: socket takes three integers and touches no memory of ours.
    let descriptor = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(descriptor).context("opening an AF_XDP socket")?;
    // SAFETY: the kernel has just returned this descriptor, so it is open and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let region = libc::xdp_umem_reg {
        addr: memory.0 as u64,
        len: MEMORY as u64,
        chunk_size: FRAME as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set(&socket, libc::XDP_UMEM_REG, &region).context("registering memory")?;
    let size = FRAMES as c_int;
    for ring in
        [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING]
    {
        set(&socket, ring, &size).context("sizing a ring")?;
    }
    let name = CString::new(interface)?;
    // SAFETY: the name is a local, ends with a zero, and is only read.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_USE_NEED_WAKEUP
            | match rung {
                Rung::ZeroCopy => libc::XDP_ZEROCOPY,
                Rung::Copy => libc::XDP_COPY,
            },
        sxdp_ifindex: index,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: 0,
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a local of that length; the descriptor is owned, hence open.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    Ok(check(result).map(|()| Bound { socket, _memory: memory }))
}

impl Bound {
    /// Which of the two it is, by the kernel's word (`XDP_OPTIONS`).
    pub fn rung(&self) -> io::Result<Rung> {
        let mut options = libc::xdp_options { flags: 0 };
        let mut length = size_of_val(&options) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to a local of that size; the descriptor is open.
        check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_XDP,
                libc::XDP_OPTIONS,
                (&raw mut options).cast(),
                &raw mut length,
            )
        })?;
        Ok(if options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0 { Rung::ZeroCopy } else { Rung::Copy })
    }
}

/// Leaves an interface one receive and one transmit queue, as `ethtool -L IF combined 1` does. A NIC with queues of
/// its own spreads packets over them, and a socket hears only its own.
pub fn one_queue(interface: &str) -> Result<()> {
    // Asked for first, because what is not to change must be sent back as it was.
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    ethtool(interface, &mut channels).with_context(|| format!("asking for the queues of {interface}"))?;
    channels.command = ETHTOOL_SCHANNELS;
    channels.combined = 1;
    ethtool(interface, &mut channels).with_context(|| format!("leaving {interface} one queue"))
}

fn ethtool(interface: &str, channels: &mut Channels) -> io::Result<()> {
    // SAFETY: an all-zero request is a valid one: an empty name and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = ptr::from_mut(channels).cast();
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: request and channels live through the call and have the form these commands read and write; the
    // descriptor is owned, hence open.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) })
}

/// `struct ethtool_channels` of linux/ethtool.h.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// linux/ethtool.h
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;

fn set<T>(socket: &OwnedFd, option: c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of a value that is borrowed for the call; the descriptor is open.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, option, ptr::from_ref(value).cast(), length)
    })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An anonymous mapping of `MEMORY` bytes.
#[derive(Debug)]
struct Memory(*mut c_void);

impl Memory {
    fn new() -> io::Result<Memory> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at a place of the kernel's choice overlaps nothing.
        let start = unsafe { libc::mmap(ptr::null_mut(), MEMORY, access, kind, -1, 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Memory(start)) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and of that length; nothing refers into it (the kernel pins its own pages).
        unsafe { libc::munmap(self.0, MEMORY) };
    }
}
