//! The process stage on a thread of its own: between RX and TX, beside control.
//!
//! What control says is taken in after a batch has been fetched and before it is opened: control tells of a session
//! before it answers the peer, so that whoever has an answer finds its session here.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use veil_proto::crypto::{scrub_shallow_stack, scrubbed};
use veil_proto::thread_checker::ThreadChecker;
use veil_proto::time::MILLISECOND;
use veil_proto::tunnel::{ToHandshakes, ToSessions};
use veil_proto::{Now, PeerId};

use super::homes::{Away, HomeToRx, take_home};
use super::marks::{MarkReceiver, MarkSender};
use super::messages::{ControlOutbox, ToControl, ToProcess};
use super::parked::Parked;
use super::{BATCH, BYTES, Bells, PathErrors, SEAL_BYTES, Waiting};
use crate::control::show::Snapshot;
use crate::control::status::{Facts, Gauges, snapshot};
use crate::event_loop::poll::Timer;
use crate::event_loop::process::Process;
use crate::event_loop::waker::Bell;
use crate::frame::{Frame, Inbox, Inner, Opened, Outbox, Receiver, Sealed, Sender, SetName};
use crate::host::now;

/// How long a stopping stage waits for the link to take its goodbyes.
const GOODBYE: u64 = 200 * MILLISECOND;

/// The process stage and what joins it to the others. The only owner of sessions.
pub struct PipelineProcessor {
    pub(super) process: Process,
    pub(super) wiring: Wiring,
    waiting: Waiting,
    path_errors: PathErrors,
    facts: Arc<Facts>,
    gauges: Arc<Gauges>,
    timer: Timer,
    /// Something may be owed that there was no room for.
    unsettled: bool,
    checker: ThreadChecker,
}

/// The queues and bells of a process stage.
pub(super) struct Wiring {
    pub from_link: Receiver<Sealed>,
    pub from_tun: Receiver<Inner>,
    pub messages: Receiver<ToProcess>,
    /// Frames of its own come home by this.
    pub home: Receiver<Frame>,
    pub to_tun: Sender<Opened>,
    pub to_link: Sender<Sealed>,
    pub to_control: ControlOutbox,
    /// Frames of RX go home by this.
    pub home_to_rx: HomeToRx,
    pub away: Arc<Away>,
    /// Frames in the sets of RX.
    pub totals: [(SetName, usize); 2],
    /// Marks that come with runs of the link and packets of the TUN, and where they go on to.
    pub marks: [(MarkReceiver, MarkSender); 2],
    pub bells: Bells,
}

impl PipelineProcessor {
    pub(super) fn new(
        process: Process,
        wiring: Wiring,
        path_errors: PathErrors,
        facts: Arc<Facts>,
        gauges: Arc<Gauges>,
        waiting: Waiting,
    ) -> std::io::Result<Self> {
        let (timer, checker) = (Timer::new()?, ThreadChecker::default());
        Ok(PipelineProcessor {
            process,
            wiring,
            waiting,
            path_errors,
            facts,
            gauges,
            timer,
            unsettled: false,
            checker,
        })
    }

    /// To be watched for edges while it runs; each is to ring its bell.
    pub(super) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// The stage's thread: runs until it is told to stop, then works off what RX has handed on and says goodbye to peers.
    /// While it sleeps the stage is in `parked`.
    ///
    /// # Errors
    /// The kernel refuses to set a timer.
    pub fn run(parked: &Parked<&mut Self>, bell: &Bell) -> Result<()> {
        // The stack outlives the thread, and the ciphers leave what they made of their keys on it.
        scrubbed(|| {
            let mut stage = parked.fetch();
            loop {
                stage.get_up();
                if bell.is_stopping() {
                    return stage.finish(now().mono + GOODBYE);
                }
                if stage.works_off()? && !bell.is_stopping() {
                    // Nor does anything of a session stay here that RX may wipe meanwhile.
                    scrub_shallow_stack();
                    drop(stage);
                    bell.sleep(None);
                    stage = parked.fetch();
                }
            }
        })
    }

