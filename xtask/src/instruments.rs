//! What CI looks at the tests with, besides their own assertions: ThreadSanitizer, LeakSanitizer and Miri.
//!
//! Each is first shown a test that does on purpose what it is there to find (`tests/pipeline/planted.rs`), and must find
//! it. Where one cannot be had the step is skipped, and says why; in CI only Miri may be missing.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::ci::{Skipped, lacking_tool};
use crate::needs::nightly_has;
use crate::test::chosen;

const PIPELINE: &[&str] = &["--test", "pipeline"];

/// What Miri is shown: what neither calls foreign code, as cryptography and sockets do, nor takes long.
const FOR_MIRI: &[(&str, &[&str])] = &[
    (
        "veil-proto",
        &[
            "allowed_ips::",
            "counter::tests",
            "mux::config::",
            "mux::control::",
            "mux::frame::",
            "path::tests",
            "session::reassembly::",
            "session::replay_window::",
            "thread_checker::",
            "time::tests",
            "timers::",
            // It asks for its number of generated cases by itself.
            "--skip=the_window_answers",
        ],
    ),
    ("veil-userspace", &["event_loop::added", "frame::", "histogram::", "process::waiting"]),
    // A frame lost on purpose is a leak.
    ("veil-xdp", &["frame::", "--skip=dropping_a_frame"]),
];

/// The event loops in memory under ThreadSanitizer, which takes a nightly compiler.
pub fn races() -> Result<()> {
    let known = crate::workspace().join("tests/pipeline/thread-sanitizer.supp");
    let cargo = || {
        let mut cargo = sanitized("thread", "target/races");
        // Optimised, or the standard library's inline functions would stay in the library, which is not instrumented.
        cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        cargo.env("TSAN_OPTIONS", format!("suppressions={}", known.display()));
        cargo
    };
    needs_nightly()?;
    finds(&mut cargo(), "planted_race", "data race")?;
    passes(&mut cargo())
}

/// The same under LeakSanitizer: start, a thousand sessions, stop, and nothing is left. It comes with the nightly compiler;
/// that of GCC 12 reads its list of threads while another thread may be moving it, and crashed.
pub fn leaks() -> Result<()> {
    let cargo = || sanitized("leak", "target/leaks");
    needs_nightly()?;
    finds(&mut cargo(), "planted_leak", "detected memory leaks")?;
    passes(&mut cargo())
}

fn needs_nightly() -> Result<()> {
    ensure!(
        nightly_has("rustc"),
        lacking_tool("no nightly compiler (`rustup toolchain install nightly`)".into())
    );
    Ok(())
}

/// A run of the event loops in memory, built with a sanitizer.
fn sanitized(sanitizer: &str, target: &str) -> Command {
    let mut cargo = nightly();
    cargo.env("RUSTFLAGS", format!("-Zsanitizer={sanitizer} -Cunsafe-allow-abi-mismatch=sanitizer"));
    // With a target named, build scripts and macros are spared the sanitizer.
    cargo.args(["test", "--target", "x86_64-unknown-linux-gnu", "--target-dir", target]);
    cargo.args(["--package", "veil-pipeline"]).args(PIPELINE);
    cargo
}

/// What Miri can run, which interprets: no foreign code, and no generated cases, of which the plain tests have plenty.
pub fn miri() -> Result<()> {
    let there = nightly_has("miri") && nightly_has("rust-src");
    ensure!(there, Skipped("no Miri (`rustup component add --toolchain nightly miri rust-src`)".into()));
    let cargo = |package: &str| {
        let mut cargo = nightly();
        cargo.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "0");
        cargo.args(["miri", "test", "--no-default-features", "--package", package]);
        cargo
    };
    finds(cargo("veil-pipeline").args(PIPELINE), "planted_race", "Data race detected")?;
    finds(cargo("veil-pipeline").args(PIPELINE), "planted_leak", "memory leaked")?;
    for (package, tests) in FOR_MIRI {
        let of_library = || {
            let mut cargo = cargo(package);
            cargo.arg("--lib");
            cargo
        };
        chosen(of_library, tests).with_context(|| format!("of {package}"))?;
    }
    Ok(())
}

/// Runs the test that does on purpose what is looked for: `finding` must be said of it.
fn finds(cargo: &mut Command, planted: &str, finding: &str) -> Result<()> {
    let output = cargo.args(["--", planted, "--ignored"]).output().context("starting cargo")?;
    // Miri speaks where the test does, the sanitizers where cargo does.
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    ensure!(!output.status.success() && said.contains(finding), "{planted} is not found:\n{said}");
    println!("{planted} is found");
    Ok(())
}

fn passes(cargo: &mut Command) -> Result<()> {
    let status = cargo.status().context("starting cargo")?;
    ensure!(status.success(), "failed ({status})");
    Ok(())
}

/// A cargo command by the nightly toolchain, which is not what the outer cargo was started with.
fn nightly() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(crate::workspace()).env_remove("RUSTUP_TOOLCHAIN").arg("+nightly");
    cargo
}
