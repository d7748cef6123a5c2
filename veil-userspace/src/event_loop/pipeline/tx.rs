//! The TX stage: writes opened runs to the TUN, sends sealed ones by the link, and sends every frame home.
//!
//! A link that takes no more stops only what goes to it: TX waits for it to be writable, and goes on writing to the TUN.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use veil_proto::DropReason;
use veil_proto::thread_checker::ThreadChecker;

use super::homes::HomesOfTx;
use super::marks::MarkReceiver;
use super::parked::Parked;
use super::{BATCH, BYTES, Bells, TURNS_PER_LOOK, Waiting};
use crate::event_loop::added::AddedTime;
use crate::event_loop::poll::{Interest, Poll};
use crate::event_loop::waker::{Bed, Bell};
use crate::frame::{Inbox, Opened, Receiver, Sealed};
use crate::host::now;
use crate::link::{LinkTx, SendResult};
use crate::tun::TunWrite;

const LINK: u64 = 1;
const BELL: u64 = 2;
const SERVICE: u64 = 3;

/// The TX stage.
pub struct TxStage<S, W> {
    pub link: S,
    pub tun: W,
    pub wiring: Wiring,
    waiting: Waiting,
    /// The link takes no more now.
    blocked: bool,
    checker: ThreadChecker,
}

/// The queues and bells of a TX stage.
pub struct Wiring {
    pub to_link: Receiver<Sealed>,
    pub to_tun: Receiver<Opened>,
    pub homes: HomesOfTx,
    /// Marks of what goes to the TUN and to the link.
    pub marks: [MarkReceiver; 2],
    pub added: Arc<AddedTime>,
    pub bells: Bells,
}

impl<S: LinkTx, W: TunWrite> TxStage<S, W> {
    pub fn new(link: S, tun: W, wiring: Wiring, waiting: Waiting) -> Self {
        TxStage { link, tun, wiring, waiting, blocked: false, checker: ThreadChecker::default() }
    }

