//! The sending end: each run by the ring or by its socket, as its path goes now.
//!
//! A datagram is copied from its run into a frame of the UMEM, behind headers that were made ready when its next hop was
//! resolved. What the ring does not take waits in order; a path never overtakes itself.
//!
//! In native copy mode the kernel makes a packet of each frame and takes it through the driver singly, where a GSO run from
//! a socket is one packet for most of the way, or all of it on a NIC that cuts it. So there runs go by the socket, if it
//! has GSO and nothing is on its way by the ring, and what is too short for a run goes by the ring.

use super::Settings;
use super::ladder::{TxLane, TxQueue};
use super::ready::{Alarm, NEW, READ, ROOM, Ready};
use super::status::XdpStatus;
use super::supervisor::{Supervisor, Verdict};
use super::ways::{BySocket, RingWay, Ways};
use crate::frame::{Bounded, Home, Inbox, Outbox, Sealed};
use crate::link::udp::{UdpTx, outer_tos};
use crate::link::{LinkCounters, LinkTx, SendResult};
use anyhow::{Context, Result};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use veil_proto::{DropReason, Now, Path, SingleWriter};
use veil_xdp::{HEADROOM, Kicked};

/// Runs that wait for the sockets.
const TO_UDP: usize = 128;
/// Datagrams that make it worth sending a run by the socket in native copy mode.
const GSO_PAYS: usize = 4;
/// Completions of zero-copy make no event: somebody who waits for them looks again after this long, in nanoseconds.
const COMPLETIONS: u32 = 1_000_000;
/// How often the supervisor has what no event tells asked for.
const TICK: Duration = Duration::from_secs(1);

/// The sending end of an AF_XDP link.
pub struct XdpTx {
    udp: UdpTx,
    to_udp: Bounded<Sealed>,
    lane: Option<TxLane>,
    supervisor: Supervisor,
    ways: Ways,
    /// The run that is half sent, and how many of its bytes are.
    held: Option<(Sealed, usize)>,
    ring_blocked: bool,
    ready: Ready,
    alarm: Alarm,
    /// When to look for what nobody tells of.
    tick: Alarm,
    dscp: u8,
    status: Arc<XdpStatus>,
    counters: Arc<LinkCounters>,
}

impl XdpTx {
    pub(super) fn new(
        udp: UdpTx,
        supervisor: Supervisor,
        lane: Option<TxLane>,
        ready: Ready,
        settings: &Settings,
        status: Arc<XdpStatus>,
    ) -> Result<Self> {
        let [alarm, tick] = [Alarm::new()?, Alarm::new()?];
        tick.every(TICK);
        ready.add(supervisor.mirror.as_fd(), READ).context("cannot watch netlink")?;
        for timer in [&alarm, &tick] {
            ready.add(timer.as_fd(), NEW).context("cannot watch a timer")?;
        }
        let counters = udp.shared_counters();
        let mut this = XdpTx {
            udp,
            to_udp: Bounded::new(TO_UDP),
            lane: None,
            ways: Ways::new(settings),
            supervisor,
            held: None,
            ring_blocked: false,
            ready,
            alarm,
            tick,
            dscp: settings.dscp,
            status,
            counters,
        };
        this.use_lane(lane);
        Ok(this)
    }

    fn use_lane(&mut self, lane: Option<TxLane>) {
        self.lane = lane;
        self.ring_blocked = false;
        self.ways.change_interface(self.supervisor.interface(), &self.status.counters);
    }

    /// Gives up the lane: what was on its way into the rings is lost and counted. It counts as sent already, like what the
    /// kernel has not sent yet; or its run is held, and goes again as a whole by the socket.
    fn drop_lane(&mut self) {
        if let Some(lane) = self.lane.take() {
            let pending: usize = lane.queues.iter().map(|queue| queue.pending.len()).sum();
            self.status.counters.ring_lost.bump(pending as u64);
        }
        self.use_lane(None);
    }

    fn supervise(&mut self, tick: bool, now: Now) {
        match self.supervisor.update(tick) {
            Ok(Verdict::Same) => {}
            Ok(Verdict::Pause | Verdict::Resume) => {
                self.ways.change_interface(self.supervisor.interface(), &self.status.counters);
            }
            Ok(Verdict::New(lane)) => self.use_lane(Some(*lane)),
            Ok(Verdict::Gone) => self.drop_lane(),
            Err(error) => tracing::warn!("netlink: {error}"),
        }
        self.supervisor.refresh(self.ways.hops(), now.mono);
    }