    /// Works until there is nothing to do, and lies down. True: it may sleep. It never does where it is to poll.
    fn works_off(&mut self) -> Result<bool> {
        while self.turn(now()) {}
        if self.waiting.comes(|| self.ready()) || !self.waiting.sleeps() {
            return Ok(false);
        }
        self.lies_down()
    }

    /// Awake, on this thread, which owns it and all sessions from here on.
    pub fn get_up(&mut self) {
        self.wiring.bells.process.get_up();
        self.checker.rebind_to_current();
        self.process.hand_over();
    }

    /// One batch each way. True if there is more to do.
    pub(super) fn turn(&mut self, now: Now) -> bool {
        self.checker.assert_here();
        self.ready();
        while let Some(error) = (self.path_errors)() {
            // What this host has said is taken at its word; an ICMP message only makes the kernel say it.
            if let (true, Some(mtu)) = (error.local, error.mtu) {
                self.process.path_mtu(error.remote.ip(), mtu, now);
            }
        }
        let wiring = &mut self.wiring;
        // A run may be followed by a frame of packets that it completes.
        let limit = BATCH.min(wiring.to_tun.room() / 2).min(self.process.injected_set().home_count());
        let took_in = wiring.from_link.refill_by(limit, BYTES, |run| run.frame.bytes().len());
        self.take_in(now);
        self.hand_on(took_in);
        self.outbound(now);
        if self.process.next_deadline().is_some_and(|at| at <= now.mono) {
            self.process.on_timer(now);
        }
        self.settle(now);
        self.report();
        self.ready()
    }

    /// Takes in what control says, opens what has come, and tells control what that means before anybody else has it: where
    /// a peer is can be in the state file by the time that the host answers its first packet.
    pub(super) fn take_in(&mut self, now: Now) {
        self.listen();
        let Wiring { from_link, to_tun, to_control, home_to_rx, .. } = &mut self.wiring;
        if !from_link.is_empty() {
            self.process.inbound(from_link, to_tun, to_control, home_to_rx, now);
        }
        self.report();
    }

    /// Publishes what was opened; `took`: places in the queue that it came by have become free as well.
    pub(super) fn hand_on(&mut self, took: bool) {
        let Wiring { from_link, to_tun, home_to_rx, marks, bells, .. } = &mut self.wiring;
        let [(came, goes), _] = marks;
        // Before the runs, so that whoever has those has them as well.
        if goes.pass_on(came, from_link.used(), to_tun.pushed()) | to_tun.flush() {
            bells.tx.pushed();
        }
        if home_to_rx.flush() || took {
            bells.rx.freed();
        }
    }

    fn outbound(&mut self, now: Now) {
        let Wiring { from_tun, to_link, home_to_rx, bells, .. } = &mut self.wiring;
        if !self.process.can_seal(to_link) {
            return;
        }
        let took = from_tun.refill_by(BATCH, SEAL_BYTES, |inner| inner.frame.bytes().len());
        if from_tun.is_empty() {
            return;
        }
        self.process.outbound(from_tun, home_to_rx, to_link, now);
        if home_to_rx.flush() || took {
            bells.rx.freed();
        }
        self.send();
    }

    fn settle(&mut self, now: Now) {
        self.process.settle(&mut self.wiring.to_link, now);
        self.unsettled = !self.process.can_seal(&self.wiring.to_link);
        self.send();
    }

    fn send(&mut self) {
        let Wiring { from_tun, to_link, marks, bells, .. } = &mut self.wiring;
        let [_, (came, goes)] = marks;
        if goes.pass_on(came, from_tun.used(), to_link.pushed()) | to_link.flush() {
            bells.tx.pushed();
        }
    }

    /// Takes in what control says.
    fn listen(&mut self) {
        // All of them: a session is there before the first datagram that its peer has sent in it is opened.
        if self.wiring.messages.refill(usize::MAX) {
            self.wiring.bells.control.freed();
        }
        while let Some(message) = self.wiring.messages.pop() {
            match message {
                ToProcess::Sessions(message) => {
                    let reached = match &message {
                        ToSessions::Ready(new) if new.number.is_some() => Some(new.session.peer),
                        _ => None,
                    };
                    self.process.handle(message);
                    reached.into_iter().for_each(|peer| self.reached(peer));
                }
                ToProcess::Show(client) => {
                    let snapshot = Box::new(self.snapshot());
                    self.wiring.to_control.tell(ToControl::Snapshot(client, snapshot));
                }
                ToProcess::Endpoints => {
                    let endpoints = self.endpoints();
                    self.wiring.to_control.tell(ToControl::Endpoints(endpoints));
                }
            }
        }
    }

