//! Interrupt moderation: while packets come thick and fast, the rings fill for a moment before they are looked at.
//!
//! The kernel calls on whoever watches an AF_XDP socket for every packet that comes and for every packet that has gone, and
//! so wakes the daemon for a few packets at a time, which then become many small writes to the TUN. Above a rate, nobody
//! watches: a timer says when to look, as a NIC's interrupt moderation does (`ethtool -C`, `rx-usecs`). Below it, each
//! packet is told of at once.
//!
//! The invariant: a ring that is not watched is looked at when the timer fires, which is set before each sleep.

use super::ready::{Alarm, NEW, Ready};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Nanoseconds that a packet may lie in the ring; also how long a rate is measured at least.
const LONGEST: u64 = 150_000;
/// Packets that have to come in that time for moderation to pay.
const LEAST: u64 = 16;
/// Packets that are enough: at higher rates they are waited for, not the whole time. About a super-packet.
const ENOUGH: u64 = 64;

/// How thick the packets come.
#[derive(Debug, Default)]
struct Rate {
    /// When, and at which packet, it was measured last.
    at: u64,
    packets: u64,
    /// Nanoseconds to let the rings fill, if they are to.
    hold: Option<u32>,
}

impl Rate {
    /// How long to let the rings fill, `packets` having come and gone by `now`.
    fn hold(&mut self, packets: u64, now: u64) -> Option<u32> {
        let elapsed = now.saturating_sub(self.at);
        if elapsed >= LONGEST {
            let came = packets.saturating_sub(self.packets);
            let thick = came.saturating_mul(LONGEST) >= LEAST.saturating_mul(elapsed);
            self.hold = thick.then(|| (elapsed.saturating_mul(ENOUGH) / came).clamp(1, LONGEST) as u32);
            (self.at, self.packets) = (now, packets);
        }
        self.hold
    }
}

/// Watches the rings, or has them looked at by the clock.
pub struct Moderation {
    alarm: Alarm,
    allowed: bool,
    watched: bool,
    /// They could not be watched, and that has been said.
    refused: bool,
    rate: Rate,
}

impl Moderation {
    /// For rings that are watched behind `ready`. Not `allowed`: they always are.
    pub fn new(ready: &Ready, allowed: bool) -> io::Result<Self> {
        let alarm = Alarm::new()?;
        ready.add(alarm.as_fd(), NEW)?;
        Ok(Moderation { alarm, allowed, watched: false, refused: false, rate: Rate::default() })
    }

    /// There are new rings: has them watched.
    pub fn watch<'a>(&mut self, rings: impl IntoIterator<Item = BorrowedFd<'a>>, ready: &Ready) {
        let watched = rings.into_iter().try_for_each(|ring| match ready.add(ring, NEW) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        });
        self.watched = watched.is_ok();
        if let Err(error) = watched {
            self.alarm.set(LONGEST as u32);
            if !std::mem::replace(&mut self.refused, true) {
                tracing::warn!("cannot watch an AF_XDP socket, looking by the clock instead: {error}");
            }
        }
    }

    /// Call it when the rings are empty, before sleeping, `packets` having come and gone by `now`. True if the rings are left
    /// to fill.
    pub fn rest<'a>(
        &mut self,
        rings: impl IntoIterator<Item = BorrowedFd<'a>>,
        ready: &Ready,
        packets: u64,
        now: u64,
    ) -> bool {
        let hold = self.rate.hold(packets, now).filter(|_| self.allowed);
        match hold {
            Some(nanos) => {
                if self.watched {
                    self.watched = false;
                    for ring in rings {
                        // One that is watched still costs time and nothing else.
                        let _ = ready.remove(ring);
                    }
                }
                self.alarm.set(nanos);
            }
            None if !self.watched => self.watch(rings, ready),
            None => {}
        }
        hold.is_some()
    }

    /// The timer, as `ready` reports it.
    pub fn alarm(&self) -> BorrowedFd<'_> {
        self.alarm.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    const MS: u64 = 1_000_000;

    #[test]
    fn rings_are_left_to_fill_while_packets_come_thick_and_no_longer() {
        let mut rate = Rate::default();
        assert_eq!(rate.hold(1, 5 * MS), None, "one packet after a while");
        assert_eq!(rate.hold(40, 5 * MS + 100_000), None, "a burst is no rate yet");
        assert_eq!(rate.hold(61, 5 * MS + 200_000), Some(150_000), "60 packets in 200 us");
        assert_eq!(rate.hold(61, 5 * MS + 300_000), Some(150_000), "kept until it is measured again");
        assert_eq!(rate.hold(77, 5 * MS + 350_000), Some(150_000), "16 in 150 us are just enough");
        assert_eq!(rate.hold(92, 5 * MS + 500_000), None, "15 are not");
    }

    #[test]
    fn a_ring_that_is_not_watched_is_told_of_by_the_timer_and_one_that_is_watched_again_at_once() {
        let ready = Ready::new().unwrap();
        // What can be made readable stands in for a ring.
        let ring = Ready::new().unwrap();
        let rings = || [ring.as_fd()];
        let mut moderation = Moderation::new(&ready, true).unwrap();
        let alarm = moderation.alarm().as_raw_fd();
        let told = || {
            let mut told = vec![];
            ready.look(|fd, _| told.push(fd));
            told
        };
        moderation.watch(rings(), &ready);
        ring.waker().wake();
        assert_eq!(told(), [ring.as_fd().as_raw_fd()]);
        assert!(moderation.rest(rings(), &ready, 1000, MS), "a thousand packets in a millisecond");
        ring.waker().wake();
        wait_for(&ready);
        assert_eq!(told(), [alarm], "the timer tells, the ring does not");
        assert!(!moderation.rest(rings(), &ready, 1001, 2 * MS), "one packet in a millisecond");
        assert_eq!(told(), [ring.as_fd().as_raw_fd()], "what came meanwhile");
    }

    #[test]
    fn rings_stay_watched_where_moderation_is_not_allowed() {
        let ready = Ready::new().unwrap();
        let ring = Ready::new().unwrap();
        let mut moderation = Moderation::new(&ready, false).unwrap();
        moderation.watch([ring.as_fd()], &ready);
        assert!(!moderation.rest([ring.as_fd()], &ready, 1000, MS));
        ring.waker().wake();
        let mut told = 0;
        ready.look(|_, _| told += 1);
        assert_eq!(told, 1);
    }

    fn wait_for(ready: &Ready) {
        let mut poll = crate::event_loop::poll::Poll::new().unwrap();
        poll.add(ready.as_fd().as_raw_fd(), 0, crate::event_loop::poll::Interest::READ).unwrap();
        poll.wait(true).unwrap();
    }

    #[test]
    fn the_higher_the_rate_the_shorter_the_hold() {
        for (packets, hold) in
            [(106, None), (107, Some(150_000)), (1000, Some(64_000)), (10_000, Some(6_400))]
        {
            assert_eq!(Rate::default().hold(packets, MS), hold, "{packets} packets in a millisecond");
        }
    }

    #[test]
    fn neither_a_clock_nor_a_counter_that_jumps_breaks_it() {
        let mut rate = Rate::default();
        assert_eq!(rate.hold(u64::MAX, MS), Some(1), "0 would never fire");
        assert_eq!(rate.hold(0, 2 * MS), None);
        assert_eq!(rate.hold(100, MS), None);
        assert_eq!(rate.hold(100, u64::MAX), None);
    }
}
