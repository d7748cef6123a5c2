//! What the AF_XDP link is judged by: medians of one run, one against another.

use serde::{Deserialize, Serialize};

use super::figures::{Direction, Group, STREAMS, bulk_key, datagrams_key, raw_xdp_key, small_key};
use super::results::{Entry, Results};

/// One median divided by another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub contender: String,
    /// What is compared with what.
    pub title: String,
    pub ratio: f64,
}

const UDP_LINK: &str = "veil-udp-single";
/// What a datagram of a TCP transfer comes nearest to.
const FULL: u32 = 1450;

/// All that these results have both sides of.
pub fn comparisons(results: &Results) -> Vec<Comparison> {
    let named = |name: &str| results.contenders.iter().find(|entry| entry.name == name);
    let (raw, udp) = (named("raw"), named(UDP_LINK));
    let mut all = Vec::new();
    let mut add = |entry: &Entry, key: &str, to: Option<&Entry>, to_key: &str, title: String| {
        let pair = entry.median(key).zip(to.and_then(|to| to.median(to_key)));
        if let Some((value, to)) = pair.filter(|(_, to)| *to > 0.0) {
            all.push(Comparison { contender: entry.name.clone(), title, ratio: value / to });
        }
    };
    for entry in results.contenders.iter().filter(|entry| entry.name.starts_with("veil-xdp-")) {
        for group in [Group::Bulk, Group::Segmented] {
            for streams in STREAMS {
                for direction in Direction::BOTH {
                    let key = bulk_key(group, streams, direction);
                    let title = format!("{key}: datagrams/s / raw AF_XDP packets/s, {FULL} B");
                    add(entry, &datagrams_key(&key), raw, &raw_xdp_key(FULL), title);
                }
            }
        }
        for streams in STREAMS {
            for direction in Direction::BOTH {
                let key = bulk_key(Group::Segmented, streams, direction);
                add(entry, &key, udp, &key, format!("{key}: Gbit/s / {UDP_LINK}"));
            }
        }
        let many = small_key("many");
        add(entry, &many, udp, &many, format!("{many}: packets/s / {UDP_LINK}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::sample;
    use crate::bench::stats::Spread;

    #[test]
    fn the_link_is_compared_with_the_wire_and_with_the_other_link() {
        let mut results = sample();
        let set = |entry: &mut Entry, key: &str, value: f64| {
            entry.figures.insert(key.to_owned(), Spread::of(&[value; 3]).expect("three samples"));
        };
        set(&mut results.contenders[0], "raw-xdp-1450", 500.0);
        set(&mut results.contenders[1], "segmented-1-forward", 2.0);
        let mut xdp = results.contenders[1].clone();
        xdp.name = "veil-xdp-single".into();
        set(&mut xdp, "bulk-1-forward-datagrams", 300.0);
        set(&mut xdp, "segmented-1-forward", 3.0);
        results.contenders.push(xdp);
        let all = comparisons(&results);
        let ratios: Vec<f64> = all.iter().map(|one| one.ratio).collect();
        assert_eq!(ratios, [0.6, 1.5], "{all:?}");
        assert!(all.iter().all(|one| one.contender == "veil-xdp-single"));
    }
}
