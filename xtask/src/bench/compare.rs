//! What VEIL is judged by within one run: one median against another, or alone, beside the least that counts as done.

use serde::{Deserialize, Serialize};

use super::figures::{
    Better, Direction, FLOODED, FLOODED_ELSEWHERE, Group, STREAMS, added_key, bulk_key, datagrams_key,
    raw_xdp_key, small_key,
};
use super::results::Results;
use super::stats::Spread;

/// One median divided by another, or one that is compared with its bar only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub contender: String,
    /// What is compared with what.
    pub title: String,
    pub value: f64,
    /// "x" of a ratio.
    pub unit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bar: Option<Bar>,
}

/// The least that counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    pub value: f64,
    pub better: Better,
}

impl Bar {
    pub const fn at_least(value: f64) -> Option<Bar> {
        Some(Bar { value, better: Better::More })
    }

    pub const fn at_most(value: f64) -> Option<Bar> {
        Some(Bar { value, better: Better::Less })
    }

    pub fn is_met_by(self, value: f64) -> bool {
        match self.better {
            Better::More => value >= self.value,
            Better::Less => value <= self.value,
        }
    }
}

const SINGLE: &str = "single";
/// What a datagram of a TCP transfer comes nearest to.
const FULL: u32 = 1450;

/// All that these results have both sides of.
pub fn comparisons(results: &Results) -> Vec<Comparison> {
    let mut list = List { results, all: Vec::new() };
    for threads in [SINGLE, "pipeline"] {
        list.over_xdp(threads);
    }
    for link in ["udp", "xdp"] {
        list.pipeline(link);
    }
    for (threads, most) in [(SINGLE, 5.0), ("pipeline", 20.0)] {
        let name = format!("veil-udp-{threads}");
        let title = "one stream beside 20 000 initiations/s / beside as many datagrams to another port";
        let keys = [FLOODED, FLOODED_ELSEWHERE];
        list.ratio([&name, &name], keys, title.to_owned(), Bar::at_least(0.85));
        for way in ["outbound", "inbound"] {
            let key = added_key("idle", way);
            list.alone(&name, &key, "µs", Bar::at_most(most));
        }
    }
    list.all
}

struct List<'a> {
    results: &'a Results,
    all: Vec<Comparison>,
}

