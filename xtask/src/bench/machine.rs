//! What a figure depends on besides the program: the machine and the source it was built from.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use veil_lab::run;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// The frequency governor; virtual machines have none.
    pub governor: Option<String>,
    /// The one-minute load average before anything was measured; the build that went before is in it.
    pub load: f64,
    /// The part of the processors' time that was at work in the last second before anything was measured, and that was
    /// others' work. Older files lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<f64>,
    pub commit: String,
    /// Whether the source differed from the commit.
    pub dirty: bool,
    pub rustc: String,
}

/// Long enough to see whoever works now and then.
const LOOK: Duration = Duration::from_secs(1);

impl Machine {
    /// Takes a second, in which nothing of ours may be at work.
    pub fn look() -> Result<Machine> {
        let git = |words: &[&str]| run(Command::new("git").current_dir(crate::workspace()).args(words));
        let rustc = run(Command::new("rustc").current_dir(crate::workspace()).arg("--version"));
        Ok(Machine {
            cpu: cpu_model(&read("/proc/cpuinfo")).unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            governor: fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                .ok()
                .map(|governor| governor.trim().to_owned()),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            // A source archive has no commit.
            commit: git(&["rev-parse", "--short=8", "HEAD"])
                .map_or_else(|_| "unknown".to_owned(), |hash| hash.trim().to_owned()),
            // What earlier runs wrote is no part of what is measured.
            dirty: git(&["status", "--porcelain", "--", ".", ":!bench/results"])
                .is_ok_and(|changes| !changes.is_empty()),
            rustc: rustc.ok().and_then(|line| line.split(' ').nth(1).map(Into::into)).unwrap_or_default(),
            // Last, so that the programs above have ended.
            busy: busy(),
        })
    }

    /// One line for above a table.
    pub fn line(&self) -> String {
        let governor =
            self.governor.as_ref().map_or(String::new(), |governor| format!(", governor {governor}"));
        let dirty = if self.dirty { " with changes" } else { "" };
        let (cpu, cores, kernel, commit) = (&self.cpu, self.cores, &self.kernel, &self.commit);
        format!("{cores} cores of {cpu}, Linux {kernel}{governor}, commit {commit}{dirty}")
    }
}

/// Empty if it cannot be read: a fact that is missing does not stop a measurement.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The part of the processors' time that is at work, from now on and for [`LOOK`].
fn busy() -> Option<f64> {
    let before = CpuTime::parse(&read("/proc/stat"))?;
    thread::sleep(LOOK);
    CpuTime::parse(&read("/proc/stat"))?.busy_since(before)
}

/// Ticks of all processors since the machine started.
#[derive(Clone, Copy, Debug, PartialEq)]
struct CpuTime {
    all: u64,
    idle: u64,
}

impl CpuTime {
    /// The first row of proc_stat(5). What another virtual machine took (steal) is work, and in user's and nice's columns a
    /// guest's time is counted already.
    fn parse(stat: &str) -> Option<CpuTime> {
        let columns = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = columns.split_ascii_whitespace().take(8).flat_map(str::parse).collect();
        let [_user, _nice, _system, idle, iowait, ..] = ticks[..] else { return None };
        Some(CpuTime { all: ticks.iter().sum(), idle: idle + iowait })
    }

    fn busy_since(self, before: CpuTime) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|ticks| *ticks > 0)?;
        // A processor's idle time may go back a little (the same page, of iowait).
        let idle = self.idle.saturating_sub(before.idle).min(all);
        Some(((all - idle) as f64 / all as f64 * 1e3).round() / 1e3)
    }
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let named = |line: &'static str| {
        move |text: &'_ str| text.split_once(':').filter(|(name, _)| name.trim() == line).is_some()
    };
    // x86 says "model name"; many ARM kernels only say which implementation it is.
    let line = cpuinfo.lines().find(|line| named("model name")(line));
    let line = line.or_else(|| cpuinfo.lines().find(|line| named("CPU part")(line)))?;
    Some(line.split_once(':')?.1.trim())
}

/// Today in UTC, as `2026-01-31`.
pub fn today() -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    date(since_epoch.as_secs() / 86_400)
}

/// The Gregorian date so many days after 1970-01-01.
fn date(days: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut days) = (1970, days);
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_know_leap_years() {
        // By date(1): `date -u -d @$((86400 * days)) +%F`.
        let known = [
            (0, "1970-01-01"),
            (364, "1970-12-31"),
            (365, "1971-01-01"),
            (11_016, "2000-02-29"),
            (19_782, "2024-02-29"),
            (19_783, "2024-03-01"),
            (20_453, "2025-12-31"),
            (47_541, "2100-03-01"),
        ];
        for (days, expected) in known {
            assert_eq!(date(days), expected);
        }
    }

    #[test]
    fn all_but_waiting_is_work_and_a_guests_time_is_not_counted_twice() {
        let of = |row: &str| CpuTime::parse(&format!("{row}\ncpu0 9 9 9 9 9 9 9 9 9 9\n"));
        let before = of("cpu  100 10 50 1000 40 5 5 20 100 0").unwrap();
        assert_eq!(before, CpuTime { all: 1230, idle: 1040 });
        // 10 for each of user, system and steal; 60 idle, 10 waiting for a disk.
        let after = of("cpu  110 10 60 1060 50 5 5 30 110 0").unwrap();
        assert_eq!(after.busy_since(before), Some(0.3));
        assert_eq!(before.busy_since(before), None, "no time has passed");
        assert_eq!(of("cpu  1 2 3"), None);
        assert_eq!(CpuTime::parse(""), None);
    }

    #[test]
    fn the_processor_is_named_on_x86_and_on_arm() {
        assert_eq!(
            cpu_model("processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC 9B14\n"),
            Some("AMD EPYC 9B14")
        );
        assert_eq!(cpu_model("processor\t: 0\nCPU part\t: 0xd0c\n"), Some("0xd0c"));
        assert_eq!(cpu_model(""), None);
    }
}
