//! All the user space of the guest that `cargo xtask test --vm` boots: sets the machine up, plays the scenario on each
//! cable, says how it went in its last line on the serial console, and powers off.
//!
//! It is the guest's init. Its arguments, from the kernel's command line: `link=LINK`, what the daemons are told, and
//! for each cable `RUNG=MAC,MAC`: the rung its two NICs can have (`zero-copy` or `copy`), and where they are.

mod machine;
mod probe;
mod scenario;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};

use probe::Rung;

/// What begins every line of ours; the kernel writes to the same console.
const NAME: &str = "veil-guest";

/// A line for whoever waits outside.
pub fn say(what: &str) {
    println!("{NAME}: {what}");
}

/// Two NICs that can hear each other, and the best they can do.
struct Cable {
    best: Rung,
    macs: [String; 2],
}

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("{NAME} is the init of a virtual machine: `cargo xtask test --vm` boots it");
        return ExitCode::FAILURE;
    }
    // Init must not end: whatever happens becomes a last line.
    let result =
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(anyhow!("it panicked, see above")));
    match result {
        Ok(()) => say("passed"),
        Err(error) => say(&format!("FAILED: {error:#}")),
    }
    machine::power_off()
}

fn run() -> Result<()> {
    machine::set_up()?;
    let (link, cables) = arguments(std::env::args().skip(1))?;
    for cable in &cables {
        say(&format!("two NICs that can do {}, daemons with --link {link}", cable.best.name()));
        scenario::play(cable.best, &cable.macs, &link)
            .with_context(|| format!("on the NICs that can do {}", cable.best.name()))?;
    }
    Ok(())
}

fn arguments(words: impl Iterator<Item = String>) -> Result<(String, Vec<Cable>)> {
    let mut link = None;
    let mut cables = Vec::new();
    for word in words {
        let (key, value) = word.split_once('=').with_context(|| format!("argument {word:?} has no '='"))?;
        if key == "link" {
            link = Some(value.to_owned());
            continue;
        }
        let best = Rung::named(key).with_context(|| format!("{key:?} is no rung"))?;
        let (left, right) = value.split_once(',').with_context(|| format!("one MAC in {word:?}"))?;
        cables.push(Cable { best, macs: [left.to_owned(), right.to_owned()] });
    }
    ensure!(!cables.is_empty(), "no cable was named: nothing would be checked");
    Ok((link.context("no link was named")?, cables))
}
