//! The AF_XDP link: datagrams past the kernel's network stack, beside the UDP sockets and never instead of them.
//!
//! What the steering program is sure of comes by the rings ([`XdpRx`]); everything else, and everything while the link is
//! on a lower rung, comes by the sockets. A path goes out by the ring ([`XdpTx`]) when the mirror of the kernel's tables
//! knows its next hop; otherwise by its socket, which is also how the kernel comes to know the hop. Runs go out by the
//! socket in native copy mode, too, where GSO is cheaper. `ladder` climbs as high as the interface allows, and `supervisor` steps
//! down and up again while the tunnel runs; what the kernel may be long in answering it has `watch` ask, on another thread.
//!
//! Packets are copied once between UMEM and wide frames, so that the rest of the daemon sees runs as the UDP link makes
//! them, and the kernel has its frames back at once. Opening and sealing in the UMEM itself would save the copy.
//!
//! The invariant is that of every link: nothing is lost without a count. Frames of the UMEM never leave this module.

mod join;
mod ladder;
mod moderation;
mod ready;
mod rx;
mod status;
mod supervisor;
mod tx;
mod watch;
mod ways;

pub use rx::XdpRx;
pub use status::XdpStatus;
pub use tx::XdpTx;

use super::BusyPoll;
use super::udp::{UdpRx, UdpTx};
use crate::config::XdpMode;
use anyhow::{Context, Result, bail};
pub use ladder::{frames, used_queues};
use ready::Ready;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use supervisor::Supervisor;
use veil_xdp::next_hop::NextHops;

/// What the link is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The NIC.
    pub interface: String,
    /// The address that is listened on, and the UDP port, ours.
    pub listen: IpAddr,
    pub port: u16,
    /// The code point of outer datagrams.
    pub dscp: u8,
    /// Where the program runs.
    pub mode: XdpMode,
    /// Whether datagrams over IPv4 have a UDP checksum.
    pub udp_checksum: bool,
    /// Has the kernel poll the NIC for the sockets, if it is to.
    pub busy_poll: Option<BusyPoll>,
    /// Whether to fail at start if no AF_XDP rung can be had.
    pub required: bool,
}

/// Puts AF_XDP beside the two ends of a UDP link, as high on the ladder as it goes now.
///
/// # Errors
/// There is no such interface; the kernel's tables cannot be read; the system gives no thread; or AF_XDP is `required` and cannot be had, for the
/// reasons given.
pub fn open(settings: Settings, udp_rx: UdpRx, udp_tx: UdpTx) -> Result<(XdpRx, XdpTx, Arc<XdpStatus>)> {
    let mirror = NextHops::open().context("cannot mirror the kernel's routes and neighbours over netlink")?;
    if mirror.interface(&settings.interface).is_none() {
        let mut names = mirror.interface_names();
        names.sort_unstable();
        bail!("there is no interface {}; there are: {}", settings.interface, names.join(", "));
    }
    let status = Arc::new(XdpStatus::new(settings.interface.clone()));
    let (give, take) = sync_channel(4);
    let ready = Ready::new().context("cannot create an epoll instance")?;
    let to_send = Ready::new().context("cannot create an epoll instance")?;
    let wakers = [ready.waker(), to_send.waker()];
    // Who never sleeps need not be woken less often.
    let moderate = settings.busy_poll.is_none();
    let rx = XdpRx::new(udp_rx, take, ready, moderate, status.clone())?;
    let supervisor = Supervisor::new(settings.clone(), mirror, give, wakers, status.clone());
    let mut supervisor = supervisor.context("cannot start a thread")?;
    let lane = supervisor.start();
    if settings.required && lane.is_none() {
        bail!("AF_XDP cannot be had on {}: {}", settings.interface, status.reason());
    }
    let tx = XdpTx::new(udp_tx, supervisor, lane, to_send, &settings, status.clone())?;
    Ok((rx, tx, status))
}