    /// The stage's thread: runs until it is told to stop, then sends what is there as far as the link takes it at once; the
    /// rest is dropped and counted. While it sleeps the stage is in `parked`, unless it waits for the link.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn run(parked: &Parked<&mut Self>, bell: &Bell) -> Result<()> {
        let mut stage = parked.fetch();
        let watched = Watch::new(bell, stage.link.service_fd());
        let mut watch = watched.context("cannot create an epoll instance")?;
        let mut passes = 0_usize;
        loop {
            stage.get_up();
            if bell.is_stopping() {
                stage.finish();
                return Ok(());
            }
            let busy = (0..TURNS_PER_LOOK).all(|_| stage.turn());
            let more = busy || stage.waiting.comes(|| stage.ready());
            passes = passes.wrapping_add(1);
            if more && !busy && !passes.is_multiple_of(TURNS_PER_LOOK) {
                continue;
            }
            let blocked_on = stage.link.blocked_on().filter(|_| stage.blocked).map(|fd| fd.as_raw_fd());
            watch.follow(blocked_on).context("cannot watch the link for room")?;
            let bed = watch.bed();
            if more {
                // However much there is to write, the link may want something, or have room again.
                if matches!(bed, Bed::Descriptors) {
                    let seen = watch.wait(false).context("cannot look for events")?;
                    stage.see_to(seen);
                }
                continue;
            }
            bell.set_bed(bed);
            let block = stage.waiting.sleeps() && stage.lies_down() && !bell.is_stopping();
            let kept = Some(stage).filter(|stage| stage.blocked);
            let seen = match bed {
                Bed::Descriptors => watch.wait(block).context("cannot wait for events")?,
                Bed::Bell => {
                    if block {
                        bell.sleep(None);
                    }
                    Seen::default()
                }
            };
            stage = kept.unwrap_or_else(|| parked.fetch());
            stage.see_to(seen);
        }
    }

    /// Awake, on this thread.
    pub fn get_up(&mut self) {
        self.wiring.bells.tx.get_up();
        self.checker.rebind_to_current();
    }

    /// From here on it is woken for what concerns it. False: there is something to do already.
    pub fn lies_down(&mut self) -> bool {
        self.wiring.bells.tx.lie_down(false);
        !self.ready()
    }

    /// It has been told to stop.
    fn finish(&mut self) {
        while self.turn() {}
        self.link.abandon(&mut self.wiring.homes);
        while self.wiring.to_link.refill(BATCH) || !self.wiring.to_link.is_empty() {
            while let Some(run) = self.wiring.to_link.pop() {
                self.link.counters().send_drops.add(DropReason::LinkSend, run.datagrams() as u64);
                run.frame.home(&mut self.wiring.homes);
            }
            self.pass_on(true);
        }
        self.pass_on(true);
    }

    /// One batch each way. True if there is more to do.
    pub fn turn(&mut self) -> bool {
        self.checker.assert_here();
        let took = self.wiring.to_tun.refill_by(BATCH, BYTES, |run| run.frame.bytes().len());
        self.leaving();
        if !self.wiring.to_tun.is_empty() {
            self.tun.write(&mut self.wiring.to_tun, &mut self.wiring.homes);
        }
        self.pass_on(took);
        if !self.blocked {
            let took = self.wiring.to_link.refill_by(BATCH, BYTES, |run| run.frame.bytes().len());
            self.leaving();
            if !self.wiring.to_link.is_empty() || self.link.holds_runs() {
                self.send();
            }
            self.pass_on(took);
        }
        self.ready()
    }

    /// All that is in hand is about to leave: how old is it?
    fn leaving(&mut self) {
        let Wiring { to_tun, to_link, marks: [inbound, outbound], added, .. } = &mut self.wiring;
        inbound.end(to_tun.taken(), &added.inbound);
        outbound.end(to_link.taken(), &added.outbound);
    }

    fn send(&mut self) {
        self.blocked =
            self.link.send(&mut self.wiring.to_link, &mut self.wiring.homes) == SendResult::Blocked;
    }

    /// Whether it waits for room in the link, which takes its own thread.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Publishes the frames that go home; `took`: places in a queue have become free as well.
    fn pass_on(&mut self, took: bool) {
        if self.wiring.homes.rx.flush() {
            self.wiring.bells.rx.freed();
        }
        if self.wiring.homes.process.flush() || took {
            self.wiring.bells.process.freed();
        }
    }

    fn ready(&self) -> bool {
        let link = !self.blocked && (self.wiring.to_link.has_items() || !self.wiring.to_link.is_empty());
        link || self.wiring.to_tun.has_items()
    }

    fn see_to(&mut self, seen: Seen) {
        if seen.service {
            self.link.service(now());
        }
        if (seen.service || seen.writable) && self.blocked {
            self.send();
            self.pass_on(false);
        }
    }
}

/// What the thread watches while it sleeps: the link's service, and its socket while that takes no more.
struct Watch {
    poll: Poll,
    link: Option<RawFd>,
    service: bool,
}

/// What there was to see.
#[derive(Clone, Copy, Default)]
struct Seen {
    writable: bool,
    service: bool,
}

impl Watch {
    fn new(bell: &Bell, service: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.add_edge(bell.fd().as_raw_fd(), BELL)?;
        if let Some(fd) = service {
            poll.add(fd.as_raw_fd(), SERVICE, Interest::READ)?;
        }
        Ok(Watch { poll, link: None, service: service.is_some() })
    }

    /// Watches this descriptor, if any, for room, and no other.
    fn follow(&mut self, link: Option<RawFd>) -> io::Result<()> {
        if link != self.link {
            self.link.map_or(Ok(()), |fd| self.poll.remove(fd))?;
            let writable = Interest { read: false, write: true };
            link.map_or(Ok(()), |fd| self.poll.add(fd, LINK, writable))?;
            self.link = link;
        }
        Ok(())
    }

    fn bed(&self) -> Bed {
        if self.service || self.link.is_some() { Bed::Descriptors } else { Bed::Bell }
    }

    fn wait(&mut self, block: bool) -> io::Result<Seen> {
        let mut seen = Seen::default();
        for n in 0..self.poll.wait(block)? {
            match self.poll.event(n).map(|event| event.token) {
                Some(LINK) => seen.writable = true,
                Some(SERVICE) => seen.service = true,
                // Somebody has rung, which is all that it says.
                _ => {}
            }
        }
        Ok(seen)
    }
}
