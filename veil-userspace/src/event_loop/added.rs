//! The time that the daemon itself adds to what it carries: from the return of the receive call that brought it to the
//! beginning of the call that passes its batch on. What that call takes is the kernel's: on a veth pair it does the
//! receiving end's work as well.
//!
//! A clock read per batch received and one per batch passed on, none while nothing comes. What is measured is an upper bound of what a single
//! packet waits: one at the head of a batch may be sent before the end. Packets that came early in a receive call of
//! several system calls have waited a little longer than it says.

use crate::histogram::Histogram;

/// How long packets were inside the daemon, in nanoseconds.
#[derive(Debug, Default)]
pub struct AddedTime {
    /// One value per run received from the link: until it is handed to the TUN.
    pub inbound: Histogram,
    /// One value per packet or super-packet read from the TUN: until its datagrams are handed to the link. A packet that waits for a
    /// handshake counts as gone when it was laid aside.
    pub outbound: Histogram,
}

/// What has been received and not passed on yet, in one direction.
#[derive(Debug, Default)]
pub struct Underway {
    items: u64,
    /// When the oldest came.
    since: u64,
}

impl Underway {
    /// `items` have come. Asks for the time only if it is needed.
    #[inline]
    pub fn came(&mut self, items: usize, clock: impl FnOnce() -> u64) {
        if self.items == 0 && items > 0 {
            self.since = clock();
        }
        self.items += items as u64;
    }

    /// Since when how many items are under way, which somebody else goes on counting. None if there are none.
    #[inline]
    pub fn take(&mut self) -> Option<(u64, u64)> {
        let items = std::mem::take(&mut self.items);
        (items > 0).then_some((self.since, items))
    }

    /// `items` of those that came are passed on: each is entered with the age of the oldest.
    #[inline]
    pub fn went(&mut self, items: usize, into: &Histogram, clock: impl FnOnce() -> u64) {
        let items = self.items.min(items as u64);
        if items > 0 {
            into.record(clock().saturating_sub(self.since), items);
            self.items -= items;
        }
    }

    /// The same of all that came.
    #[inline]
    pub fn all_went(&mut self, into: &Histogram, clock: impl FnOnce() -> u64) {
        self.went(usize::MAX, into, clock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_as_old_as_its_oldest_and_counted_by_its_items() {
        let (mut underway, histogram) = (Underway::default(), Histogram::default());
        underway.came(2, || 1000);
        // The link was full: these join those that wait.
        underway.came(1, || unreachable!("the oldest is known"));
        underway.all_went(&histogram, || 1007);
        underway.came(4, || 2000);
        underway.all_went(&histogram, || 2003);
        assert_eq!(histogram.summary().buckets, [(3, 4), (7, 3)]);
    }

    #[test]
    fn where_nothing_came_no_clock_is_read() {
        let (mut underway, histogram) = (Underway::default(), Histogram::default());
        underway.came(0, || unreachable!());
        underway.all_went(&histogram, || unreachable!());
        underway.came(1, || 9);
        underway.all_went(&histogram, || 8);
        underway.all_went(&histogram, || unreachable!());
        assert_eq!(histogram.summary().buckets, [(0, 1)], "and a clock that went back is no age");
    }
}
