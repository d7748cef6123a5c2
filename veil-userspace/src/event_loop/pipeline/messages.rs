//! What the process stage and control tell each other.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use veil_proto::tunnel::{ToHandshakes, ToSessions};
use veil_proto::{Path, PeerId};

use crate::control::show::Snapshot;
use crate::control::socket::ClientId;
use crate::event_loop::process::Notice;
use crate::event_loop::waker::Bell;
use crate::frame::Outbox;

/// Handshake datagrams that wait for control, at most; as many places more are for everything else.
const DATAGRAMS: usize = 1024;

/// What control tells the process stage.
pub enum ToProcess {
    /// What the handshakes say.
    Sessions(ToSessions),
    /// A client wants to know everything.
    Show(ClientId),
    /// Control wants to know where the peers are.
    Endpoints,
}

/// What control is told.
pub enum ToControl {
    /// What the sessions say.
    Handshakes(ToHandshakes),
    /// What a peer says.
    Notice(Notice),
    /// Whose session came into use, and where the peer is.
    Reached(PeerId, Path),
    /// The answer to [`ToProcess::Show`].
    Snapshot(ClientId, Box<Snapshot>),
    /// The answer to [`ToProcess::Endpoints`].
    Endpoints(Vec<IpAddr>),
}

/// Control's inbox, where every stage may put something.
pub type ControlInbox = Arc<ArrayQueue<ToControl>>;

/// An empty one.
pub fn control_inbox() -> ControlInbox {
    Arc::new(ArrayQueue::new(2 * DATAGRAMS))
}

/// The process stage's way to control. Datagrams are refused when too many wait; anything else waits here for room.
pub struct ControlOutbox {
    inbox: ControlInbox,
    bell: Arc<Bell>,
    held: VecDeque<ToControl>,
    pushed: bool,
}

impl ControlOutbox {
    /// A way into `inbox`, whose owner hears `bell`.
    pub fn new(inbox: ControlInbox, bell: Arc<Bell>) -> Self {
        ControlOutbox { inbox, bell, held: VecDeque::new(), pushed: false }
    }

    /// Hands a message on that must not be lost.
    pub fn tell(&mut self, message: ToControl) {
        self.held.push_back(message);
    }

    /// Passes on what waits, and wakes control if there is anything new for it.
    pub fn flush(&mut self) {
        while let Some(message) = self.held.pop_front() {
            if let Err(message) = self.inbox.push(message) {
                self.held.push_front(message);
                break;
            }
            self.pushed = true;
        }
        if std::mem::take(&mut self.pushed) {
            self.bell.pushed();
        }
    }

    /// Whether messages wait here.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether control has room.
    pub fn has_room(&self) -> bool {
        !self.inbox.is_full()
    }
}

/// Handshake datagrams.
impl Outbox<ToHandshakes> for ControlOutbox {
    fn room(&self) -> usize {
        DATAGRAMS.saturating_sub(self.inbox.len() + self.held.len())
    }

    fn push(&mut self, datagram: ToHandshakes) -> Result<(), ToHandshakes> {
        if self.room() == 0 {
            return Err(datagram);
        }
        // Behind what is held: messages of one stage keep their order.
        self.held.push_back(ToControl::Handshakes(datagram));
        Ok(())
    }
}
