//! Whether so many initiations come that curve work must be earned: the mode that turns cookies on.
//!
//! Owned by the handshakes, told of the queue's length and of every envelope opened, asked before each initiation. It
//! switches the mode and nothing else: nobody is dropped because of it.

use super::token_bucket::{Rate, TokenBucket};
use crate::time::SECOND;

/// Envelopes opened, by all sources together, before it is load: a tenth of a core if each led to curve work.
const ENVELOPES: Rate = Rate::new(500, 100);
/// So long it stays after the last sign of it.
const HELD: u64 = SECOND;

/// How initiations are to be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Few come: each may cost curve work.
    Light,
    /// Many come: only whoever proves its address, and only at its rate.
    Heavy,
}

/// Measures the load.
#[derive(Debug, Default)]
pub struct LoadMeter {
    envelopes: TokenBucket,
    heavy_until: u64,
}

impl LoadMeter {
    /// So many initiations wait in a queue with room for `capacity`; `now_ns` is monotonic.
    pub fn queue(&mut self, waiting: usize, capacity: usize, now_ns: u64) {
        if waiting > capacity / 8 {
            self.hold(now_ns);
        }
    }

    /// An envelope is being opened.
    pub fn envelope(&mut self, now_ns: u64) {
        if !self.envelopes.take_at(ENVELOPES, now_ns) {
            self.hold(now_ns);
        }
    }

    /// The load now.
    pub fn load(&self, now_ns: u64) -> Load {
        if now_ns < self.heavy_until { Load::Heavy } else { Load::Light }
    }

    fn hold(&mut self, now_ns: u64) {
        self.heavy_until = self.heavy_until.max(now_ns.saturating_add(HELD));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND;

    #[test]
    fn a_queue_over_an_eighth_full_is_load_for_a_second() {
        let mut meter = LoadMeter::default();
        meter.queue(128, 1024, 5 * SECOND);
        assert_eq!(meter.load(5 * SECOND), Load::Light);
        meter.queue(129, 1024, 5 * SECOND);
        assert_eq!(meter.load(5 * SECOND), Load::Heavy);
        meter.queue(0, 1024, 6 * SECOND - 1);
        assert_eq!(meter.load(6 * SECOND - 1), Load::Heavy);
        assert_eq!(meter.load(6 * SECOND), Load::Light);
    }

    #[test]
    fn more_than_500_envelopes_a_second_are_load_and_fewer_are_not() {
        let load_at = |per_second: u64| {
            let mut meter = LoadMeter::default();
            let envelopes = (0..5 * per_second).map(|n| 7 * SECOND + n * SECOND / per_second);
            envelopes.into_iter().for_each(|at| meter.envelope(at));
            meter.load(12 * SECOND)
        };
        assert_eq!(load_at(499), Load::Light);
        assert_eq!(load_at(600), Load::Heavy);
    }

    #[test]
    fn load_ends_a_second_after_the_flood() {
        let mut meter = LoadMeter::default();
        (0..20_000).for_each(|n| meter.envelope(SECOND + n * 50_000));
        assert_eq!(meter.load(2 * SECOND + 999 * MILLISECOND), Load::Heavy);
        assert_eq!(meter.load(3 * SECOND), Load::Light);
    }
}
