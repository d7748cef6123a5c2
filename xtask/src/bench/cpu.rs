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
        assert_eq!(ticks("42 (veil) S 1 2 3"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn this_process_has_a_time_and_an_impossible_one_has_none() {
        assert!(seconds(std::process::id()).unwrap() >= 0.0);
        assert!(seconds(u32::MAX).is_err());
    }
}
