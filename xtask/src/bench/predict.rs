//! What one stream would reach on more cores than this machine has, by what each stage has cost on those it has.
//!
//! The model: a stage is one thread, so that it is never more than one core; all stages share the machine's cores, and
//! a gigabit costs each of them the same however many there are. So throughput is the smaller of 1 / (the dearest
//! stage) and cores / (all stages together). Both daemons and both ends of iperf3 are on the one machine, as measured.
//! It leaves out that threads on cores of their own switch less and wait for memory more, and that a rate may be bound
//! by waking up. In pipeline mode RX's cost has in it what it carried through stages that slept, which it does as long as its
//! thread has time: so what is predicted of that stage is rather too low. For the cores there are, the prediction stands beside what was measured to show how far it is off.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::figures::{Direction, Group, KERNEL, STAGES, bulk_key, stage_key};
use super::report::number;
use super::results::{Entry, Results};

const CORES: [usize; 3] = [2, 4, 8];
const SHARED: &str = "all cores are busy";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    pub contender: String,
    pub cores: usize,
    /// Of one TCP stream.
    pub gigabits_per_second: f64,
    pub bottleneck: String,
    /// False for as many cores as the machine has: there it is a check of the model.
    pub predicted: bool,
    /// The median, on as many cores as the machine has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
}

/// One for each count of cores and each contender whose stages were measured.
pub fn predictions(results: &Results) -> Vec<Prediction> {
    let here = results.machine.cores;
    let mut counts: Vec<usize> = CORES.into_iter().chain([here]).collect();
    counts.sort_unstable();
    counts.dedup();
    let mut all = Vec::new();
    for entry in &results.contenders {
        let costs = costs(entry);
        if costs.is_empty() {
            continue;
        }
        all.extend(counts.iter().map(|&cores| {
            let (gigabits_per_second, bottleneck) = predict(&costs, cores);
            let measured = entry.median(&bulk_key(Group::Bulk, 1, Direction::Forward));
            Prediction {
                contender: entry.name.clone(),
                cores,
                gigabits_per_second,
                bottleneck: bottleneck.to_owned(),
                predicted: cores != here,
                measured: measured.filter(|_| cores == here),
            }
        }));
    }
    all
}

/// Core-seconds per gigabit of each stage that has any: key, title, cost.
fn costs(entry: &Entry) -> Vec<(&'static str, &'static str, f64)> {
    let measured =
        STAGES.into_iter().filter_map(|(key, title)| Some((key, title, entry.median(&stage_key(key))?)));
    measured.filter(|(_, _, cost)| *cost > 0.0).collect()
}

/// Gbit/s, and what stands in the way of more.
fn predict(costs: &[(&str, &'static str, f64)], cores: usize) -> (f64, &'static str) {
    let together: f64 = costs.iter().map(|(_, _, cost)| cost).sum();
    let shared = (cores as f64 / together, SHARED);
    let threads = costs.iter().filter(|(key, _, _)| *key != KERNEL);
    let alone = threads.map(|(_, title, cost)| (1.0 / cost, *title));
    alone.chain([shared]).min_by(|one, other| one.0.total_cmp(&other.0)).unwrap_or(shared)
}

/// The table of stage costs, and what follows from it; empty where no stage was measured.
pub fn text(results: &Results) -> String {
    let mut out = String::new();
    for entry in &results.contenders {
        let costs = costs(entry);
        if costs.is_empty() {
            continue;
        }
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "\nStages of {}, TCP, 1 stream forward (core-seconds per Gbit)", entry.name);
        for (_, title, cost) in &costs {
            let _ = writeln!(out, "  {title:30} {:>9}", number(*cost));
        }
        let together = costs.iter().map(|(_, _, cost)| cost).sum();
        let _ = writeln!(out, "  {:30} {:>9}", "together", number(together));
        for one in results.predictions.iter().filter(|one| one.contender == entry.name) {
            let rate = number(one.gigabits_per_second);
            let beside = match one.measured {
                Some(measured) => {
                    let percent = 100.0 * measured / one.gigabits_per_second;
                    format!("by the model, {} measured ({percent:.0} % of it)", number(measured))
                }
                None => "predicted".to_owned(),
            };
            let _ = writeln!(
                out,
                "  {} cores: {rate} Gbit/s {beside}; bottleneck: {}",
                one.cores, one.bottleneck
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::sample;
    use crate::bench::stats::Spread;

    #[test]
    fn few_cores_are_shared_and_of_many_the_dearest_stage_has_one() {
        let mut results = sample();
        for (stage, cost) in [("client", 0.05), ("sender-process", 0.1), ("server", 0.05), (KERNEL, 0.2)] {
            let spread = Spread::of(&[cost; 3]).unwrap();
            results.contenders[1].figures.insert(stage_key(stage), spread);
        }
        results.predictions = predictions(&results);
        let rates: Vec<(usize, f64, bool, Option<f64>)> = results
            .predictions
            .iter()
            .map(|one| (one.cores, one.gigabits_per_second, one.predicted, one.measured))
            .collect();
        // The sample's machine has two cores. Kernel threads are many: they bound nothing by themselves.
        assert_eq!(rates, [(2, 5.0, false, Some(8.8)), (4, 10.0, true, None), (8, 10.0, true, None)]);
        assert_eq!(results.predictions[0].bottleneck, SHARED);
        assert_eq!(results.predictions[2].bottleneck, "sending daemon, process");
        let text = text(&results);
        assert!(
            text.contains(
                "2 cores: 5.00 Gbit/s by the model, 8.80 measured (176 % of it); bottleneck: all cores"
            ),
            "{text}"
        );
        assert!(
            text.contains("8 cores: 10.0 Gbit/s predicted; bottleneck: sending daemon, process"),
            "{text}"
        );
    }
}
