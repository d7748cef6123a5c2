//! The run itself, as root: round by round, and within a round one contender after the other, so that a machine that grows
//! slower in the meantime does so for all of them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::calls::Calls;
use super::contenders::Contender;
use super::figures::{CALLS, Direction, Group};
use super::plan::Plan;
use super::progress::Progress;
use super::results::Entry;
use super::stats::Spread;
use super::topology::{Cpu, Tunnel, Wire};
use super::{bulk, flood, latency, raw_xdp, small};
use crate::interrupt;

/// One contender's samples, by figure.
#[derive(Default)]
pub struct Samples {
    all: BTreeMap<String, Vec<f64>>,
    /// Those among them that may be too small.
    at_least: BTreeMap<String, Vec<f64>>,
}

impl Samples {
    pub fn add(&mut self, key: &str, value: f64) {
        self.all.entry(key.to_owned()).or_default().push(value);
    }

    /// Adds what could not be made more: the figure is at least this.
    pub fn add_at_least(&mut self, key: &str, value: f64) {
        self.add(key, value);
        self.at_least.entry(key.to_owned()).or_default().push(value);
    }

    pub fn extend(&mut self, more: Samples) {
        for (ours, theirs) in [(&mut self.all, more.all), (&mut self.at_least, more.at_least)] {
            for (key, values) in theirs {
                ours.entry(key).or_default().extend(values);
            }
        }
    }

    /// What all rounds came to.
    fn spreads(self) -> BTreeMap<String, Spread> {
        let Samples { all, at_least } = self;
        let least = |key: &str| at_least.get(key).map_or(&[][..], Vec::as_slice);
        let spreads = all.into_iter().filter_map(|(key, samples)| {
            let spread = Spread::of(&samples)?.at_least(least(&key));
            Some((key, spread))
        });
        spreads.collect()
    }

    /// What both daemons have used since `before`, for each of `units`. Nothing where there are no daemons.
    pub fn add_cpu(
        &mut self,
        key: &str,
        tunnel: &Tunnel,
        before: Option<Cpu>,
        direction: Direction,
        units: f64,
    ) -> Result<()> {
        if let Some((after, before)) = tunnel.cpu()?.zip(before) {
            self.add_cpu_used(key, after.since(before), direction, units);
        }
        Ok(())
    }

    pub fn add_cpu_used(&mut self, key: &str, used: Cpu, direction: Direction, units: f64) {
        let [sender, receiver] = used.by_role(direction).map(|seconds| seconds / units.max(1e-9));
        self.add(&format!("{key}-cpu"), sender + receiver);
        self.add(&format!("{key}-cpu-sender"), sender);
        self.add(&format!("{key}-cpu-receiver"), receiver);
    }

    /// The system calls that both daemons have made since `before`, for each of `units`. Nothing where nobody counts them.
    pub fn add_calls(&mut self, key: &str, tunnel: &Tunnel, before: Option<Calls>, units: f64) -> Result<()> {
        if let Some((after, before)) = tunnel.calls()?.zip(before) {
            let (each, all) = after.since(before).per(units);
            self.add(&format!("{key}-calls"), all);
            for ((_, kind), calls) in CALLS.into_iter().zip(each) {
                self.add(&format!("{key}-calls-{kind}"), calls);
            }
        }
        Ok(())
    }
}

/// A contender on its way through the rounds.
struct Runner<'a> {
    contender: &'a Contender,
    samples: Samples,
    failures: Vec<String>,
}

impl Runner<'_> {
    /// Notes what went wrong; the rounds that follow may go well. The file gets one line without this machine's paths.
    fn fail(&mut self, what: &str, error: &anyhow::Error, progress: &Progress) {
        let story = format!("{what}: {error:#}");
        progress.say(&format!("{}: {story}", self.contender.name));
        let line = without_paths(story.lines().next().unwrap_or_default());
        if !self.failures.contains(&line) {
            self.failures.push(line);
        }
    }

    fn entry(self) -> Entry {
        let figures = self.samples.spreads();
        let Contender { name, kind, version, sha256, missing, .. } = self.contender.clone();
        Entry { name, kind, version, sha256, missing, failures: self.failures, figures }
    }
}

