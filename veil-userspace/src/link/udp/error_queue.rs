//! The sockets' error queues: which destination an ICMP error, or a datagram too big for its path, was about.
#![allow(unsafe_code)]
//! Unsafe: one `recvmsg` with `MSG_ERRQUEUE`. What it guarantees: every pointer in its `msghdr` is that of a local
//! array, with that array's length, alive until the call returns.
//!
//! A socket that serves many peers learns of an error by whichever call comes next, for whatever peer that call was.
//! Only the entry on the error queue names the destination (ip(7), IP_RECVERR; `struct sock_extended_err`,
//! include/uapi/linux/errqueue.h). So: drain, then try again.

use super::cmsg::{ADDRESS_LEN, Address, CONTROL_LEN, Control, messages};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Entries taken in one go; a flood of ICMP errors must not hold up data.
const DRAIN_LIMIT: usize = 64;

/// What the network, or this host, said about datagrams to one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathError {
    /// The destination of the datagram that failed. Port 0: the kernel did not say (IPv4 with `EMSGSIZE` of this
    /// host, `ip_local_error` with an unconnected socket's port); an MTU is the address's anyway.
    pub remote: SocketAddr,
    /// The error as an errno: `ECONNREFUSED`, `EHOSTUNREACH`, `EMSGSIZE` and so on.
    pub errno: i32,
    /// With `EMSGSIZE`: the MTU of the path, IP header included.
    pub mtu: Option<u32>,
    /// Whether this host said it, rather than an ICMP message that anyone on the path may forge.
    pub local: bool,
}

/// Whether `errno` can be another destination's, brought in by ICMP (icmp_err_convert, net/ipv4/icmp.c and
/// icmpv6_err_convert, net/ipv6/icmp.c).
pub fn may_be_another_paths(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EMSGSIZE
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EACCES
    )
}

/// Takes what waits on `fd`'s error queue and tells `each`; returns how many entries there were.
pub fn drain(fd: BorrowedFd<'_>, mut each: impl FnMut(PathError)) -> usize {
    let (mut address, mut control) = (Address::new(), Control::new());
    let mut count = 0;
    while count < DRAIN_LIMIT {
        let Ok(name_len) = receive(fd, &mut address, &mut control) else { break };
        count += 1;
        if let Some(error) = address.get(name_len).and_then(|remote| parse(remote, control.bytes())) {
            each(error);
        }
    }
    count
}

#[allow(clippy::unnecessary_cast)] // the C libraries differ in the types of these lengths
fn receive(fd: BorrowedFd<'_>, address: &mut Address, control: &mut Control) -> io::Result<usize> {
    // SAFETY: `msghdr` holds integers and raw pointers only; all zeros is a valid value of it.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = address.room_mut().as_mut_ptr().cast();
    header.msg_namelen = ADDRESS_LEN as _;
    header.msg_iov = ptr::null_mut();
    header.msg_iovlen = 0;
    header.msg_control = control.room_mut().as_mut_ptr().cast();
    header.msg_controllen = CONTROL_LEN as _;
    // SAFETY: the name and the control pointer are those of `address` and `control`, borrowed until this returns,
    // with their lengths; no vector means no room for the datagram's own bytes, which we do not want.
    let got =
        unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    control.set_len(header.msg_controllen as usize);
    Ok(header.msg_namelen as usize)
}

fn parse(remote: SocketAddr, control: &[u8]) -> Option<PathError> {
    let (_, _, data) = messages(control).find(|&(level, kind, _)| {
        (level, kind) == (libc::IPPROTO_IP, libc::IP_RECVERR)
            || (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    })?;
    // sock_extended_err: errno 4, origin 1, type 1, code 1, pad 1, info 4, data 4.
    let word = |at: usize| data.get(at..)?.first_chunk().map(|&b| u32::from_ne_bytes(b));
    let errno = i32::try_from(word(0)?).ok()?;
    let mtu = word(8).filter(|&info| errno == libc::EMSGSIZE && info > 0);
    Some(PathError { remote, errno, mtu, local: data.get(4) == Some(&libc::SO_EE_ORIGIN_LOCAL) })
}
