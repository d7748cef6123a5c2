//! `cargo xtask ci`: all that must hold before a change is taken. Every step runs, so that one run tells all.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::needs::{For, cargo_has, lacking};
use crate::{build_ebpf, instruments, test, vm};

type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("test", || test::test(&test::Options::for_ci())),
    ("other threads", || needs_namespaces().and_then(|()| test::other_threads())),
    ("AF_XDP", || needs_namespaces().and_then(|()| test::af_xdp())),
    ("many cases", test::many_cases),
    ("leaks", instruments::leaks),
    ("races", instruments::races),
    ("Miri", instruments::miri),
    ("zero-copy", vm::ci),
    ("eBPF", ebpf),
    ("format", || cargo(&["fmt", "--all", "--check"])),
    ("lint", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
    ("documentation", documentation),
    ("licences", licences),
];

/// Why a step cannot run on this machine, which is no failure.
#[derive(Debug)]
pub struct Skipped(pub String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

/// Whether what is missing is a failure: in CI, which must not grow green by skipping, and for whoever asks for it as the
/// tests themselves are asked.
pub fn forbids_skipping() -> bool {
    std::env::var_os("CI").is_some() || std::env::var_os(test::NO_SKIP).is_some_and(|value| value == "1")
}

/// Why a step cannot run that CI must: its set-up has just installed what the step takes, so that there it is a failure.
pub fn lacking_tool(why: String) -> anyhow::Error {
    if forbids_skipping() { anyhow!(why) } else { Skipped(why).into() }
}

/// For steps all of whose tests would skip without.
fn needs_namespaces() -> Result<()> {
    veil_lab::privileges().map_err(|why| lacking_tool(why.to_string()))
}

#[derive(clap::Args)]
pub struct Options {
    /// Only the steps of these names
    #[arg(value_name = "STEP", value_parser = STEPS.iter().map(|(name, _)| *name).collect::<Vec<_>>())]
    only: Vec<String>,
}

pub fn ci(options: &Options) -> Result<()> {
    let mut results: Vec<(&str, &str, Duration)> = Vec::new();
    let only = &options.only;
    for (name, step) in
        STEPS.iter().filter(|(name, _)| only.is_empty() || only.iter().any(|only| only == name))
    {
        println!("\n=== {name} ===");
        let start = Instant::now();
        let result = step();
        let verdict = match &result {
            Ok(()) => "ok",
            Err(error) if error.is::<Skipped>() => "SKIPPED",
            Err(_) => "FAILED",
        };
        if let Err(error) = &result {
            println!("{verdict}: {name}: {error:#}");
        }
        results.push((name, verdict, start.elapsed()));
    }
    println!();
    for (name, verdict, took) in &results {
        println!("{name:<14} {verdict:<7} {:>4} s", took.as_secs());
    }
    let failed = results.iter().filter(|(_, verdict, _)| *verdict == "FAILED").count();
    ensure!(failed == 0, "{failed} of {} steps failed", results.len());
    Ok(())
}

fn documentation() -> Result<()> {
    let mut command = crate::cargo();
    command.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--workspace", "--no-deps"]);
    finish(command)
}

/// The advisory database is not asked: CI must not depend on what was published this morning.
fn licences() -> Result<()> {
    let missing = || lacking_tool("cargo-deny is missing (`cargo xtask setup --install` gets it)".into());
    ensure!(cargo_has("deny"), missing());
    cargo(&["deny", "--workspace", "check", "licenses", "bans", "sources"])
}

/// Builds the eBPF program anew, and has it give the same verdicts as the committed one, which the tests have tried. To
/// load it takes what network namespaces take.
fn ebpf() -> Result<()> {
    let lacking = lacking(For::Ebpf);
    if !lacking.is_empty() {
        let missing = lacking.join(", ");
        return Err(lacking_tool(format!("not here: {missing} (`cargo xtask setup --install --ebpf`)")));
    }
    let object = build_ebpf::build()?;
    let same = std::fs::read(&object)? == std::fs::read(build_ebpf::committed())?;
    println!(
        "the program built here {} the committed one",
        if same { "is" } else { "differs in bytes from" }
    );
    needs_namespaces().context("it builds, and was not loaded")?;
    let tests = || {
        let mut tests = crate::cargo();
        tests.env("VEIL_STEER_OBJECT", &object);
        if forbids_skipping() {
            tests.env(test::NO_SKIP, "1");
        }
        tests.args(["test", "--package", "veil-tests", "--test", "steering"]);
        tests
    };
    test::chosen(tests, &["by_aya", "by_libbpf"])
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command = crate::cargo();
    command.args(arguments);
    finish(command)
}

fn finish(mut command: std::process::Command) -> Result<()> {
    let status = command.status().context("starting cargo")?;
    ensure!(status.success(), "failed ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_to_skip_is_one_whatever_is_said_about_it() {
        let skipped = || -> Result<()> { Err(Skipped("no root".into()).into()) };
        assert!(skipped().unwrap_err().is::<Skipped>());
        assert!(skipped().context("it builds").unwrap_err().is::<Skipped>());
        assert!(!anyhow!("no root").is::<Skipped>());
    }
}
