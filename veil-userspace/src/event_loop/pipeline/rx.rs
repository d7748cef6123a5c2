//! The RX stage: fills frames from the link and from the TUN, and hands them to the process stage, which it steps itself
//! while that sleeps and little comes.
//!
//! A descriptor is read only with a frame and a place in the queue in hand. Without, it is left alone and remembered as
//! still readable: the kernel's own queue, socket buffer or TUN, then holds or drops, and counts.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use veil_proto::thread_checker::ThreadChecker;

use super::carry::Others;
use super::homes::{Away, take_home};
use super::marks::MarkSender;
use super::{BATCH, Bells, TURNS_PER_LOOK, Waiting};
use crate::event_loop::added::Underway;
use crate::event_loop::poll::{Interest, Poll};
use crate::frame::{Frame, Inner, Outbox, Receiver, Sealed, Sender, WideSet};
use crate::host::stopwatch;
use crate::link::{LinkRx, LinkTx};
use crate::tun::{TunRead, TunWrite};

const TUN: u64 = 0;
const LINK: u64 = 1;
const BELL: u64 = 2;

/// Calls that read from the TUN before what they brought is handed on: waking the process stage for each super-packet
/// would cost more than it saves.
const READS: usize = 2;

/// Nanoseconds that RX may carry at a stretch; as long as it carries it must have slept before.
const CREDIT: u64 = 200_000;

/// A source of packets: whether there may be something to read, and whether epoll is asked to tell.
struct Source {
    ready: bool,
    armed: bool,
}

/// The RX stage.
pub struct RxStage<R, T> {
    pub link: R,
    pub tun: T,
    pub received: WideSet,
    pub read: WideSet,
    pub wiring: Wiring,
    waiting: Waiting,
    poll: Poll,
    link_source: Source,
    tun_source: Source,
    underway: [Underway; 2],
    /// How long it may carry, in nanoseconds.
    credit: u64,
    checker: ThreadChecker,
}

/// The queues and bells of an RX stage.
pub struct Wiring {
    pub from_link: Sender<Sealed>,
    pub from_tun: Sender<Inner>,
    /// Frames come home by these, from the process stage and from TX.
    pub homes: [Receiver<Frame>; 2],
    pub away: Arc<Away>,
    /// Marks of what comes from the link and from the TUN.
    pub marks: [MarkSender; 2],
    pub bells: Bells,
}

