//! sendmmsg(2): the same payload to several addresses by one system call.
//!
//! What this file guarantees: the kernel is given arrays that live on this frame or are borrowed for the whole call, with
//! their true lengths; every header's name and iovec point into them; the kernel only reads what they point to.
#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

/// The most addresses of one call.
pub const BATCH: usize = 32;

/// Sends `payload` once to each target (at most [`BATCH`]). What a full queue refuses is lost, not an error.
pub fn send_batch(socket: &UdpSocket, targets: &[SocketAddrV4], payload: &[u8]) -> io::Result<()> {
    assert!(targets.len() <= BATCH, "{} targets in one batch", targets.len());
    let mut iovec = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    let mut names: Vec<libc::sockaddr_in> = targets.iter().map(kernel_address).collect();
    let mut messages: Vec<libc::mmsghdr> = names
        .iter_mut()
        .map(|name| {
            // SAFETY: an msghdr is integers and pointers, for all of which zero is a value.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = (&raw mut *name).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            message.msg_hdr.msg_iov = &raw mut iovec;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let mut done = 0;
    while done < messages.len() {
        let rest = &mut messages[done..];
        // SAFETY: `rest` is that many headers, and all they point to outlives the call (see above).
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
        match usize::try_from(sent) {
            Ok(sent) => done += sent,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                // The first of the rest was refused.
                error if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => done += 1,
                error => return Err(error),
            },
        }
    }
    Ok(())
}

fn kernel_address(address: &SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}
