//! The system calls that neither aya nor xsk-rs makes as VEIL needs them, each with the kernel file that answers it.
//!
//! Unsafe is the calls alone. Every descriptor is borrowed, so open; every pointer is null or to a local value whose
//! size is handed over with it; a descriptor the kernel returns is owned at once. All functions here are safe.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

/// `SOL_XDP` options, include/uapi/linux/if_xdp.h.
const XDP_STATISTICS: libc::c_int = 7;
const XDP_OPTIONS: libc::c_int = 8;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;

/// `enum bpf_cmd` and `enum bpf_attach_type`, include/uapi/linux/bpf.h.
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_XDP: u32 = 37;

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads; the kernel takes what is missing for zero.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches an XDP program to an interface. It stays attached while the returned link is open (net/core/dev.c,
/// `bpf_xdp_link_attach`; Linux 5.9).
///
/// aya's `Xdp::attach` makes the same call, but answers EINVAL by attaching over netlink, which outlives the process
/// and may replace another's program. So it is not used.
pub fn link_xdp(program: BorrowedFd<'_>, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let attributes =
        LinkCreate { program: program.as_raw_fd() as u32, interface, attach_type: BPF_XDP, flags };
    // SAFETY: the kernel reads as many bytes as the size says, which are there, and keeps no pointer.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attributes, size_of::<LinkCreate>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor made just now, known to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The index of the interface called `name`, in the namespace of this thread.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name).map_err(io::Error::other)?;
    // SAFETY: a C string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Tells the kernel that the TX ring has something (net/xdp/xsk.c, `xsk_sendmsg`). In copy mode this transmits.
#[inline]
pub fn kick(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: nothing is read through the null pointers: both lengths are zero.
    match unsafe { libc::sendto(socket.as_raw_fd(), null_mut(), 0, libc::MSG_DONTWAIT, null_mut(), 0) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tells a sleeping driver that the fill ring has something (net/xdp/xsk.c, `xsk_recvmsg`). Unlike `poll` this never
/// transmits.
#[inline]
pub fn wake_receiver(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: nothing is written through the null pointers: the length is zero, the address is not wanted.
    let result = unsafe {
        libc::recvfrom(socket.as_raw_fd(), null_mut(), 0, libc::MSG_DONTWAIT, null_mut(), null_mut())
    };
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the socket is bound in zero-copy mode, as the kernel says it.
pub fn is_zero_copy(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let (mut flags, mut length) = (0_u32, size_of::<u32>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes to `flags`, and how many to `length`.
    let result = unsafe {
        let flags = (&raw mut flags).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, XDP_OPTIONS, flags, &raw mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(flags & XDP_OPTIONS_ZEROCOPY != 0) }
}

/// How many descriptors one [`kick`] may take in copy mode, instead of 32 (Linux 6.17).
pub fn set_transmit_budget(socket: BorrowedFd<'_>, descriptors: u32) -> io::Result<()> {
    set_option(socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, descriptors)
}

/// How many bytes may be in flight in copy mode, whatever the system's limit where the privilege is there.
pub fn set_send_buffer(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes))
}

fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: u32) -> io::Result<()> {
    // SAFETY: the kernel reads the four bytes of `value`.
    let result = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, size_of::<u32>() as libc::socklen_t)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The six words of `struct xdp_statistics`, in its order (net/xdp/xsk.c, `xsk_getsockopt`).
pub fn statistics(socket: BorrowedFd<'_>) -> io::Result<[u64; 6]> {
    let mut words = [0u64; 6];
    let mut size = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `words`, and the length to `size`.
    let result = unsafe {
        let (words, size) = ((&raw mut words).cast(), &raw mut size);
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, XDP_STATISTICS, words, size)
    };
    if result == 0 { Ok(words) } else { Err(io::Error::last_os_error()) }
}
