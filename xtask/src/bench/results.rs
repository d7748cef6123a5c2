//! A run's results: what the file in `bench/results/` holds, and where it goes.
//!
//! Nothing in it tells whose machine it was: no host name, no path.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::compare::Comparison;
use super::contenders::Kind;
use super::figures::Figure;
use super::machine::Machine;
use super::plan::Settings;
use super::predict::Prediction;
use super::stats::Spread;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// UTC, as `2026-01-31`.
    pub date: String,
    pub machine: Machine,
    pub settings: Settings,
    pub figures: Vec<Figure>,
    pub contenders: Vec<Entry>,
    /// VEIL's modes against each other, the bare AF_XDP and their bars.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<Comparison>,
    /// What VEIL's modes would carry with more cores than this machine has, by a model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub predictions: Vec<Prediction>,
}

/// One contender and what it reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub kind: Kind,
    pub version: Option<String>,
    /// How its program's SHA-256 begins; of the bare wire that of `veil-raw-xdp`. Older files lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Why it was not measured at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// What went wrong in some round.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
    /// By the figure's key.
    pub figures: BTreeMap<String, Spread>,
}

impl Entry {
    pub fn median(&self, key: &str) -> Option<f64> {
        self.figures.get(key).map(|spread| spread.median)
    }
}

impl Results {
    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.contenders.iter().all(|entry| entry.figures.is_empty())
    }

    pub fn figure(&self, key: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.key == key)
    }

    /// The bare wire's.
    pub fn raw(&self, key: &str) -> Option<&Spread> {
        self.contenders.iter().find(|entry| entry.kind == Kind::Raw)?.figures.get(key)
    }

    /// The one with the best median among the peers'.
    pub fn best_peer(&self, figure: &Figure) -> Option<&Spread> {
        use super::figures::Better;
        let peers = self.contenders.iter().filter(|entry| entry.kind == Kind::Peer);
        let spreads = peers.filter_map(|entry| entry.figures.get(&figure.key));
        match figure.better {
            Better::More => spreads.max_by(|one, other| one.median.total_cmp(&other.median)),
            Better::Less => spreads.min_by(|one, other| one.median.total_cmp(&other.median)),
        }
    }

    pub fn load(path: &Path) -> Result<Results> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no results file", path.display()))
    }

    /// Writes `DATE-COMMIT.json` in `folder`, never over an older one; returns its path.
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let mut names = (1..).map(|number| folder.join(format!("{}.json", self.name(number))));
        let path = names.find(|path| !path.exists()).context("no free name")?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn name(&self, number: u32) -> String {
        let dirty = if self.machine.dirty { "-dirty" } else { "" };
        let quick = if self.settings.quick { "-quick" } else { "" };
        let number = if number == 1 { String::new() } else { format!("-{number}") };
        format!("{}-{}{dirty}{quick}{number}", self.date, self.machine.commit)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::bench::figures::figures;

    /// Results with every kind of contender, for the tests of tables and charts.
    pub fn sample() -> Results {
        let entry = |name: &str, kind, version: Option<&str>, values: &[(&str, [f64; 3])]| Entry {
            name: name.into(),
            kind,
            version: version.map(Into::into),
            sha256: version.map(|_| "ba7816bf8f01cfea".into()),
            missing: None,
            failures: Vec::new(),
            figures: values
                .iter()
                .map(|(key, samples)| ((*key).into(), Spread::of(samples).expect("three samples")))
                .collect(),
        };
        let mut contenders = vec![
            entry(
                "raw",
                Kind::Raw,
                None,
                &[("bulk-1-forward", [20.0, 22.0, 24.0]), ("rtt-idle-p50", [0.006; 3])],
            ),
            entry(
                "veil-udp-single",
                Kind::Veil,
                Some("veil 0.1.0"),
                &[
                    ("bulk-1-forward", [8.0, 8.8, 9.0]),
                    ("bulk-1-forward-cpu", [0.2, 0.25, 0.3]),
                    ("rtt-idle-p50", [0.05, 0.06, 0.07]),
                ],
            ),
            entry(
                "null-cipher",
                Kind::NullCipher,
                Some("veil 0.1.0 <null>"),
                &[("bulk-1-forward", [10.0, 11.0, 12.0])],
            ),
            entry(
                "fast",
                Kind::Peer,
                Some("fast 1"),
                &[("bulk-1-forward", [2.0, 4.4, 5.0]), ("rtt-idle-p50", [0.2, 0.24, 0.3])],
            ),
            entry(
                "slow",
                Kind::Peer,
                None,
                &[("bulk-1-forward", [0.5, 0.55, 0.6]), ("rtt-idle-p50", [0.1, 0.12, 0.13])],
            ),
        ];
        contenders.push(Entry {
            missing: Some("not built: the pipeline is not built in yet".into()),
            ..entry("veil-udp-pipeline", Kind::Veil, None, &[])
        });
        Results {
            date: "2026-01-31".into(),
            machine: Machine {
                cpu: "Some CPU <2 GHz> & more".into(),
                cores: 2,
                kernel: "6.18.0".into(),
                governor: None,
                load: 0.1,
                busy: Some(0.02),
                commit: "0123abcd".into(),
                dirty: true,
                rustc: "1.95.0".into(),
            },
            settings: Settings::new(true, false),
            figures: figures(),
            contenders,
            comparisons: Vec::new(),
            predictions: Vec::new(),
        }
    }

    #[test]
    fn results_survive_the_file_they_are_written_to() {
        let folder = std::env::temp_dir().join(format!("veil-{}-0-results-test", std::process::id()));
        let results = sample();
        let first = results.save(&folder).unwrap();
        let second = results.save(&folder).unwrap();
        assert_eq!(first.file_name().unwrap(), "2026-01-31-0123abcd-dirty-quick.json");
        assert_eq!(second.file_name().unwrap(), "2026-01-31-0123abcd-dirty-quick-2.json");
        assert_eq!(Results::load(&first).unwrap(), results);
        fs::write(&first, "{}").unwrap();
        assert!(Results::load(&first).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn every_file_that_was_ever_written_can_still_be_read() {
        let files = fs::read_dir(crate::workspace().join("bench/results")).unwrap();
        let files = files.map(|file| file.unwrap().path());
        for file in files.filter(|file| file.extension().is_some_and(|ending| ending == "json")) {
            Results::load(&file).unwrap();
        }
    }

    #[test]
    fn the_best_peer_is_the_highest_or_the_lowest_and_never_veil() {
        let results = sample();
        let best = |key| results.best_peer(results.figure(key).unwrap()).map(|spread| spread.median);
        assert_eq!(best("bulk-1-forward"), Some(4.4));
        assert_eq!(best("rtt-idle-p50"), Some(0.12));
        assert_eq!(best("small-one"), None);
        assert_eq!(results.raw("bulk-1-forward").unwrap().median, 22.0);
    }

    #[test]
    fn a_run_in_which_everybody_failed_is_empty() {
        let mut results = sample();
        assert!(!results.is_empty());
        results.contenders.iter_mut().for_each(|entry| entry.figures.clear());
        assert!(results.is_empty());
    }
}
