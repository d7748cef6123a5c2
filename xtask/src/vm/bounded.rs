//! A program that must end in time: its output goes to a file, so that no full pipe can hold it up.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Runs `command` to its end and returns all it said; an error carries the last of it. Killed after `within`.
pub fn bounded(command: &mut Command, log: &Path, within: Duration) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
    let deadline = Instant::now() + within;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("{name} took longer than {within:?}; it said:\n{}", last_lines(log, 15));
        }
        thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        bail!("{name} failed ({status}):\n{}", last_lines(log, 15));
    }
    Ok(text(log))
}

/// The end of a log, or a word that it is empty.
pub fn last_lines(log: &Path, count: usize) -> String {
    let text = text(log);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return "  (nothing)".to_owned();
    }
    lines[lines.len().saturating_sub(count)..].iter().map(|line| format!("  {line}\n")).collect()
}

/// What a log holds; a serial line may carry bytes that are no text.
pub fn text(log: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}
