//! `cargo xtask ci`: all that must hold before a change is taken. Every step runs, so that one run tells all.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::needs::{For, NEEDS, cargo_has};
use crate::{build_ebpf, test, vm};

type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("test", || test::test(&test::Options::default())),
    ("other threads", test::other_threads),
    ("AF_XDP", test::af_xdp),
    ("races", test::races),
    ("many cases", test::many_cases),
    ("zero-copy", vm::ci),
    ("format", || cargo(&["fmt", "--all", "--check"])),
    ("lint", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
    ("documentation", documentation),
    ("licences", licences),
    ("eBPF", ebpf),
];

pub fn ci() -> Result<()> {
    let mut results: Vec<(&str, Result<()>, Duration)> = Vec::new();
    for (name, step) in STEPS {
        println!("\n=== {name} ===");
        let start = Instant::now();
        let result = step();
        if let Err(error) = &result {
            println!("{name}: {error:#}");
        }
        results.push((name, result, start.elapsed()));
    }
    println!();
    for (name, result, took) in &results {
        println!("{name:<14} {:<7} {:>4} s", if result.is_ok() { "ok" } else { "FAILED" }, took.as_secs());
    }
    let failed = results.iter().filter(|(_, result, _)| result.is_err()).count();
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
    if cargo_has("deny") {
        return cargo(&["deny", "--workspace", "check", "licenses", "bans", "sources"]);
    }
    if ["CI", "VEIL_PRIVILEGED"].iter().any(|name| std::env::var_os(name).is_some()) {
        bail!("cargo-deny is missing: `cargo xtask setup --install` gets it");
    }
    println!("SKIPPED: cargo-deny is not installed (`cargo xtask setup --install` gets it)");
    Ok(())
}

/// Builds the eBPF program anew, and has it give the same verdicts as the committed one, which the tests have tried.
fn ebpf() -> Result<()> {
    let lacking: Vec<&str> = NEEDS
        .iter()
        .filter(|need| need.purpose == For::Ebpf && !(need.present)())
        .map(|need| need.what)
        .collect();
    if !lacking.is_empty() {
        let missing = format!("{} missing: `cargo xtask setup --install --ebpf` gets it", lacking.join(", "));
        ensure!(std::env::var_os("CI").is_none(), "{missing}");
        println!("!! SKIPPED: the eBPF program is not built anew here: {missing}");
        return Ok(());
    }
    let object = build_ebpf::build()?;
    let same = std::fs::read(&object)? == std::fs::read(build_ebpf::committed())?;
    println!(
        "the program built here {} the committed one",
        if same { "is" } else { "differs in bytes from" }
    );
    let mut tests = crate::cargo();
    tests.env("VEIL_STEER_OBJECT", object);
    tests.args(["test", "--package", "veil-tests", "--test", "steering", "--", "by_aya", "by_libbpf"]);
    finish(tests)
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
