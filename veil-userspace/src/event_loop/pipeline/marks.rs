//! How long packets are inside the daemon, measured across threads.
//!
//! Beside each queue of runs goes one of marks: of the items handed on so far, those up to number `until` belong to a batch
//! that came at `since`. A stage passes a mark on once it has worked off what it speaks of, with its own count, so that the
//! last one knows when all that came of the batch is about to leave. Items that came to nothing on the way count as gone
//! then, too. As in `single`, two clock reads per batch.

use crate::event_loop::added::Underway;
use crate::frame::{Inbox, Outbox, Receiver, Sender, queue};
use crate::histogram::Histogram;
use crate::host::stopwatch;

/// Marks under way between two stages; where there is no room, a batch is joined to the next.
const MARKS: usize = 256;

/// What is known of a batch.
#[derive(Clone, Copy)]
pub struct Mark {
    until: u64,
    since: u64,
    items: u64,
}

/// The ends of a queue of marks.
pub fn marks() -> (MarkSender, MarkReceiver) {
    let (sender, receiver) = queue(MARKS);
    (MarkSender(sender), MarkReceiver { queue: receiver, next: None })
}

/// Where marks are made or passed on.
pub struct MarkSender(Sender<Mark>);

impl MarkSender {
    /// Of the batch just received, which ends with item `until`; without room it stays `underway`.
    pub fn begin(&mut self, underway: &mut Underway, until: u64) {
        self.0.refresh();
        if self.0.room() > 0
            && let Some((since, items)) = underway.take()
        {
            let _ = self.0.push(Mark { until, since, items });
            self.0.flush();
        }
    }

    /// What `from` says of items up to number `done` holds for what has become of them, up to number `until`. True if that
    /// was anything.
    pub fn pass_on(&mut self, from: &mut MarkReceiver, done: u64, until: u64) -> bool {
        self.0.refresh();
        while self.0.room() > 0
            && let Some(mark) = from.reached(done)
        {
            let _ = self.0.push(Mark { until, ..mark });
        }
        self.0.flush()
    }
}

/// Where marks arrive.
pub struct MarkReceiver {
    queue: Receiver<Mark>,
    next: Option<Mark>,
}

impl MarkReceiver {
    /// The next mark, if it speaks of nothing behind item number `done`.
    fn reached(&mut self, done: u64) -> Option<Mark> {
        if self.next.is_none() {
            self.queue.refill(MARKS);
            self.next = self.queue.pop();
        }
        self.next.take_if(|mark| mark.until <= done)
    }

    /// Enters the age of every batch whose items up to number `done` are about to leave.
    pub fn end(&mut self, done: u64, into: &Histogram) {
        let mut now = None;
        while let Some(mark) = self.reached(done) {
            let now = *now.get_or_insert_with(stopwatch);
            into.record(now.saturating_sub(mark.since), mark.items);
        }
    }
}
