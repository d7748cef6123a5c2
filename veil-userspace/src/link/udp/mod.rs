//! The UDP link: ordinary sockets, with every batching the kernel offers.
//!
//! [`UdpLink::open`] opens the sockets (`socket`) and returns the two ends: `rx` for the RX stage, `tx` for the TX
//! stage. They share the sockets and nothing else on the packet path. `batch` makes the system calls, `cmsg` knows
//! the layouts, `error_queue` finds out whom an ICMP error was about.
//!
//! The invariant is that of every link: nothing is lost without a count.

mod batch;
mod cmsg;
mod error_queue;
mod port_holder;
mod rx;
mod single;
mod socket;
mod tx;

pub use error_queue::PathError;
pub use rx::UdpRx;
pub use single::DatagramSender;
#[cfg(feature = "xdp")]
pub(super) use single::outer_tos;
pub(super) use socket::set_option;
pub use tx::{MAX_PAYLOAD, UdpTx};

use super::LinkCounters;
use crate::frame::MAX_SEGMENTS;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use veil_proto::Path;

/// What every kernel with `UDP_SEGMENT` takes as one message (`UDP_MAX_SEGMENTS` before 6.9).
const OLD_MAX_SEGMENTS: usize = 64;

/// A link over UDP sockets, before it is two ends.
pub struct UdpLink;

impl UdpLink {
    /// Opens the outer sockets and returns both ends and the port they are bound to.
    ///
    /// `[::]` listens on both families, any other address on its own alone; port 0 means any port. `dscp` is the
    /// six-bit code point of outer datagrams. The sockets belong to the network namespace of the calling thread.
    ///
    /// # Errors
    /// The port is in use, may not be bound, or the address is not this host's; the message names the cure.
    pub fn open(listen: SocketAddr, dscp: u8) -> anyhow::Result<(UdpRx, UdpTx, u16)> {
        anyhow::ensure!(dscp < 64, "a DSCP is a number from 0 to 63, not {dscp}");
        let (sockets, port) = socket::Sockets::open(listen)?;
        let (sockets, counters) = (Arc::new(sockets), Arc::new(LinkCounters::default()));
        let max_segments = probe_max_segments(&sockets);
        tracing::debug!("UDP link on port {port}: GSO runs of up to {max_segments} datagrams");
        let rx = UdpRx::new(sockets.clone(), counters.clone());
        Ok((rx, UdpTx::new(sockets, counters, dscp, max_segments), port))
    }
}

/// How many datagrams this kernel cuts one message into: 1 without `UDP_SEGMENT` (before 4.18), 128 where a message
/// of 65 one-byte datagrams gets through on the loopback interface, else 64.
fn probe_max_segments(sockets: &socket::Sockets) -> usize {
    let mut ours = sockets.all().into_iter().flatten();
    if ours.any(|fd| socket::option(fd, libc::SOL_UDP, libc::UDP_SEGMENT).is_err()) {
        return 1;
    }
    let probe = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let path = Path::to(socket.local_addr()?);
        let bytes = [0; OLD_MAX_SEGMENTS + 1];
        let departure =
            batch::Departure { bytes: &bytes, path: &path, from_local: false, tos: 0, segment: Some(1) };
        Ok(batch::SendBatch::new(1).send(socket.as_fd(), std::iter::once(departure))? == (1, 1))
    };
    if probe().unwrap_or(false) { MAX_SEGMENTS } else { OLD_MAX_SEGMENTS }
}

#[cfg(test)]
mod tests;
