//! `recvmmsg` and `sendmmsg` over arrays made once.
#![allow(unsafe_code)]
//! Unsafe: this file fills `msghdr`s with raw pointers and makes the two system calls. What it guarantees: every
//! pointer the kernel follows is set immediately before the call, in the same function, from a borrow that lasts
//! until the call has returned (the frames or slices handed in, or this batch's own boxed arrays), with that borrow's
//! own length. No pointer is read afterwards, so the batches may be moved between threads.

use super::cmsg::{ADDRESS_LEN, Address, CONTROL_LEN, Control};
use crate::frame::WideFrame;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use veil_proto::Path;

/// The most messages one system call moves.
pub const BATCH: usize = 32;

/// The arrays of one direction; entry `i` of each belongs to message `i`.
struct Arrays {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    addresses: Box<[Address]>,
    controls: Box<[Control]>,
}

// SAFETY: the raw pointers inside `headers` and `vectors` are never followed except by the kernel, during a call of
// the functions below, which set every one of them first. Between calls they are dead values, harmless on any thread.
unsafe impl Send for Arrays {}

impl Arrays {
    fn new(messages: usize) -> Self {
        // SAFETY: `mmsghdr` holds integers and raw pointers only; all zeros is a valid value of it.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Arrays {
            headers: vec![header; messages].into(),
            vectors: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; messages].into(),
            addresses: vec![Address::new(); messages].into(),
            controls: vec![Control::new(); messages].into(),
        }
    }
}

/// Receives up to [`BATCH`] messages at once, each into a frame of its own.
pub struct ReceiveBatch(Arrays);

/// One received message, its bytes apart.
pub struct Arrival<'a> {
    pub bytes: usize,
    pub from: Option<SocketAddr>,
    pub control: &'a [u8],
    /// Whether bytes or control messages did not fit.
    pub truncated: bool,
}

impl ReceiveBatch {
    pub fn new() -> Self {
        ReceiveBatch(Arrays::new(BATCH))
    }

    /// Fills `frames` in order, without waiting; returns how many were filled. Frame lengths are left to the caller.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, frames: &mut [WideFrame]) -> io::Result<usize> {
        let Arrays { headers, vectors, addresses, controls } = &mut self.0;
        let count = frames.len().min(headers.len());
        let slots =
            headers.iter_mut().zip(vectors.iter_mut()).zip(addresses.iter_mut().zip(controls.iter_mut()));
        for (frame, ((header, vector), (address, control))) in frames.iter_mut().zip(slots) {
            let room = frame.buffer_mut();
            *vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut header.msg_hdr;
            header.msg_name = address.room_mut().as_mut_ptr().cast();
            header.msg_namelen = ADDRESS_LEN as _;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = control.room_mut().as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN as _;
            header.msg_flags = 0;
        }
        // SAFETY: the first `count` headers were set just above (`count` is the shorter of both lengths, as `zip` is)
        // and point into `frames` and into our arrays, both borrowed mutably and exclusively until this returns, each
        // with its true length. A null timeout is allowed.
        let got = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                count as _,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Message `index` of the last call, if it received that many.
    #[allow(clippy::unnecessary_cast)] // the C libraries differ in the types of these lengths
    pub fn arrival(&mut self, index: usize) -> Arrival<'_> {
        let Arrays { headers, addresses, controls, .. } = &mut self.0;
        let header = &headers[index].msg_hdr;
        controls[index].set_len(header.msg_controllen as usize);
        Arrival {
            bytes: headers[index].msg_len as usize,
            from: addresses[index].get(header.msg_namelen as usize),
            control: controls[index].bytes(),
            truncated: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        }
    }
}

/// One message to send: a datagram, or several of equal size for the kernel to cut (`UDP_SEGMENT`).
#[derive(Clone, Copy)]
pub struct Departure<'a> {
    pub bytes: &'a [u8],
    pub path: &'a Path,
    /// Whether to send from `path.local()`.
    pub from_local: bool,
    pub tos: u8,
    /// The size to cut at; `None` for a lone datagram.
    pub segment: Option<u16>,
}

/// Sends a batch of messages at once.
pub struct SendBatch(Arrays);

impl SendBatch {
    /// A batch of at most `messages` messages.
    pub fn new(messages: usize) -> Self {
        SendBatch(Arrays::new(messages))
    }

    /// Sends the first messages of `departures`, as many as the batch holds and the kernel takes, without waiting.
    ///
    /// Returns how many the kernel took and how many were offered.
    ///
    /// # Errors
    /// What the kernel said of the first message, when it took none.
    pub fn send<'a>(
        &mut self,
        fd: BorrowedFd<'_>,
        departures: impl Iterator<Item = Departure<'a>>,
    ) -> io::Result<(usize, usize)> {
        let Arrays { headers, vectors, addresses, controls } = &mut self.0;
        let slots =
            headers.iter_mut().zip(vectors.iter_mut()).zip(addresses.iter_mut().zip(controls.iter_mut()));
        let mut offered = 0;
        for (((header, vector), (address, control)), departure) in slots.zip(departures) {
            let Departure { bytes, path, from_local, tos, segment } = departure;
            control.set(path, path.local().filter(|_| from_local), tos, segment);
            *vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let header = &mut header.msg_hdr;
            header.msg_namelen = address.set(path.remote()) as _;
            header.msg_name = address.room_mut().as_mut_ptr().cast();
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_controllen = control.bytes().len() as _;
            header.msg_control = match control.bytes() {
                [] => ptr::null_mut(),
                _ => control.room_mut().as_mut_ptr().cast(),
            };
            header.msg_flags = 0;
            offered += 1;
        }
        if offered == 0 {
            return Ok((0, 0));
        }
        // SAFETY: the first `offered` headers were set just above. Their vectors point to slices that live for 'a,
        // which outlasts this call, and which the kernel only reads; their names and controls point into our own
        // arrays, borrowed until this returns. Every length is that of what it belongs to.
        let sent = unsafe {
            libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), offered as _, libc::MSG_DONTWAIT as _)
        };
        usize::try_from(sent).map(|sent| (sent, offered)).map_err(|_| io::Error::last_os_error())
    }
}