    /// Tells control what sessions and peers want of it.
    fn report(&mut self) {
        while let Some(message) = self.process.next_message() {
            let confirmed = match message {
                ToHandshakes::Confirmed(peer) => Some(peer),
                _ => None,
            };
            self.wiring.to_control.tell(ToControl::Handshakes(message));
            confirmed.into_iter().for_each(|peer| self.reached(peer));
        }
        while let Some(notice) = self.process.next_notice() {
            self.wiring.to_control.tell(ToControl::Notice(notice));
        }
        self.wiring.to_control.flush();
    }

    fn reached(&mut self, peer: PeerId) {
        let status = self.process.sessions().status(peer);
        if let Some(path) = status.and_then(|status| status.endpoint) {
            self.wiring.to_control.tell(ToControl::Reached(peer, path));
        }
    }

    /// Where the peers are now.
    fn endpoints(&self) -> Vec<IpAddr> {
        let peers = (0..self.facts.peers() as u32).map(PeerId);
        let current = peers.filter_map(|peer| self.process.sessions().status(peer)?.endpoint);
        current.map(|path| path.remote().ip()).collect()
    }

    /// Everything about the tunnel at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let ends = self.wiring.totals.map(|(set, total)| (set, self.wiring.away.frames(set, total)));
        snapshot(&self.facts, &self.gauges, &self.process, ends, now())
    }

    /// Looks what others have freed; true if there is something to do.
    fn ready(&mut self) -> bool {
        self.bring_home();
        let wiring = &mut self.wiring;
        wiring.to_tun.refresh();
        wiring.to_link.refresh();
        let can_seal = self.process.can_seal(&wiring.to_link);
        (wiring.from_link.has_items() && wiring.to_tun.room() >= 2 && self.process.can_follow())
            || (can_seal && (self.unsettled || wiring.from_tun.has_items()))
            || wiring.messages.has_items()
            || (wiring.to_control.holds() && wiring.to_control.has_room())
    }

    /// Takes in the frames that have come home.
    pub(super) fn bring_home(&mut self) {
        let process = &mut self.process;
        take_home(&mut self.wiring.home, |frame| match frame.set() {
            SetName::Injected => frame.home(process.injected_set()),
            _ => frame.home(process.transmit_set()),
        });
    }

    /// From here on it is woken for all that concerns it, by its timer as well, which control watches. False: there is
    /// something to do already.
    pub fn lies_down(&mut self) -> Result<bool> {
        let deadline = self.process.next_deadline();
        self.timer.set(deadline).context("cannot set the timer")?;
        // Whatever it has and cannot go on with waits for somebody else to free something.
        let wiring = &self.wiring;
        let starved = self.unsettled
            || wiring.from_link.has_items()
            || wiring.from_tun.has_items()
            || wiring.to_tun.room() < 2
            || wiring.to_control.holds();
        wiring.bells.process.lie_down(starved);
        // What was due before it lay down has not rung for it.
        let is_due = deadline.is_some_and(|at| at <= now().mono);
        Ok(!is_due && !self.ready())
    }

    /// RX has ended: what it has handed on is worked off and peers are told, as far as there is room until `deadline`.
    fn finish(&mut self, deadline: u64) -> Result<()> {
        let mut closed = false;
        loop {
            while self.turn(now()) {}
            let wiring = &self.wiring;
            let waits = self.unsettled || wiring.from_link.has_items() || wiring.from_tun.has_items();
            let left = Duration::from_nanos(deadline.saturating_sub(now().mono));
            if waits && !left.is_zero() {
                if self.lies_down()? {
                    self.wiring.bells.process.sleep(Some(left));
                }
                self.wiring.bells.process.get_up();
            } else if closed {
                return Ok(());
            } else {
                closed = true;
                self.process.close_sessions();
            }
        }
    }
}
