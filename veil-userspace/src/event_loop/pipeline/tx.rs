//! The TX stage: writes opened runs to the TUN, sends sealed ones by the link, and sends every frame home.
//!
//! A link that takes no more stops only what goes to it: TX waits for it to be writable, and goes on writing to the TUN.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use veil_proto::DropReason;
use veil_proto::thread_checker::ThreadChecker;

use super::homes::HomesOfTx;
use super::marks::MarkReceiver;
use super::placement::Placement;
use super::{BATCH, BYTES, Bells, Waiting};
use crate::event_loop::added::AddedTime;
use crate::event_loop::poll::{Interest, Poll};
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
    placement: Arc<Placement>,
    poll: Poll,
    /// The link takes no more now; and the descriptor that it waits for, watched, if its service does not tell.
    blocked: bool,
    watched: Option<RawFd>,
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
    pub fn new(
        link: S,
        tun: W,
        wiring: Wiring,
        waiting: Waiting,
        placement: Arc<Placement>,
    ) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        poll.add_edge(wiring.bells.tx.fd().as_raw_fd(), BELL)?;
        if let Some(fd) = link.service_fd() {
            poll.add(fd.as_raw_fd(), SERVICE, Interest::READ)?;
        }
        let checker = ThreadChecker::default();
        Ok(TxStage { link, tun, wiring, waiting, placement, poll, blocked: false, watched: None, checker })
    }

    /// Runs until it is told to stop, then sends what is there as far as the link takes it at once; the rest is dropped and
    /// counted. Binds the stage to this thread.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn run(&mut self) -> Result<()> {
        self.checker.rebind_to_current();
        let _entered = self.placement.clone().enter();
        while !self.wiring.bells.tx.is_stopping() {
            if self.turn()? {
                self.placement.free();
            } else {
                self.rest()?;
            }
        }
        while self.turn()? {}
        self.link.abandon(&mut self.wiring.homes);
        while self.wiring.to_link.refill(BATCH) || !self.wiring.to_link.is_empty() {
            while let Some(run) = self.wiring.to_link.pop() {
                self.link.counters().send_drops.add(DropReason::LinkSend, run.datagrams() as u64);
                run.frame.home(&mut self.wiring.homes);
            }
            self.pass_on(true);
        }
        self.pass_on(true);
        Ok(())
    }

    /// One batch each way. True if there is more to do.
    pub(super) fn turn(&mut self) -> Result<bool> {
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
                self.send()?;
            }
            self.pass_on(took);
        }
        Ok(self.ready())
    }

    /// All that is in hand is about to leave: how old is it?
    fn leaving(&mut self) {
        let Wiring { to_tun, to_link, marks: [inbound, outbound], added, .. } = &mut self.wiring;
        inbound.end(to_tun.taken(), &added.inbound);
        outbound.end(to_link.taken(), &added.outbound);
    }

    fn send(&mut self) -> Result<()> {
        self.blocked =
            self.link.send(&mut self.wiring.to_link, &mut self.wiring.homes) == SendResult::Blocked;
        let blocked_on = self.link.blocked_on().filter(|_| self.blocked).map(|fd| fd.as_raw_fd());
        if blocked_on != self.watched {
            let watch = || {
                self.watched.map_or(Ok(()), |fd| self.poll.remove(fd))?;
                let writable = Interest { read: false, write: true };
                blocked_on.map_or(Ok(()), |fd| self.poll.add(fd, LINK, writable))
            };
            watch().context("cannot watch the link for room")?;
            self.watched = blocked_on;
        }
        Ok(())
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

    fn rest(&mut self) -> Result<()> {
        if self.waiting.comes(|| self.ready()) {
            return Ok(());
        }
        let sleeps = self.waiting.sleeps();
        if sleeps {
            self.wiring.bells.tx.lie_down(false);
        }
        let block = sleeps && !self.ready() && !self.wiring.bells.tx.is_stopping();
        let count = self.poll.wait(block);
        if sleeps {
            self.wiring.bells.tx.get_up();
        }
        for n in 0..count.context("cannot wait for events")? {
            let Some(event) = self.poll.event(n) else { break };
            match event.token {
                LINK => self.unblock()?,
                SERVICE => {
                    self.link.service(now());
                    self.unblock()?;
                }
                // What has come to nothing on its way sends no run, only word of it.
                _ => self.leaving(),
            }
        }
        Ok(())
    }

    /// The link may take more.
    fn unblock(&mut self) -> Result<()> {
        if self.blocked {
            self.send()?;
            self.pass_on(false);
        }
        Ok(())
    }
}
