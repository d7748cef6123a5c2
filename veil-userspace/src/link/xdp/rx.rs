//! The receiving end: rings first, then the sockets when they have something.
//!
//! Datagrams are copied out of the UMEM, [joined](super::join) into runs, and the kernel has its frames back before any run
//! is opened.

use super::join::Join;
use super::ladder::RxLane;
use super::moderation::Moderation;
use super::ready::{ERROR, READ, Ready};
use super::status::{XdpCounters, XdpStatus};
use crate::frame::{Outbox, Sealed, WideSet};
use crate::host::stopwatch;
use crate::link::udp::{PathError, UdpRx};
use crate::link::{Fds, LinkCounters, LinkRx, Received};
use anyhow::{Context, Result};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use veil_proto::{DropReason, Path, SingleWriter};
use veil_xdp::{UmemFrame, XskRx, outer};

/// Packets taken off a ring before their frames go back, and in one call before any of them is opened: few calls cut a run
/// short, and few packets wait for many.
const PACKETS: usize = 64;
const CALL_PACKETS: usize = 4 * PACKETS;
/// Calls that may find the rings busy before the sockets are looked at all the same.
const CALLS_PER_LOOK: u32 = 16;

/// The receiving end of an AF_XDP link.
pub struct XdpRx {
    udp: UdpRx,
    /// Whether UDP_GRO is to be on wherever it does no harm.
    gro: bool,
    /// It does harm, and is to be off when nothing joined waits any more: the kernel tells the size of what was joined only
    /// while it is on.
    gro_ends: bool,
    lane: Option<RxLane>,
    /// Lanes that the supervisor has made; `None` takes the last one back.
    lanes: Receiver<Option<RxLane>>,
    ready: Ready,
    moderation: Moderation,
    udp_ready: bool,
    calls: u32,
    /// The queue to begin with.
    first: usize,
    status: Arc<XdpStatus>,
    counters: Arc<LinkCounters>,
}

impl XdpRx {
    pub(super) fn new(
        udp: UdpRx,
        lanes: Receiver<Option<RxLane>>,
        ready: Ready,
        moderate: bool,
        status: Arc<XdpStatus>,
    ) -> Result<Self> {
        for fd in udp.fds().into_iter().flatten() {
            ready.add(fd, READ).context("cannot watch the UDP sockets")?;
        }
        let moderation = Moderation::new(&ready, moderate).context("cannot watch a timer")?;
        let counters = udp.shared_counters();
        // Whatever comes before the first look is not missed.
        let udp_ready = true;
        let gro = counters.gro.load(Relaxed);
        Ok(XdpRx {
            udp,
            gro,
            gro_ends: false,
            lane: None,
            lanes,
            ready,
            moderation,
            udp_ready,
            calls: 0,
            first: 0,
            status,
            counters,
        })
    }

    /// Takes over the lane that the supervisor has made, or gives up the one that is no more.
    fn take_lane(&mut self) {
        while let Ok(lane) = self.lanes.try_recv() {
            // The old one first: a queue has one socket at a time.
            self.lane = None;
            if self.gro {
                // What the kernel joins for the socket comes to a generic program joined, and is no datagram there.
                self.gro_ends = lane.as_ref().is_some_and(|lane| lane.generic);
                if self.gro_ends {
                    self.udp_ready = true;
                } else {
                    self.udp.set_gro(true);
                }
            }
            let Some(lane) = lane else { continue };
            self.moderation.watch(lane.sockets.iter().map(AsFd::as_fd), &self.ready);
            self.lane = Some(lane);
        }
    }

    /// Notes which sockets are ready.
    fn look(&mut self) {
        let Some(lane) = &self.lane else {
            self.udp_ready = true;
            let mut errors = false;
            self.ready.look(|_, events| errors |= events & ERROR != 0);
            if errors {
                self.udp.drain_errors();
            }
            return;
        };
        let alarm = self.moderation.alarm().as_raw_fd();
        let is_ring = |fd| fd == alarm || lane.sockets.iter().any(|ring| ring.as_fd().as_raw_fd() == fd);
        let (mut udp, mut errors) = (false, false);
        self.ready.look(|fd, events| {
            if !is_ring(fd) {
                udp = true;
                errors |= events & ERROR != 0;
            }
        });
        self.udp_ready |= udp;
        if errors {
            self.udp.drain_errors();
        }
    }