    /// Sends `run` from byte `done` on, by the ring. `Err`: where it has to go on when there is room again.
    fn by_ring(
        lane: &mut TxLane,
        way: &RingWay,
        run: &Sealed,
        mut done: usize,
        tos: u8,
    ) -> Result<(), usize> {
        let bytes = run.frame.bytes();
        let step = if run.segment == 0 { bytes.len().max(1) } else { usize::from(run.segment) };
        let TxLane { queues, senders, spare, .. } = lane;
        let at = way.spread % (*senders).max(1);
        let Some(queue) = queues.get_mut(at) else { return Err(done) };
        let headers = way.template.len();
        while done < bytes.len() {
            let payload = &bytes[done..bytes.len().min(done + step)];
            if spare.is_empty() {
                flush(queue, spare);
            }
            let Some(mut frame) = spare.pop() else { return Err(done) };
            frame.set_range(HEADROOM, headers + payload.len());
            let (head, body) = frame.bytes_mut().split_at_mut(headers);
            body.copy_from_slice(payload);
            way.template.write(head, payload, tos);
            queue.pending.push_back(frame);
            done += payload.len();
        }
        Ok(())
    }

    /// Hands everything pending to the kernel and takes back what it has sent. True if some of it has to wait.
    fn flush(&mut self) -> bool {
        let Some(lane) = &mut self.lane else { return false };
        let mut waits = false;
        for queue in &mut lane.queues {
            if !queue.pending.is_empty() || queue.socket.outstanding() > 0 {
                waits |= flush(queue, &mut lane.spare);
            }
        }
        waits
    }

    /// Says when to look again at what the ring did not take.
    fn wait_for_ring(&mut self, waits: bool) {
        if self.ring_blocked == waits {
            if waits {
                self.alarm.set(COMPLETIONS);
            }
            return;
        }
        self.ring_blocked = waits;
        // Not watched longer than need be: the kernel would call on the watcher for every packet that it has sent.
        for queue in self.lane.iter().flat_map(|lane| &lane.queues) {
            let socket = queue.socket.as_fd();
            let watched = if waits { self.ready.add(socket, ROOM) } else { self.ready.remove(socket) };
            if let Err(error) = watched {
                tracing::warn!("cannot watch an AF_XDP socket for room: {error}");
            }
        }
        if waits {
            self.status.counters.ring_blocked.bump(1);
            self.alarm.set(COMPLETIONS);
        }
    }

    /// Sorts runs by their ways until none is left or one has to wait.
    fn distribute(&mut self, runs: &mut impl Inbox<Sealed>, home: &mut impl Home) -> bool {
        loop {
            let Some((run, done)) = self.held.take().or_else(|| Some((runs.pop()?, 0))) else { return false };
            let XdpTx { udp, to_udp, lane, ways, supervisor, status, dscp, .. } = self;
            let way = lane.as_mut().ok_or(BySocket::Way).and_then(|lane| {
                let idle = || to_udp.is_empty() && udp.is_idle(&run.path);
                let gso = lane.copies && done == 0 && run.datagrams() >= GSO_PAYS && udp.max_segments() > 1;
                let detour = gso && lane.is_idle();
                let way = ways.ring(&run.path, &mut supervisor.mirror, &status.counters, detour, idle)?;
                // A datagram that the interface does not take is for the socket to refuse, so that its size is learned.
                let longest = if run.segment == 0 { run.frame.bytes().len() } else { run.segment.into() };
                let fits = longest <= way.most && way.template.len() + longest <= lane.longest;
                if fits { Ok((lane, way)) } else { Err(BySocket::Way) }
            });
            let (lane, way) = match way {
                Ok(way) => way,
                Err(why) => {
                    if to_udp.room() == 0 {
                        udp.send(to_udp, home);
                    }
                    // What is left of a run goes with the whole of it: the datagrams sent already are dropped there as
                    // replayed, which is better than losing the rest.
                    if let Err(run) = to_udp.push(run) {
                        self.held = Some((run, done));
                        return true;
                    }
                    status.counters.gso_runs.bump(u64::from(why == BySocket::Detour));
                    continue;
                }
            };
            let total = run.frame.bytes().len();
            match Self::by_ring(lane, way, &run, done, outer_tos(*dscp, run.tos)) {
                Ok(()) => {
                    let datagrams = run.datagrams();
                    self.counters.sent(datagrams, total);
                    status.counters.ring_sent.bump(datagrams as u64);
                    run.frame.home(home);
                }
                Err(done) => {
                    self.held = Some((run, done));
                    return true;
                }
            }
        }
    }
}

