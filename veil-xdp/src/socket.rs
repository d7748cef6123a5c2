//! Making AF_XDP sockets: one per receive queue, all over one UMEM, each with four rings of its own.
//!
//! The first socket of a UMEM is, in the kernel, the UMEM itself: its descriptor is closed with the memory, when the
//! last frame is home. Until then its queue cannot be bound by anyone else (EBUSY). Whoever drops a socket takes it out
//! of the steering map first.
//!
//! Unsafe: xsk-rs asks that no two sockets on one queue load its default program; it is never loaded here.
#![allow(unsafe_code)]

use crate::counters::SocketCounters;
use crate::frame::UmemFrame;
use crate::rings::{BATCH, KernelRx, KernelTx, RxRings, TxRings};
use crate::rx::XskRx;
use crate::settings::errno;
use crate::sys;
use crate::tx::XskTx;
use crate::umem::Umem;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{FrameDesc, Socket};

/// The most bytes of packets a socket in copy mode may have in flight; the system's default stops at about 90 packets.
const SEND_BUFFER: u32 = 4 << 20;

/// How the kernel and the NIC share the UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindMode {
    /// The NIC reads and writes frames itself.
    ZeroCopy,
    /// The kernel copies between frames and its own buffers.
    Copy,
}

impl BindMode {
    /// The name in logs and in `veil show`.
    pub const fn name(self) -> &'static str {
        match self {
            BindMode::ZeroCopy => "zero-copy",
            BindMode::Copy => "copy",
        }
    }
}

/// Why there is no socket on a queue.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot bind an AF_XDP socket to queue {queue} of {interface} in {} mode: {error}; {}",
    mode.name(), cure(error, *mode)
)]
pub struct BindError {
    pub interface: String,
    pub queue: u32,
    pub mode: BindMode,
    #[source]
    pub error: io::Error,
}

fn cure(error: &io::Error, mode: BindMode) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "needs CAP_NET_RAW",
        Some(libc::EBUSY) => {
            "another AF_XDP socket has this queue, or frames of ours are still on their way home"
        }
        Some(libc::ENODEV) => "there is no such interface; see `ip link`",
        Some(libc::EOPNOTSUPP | libc::EINVAL) if mode == BindMode::ZeroCopy => {
            "its driver has no zero-copy here, or wants a program attached first; copy mode may do"
        }
        Some(libc::EINVAL) => "there is no such queue; see `ethtool -l`",
        Some(libc::ENETDOWN) => "switch the interface on: `ip link set up`",
        Some(libc::ENOBUFS) => "needs CAP_IPC_LOCK, or a higher `ulimit -l`",
        _ => "see the kernel's words",
    }
}

/// A socket bound to one queue, as its two halves.
#[derive(Debug)]
pub struct XskSocket {
    pub rx: XskRx,
    pub tx: XskTx,
    /// What the kernel says the socket got, whatever was asked.
    pub mode: BindMode,
}

impl Umem {
    /// Binds a socket over this UMEM to a receive queue of an interface, in the namespace of this thread.
    ///
    /// It gets packets once its fill ring has frames and the steering program has it for the queue, in this order.
    ///
    /// # Errors
    /// The kernel's refusal, with what was attempted and the cure. Needs CAP_NET_RAW.
    pub fn bind(&self, interface: &str, queue: u32, mode: BindMode) -> Result<XskSocket, BindError> {
        let fail = |error| BindError { interface: interface.to_owned(), queue, mode, error };
        self.try_bind(interface, queue, mode).map_err(fail)
    }