    /// Before sleeping: has the rings watched, or left to fill.
    fn rest(&mut self) {
        let Some(lane) = &self.lane else { return };
        let counters = &self.status.counters;
        let packets = counters.ring_received.load(Relaxed).wrapping_add(counters.ring_sent.load(Relaxed));
        let rings = lane.sockets.iter().map(AsFd::as_fd);
        if self.moderation.rest(rings, &self.ready, packets, stopwatch()) {
            counters.ring_held.bump(1);
        }
    }

    /// Takes what is on the rings. Returns how many frames came.
    fn rings(
        &mut self,
        set: &mut WideSet,
        out: &mut impl Outbox<Sealed>,
        budget: usize,
        got: &mut Received,
    ) -> usize {
        let XdpRx { lane: Some(lane), first, counters, status, .. } = self else { return 0 };
        let RxLane { sockets, interface, spare, .. } = lane;
        let queues = sockets.len();
        *first = (*first + 1) % queues.max(1);
        let mut came = 0;
        for n in 0..queues {
            let socket = &mut sockets[(*first + n) % queues];
            let mut join = Join::new(set, out, budget, got, counters);
            came += ring(socket, *interface, spare, &mut join, &status.counters);
            join.finish();
        }
        came
    }
}

/// Takes what is on one ring. Returns how many frames came.
fn ring(
    socket: &mut XskRx,
    interface: u32,
    spare: &mut Vec<UmemFrame>,
    join: &mut Join<'_, impl Outbox<Sealed>>,
    counters: &XdpCounters,
) -> usize {
    let (mut packets, mut bytes) = (0, 0);
    while packets < CALL_PACKETS {
        let room = join.room().min(PACKETS);
        if room == 0 {
            break;
        }
        let kept = spare.len();
        let count = socket.receive(spare, room);
        packets += count;
        for packet in &spare[kept..] {
            let Some(outer) = outer::parse(packet.bytes()) else {
                // Steering passes such frames; a driver's mistake, or somebody else's program.
                counters.ring_refused.bump(1);
                join.counters.receive_drops.count(DropReason::BadHeader);
                continue;
            };
            let payload = &packet.bytes()[outer.payload.clone()];
            bytes += payload.len();
            if payload.is_empty() {
                join.counters.receive_drops.count(DropReason::TooShort);
                continue;
            }
            let from = scoped(outer.from, interface);
            join.append(payload, Path::to(from).from_local(outer.to), outer.tos);
        }
        // Where packets are received does not matter: their frames go back before anything is opened.
        if count > 0
            && let Err(error) = socket.fill(spare)
        {
            tracing::debug!("AF_XDP fill ring: {error}");
        }
        if count < room {
            break;
        }
    }
    counters.ring_received.bump(packets as u64);
    join.counters.received(packets, bytes);
    packets
}

/// A link-local address with the interface it was seen on, as a socket gives it (RFC 4007).
fn scoped(mut address: SocketAddr, interface: u32) -> SocketAddr {
    if let SocketAddr::V6(v6) = &mut address
        && v6.ip().is_unicast_link_local()
    {
        v6.set_scope_id(interface);
    }
    address
}

impl LinkRx for XdpRx {
    fn receive(
        &mut self,
        set: &mut WideSet,
        out: &mut impl Outbox<Sealed>,
        budget: usize,
    ) -> io::Result<Received> {
        self.take_lane();
        let mut got = Received::default();
        let mut came = self.rings(set, out, budget, &mut got);
        self.calls = self.calls.wrapping_add(1);
        if came == 0 || self.calls.is_multiple_of(CALLS_PER_LOOK) {
            self.look();
            self.take_lane();
            if came == 0 {
                // Whatever came before the look makes no new edge, so it is looked for again.
                came = self.rings(set, out, budget, &mut got);
            }
        }
        let mut more = came > 0;
        if self.udp_ready && got.runs < budget {
            let received = self.udp.receive(set, out, budget - got.runs)?;
            got.runs += received.runs;
            got.datagrams += received.datagrams;
            self.udp_ready = received.more;
            if self.gro_ends && !self.udp_ready {
                self.gro_ends = false;
                self.udp.set_gro(false);
            }
        }
        more |= self.udp_ready;
        got.more = more;
        if !more {
            self.rest();
        }
        Ok(got)
    }

    fn take_path_error(&mut self) -> Option<PathError> {
        self.udp.take_path_error()
    }

    fn fds(&self) -> Fds<'_> {
        [Some(self.ready.as_fd()), None]
    }

    fn drain_errors(&mut self) {
        self.udp.drain_errors();
    }

    fn counters(&self) -> &LinkCounters {
        &self.counters
    }
}
