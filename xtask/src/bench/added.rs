//! The time that VEIL's daemons themselves add, by the histograms that `veil show --json` prints: read before and after,
//! their difference is what happened in between. Peers do not say; the bare wire has nobody to say it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::figures::added_key;
use super::measure::Samples;
use super::topology::Tunnel;

/// Both daemons' histograms at one moment; left, right.
pub struct Added([Ways; 2]);

/// One daemon's, in nanoseconds.
struct Ways {
    inbound: Counts,
    outbound: Counts,
}

/// How many values are in a bucket, by its largest value.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts(BTreeMap<u64, u64>);

impl Added {
    /// Now; `None` where no VEIL runs.
    pub fn look(tunnel: &Tunnel) -> Result<Option<Added>> {
        let Some(shown) = tunnel.show()? else { return Ok(None) };
        let [left, right] = shown.each_ref().map(Ways::of);
        Ok(Some(Added([left?, right?])))
    }

    /// Enters the medians of what the idle tunnel's packets waited in either daemon since `before`.
    pub fn idle(tunnel: &Tunnel, before: Option<Added>, samples: &mut Samples) -> Result<()> {
        let Some((now, before)) = Added::look(tunnel)?.zip(before) else { return Ok(()) };
        let [left, right] = now.since(&before);
        enter("idle", &left.inbound.and(&right.inbound), &left.outbound.and(&right.outbound), samples)
    }

    /// Enters the medians of what a transfer from left to right waited since `before`: outbound in the sending daemon,
    /// inbound in the receiving one. The acknowledgements' way is another.
    pub fn bulk_forward(tunnel: &Tunnel, before: Option<Added>, samples: &mut Samples) -> Result<()> {
        let Some((now, before)) = Added::look(tunnel)?.zip(before) else { return Ok(()) };
        let [sender, receiver] = now.since(&before);
        enter("bulk", &receiver.inbound, &sender.outbound, samples)
    }

    fn since(&self, before: &Added) -> [Ways; 2] {
        [0, 1].map(|end| {
            let (now, before) = (&self.0[end], &before.0[end]);
            Ways {
                inbound: now.inbound.since(&before.inbound),
                outbound: now.outbound.since(&before.outbound),
            }
        })
    }
}

fn enter(load: &str, inbound: &Counts, outbound: &Counts, samples: &mut Samples) -> Result<()> {
    for (way, counts) in [("inbound", inbound), ("outbound", outbound)] {
        let p50 = counts.median().with_context(|| format!("nothing went {way} through the daemon"))?;
        samples.add(&added_key(load, way), p50 as f64 / 1e3);
    }
    Ok(())
}

impl Ways {
    fn of(shown: &Value) -> Result<Ways> {
        let of = |name: &str| Counts::of(shown, name);
        Ok(Ways { inbound: of("added_inbound_ns")?, outbound: of("added_outbound_ns")? })
    }
}

impl Counts {
    fn of(shown: &Value, histogram: &str) -> Result<Counts> {
        let buckets = shown["histograms"][histogram]["buckets"].clone();
        let pairs: Vec<(u64, u64)> = serde_json::from_value(buckets)
            .with_context(|| format!("`veil show --json` has no histogram {histogram}"))?;
        Ok(Counts(pairs.into_iter().collect()))
    }

    fn since(&self, before: &Counts) -> Counts {
        let counted_before = |bound| before.0.get(bound).copied().unwrap_or(0);
        let rest = self.0.iter().map(|(bound, count)| (*bound, count.saturating_sub(counted_before(bound))));
        Counts(rest.collect())
    }

    fn and(&self, other: &Counts) -> Counts {
        let mut sum = self.clone();
        for (bound, count) in &other.0 {
            *sum.0.entry(*bound).or_default() += count;
        }
        sum
    }

    /// The bound of the bucket that the median is in; too large by less than a 32nd.
    fn median(&self) -> Option<u64> {
        let half = self.0.values().sum::<u64>().div_ceil(2);
        let mut below = 0;
        let bucket = self.0.iter().find(|(_, count)| {
            below += **count;
            below >= half && half > 0
        });
        bucket.map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(buckets: &[[u64; 2]]) -> Value {
        serde_json::json!({"histograms": {"added_inbound_ns": {"count": 1, "buckets": buckets}}})
    }

    fn counts(buckets: &[[u64; 2]]) -> Counts {
        Counts::of(&shown(buckets), "added_inbound_ns").unwrap()
    }

    #[test]
    fn only_what_came_since_is_in_the_median() {
        let (before, after) = (counts(&[[10, 100], [20, 1]]), counts(&[[10, 101], [20, 3], [30, 1]]));
        assert_eq!(after.since(&before).median(), Some(20));
        assert_eq!(after.median(), Some(10));
        assert_eq!(before.since(&before).median(), None);
        assert_eq!(counts(&[]).median(), None);
        assert!(Counts::of(&shown(&[]), "another").is_err());
    }

    #[test]
    fn two_ends_are_put_together() {
        let sum = counts(&[[10, 2], [20, 1]]).and(&counts(&[[20, 4], [30, 2]]));
        assert_eq!(sum, counts(&[[10, 2], [20, 5], [30, 2]]));
        assert_eq!(sum.median(), Some(20));
    }
}