    fn try_bind(&self, interface: &str, queue: u32, mode: BindMode) -> io::Result<XskSocket> {
        let (umem, _) = self.generation().kernel().ok_or_else(|| io::Error::other("a simulated UMEM"))?;
        // libxdp looks the name up as well, but then says nothing that tells a missing interface from other trouble.
        sys::interface_index(interface)?;
        let member = self.new_member().ok_or_else(|| io::Error::other("too many sockets over one UMEM"))?;
        let wanted = match mode {
            BindMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
            BindMode::Copy => BindFlags::XDP_COPY,
        };
        let config = SocketConfig::builder()
            .rx_queue_size(QueueSize::new(self.settings().rx_ring).map_err(io::Error::other)?)
            .tx_queue_size(QueueSize::new(self.settings().tx_ring).map_err(io::Error::other)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(wanted | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name: Interface = interface.parse().map_err(io::Error::other)?;
        // SAFETY: the flag that the contract asks for is set.
        let made = unsafe { Socket::new(config, umem, &name, queue) };
        let (tx, rx, rings) = made.map_err(|error| {
            errno(&error).map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
        })?;
        let busy = || io::Error::from_raw_os_error(libc::EBUSY);
        let (fill, completion) = rings.ok_or_else(busy)?;
        let scratch = || Box::new([FrameDesc::default(); BATCH]);
        let generation = || Arc::clone(self.generation());
        let rx = KernelRx { fill, rx, umem: generation(), scratch: scratch() };
        let zero_copy = sys::is_zero_copy(rx.as_fd())?;
        if !zero_copy {
            // Each makes sending faster and is wanting on some kernel or for some user; without them it works.
            let _ = sys::set_send_buffer(rx.as_fd(), SEND_BUFFER);
            let _ = sys::set_transmit_budget(rx.as_fd(), self.settings().tx_ring);
        }
        let tx = KernelTx { tx, completion, umem: generation(), zero_copy, scratch: scratch() };
        let (rx, tx) = self.halves(member, rx, tx);
        Ok(XskSocket { rx, tx, mode: if zero_copy { BindMode::ZeroCopy } else { BindMode::Copy } })
    }

    /// A socket over this UMEM whose rings are the caller's: for tests and simulation.
    ///
    /// The rings see numbers and addresses, never memory, and nothing they say is believed unchecked.
    ///
    /// # Panics
    /// When this UMEM has had 16384 sockets.
    pub fn join<R: RxRings, T: TxRings>(&self, rx: R, tx: T) -> (XskRx<R>, XskTx<T>) {
        let member = self.new_member().expect("so many sockets over one UMEM");
        self.halves(member, rx, tx)
    }

    fn halves<R, T>(&self, member: Arc<crate::umem::Membership>, rx: R, tx: T) -> (XskRx<R>, XskTx<T>) {
        let counters = Arc::new(SocketCounters::default());
        let rx = XskRx { rings: rx, member: Arc::clone(&member), counters: Arc::clone(&counters) };
        let ring_size = self.settings().tx_ring as usize;
        let refused = Vec::<UmemFrame>::new();
        (rx, XskTx { rings: tx, member, counters, ring_size, outstanding: 0, refused })
    }
}

/// `struct xdp_statistics` (include/uapi/linux/if_xdp.h): packets that the kernel dropped, and descriptors it missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpStatistics {
    /// Packets dropped for other reasons than those below.
    pub rx_dropped: u64,
    /// Packets dropped for a bad address in the fill ring.
    pub rx_invalid_descs: u64,
    /// Packets not sent for a bad descriptor in the TX ring.
    pub tx_invalid_descs: u64,
    /// Packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// How often the fill ring had no frame for a packet.
    pub rx_fill_ring_empty_descs: u64,
    /// How often the TX ring was found empty.
    pub tx_ring_empty_descs: u64,
}

/// The kernel's statistics of a socket, both halves together.
pub fn statistics(socket: BorrowedFd<'_>) -> io::Result<XdpStatistics> {
    let [rx_dropped, rx_invalid_descs, tx_invalid_descs, rx_ring_full, fill_empty, tx_empty] =
        sys::statistics(socket)?;
    Ok(XdpStatistics {
        rx_dropped,
        rx_invalid_descs,
        tx_invalid_descs,
        rx_ring_full,
        rx_fill_ring_empty_descs: fill_empty,
        tx_ring_empty_descs: tx_empty,
    })
}

impl XskRx {
    /// The kernel's statistics of this socket, both halves together.
    pub fn statistics(&self) -> io::Result<XdpStatistics> {
        statistics(self.as_fd())
    }
}

/// Each half may live on a thread of its own.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<XskRx>();
    is_send::<XskTx>();
    is_send::<Umem>();
};
