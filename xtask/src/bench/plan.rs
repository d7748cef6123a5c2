//! What a run will do. Made by the user's own process, handed as JSON to the one that measures as root.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::contenders::Contender;
use super::figures::Group;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub settings: Settings,
    pub groups: Vec<Group>,
    pub contenders: Vec<Contender>,
    /// `veil-flood`, if it is needed.
    pub flood: Option<PathBuf>,
}

/// How long and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub quick: bool,
    pub rounds: u32,
    /// Of each TCP transfer, in seconds.
    pub bulk_seconds: u32,
    /// Of each rate tried with small packets, in milliseconds.
    pub trial_ms: u64,
    /// Rates tried; each halves the (logarithmic) distance.
    pub trials: u32,
    /// For how long an idle tunnel is pinged, in milliseconds.
    pub idle_ms: u64,
    /// No core sleeps meanwhile. In older files they did.
    #[serde(default)]
    pub awake: bool,
}

impl Settings {
    pub fn new(quick: bool, awake: bool) -> Settings {
        if quick {
            Settings { quick, rounds: 3, bulk_seconds: 2, trial_ms: 400, trials: 6, idle_ms: 1000, awake }
        } else {
            Settings { quick, rounds: 5, bulk_seconds: 5, trial_ms: 1000, trials: 8, idle_ms: 4000, awake }
        }
    }

    pub fn trial(&self) -> Duration {
        Duration::from_millis(self.trial_ms)
    }

    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    /// "medians of 5 rounds, cores kept awake", with a warning where it is due.
    pub fn line(&self) -> String {
        let quick = if self.quick { " (quick: short ones, good for a first look only)" } else { "" };
        let plural = if self.rounds == 1 { "" } else { "s" };
        let awake = if self.awake { ", cores kept awake" } else { "" };
        format!("medians of {} round{plural}{awake}{quick}", self.rounds)
    }
}
