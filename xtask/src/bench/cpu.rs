//! How much processor time a program has used: proc_pid_stat(5).

use std::fs;

use anyhow::{Context, Result};

/// USER_HZ: what the kernel counts in towards user space, the same on every architecture VEIL builds for.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of all threads of a process, in seconds.
pub fn seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let line =
        fs::read_to_string(&path).with_context(|| format!("reading {path} (has the daemon ended?)"))?;
    ticks(&line)
        .map(|ticks| ticks as f64 / TICKS_PER_SECOND)
        .with_context(|| format!("{path} is odd: {line}"))
}

/// What each thread of a process is called, and the seconds it has used.
pub fn threads(pid: u32) -> Result<Vec<(String, f64)>> {
    let folder = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&folder).with_context(|| format!("reading {folder} (has the daemon ended?)"))?;
    // Those that end while they are looked at have nothing to do with what is measured.
    let lines = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    Ok(lines
        .filter_map(|line| Some((name(&line)?.to_owned(), ticks(&line)? as f64 / TICKS_PER_SECOND)))
        .collect())
}

/// Seconds that the kernel's own threads have used: packets whose way nobody else could be charged with.
pub fn kernel_threads() -> Result<f64> {
    let processes = fs::read_dir("/proc").context("reading /proc")?;
    let lines =
        processes.flatten().filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    let used: u64 = lines.filter(|line| is_kernel_thread(line)).filter_map(|line| ticks(&line)).sum();
    Ok(used as f64 / TICKS_PER_SECOND)
}

/// Field 2.
fn name(line: &str) -> Option<&str> {
    let (before, _) = line.rsplit_once(')')?;
    before.split_once('(').map(|(_, name)| name)
}

/// By field 9, the flags of the kernel's include/linux/sched.h.
fn is_kernel_thread(line: &str) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let behind_name = line.rsplit_once(')').map_or("", |(_, behind)| behind);
    let flags = behind_name.split_ascii_whitespace().nth(9 - 3).and_then(|flags| flags.parse().ok());
    flags.is_some_and(|flags: u32| flags & PF_KTHREAD != 0)
}

/// utime + stime: fields 14 and 15. The name in field 2 may hold spaces and brackets, so counting starts behind it.
fn ticks(line: &str) -> Option<u64> {
    let (_, behind_name) = line.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(14 - 3);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_read_behind_any_name() {
        let line = "42 (a) b 1 2) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 9 20 0 1 0 100 0 0";
        assert_eq!(ticks(line), Some(300));
        assert_eq!(name(line), Some("a) b 1 2"));
        assert!(!is_kernel_thread(line));
        assert!(is_kernel_thread("12 (ksoftirqd/0) S 2 0 0 0 -1 69238848 0 0 0 0 0 5 0 0 20 0 1 0 0 0 0"));
        assert_eq!(ticks("42 (veil) S 1 2 3"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn this_process_has_a_time_and_an_impossible_one_has_none() {
        assert!(seconds(std::process::id()).unwrap() >= 0.0);
        assert!(seconds(u32::MAX).is_err());
        assert!(!threads(std::process::id()).unwrap().is_empty() && threads(u32::MAX).is_err());
    }
}
