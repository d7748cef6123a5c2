//! The lab's system calls that the standard library does not offer. Nothing else in this crate is unsafe.
//!
//! What this file guarantees: every descriptor passed to the kernel is owned or borrowed by the caller for the length
//! of the call; the one pointer handed over is to a local that outlives the call; a descriptor the kernel returns gets
//! exactly one owner.
#![allow(unsafe_code)]

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Moves the calling thread, and only it, into the network namespace behind `descriptor` (setns(2)).
pub fn enter_network_namespace(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns reads no memory of ours; the descriptor is borrowed, hence open, during the call.
    match unsafe { libc::setns(descriptor.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends `signal` to one process (kill(2)); the pid must be positive, so that no group is ever hit.
pub fn signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: kill takes two integers and touches no memory of ours.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The effective user id of this process.
pub fn effective_user() -> u32 {
    // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// A raw ICMP or ICMPv6 socket in the calling thread's namespace.
pub fn icmp_socket(v6: bool) -> io::Result<UdpSocket> {
    match v6 {
        true => socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
        false => socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
    }
}

/// A socket that sends whole IPv4 packets, whatever source they name, from the calling thread's namespace (raw(7)).
pub fn packet_sender() -> io::Result<UdpSocket> {
    socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)
}

/// A socket that hears every IPv4 packet which enters the calling thread's namespace, whoever it is for (packet(7)).
/// Only `recv` reads it: what it would say of the sender is no internet address.
pub fn packet_listener() -> io::Result<UdpSocket> {
    let ipv4 = (libc::ETH_P_IP as u16).to_be();
    socket(libc::AF_PACKET, libc::SOCK_DGRAM, libc::c_int::from(ipv4))
}

/// `UdpSocket` is only the handle: its calls are sendto(2) and recvfrom(2) on any datagram-like socket.
fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<UdpSocket> {
    // SAFETY: socket takes three integers and touches no memory of ours.
    let descriptor = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, so it is open and nobody else owns it.
    Ok(UdpSocket::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// Repeats a call that a pause of the process has interrupted: on a socket with a time-out the kernel leaves that to us
/// (signal(7), 'Interruption of system calls').
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// From now on, what `socket` sends at once is cut into datagrams of `bytes` bytes (`UDP_SEGMENT`, udp(7)).
pub fn set_udp_segment(socket: &UdpSocket, bytes: u16) -> io::Result<()> {
    let bytes = libc::c_int::from(bytes);
    // SAFETY: setsockopt reads one `int` at the pointer, a local that lives until the call returns; the descriptor is
    // borrowed, hence open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