impl TxLane {
    /// Hands everything pending to the kernel. True if it has sent all of it, and nothing can be overtaken.
    fn is_idle(&mut self) -> bool {
        let TxLane { queues, spare, .. } = self;
        let busy = |queue: &TxQueue| !queue.pending.is_empty() || queue.socket.outstanding() > 0;
        queues.iter_mut().filter(|queue| busy(queue)).fold(true, |idle, queue| {
            flush(queue, spare);
            idle && !busy(queue)
        })
    }
}

/// Hands one queue's pending frames to the kernel. True if some of them have to wait.
fn flush(queue: &mut TxQueue, spare: &mut Vec<veil_xdp::UmemFrame>) -> bool {
    queue.socket.complete(spare);
    loop {
        let sent = queue.socket.send(&mut queue.pending);
        let kicked = queue.socket.kick();
        let completed = queue.socket.complete(spare);
        match kicked {
            Ok(Kicked::Done) if queue.pending.is_empty() => return false,
            Ok(Kicked::Later) => return true,
            // Room was made: once more.
            Ok(Kicked::Done) if sent + completed > 0 => {}
            Ok(Kicked::Done) => return true,
            Err(error) => {
                // The interface went down, or is gone: netlink says so, too, and the supervisor acts.
                tracing::debug!("AF_XDP transmit: {error}");
                return false;
            }
        }
    }
}

impl LinkTx for XdpTx {
    fn send(&mut self, runs: &mut impl Inbox<Sealed>, home: &mut impl Home) -> SendResult {
        let mut waits = self.distribute(runs, home);
        waits |= self.flush();
        if self.held.is_some() && self.lane.as_ref().is_some_and(|lane| !lane.spare.is_empty()) {
            // Flushing has brought frames back.
            waits = self.distribute(runs, home);
            waits |= self.flush();
        }
        self.wait_for_ring(waits);
        let udp = self.udp.send(&mut self.to_udp, home);
        if waits || udp == SendResult::Blocked { SendResult::Blocked } else { SendResult::Drained }
    }

    fn send_datagram(&mut self, path: &Path, bytes: &[u8], tos: u8) -> io::Result<()> {
        self.udp.send_datagram(path, bytes, tos)
    }

    /// Of the sockets; the ring's room is told by [`service_fd`](LinkTx::service_fd).
    fn blocked_on(&self) -> Option<BorrowedFd<'_>> {
        self.udp.blocked_on()
    }

    fn holds_runs(&self) -> bool {
        self.held.is_some() || !self.to_udp.is_empty() || self.udp.holds_runs() || self.ring_blocked
    }

    fn abandon(&mut self, home: &mut impl Home) {
        self.flush();
        if let Some((run, done)) = self.held.take() {
            let rest = run.frame.bytes().len().saturating_sub(done);
            let datagrams = crate::frame::datagram_count(rest, run.segment);
            self.counters.send_drops.add(DropReason::LinkSend, datagrams as u64);
            self.counters.sent(run.datagrams() - datagrams, done);
            run.frame.home(home);
        }
        self.udp.send(&mut self.to_udp, home);
        while let Some(run) = self.to_udp.pop() {
            self.counters.send_drops.add(DropReason::LinkSend, run.datagrams() as u64);
            run.frame.home(home);
        }
        self.udp.abandon(home);
    }

    fn service_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    fn service(&mut self, now: Now) {
        let (mirror, waker) = (self.supervisor.mirror.as_fd().as_raw_fd(), self.ready.waker_fd().as_raw_fd());
        let timer = self.tick.as_fd().as_raw_fd();
        let (mut changed, mut tick) = (false, false);
        self.ready.look(|fd, _| {
            changed |= [mirror, waker].contains(&fd);
            tick |= fd == timer;
        });
        if tick {
            self.tick.take();
        }
        if changed || tick {
            self.supervise(tick, now);
        }
    }

    fn counters(&self) -> &LinkCounters {
        &self.counters
    }
}
