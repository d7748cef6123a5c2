//! System calls that VEIL's daemons make to move packets, by their own count (`veil show --json`). Peers do not tell.
//!
//! Waiting (epoll, timers) is not in it: there it takes one call or two for up to four turns of the event loop.

use std::ops::Add;

use anyhow::{Context, Result};
use serde_json::Value;

use super::figures::CALLS;

/// Calls of each kind in [`CALLS`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calls([u64; CALLS.len()]);

impl Calls {
    /// Out of what `veil show --json` prints.
    ///
    /// # Errors
    /// It lacks one of the counters.
    pub fn parse(shown: &str) -> Result<Calls> {
        let shown: Value = serde_json::from_str(shown).context("`veil show --json` printed no JSON")?;
        let mut calls = [0; CALLS.len()];
        for (count, (counter, _)) in calls.iter_mut().zip(CALLS) {
            let found = shown["counters"][counter].as_u64();
            *count = found.with_context(|| format!("`veil show --json` does not count {counter}"))?;
        }
        Ok(Calls(calls))
    }

    pub fn since(self, before: Calls) -> Calls {
        Calls(std::array::from_fn(|kind| self.0[kind].saturating_sub(before.0[kind])))
    }

    /// Of each kind for each of `units`, and their sum.
    pub fn per(self, units: f64) -> ([f64; CALLS.len()], f64) {
        let each = self.0.map(|calls| calls as f64 / units.max(1e-9));
        (each, each.iter().sum())
    }
}

impl Add for Calls {
    type Output = Calls;

    fn add(self, other: Calls) -> Calls {
        Calls(std::array::from_fn(|kind| self.0[kind] + other.0[kind]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str =
        r#"{"counters": {"receive_calls": 5, "send_calls": 6, "tun_read_calls": 7, "tun_write_calls": 8}}"#;
    const AFTER: &str = r#"{"counters": {"receive_calls": 15, "send_calls": 26, "tun_read_calls": 37, "tun_write_calls": 48}}"#;

    #[test]
    fn both_daemons_calls_are_shared_out_over_what_was_moved() {
        let [before, after] = [BEFORE, AFTER].map(|shown| Calls::parse(shown).unwrap());
        let both = after.since(before) + after.since(before);
        assert_eq!(both.per(2.0), ([10.0, 20.0, 30.0, 40.0], 100.0));
    }

    #[test]
    fn a_counter_that_is_missing_is_no_zero() {
        let error = Calls::parse(&BEFORE.replace("tun_read_calls", "reads")).unwrap_err();
        assert!(error.to_string().contains("tun_read_calls"), "{error}");
        assert!(Calls::parse("no tunnel").is_err());
    }
}