fn without_paths(line: &str) -> String {
    let words = line.split(' ').map(|word| if word.contains('/') { ".." } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// Measures all of it. An interruption is an error beside what was measured until then.
pub fn measure(plan: &Plan) -> (Vec<Entry>, Result<()>) {
    let new = |contender| Runner { contender, samples: Samples::default(), failures: Vec::new() };
    let mut runners: Vec<Runner> = plan.contenders.iter().map(new).collect();
    let outcome = rounds(plan, &mut runners);
    (runners.into_iter().map(Runner::entry).collect(), outcome)
}

fn rounds(plan: &Plan, runners: &mut [Runner]) -> Result<()> {
    veil_lab::privileges()?;
    for name in veil_lab::sweep_leftovers() {
        eprintln!("removed {name}, left behind by a run that was killed");
    }
    let groups = |contender: &Contender| -> Vec<Group> {
        plan.groups.iter().copied().filter(|group| group.is_for(contender)).collect()
    };
    let present = runners.iter().filter(|runner| runner.contender.missing.is_none());
    let steps: usize = present.map(|runner| groups(runner.contender).len()).sum();
    let mut progress = Progress::new(plan.settings.rounds as usize * steps);
    for round in 1..=plan.settings.rounds {
        for runner in runners.iter_mut().filter(|runner| runner.contender.missing.is_none()) {
            interrupt::check()?;
            let (name, groups) = (&runner.contender.name, groups(runner.contender));
            if groups.is_empty() {
                continue;
            }
            let at = |what: &str| format!("round {round} of {}  {name}  {what}", plan.settings.rounds);
            let tunnel = match Tunnel::start(runner.contender) {
                Ok(tunnel) => tunnel,
                Err(error) => {
                    interrupt::check()?;
                    progress.skip(groups.len());
                    runner.fail("start", &error, &progress);
                    continue;
                }
            };
            for group in groups {
                progress.step(&at(group.word()));
                let mut samples = Samples::default();
                let measured = one(&tunnel, runner.contender, group, plan, &mut samples);
                // Having left its rung meanwhile, it was another link that was measured.
                let steady = tunnel.on_its_rung(runner.contender);
                if steady.is_ok() {
                    runner.samples.extend(samples);
                }
                if let Err(error) = measured.and(steady) {
                    // Ctrl-C also ends what was running, and that is no failure of the contender.
                    interrupt::check()?;
                    runner.fail(group.word(), &error, &progress);
                }
            }
        }
    }
    progress.end();
    Ok(())
}

fn one(
    tunnel: &Tunnel,
    contender: &Contender,
    group: Group,
    plan: &Plan,
    samples: &mut Samples,
) -> Result<()> {
    let settings = &plan.settings;
    match group {
        Group::Latency => latency::measure(tunnel, settings, samples),
        Group::Bulk => bulk::measure(tunnel, group, settings, samples),
        Group::Small => small::measure(tunnel, settings, samples),
        // XDP programs on both ends of a veth pair have turned that offload off, and the kernel keeps it so.
        Group::Segmented if contender.rung().is_some() => bulk::measure(tunnel, group, settings, samples),
        Group::Segmented => {
            let segmented = tunnel.set_wire(Wire::Segmented).context("turning tx-udp-segmentation off");
            let measured = segmented.and_then(|()| bulk::measure(tunnel, group, settings, samples));
            // The groups that follow find the wire as it was, whatever has become of this one.
            measured.and(tunnel.set_wire(Wire::Plain))
        }
        Group::RawXdp => {
            let program = contender.program.as_deref().context("veil-raw-xdp was not built")?;
            raw_xdp::measure(tunnel, program, settings, samples)
        }
        Group::Flood => {
            let program = plan.flood.as_deref().context("veil-flood was not built")?;
            flood::measure(tunnel, program, settings, samples)
        }
        Group::Shaped => {
            tunnel.set_wire(Wire::Shaped).context("shaping the wire (does the kernel have tbf?)")?;
            latency::measure_shaped(tunnel, settings, samples)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_and_tells_no_path() {
        let contenders = super::super::contenders::find(&["raw".to_owned()], &[]).unwrap();
        let mut runner =
            Runner { contender: &contenders[0], samples: Samples::default(), failures: Vec::new() };
        let progress = Progress::new(1);
        for pid in [1, 1] {
            let error = anyhow::anyhow!("reading /proc/{pid}/stat failed\nand a log");
            runner.fail("bulk", &error, &progress);
        }
        assert_eq!(runner.entry().failures, ["bulk: reading .. failed"]);
    }

    #[test]
    fn a_figure_is_at_least_what_its_rounds_were() {
        let mut samples = Samples::default();
        for (value, least) in [(246.0, true), (250.0, false), (244.0, true)] {
            let mut round = Samples::default();
            if least {
                round.add_at_least("small-one", value)
            } else {
                round.add("small-one", value)
            }
            round.add("small-many", value);
            samples.extend(round);
        }
        let spreads = samples.spreads();
        assert_eq!(spreads["small-one"].samples, [246.0, 250.0, 244.0]);
        assert!(spreads["small-one"].at_least && !spreads["small-many"].at_least);
    }

    #[test]
    fn each_daemons_time_is_counted_to_its_role() {
        let mut samples = Samples::default();
        for direction in Direction::BOTH {
            samples.add_cpu_used(direction.word(), Cpu { left: 2.0, right: 6.0 }, direction, 4.0);
        }
        let expected = [("-cpu", [2.0, 2.0]), ("-cpu-sender", [0.5, 1.5]), ("-cpu-receiver", [1.5, 0.5])];
        for (what, values) in expected {
            for (direction, value) in Direction::BOTH.into_iter().zip(values) {
                assert_eq!(samples.all[&format!("{}{what}", direction.word())], [value]);
            }
        }
    }
}
