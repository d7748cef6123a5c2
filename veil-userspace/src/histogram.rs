//! A histogram that one thread writes and any thread reads: times in nanoseconds, lengths of runs.
//!
//! Buckets are logarithmic, 32 to each power of two: values below 64 have a bucket each, larger ones share theirs with
//! those at most a 32nd larger. Recording is two relaxed loads and stores, so it is cheap enough for every run.
//! Every instance has one writer: two would lose counts, never more than that.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// Buckets to a power of two, and its logarithm.
const STEPS: usize = 1 << STEP_BITS;
const STEP_BITS: u32 = 5;
/// Enough for every `u64`.
const BUCKETS: usize = (65 - STEP_BITS as usize) * STEPS;

/// Counts of values by size.
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    max: AtomicU64,
}

impl Histogram {
    /// Counts `value` `times` times. Only the one writer may call it.
    #[inline]
    pub fn record(&self, value: u64, times: u64) {
        let bucket = &self.buckets[bucket_of(value)];
        bucket.store(bucket.load(Relaxed) + times, Relaxed);
        if times > 0 && value > self.max.load(Relaxed) {
            self.max.store(value, Relaxed);
        }
    }

    /// What has been counted. Of values recorded in the meantime some may be in it.
    pub fn summary(&self) -> Summary {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).enumerate();
        let buckets: Vec<_> = counts
            .filter(|&(_, count)| count > 0)
            .map(|(index, count)| (upper_bound(index), count))
            .collect();
        let mut summary = Summary {
            count: buckets.iter().map(|&(_, count)| count).sum(),
            max: self.max.load(Relaxed),
            buckets,
            ..Default::default()
        };
        (summary.p50, summary.p99) = (summary.quantile(0.5), summary.quantile(0.99));
        summary
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: [const { AtomicU64::new(0) }; BUCKETS], max: AtomicU64::new(0) }
    }
}

/// The summary: there are hundreds of buckets.
impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.summary().fmt(f)
    }
}

/// A histogram at one moment, as `veil show --json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Values counted.
    pub count: u64,
    /// Half of the values are no larger than this; too large by less than a 32nd.
    pub p50: u64,
    /// The same of 99 in 100.
    pub p99: u64,
    /// The largest value, exactly.
    pub max: u64,
    /// Largest value that belongs to a bucket, and how many are in it; in ascending order, without empty ones.
    pub buckets: Vec<(u64, u64)>,
}

impl Summary {
    /// The smallest bound known that `part` (0 to 1) of all values do not exceed: the upper bound of the bucket which the
    /// value of that rank is in, or `max` if that is less. 0 of no values.
    pub fn quantile(&self, part: f64) -> u64 {
        let rank = ((part * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        let bucket = self.buckets.iter().find(|&&(_, count)| {
            below += count;
            below >= rank
        });
        bucket.map_or(0, |&(bound, _)| bound.min(self.max))
    }
}

fn bucket_of(value: u64) -> usize {
    if value < STEPS as u64 {
        return value as usize;
    }
    let shift = value.ilog2() - STEP_BITS;
    // The leading one and `STEP_BITS` bits after it are STEPS to 2 * STEPS - 1.
    shift as usize * STEPS + (value >> shift) as usize
}

/// The largest value of the bucket.
fn upper_bound(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let shift = bucket / STEPS - 1;
    let first = ((STEPS + bucket % STEPS) as u64) << shift;
    first + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        let mut first = 0;
        for bucket in 0..BUCKETS {
            let last = upper_bound(bucket);
            assert_eq!((bucket_of(first), bucket_of(last)), (bucket, bucket));
            assert!((last - first) <= first / STEPS as u64, "{first}..={last} is too wide");
            first = last.wrapping_add(1);
        }
        assert_eq!(first, 0, "the last bucket ends with the largest value");
    }

    #[test]
    fn what_was_recorded_is_summed_up() {
        let histogram = Histogram::default();
        assert_eq!(histogram.summary(), Summary::default());
        histogram.record(900, 0);
        assert_eq!(histogram.summary(), Summary::default(), "no times is not at all");
        for (value, times) in [(0, 3), (5, 1), (1000, 60), (65, 36)] {
            histogram.record(value, times);
        }
        let wanted = Summary {
            count: 100,
            p50: 1000,
            p99: 1000,
            max: 1000,
            buckets: vec![(0, 3), (5, 1), (65, 36), (1007, 60)],
        };
        assert_eq!(histogram.summary(), wanted);
        assert_eq!([0.0, 0.03, 0.04, 0.05, 0.4, 1.0].map(|p| wanted.quantile(p)), [0, 0, 5, 65, 65, 1000]);
    }

    #[test]
    fn the_json_has_pairs_for_buckets() {
        let histogram = Histogram::default();
        histogram.record(80, 2);
        let json = serde_json::to_string(&histogram.summary()).unwrap();
        assert_eq!(json, r#"{"count":2,"p50":80,"p99":80,"max":80,"buckets":[[81,2]]}"#);
    }

    proptest! {
        #[test]
        fn quantiles_are_right_within_a_buckets_width(
            values in prop::collection::vec((any::<u64>(), 0..64u32).prop_map(|(v, shift)| v >> shift), 1..400),
            part in 0.0..=1.0f64,
        ) {
            let histogram = Histogram::default();
            values.iter().for_each(|&value| histogram.record(value, 1));
            let mut sorted = values;
            sorted.sort_unstable();
            let rank = (part * sorted.len() as f64).ceil() as usize;
            let exact = sorted[rank.max(1) - 1];
            let summary = histogram.summary();
            prop_assert_eq!(summary.count, sorted.len() as u64);
            prop_assert_eq!(summary.max, sorted[sorted.len() - 1]);
            let estimate = summary.quantile(part);
            prop_assert!(exact <= estimate && estimate - exact <= exact / STEPS as u64, "{exact}, not {estimate}");
        }
    }
}
