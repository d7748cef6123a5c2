//! Medians, spreads, percentiles and the search for the highest rate that holds: arithmetic only.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What the rounds of one figure came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// One per round, in order of time.
    pub samples: Vec<f64>,
    /// Whether the median may be too small, since the sender could not ask for more. Older files do not say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
}

impl Spread {
    /// `None` of no samples.
    pub fn of(samples: &[f64]) -> Option<Spread> {
        let samples: Vec<f64> = samples.iter().map(|sample| round(*sample)).collect();
        let sorted = sorted(&samples);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Spread { median: round((low + high) / 2.0), min, max, samples, at_least: false })
    }

    /// The same where those of the samples that are given again are only the least that there can have been. Above the
    /// middle ones they change no median.
    pub fn at_least(mut self, least: &[f64]) -> Spread {
        let middle = sorted(&self.samples)[self.samples.len() / 2];
        self.at_least = least.iter().any(|sample| round(*sample) <= middle);
        self
    }
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Finer than anything measured here, and short in a results file.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// The nearest-rank percentile (0 < `percent` <= 100); `None` of nothing.
pub fn percentile(values: &mut [f64], percent: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}

/// Bisects between `floor` and `ceiling`, in `steps` trials; rates being ratios, the middle is the geometric one.
/// Asks `holds` at each and returns the highest rate it agreed to, `None` if it agreed to none.
pub fn highest_rate(
    floor: f64,
    ceiling: f64,
    steps: u32,
    mut holds: impl FnMut(f64) -> Result<bool>,
) -> Result<Option<f64>> {
    let (mut low, mut high, mut best) = (floor, ceiling, None);
    for _ in 0..steps {
        let middle = (low * high).sqrt();
        if holds(middle)? {
            low = middle;
            best = Some(middle);
        } else {
            high = middle;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_an_odd_number_is_the_middle_one_and_of_an_even_number_between_two() {
        let odd = Spread::of(&[3.0, 9.0, 1.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (3.0, 1.0, 9.0));
        assert_eq!(odd.samples, [3.0, 9.0, 1.0], "in order of time");
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 100.0]).unwrap().median, 3.0);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_median_is_at_least_what_it_is_if_a_sample_up_to_it_is() {
        let spread = Spread::of(&[1.0, 2.0, 3.0]).unwrap();
        let at_least = |least: &[f64]| spread.clone().at_least(least).at_least;
        assert!(at_least(&[2.0]) && at_least(&[1.0, 3.0]));
        assert!(!at_least(&[]) && !at_least(&[3.0]));
        assert!(Spread::of(&[1.0, 2.0]).unwrap().at_least(&[2.0]).at_least, "both are the middle");
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut hundred, 50.0), Some(50.0));
        assert_eq!(percentile(&mut hundred, 99.0), Some(99.0));
        assert_eq!(percentile(&mut hundred, 100.0), Some(100.0));
        assert_eq!(percentile(&mut [7.0], 1.0), Some(7.0));
        assert_eq!(percentile(&mut [], 50.0), None);
    }

    #[test]
    fn bisection_closes_in_on_the_limit_from_below() {
        for limit in [1_500.0, 84_000.0, 1_990_000.0] {
            let mut asked = 0;
            let found = highest_rate(1e3, 2e6, 12, |rate| {
                asked += 1;
                Ok(rate <= limit)
            });
            let found = found.unwrap().unwrap();
            assert!(found <= limit && found > limit * 0.99, "{found} of {limit}");
            assert_eq!(asked, 12);
        }
    }

    #[test]
    fn bisection_that_never_holds_finds_nothing_and_an_error_ends_it() {
        assert_eq!(highest_rate(1e3, 2e6, 8, |_| Ok(false)).unwrap(), None);
        let mut asked = 0;
        let failed = highest_rate(1e3, 2e6, 8, |_| {
            asked += 1;
            anyhow::bail!("broken")
        });
        assert!(failed.is_err() && asked == 1);
    }
}