impl List<'_> {
    /// The AF_XDP link against AF_XDP alone, and against the UDP link. The bars are for one thread.
    fn over_xdp(&mut self, threads: &str) {
        let (xdp, udp) = (format!("veil-xdp-{threads}"), "veil-udp-single");
        let bar = |first: bool, least| if first && threads == SINGLE { Bar::at_least(least) } else { None };
        let mut transfers = Vec::new();
        for streams in STREAMS {
            transfers.extend(Direction::BOTH.map(|direction| (streams, direction)));
        }
        for group in [Group::Bulk, Group::Segmented] {
            for (nth, (streams, direction)) in transfers.iter().enumerate() {
                let key = bulk_key(group, *streams, *direction);
                let title = format!("{key}: datagrams/s / raw AF_XDP packets/s, {FULL} B");
                let bar = bar(nth == 0 && group == Group::Bulk, 0.58);
                self.ratio([&xdp, "raw"], [&datagrams_key(&key), &raw_xdp_key(FULL)], title, bar);
            }
        }
        for (nth, (streams, direction)) in transfers.into_iter().enumerate() {
            let key = bulk_key(Group::Segmented, streams, direction);
            self.ratio([&xdp, udp], [&key, &key], format!("{key}: Gbit/s / {udp}"), bar(nth == 0, 1.3));
        }
        let many = small_key("many");
        self.ratio([&xdp, udp], [&many, &many], format!("{many}: packets/s / {udp}"), bar(true, 0.95));
    }

    /// The pipeline against the single thread over the same link: what it carries, and what that costs.
    fn pipeline(&mut self, link: &str) {
        let [pipeline, single] = ["pipeline", SINGLE].map(|threads| format!("veil-{link}-{threads}"));
        let key = bulk_key(Group::Bulk, 1, Direction::Forward);
        let cpu = format!("{key}-cpu");
        let pair = [pipeline.as_str(), &single];
        self.ratio(pair, [&key, &key], format!("{key}: Gbit/s / {single}"), Bar::at_least(0.85));
        self.ratio(pair, [&cpu, &cpu], format!("{key}: core-seconds/Gbit / {single}"), Bar::at_most(1.3));
    }

    fn ratio(&mut self, names: [&str; 2], keys: [&str; 2], title: String, bar: Option<Bar>) {
        let [value, to] = [0, 1].map(|side| self.spread(names[side], keys[side]));
        // By what may be too small nobody is judged.
        let to = to.filter(|to| to.median > 0.0 && !to.at_least);
        if let Some((value, to)) = value.zip(to) {
            self.add(names[0], title, value.median / to.median, "x", bar);
        }
    }

    fn alone(&mut self, name: &str, key: &str, unit: &str, bar: Option<Bar>) {
        if let Some(value) = self.spread(name, key) {
            self.add(name, key.to_owned(), value.median, unit, bar);
        }
    }

    fn add(&mut self, name: &str, title: String, value: f64, unit: &str, bar: Option<Bar>) {
        self.all.push(Comparison { contender: name.to_owned(), title, value, unit: unit.to_owned(), bar });
    }

    fn spread(&self, name: &str, key: &str) -> Option<&Spread> {
        self.results.contenders.iter().find(|entry| entry.name == name)?.figures.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::Entry;
    use crate::bench::results::tests::sample;

    fn set(entry: &mut Entry, key: &str, value: f64) {
        entry.figures.insert(key.to_owned(), Spread::of(&[value; 3]).expect("three samples"));
    }

    #[test]
    fn the_link_is_compared_with_the_wire_and_with_the_other_link() {
        let mut results = sample();
        set(&mut results.contenders[0], "raw-xdp-1450", 500.0);
        set(&mut results.contenders[1], "segmented-1-forward", 2.0);
        let mut xdp = results.contenders[1].clone();
        xdp.name = "veil-xdp-single".into();
        set(&mut xdp, "bulk-1-forward-datagrams", 300.0);
        set(&mut xdp, "segmented-1-forward", 2.5);
        results.contenders.push(xdp);
        let all = comparisons(&results);
        let ratios: Vec<f64> = all.iter().map(|one| one.value).collect();
        assert_eq!(ratios, [0.6, 1.25], "{all:?}");
        assert!(all.iter().all(|one| one.contender == "veil-xdp-single" && one.unit == "x"));
        let met: Vec<bool> =
            all.iter().map(|one| one.bar.is_some_and(|bar| bar.is_met_by(one.value))).collect();
        assert_eq!(met, [true, false]);
        let udp = results.contenders[1].figures.get_mut("segmented-1-forward").unwrap();
        udp.at_least = true;
        assert_eq!(comparisons(&results).len(), 1, "nobody is judged by a rate that may be too small");
    }

    #[test]
    fn the_pipeline_is_compared_with_the_single_thread() {
        let mut results = sample();
        let [single, pipeline] = [1, 5].map(|at| results.contenders[at].name.clone());
        assert_eq!([single.as_str(), &pipeline], ["veil-udp-single", "veil-udp-pipeline"]);
        set(&mut results.contenders[5], "bulk-1-forward", 4.4);
        set(&mut results.contenders[5], "bulk-1-forward-cpu", 0.3);
        set(&mut results.contenders[5], "added-idle-inbound-p50", 21.0);
        let all = comparisons(&results);
        let values: Vec<f64> = all.iter().map(|one| one.value).collect();
        assert_eq!(values, [0.5, 1.2, 21.0], "{all:?}");
        let met: Vec<bool> =
            all.iter().map(|one| one.bar.is_some_and(|bar| bar.is_met_by(one.value))).collect();
        assert_eq!(met, [false, true, false]);
    }
}
