//! A program of the `veil-bench` crate at work in a namespace: it says "ready", goes on until its input is closed, and
//! then reports "COUNT NANOSECONDS". Dropping it ends it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use veil_lab::terminate;

const GONE_WITHIN: Duration = Duration::from_secs(3);

pub struct Helper {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts it and waits until it is ready.
    pub fn start(mut command: Command) -> Result<Helper> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting it")?;
        let said = BufReader::new(child.stdout.take().context("it has no output")?);
        let mut helper = Helper { child, said };
        let mut line = String::new();
        helper.said.read_line(&mut line)?;
        ensure!(line.trim() == "ready", "a program of veil-bench did not start");
        Ok(helper)
    }

    /// Tells it to end; what it counted, per second.
    pub fn finish(mut self) -> Result<f64> {
        drop(self.child.stdin.take());
        let mut report = String::new();
        self.said.read_to_string(&mut report)?;
        rate(&report)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // A drop has nobody to tell; the lab ends whatever is left inside.
        let _ = terminate(&mut self.child, GONE_WITHIN);
    }
}

/// A second's worth out of "COUNT NANOSECONDS".
fn rate(report: &str) -> Result<f64> {
    let numbers: Vec<f64> = report.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [count, nanoseconds] = numbers[..] else { bail!("a program of veil-bench reported {report:?}") };
    ensure!(count > 1.0 && nanoseconds > 0.0, "it counted nothing");
    Ok(count / (nanoseconds * 1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_rate_and_silence_is_an_error() {
        assert_eq!(rate("300000 500000000\n").unwrap(), 600_000.0);
        for wrong in ["0 0", "", "5", "1 0", "many packets"] {
            assert!(rate(wrong).is_err(), "{wrong:?}");
        }
    }
}
