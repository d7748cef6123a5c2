//! Control in pipeline mode: handshakes, names, leases, the state file and `veil show`, beside the stages.
//!
//! Handshakes take a fifth of a millisecond of curve arithmetic each; here they take it from nobody. What they come to is
//! told to the process stage before the peer is answered.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use anyhow::{Context, Result};
use veil_proto::{Now, Path, PeerId};

use super::messages::{ControlInbox, ToControl, ToProcess};
use super::{Bells, SendDatagram};
use crate::event_loop::control::{CLIENT, Control, LISTENER, RESOLVER, SIGNAL, TIMER};
use crate::event_loop::poll::{Interest, Poll, Timer};
use crate::frame::{Outbox, Sender};
use crate::host::now;

const BELL: u64 = 0;
const PROCESS_TIMER: u64 = 1;

/// Messages taken in before the handshakes are stepped.
const BATCH: usize = 64;

/// Control, and what joins it to the stages.
pub struct ControlStage {
    pub(super) control: Control,
    inbox: ControlInbox,
    to_process: Sender<ToProcess>,
    send_datagram: SendDatagram,
    pub bells: Bells,
    poll: Poll,
    timer: Timer,
    /// The process stage has been asked where the peers are.
    asked: bool,
    stopping: bool,
}

impl ControlStage {
    pub fn new(
        control: Control,
        inbox: ControlInbox,
        to_process: Sender<ToProcess>,
        send_datagram: SendDatagram,
        bells: Bells,
        process_timer: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        let (poll, timer) = (Poll::new()?, Timer::new()?);
        poll.add(timer.as_fd().as_raw_fd(), TIMER, Interest::READ)?;
        poll.add_edge(bells.control.fd().as_raw_fd(), BELL)?;
        poll.add_edge(process_timer.as_raw_fd(), PROCESS_TIMER)?;
        control.watch(&poll)?;
        Ok(ControlStage {
            control,
            inbox,
            to_process,
            send_datagram,
            bells,
            poll,
            timer,
            asked: false,
            stopping: false,
        })
    }

    /// Runs until `stop` can be read, or a stage ends by itself.
    ///
    /// # Errors
    /// The kernel refuses to wait, or a thread to start.
    pub fn run(&mut self, stop: &impl AsFd) -> Result<()> {
        let watched = self.poll.add(stop.as_fd().as_raw_fd(), SIGNAL, Interest::READ);
        watched.context("cannot watch for signals")?;
        // What was said before there was anybody to hear it.
        self.deliver(now())?;
        while !self.stopping && !self.bells.control.is_stopping() {
            let more = self.turn(now())?;
            self.look(!more)?;
        }
        Ok(())
    }

    /// A bounded number of messages, then what the handshakes want. True if there is more to do.
    pub(super) fn turn(&mut self, now: Now) -> Result<bool> {
        let mut took = false;
        for _ in 0..BATCH {
            let Some(message) = self.inbox.pop() else { break };
            took = true;
            self.take(message, now)?;
        }
        if took {
            self.bells.process.freed();
        }
        self.control.step(now);
        if self.control.handshakes_deadline().is_some_and(|at| at <= now.mono) {
            self.control.on_timer(now);
        }
        let delivered = self.deliver(now)?;
        Ok(!self.inbox.is_empty() || (delivered && self.control.has_work()))
    }

    fn take(&mut self, message: ToControl, now: Now) -> Result<()> {
        match message {
            ToControl::Handshakes(message) => self.control.handle(message, now),
            ToControl::Notice(notice) => self.control.notice(notice),
            ToControl::Reached(peer, path) => self.control.reached(peer, &path),
            ToControl::Snapshot(client, snapshot) => self.control.answer(client, *snapshot, &self.poll)?,
            ToControl::Endpoints(endpoints) => {
                self.asked = false;
                self.control.apply_leases(endpoints.into_iter(), now);
            }
        }
        Ok(())
    }

    /// Tells the process stage what the handshakes have come to, and only then everybody else. False: it has no room.
    fn deliver(&mut self, now: Now) -> Result<bool> {
        let due = self.control.leases_deadline().is_some_and(|at| at <= now.mono);
        if due && !self.asked {
            self.asked = self.to_process.push(ToProcess::Endpoints).is_ok();
        }
        let mut all = true;
        while let Some(message) = self.control.next_message() {
            if let Err(message) = self.to_process.push(ToProcess::Sessions(message)) {
                if let ToProcess::Sessions(message) = message {
                    self.control.put_back(message);
                }
                all = false;
                break;
            }
        }
        if self.to_process.flush() {
            self.bells.process.pushed();
        }
        if all {
            let send = &mut self.send_datagram;
            self.control.deliver(|transmit| send(&transmit.path, &transmit.bytes))?;
        }
        Ok(all)
    }

    /// Waits for what comes next, or only looks.
    fn look(&mut self, idle: bool) -> Result<()> {
        let leases = self.control.leases_deadline().filter(|_| !self.asked);
        let deadline = [self.control.handshakes_deadline(), leases].into_iter().flatten().min();
        self.timer.set(deadline).context("cannot set the timer")?;
        if idle {
            self.bells.control.lie_down(true);
        }
        self.to_process.refresh();
        let block = idle && self.inbox.is_empty() && !self.control.holds_messages(self.to_process.room());
        let count = self.poll.wait(block && !self.bells.control.is_stopping());
        if idle {
            self.bells.control.get_up();
        }
        for n in 0..count.context("cannot wait for events")? {
            let Some(event) = self.poll.event(n) else { break };
            match event.token {
                BELL => {}
                PROCESS_TIMER => self.bells.process.pushed(),
                TIMER => self.timer.reset(),
                SIGNAL => self.stopping = true,
                RESOLVER => self.control.resolved(now()),
                LISTENER => self.control.accept(&self.poll)?,
                client => self.client((client - CLIENT) as RawFd)?,
            }
        }
        Ok(())
    }

    /// A client has something to say. Who wants to know everything waits for the process stage, or is told that it has no
    /// room for the question.
    fn client(&mut self, fd: RawFd) -> Result<()> {
        if let Some(client) = self.control.client(fd, &self.poll)? {
            if self.to_process.push(ToProcess::Show(client)).is_err() {
                return self.control.refuse(client, "too busy to say, ask again", &self.poll);
            }
            if self.to_process.flush() {
                self.bells.process.pushed();
            }
        }
        Ok(())
    }

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + use<> {
        self.control.peers()
    }

    /// Stores where a peer is now, for the next start.
    pub fn reached(&mut self, peer: PeerId, path: &Path) {
        self.control.reached(peer, path);
    }
}