impl<R: LinkRx, T: TunRead> RxStage<R, T> {
    pub fn new(
        link: R,
        tun: T,
        sets: [WideSet; 2],
        wiring: Wiring,
        waiting: Waiting,
    ) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let raw = |fd: BorrowedFd<'_>| fd.as_raw_fd();
        for fd in link.fds().into_iter().flatten() {
            poll.add(raw(fd), LINK, Interest::READ)?;
        }
        poll.add(raw(tun.fd()), TUN, Interest::READ)?;
        poll.add_edge(raw(wiring.bells.rx.fd()), BELL)?;
        let [received, read] = sets;
        let (link_source, tun_source) =
            (Source { ready: false, armed: true }, Source { ready: false, armed: true });
        let checker = ThreadChecker::default();
        let underway = Default::default();
        Ok(RxStage {
            link,
            tun,
            received,
            read,
            wiring,
            waiting,
            poll,
            link_source,
            tun_source,
            underway,
            credit: 0,
            checker,
        })
    }

    /// Runs until it is told to stop, and steps the `others` while they sleep and little comes. Binds the stage to this
    /// thread.
    ///
    /// # Errors
    /// The link or the TUN is gone, or the kernel refuses to wait.
    pub fn run<S: LinkTx, W: TunWrite>(&mut self, others: &Others<'_, S, W>) -> Result<()> {
        self.checker.rebind_to_current();
        while !self.wiring.bells.rx.is_stopping() {
            let mut busy = false;
            for _ in 0..TURNS_PER_LOOK {
                busy = self.turn(others)?;
                if !busy {
                    break;
                }
            }
            self.look(!busy)?;
        }
        Ok(())
    }

    /// One call to each end that has something and may be read; then what they brought is carried on, or the process stage
    /// woken for it. True if there is more to do.
    pub(super) fn turn<S: LinkTx, W: TunWrite>(&mut self, others: &Others<'_, S, W>) -> Result<bool> {
        self.checker.assert_here();
        self.ready();
        let may_carry = self.credit > 0;
        let mut handed_on = false;
        if self.may_receive() {
            let received = self.link.receive(&mut self.received, &mut self.wiring.from_link, BATCH);
            let received = received.context("cannot receive from the link")?;
            self.link_source.ready = received.more;
            self.wiring.away.taken(self.received.name(), received.runs);
            self.underway[0].came(received.runs, stopwatch);
            self.wiring.marks[0].begin(&mut self.underway[0], self.wiring.from_link.pushed());
            if self.wiring.from_link.flush() {
                handed_on = true;
                if !may_carry {
                    self.wiring.bells.process.pushed();
                }
            }
        }
        if self.may_read() {
            for _ in 0..READS {
                let read = self.tun.receive(&mut self.read, &mut self.wiring.from_tun, BATCH);
                let read = read.context("the TUN device is gone")?;
                self.tun_source.ready = read.more;
                self.wiring.away.taken(self.read.name(), read.packets);
                self.underway[1].came(read.packets, stopwatch);
                if !self.may_read() {
                    break;
                }
            }
            self.wiring.marks[1].begin(&mut self.underway[1], self.wiring.from_tun.pushed());
            handed_on |= self.wiring.from_tun.flush();
        }
        if handed_on && !(may_carry && self.carry(others)?) {
            self.wiring.bells.process.pushed();
        }
        Ok(self.may_receive() || self.may_read())
    }

    fn carry<S: LinkTx, W: TunWrite>(&mut self, others: &Others<'_, S, W>) -> Result<bool> {
        let since = stopwatch();
        let carried = others.carry()?;
        self.credit = self.credit.saturating_sub(stopwatch().saturating_sub(since));
        Ok(carried)
    }

    fn may_receive(&self) -> bool {
        self.link_source.ready && self.received.home_count() > 0 && self.wiring.from_link.room() > 0
    }

    fn may_read(&self) -> bool {
        self.tun_source.ready && self.read.home_count() > 0 && self.wiring.from_tun.room() > 0
    }

    /// Looks what others have freed; true if there is something to do.
    fn ready(&mut self) -> bool {
        self.bring_home();
        self.wiring.from_link.refresh();
        self.wiring.from_tun.refresh();
        self.may_receive() || self.may_read()
    }

    /// Takes in the frames that have come home.
    pub fn bring_home(&mut self) {
        let RxStage { wiring, received, read, .. } = self;
        for queue in &mut wiring.homes {
            take_home(queue, |frame| {
                if frame.set() == received.name() { frame.home(received) } else { frame.home(read) }
            });
        }
    }

    /// Waits for what comes next, or only looks, and notes what is ready.
    pub(super) fn look(&mut self, idle: bool) -> Result<()> {
        if idle {
            self.arm().context("cannot watch the tunnel's descriptors")?;
        }
        let starved = self.link_source.ready || self.tun_source.ready;
        let sleeps = idle && self.waiting.sleeps();
        if sleeps {
            self.wiring.bells.rx.lie_down(starved);
        } else if idle {
            self.waiting.pause();
        }
        let block = sleeps && !(starved && self.ready()) && !self.wiring.bells.rx.is_stopping();
        let since = stopwatch();
        let count = self.poll.wait(block);
        if block {
            self.credit = CREDIT.min(self.credit + stopwatch().saturating_sub(since));
        }
        if sleeps {
            self.wiring.bells.rx.get_up();
        }
        for n in 0..count.context("cannot wait for events")? {
            let Some(event) = self.poll.event(n) else { break };
            match event.token {
                TUN => self.tun_source.ready |= event.readable || event.error,
                LINK => {
                    if event.error {
                        self.link.drain_errors();
                        // It asks what has come to light.
                        self.wiring.bells.process.pushed();
                    }
                    self.link_source.ready |= event.readable;
                }
                // Somebody has rung, which is all that it says.
                _ => {}
            }
        }
        Ok(())
    }

    /// Has epoll report what is not known to be readable, and nothing that is.
    fn arm(&mut self) -> std::io::Result<()> {
        let RxStage { link, tun, poll, link_source, tun_source, .. } = self;
        let arm = |source: &mut Source, token, fd: BorrowedFd<'_>| {
            let interest = if source.ready { Interest::NONE } else { Interest::READ };
            poll.modify(fd.as_raw_fd(), token, interest)
        };
        if link_source.armed == link_source.ready {
            for fd in link.fds().into_iter().flatten() {
                arm(link_source, LINK, fd)?;
            }
            link_source.armed = !link_source.ready;
        }
        if tun_source.armed == tun_source.ready {
            arm(tun_source, TUN, tun.fd())?;
            tun_source.armed = !tun_source.ready;
        }
        Ok(())
    }
}
