//! How long an answer may take: RFC 6298, with Karn's rule kept by whoever feeds it.

use crate::time::SECOND;

/// Before anything was measured (2.1), and the least there is (2.4).
const INITIAL: u64 = SECOND;
const MIN: u64 = SECOND;
/// The most there is (2.5).
const MAX: u64 = 60 * SECOND;

/// Smoothed round-trip time and the retransmission timeout that follows from it, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct RttEstimator {
    /// Smoothed round-trip time and its variation, once there is a sample.
    smoothed: Option<(u64, u64)>,
    timeout: u64,
}

impl Default for RttEstimator {
    fn default() -> Self {
        RttEstimator { smoothed: None, timeout: INITIAL }
    }
}

impl RttEstimator {
    /// Takes in the round trip of something that was sent only once (Karn); ends any backoff.
    pub fn sample(&mut self, rtt: u64) {
        let (srtt, variation) = match self.smoothed {
            None => (rtt, rtt / 2),
            // alpha = 1/8, beta = 1/4 (2.3).
            Some((srtt, variation)) => ((7 * srtt + rtt) / 8, (3 * variation + srtt.abs_diff(rtt)) / 4),
        };
        self.smoothed = Some((srtt, variation));
        self.timeout = (srtt + 4 * variation).clamp(MIN, MAX);
    }

    /// Doubles the timeout: it has passed once without an answer (5.5).
    pub fn back_off(&mut self) {
        self.timeout = (self.timeout * 2).min(MAX);
    }

    /// How long to wait for an answer, nanoseconds.
    pub fn timeout(&self) -> u64 {
        self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND;

    #[test]
    fn the_timeout_follows_rfc_6298() {
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.timeout(), SECOND);
        rtt.sample(2 * SECOND);
        assert_eq!(rtt.timeout(), 6 * SECOND, "SRTT = R, RTTVAR = R / 2");
        rtt.sample(SECOND);
        // SRTT = 7/8 * 2 + 1/8, RTTVAR = 3/4 * 1 + 1/4 * |2 - 1|.
        assert_eq!(rtt.timeout(), 1875 * MILLISECOND + 4 * SECOND);
        rtt.back_off();
        assert_eq!(rtt.timeout(), 2 * (1875 * MILLISECOND + 4 * SECOND));
        rtt.sample(SECOND);
        assert!(rtt.timeout() < 6 * SECOND, "a sample ends the backoff");
    }

    #[test]
    fn the_timeout_stays_within_its_bounds() {
        let mut rtt = RttEstimator::default();
        rtt.sample(MILLISECOND);
        assert_eq!(rtt.timeout(), SECOND);
        for _ in 0..80 {
            rtt.back_off();
        }
        assert_eq!(rtt.timeout(), 60 * SECOND);
        rtt.sample(1000 * SECOND);
        assert_eq!(rtt.timeout(), 60 * SECOND);
    }
}
