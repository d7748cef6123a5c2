//! What the kinds of tests share: reading `veil show --json`, and the check that closes every scenario.
//!
//! At rest nothing is in flight, so what came in equals what went out plus the drops, each of which has a name; and
//! every frame is back in the set it was taken from.

pub mod seeded;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use veil_lab::Daemon;

/// Long enough for a machine busy with other things.
const REST_WITHIN: Duration = Duration::from_secs(30);

/// `veil show --json`, parsed.
pub fn show(daemon: &Daemon) -> Result<Value> {
    // On a busy machine a daemon may answer later than `veil show` waits.
    let text = match daemon.show(&["--json"]) {
        Err(error) if format!("{error:#}").contains("does not answer") => daemon.show(&["--json"])?,
        shown => shown?,
    };
    serde_json::from_str(&text).with_context(|| format!("veil show --json printed {text:?}"))
}

/// Waits until the daemon is at rest and returns what it then shows. Fails if it does not come to rest, which is
/// what a lost packet or a frame that never went home looks like from here.
pub fn assert_conserved(daemon: &Daemon) -> Result<Value> {
    let deadline = Instant::now() + REST_WITHIN;
    loop {
        let shown = show(daemon)?;
        let unbalanced = unbalanced(&shown)?;
        if unbalanced.is_empty() {
            return Ok(shown);
        }
        // A packet may be in flight at this very moment; a leak stays.
        if Instant::now() > deadline {
            bail!("not conserved: {}\n{shown:#}", unbalanced.join("; "));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The peer of that name in what `veil show --json` printed.
pub fn peer<'a>(shown: &'a Value, name: &str) -> Result<&'a Value> {
    let peers = shown["peers"].as_array().context("no list of peers")?;
    peers.iter().find(|peer| peer["name"] == name).with_context(|| format!("no peer {name} in {shown:#}"))
}

/// A number in what `veil show --json` printed.
pub fn number(value: &Value, key: &str) -> Result<u64> {
    value[key].as_u64().with_context(|| format!("no number {key:?} in {value:#}"))
}

fn unbalanced(shown: &Value) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for (table, left, right) in [("conservation", "left", "right"), ("frames", "total", "home")] {
        let entries = shown[table].as_object().with_context(|| format!("no table {table:?} in {shown:#}"))?;
        ensure!(!entries.is_empty(), "the table {table:?} is empty: nothing was checked");
        for (name, entry) in entries {
            let (a, b) = (number(entry, left)?, number(entry, right)?);
            if a != b {
                complaints.push(format!("{table} {name:?}: {left} {a}, {right} {b}"));
            }
        }
    }
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_packet_and_a_frame_abroad_are_named() {
        let shown = serde_json::json!({
            "conservation": {"datagrams": {"left": 3, "right": 2}, "frames": {"left": 1, "right": 1}},
            "frames": {"tun": {"total": 8, "home": 7}},
        });
        let complaints = unbalanced(&shown).unwrap().join("; ");
        assert!(complaints.contains("datagrams") && complaints.contains("tun"), "{complaints}");
        assert!(!complaints.contains("\"frames\""), "{complaints}");
    }

    #[test]
    fn an_empty_table_proves_nothing() {
        assert!(unbalanced(&serde_json::json!({"conservation": {}, "frames": {}})).is_err());
    }
}
