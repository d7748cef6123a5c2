//! `cargo xtask test`: builds `veil`, then runs every test of the workspace against that very program.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use veil_lab::Profile;

use crate::elevate::as_root;
use crate::{ci, vm};

#[derive(Args, Default)]
pub struct Options {
    /// Also run what takes minutes
    #[arg(long)]
    long: bool,
    /// Test the optimised program
    #[arg(long)]
    release: bool,
    /// Build as you, run the tests as root
    #[arg(long)]
    sudo: bool,
    /// Only boot a virtual machine whose NICs can do zero-copy, and test there
    #[arg(long, value_name = "NICS", num_args = 0..=1, default_missing_value = "all", conflicts_with_all = ["long", "sudo", "cargo"])]
    vm: Option<vm::Nics>,
    /// How the daemons in the virtual machine carry datagrams: udp or xdp
    #[arg(long, value_name = "LINK", requires = "vm")]
    vm_link: Option<String>,
    /// Passed on to `cargo test`, after `--`
    #[arg(last = true)]
    cargo: Vec<String>,
    /// No test may skip
    #[arg(skip)]
    strict: bool,
}

impl Options {
    /// As `ci` tests.
    pub fn for_ci() -> Options {
        Options { strict: ci::forbids_skipping(), ..Options::default() }
    }
}

/// Set to 1, a test that would skip fails instead.
pub const NO_SKIP: &str = "VEIL_PRIVILEGED";

/// How many random sequences of events the tunnel must survive in CI; two cores play them in a minute.
const MANY: &str = "10000";

pub fn test(options: &Options) -> Result<()> {
    let profile = if options.release { Profile::Release } else { Profile::Debug };
    if let Some(nics) = options.vm {
        return vm::vm(nics, options.vm_link.as_deref().unwrap_or(vm::LINK), profile);
    }
    if veil_lab::is_root() {
        sweep();
    } else if options.sudo {
        let myself = std::env::current_exe().context("finding this program")?;
        let status = as_root(myself)?.arg("sweep").status().context("starting it as root")?;
        ensure!(status.success(), "cannot remove what killed tests have left behind");
    } else {
        println!("Not root: tests that need network namespaces will be skipped (`--sudo` runs them).");
    }
    let mut cargo = command(options)?;
    let status = cargo.status().context("starting cargo test")?;
    ensure!(status.success(), "tests failed");
    Ok(())
}

/// Removes what tests that were killed have left behind; whose they were as root, only root can.
pub fn sweep() {
    for name in veil_lab::sweep_leftovers() {
        println!("removed {name}, left behind by a test that was killed");
    }
}

/// The random sequences of the protocol tests alone, as many as a change must survive before it is taken.
pub fn many_cases() -> Result<()> {
    let cargo = || {
        let mut cargo = crate::cargo();
        cargo.env("VEIL_CASES", MANY).args(["test", "--workspace", "--test", "protocol"]);
        cargo
    };
    chosen(cargo, &["random_operations"]).with_context(|| format!("{MANY} random sequences"))
}

/// Runs the tests that `cargo` would run and whose names contain one of `filters`; further arguments of test programs may
/// be among these. Each filter must find a test, since one that finds none any more would let everything pass.
pub fn chosen(cargo: impl Fn() -> Command, filters: &[&str]) -> Result<()> {
    let mut list = cargo();
    let listed = list.args(["--", "--list"]).stderr(Stdio::inherit()).output().context("starting cargo")?;
    ensure!(listed.status.success(), "the tests cannot be listed ({})", listed.status);
    let listed = String::from_utf8_lossy(&listed.stdout);
    let idle = finding_none(filters, &listed);
    ensure!(idle.is_empty(), "no test has {} in its name", idle.join(" or "));
    let status = cargo().arg("--").args(filters).status().context("starting cargo")?;
    ensure!(status.success(), "failed ({status})");
    Ok(())
}

/// The filters that find nothing among what `--list` prints: "NAME: test", one a line.
fn finding_none<'a>(filters: &[&'a str], listed: &str) -> Vec<&'a str> {
    let names: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let words = filters.iter().copied().filter(|filter| !filter.starts_with("--"));
    words.filter(|filter| !names.iter().any(|name| name.contains(filter))).collect()
}

/// The daemons of the kernel tests and of the key memory test in the threading mode that this machine does not choose by
/// itself: with the plain run, every scenario is seen in both.
pub fn other_threads() -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mode = if cores < 4 { "pipeline" } else { "single" };
    let mut cargo = command(&Options::for_ci())?;
    cargo.env("VEIL_THREADS", mode).args(["--test", "kernel", "--test", "key_memory"]);
    let status = cargo.status().context("starting cargo test")?;
    ensure!(status.success(), "tests failed with the daemons in {mode} mode");
    Ok(())
}

/// Every kernel scenario over AF_XDP: in native mode on one thread and on several; in generic mode on one, without AF_XDP's
/// own scenarios, which choose the mode themselves.
pub fn af_xdp() -> Result<()> {
    let own: &[&str] = &["--", "--skip", "xdp::"];
    for (link, threads, skip) in
        [("xdp", "single", &[][..]), ("xdp", "pipeline", &[]), ("xdp-generic", "single", own)]
    {
        let mut cargo = command(&Options::for_ci())?;
        cargo.env("VEIL_LINK", link).env("VEIL_THREADS", threads).args(["--test", "kernel"]).args(skip);
        let status = cargo.status().context("starting cargo test")?;
        ensure!(status.success(), "tests failed with VEIL_LINK={link} and VEIL_THREADS={threads}");
    }
    Ok(())
}

fn command(options: &Options) -> Result<Command> {
    let profile = if options.release { Profile::Release } else { Profile::Debug };
    let veil = veil_lab::build_with_tests("veil", profile)?;
    // Always optimised: what it must not leave in memory is a matter of what the optimiser makes of it.
    let seeded = veil_lab::build_program("veil-tests", "veil-seeded", Profile::Release)?;
    let mut cargo = crate::cargo();
    cargo.env("VEIL_BIN", veil).env("VEIL_SEEDED_BIN", seeded).args(["test", "--workspace"]);
    if options.release {
        cargo.arg("--release");
    }
    if options.strict {
        cargo.env(NO_SKIP, "1");
    }
    if options.long {
        cargo.env("VEIL_LONG", "1");
    }
    if options.sudo && !veil_lab::is_root() {
        cargo.args([
            "--config",
            r#"target."cfg(all())".runner = ["sudo", "--preserve-env=VEIL_BIN,VEIL_SEEDED_BIN,VEIL_LONG,VEIL_PRIVILEGED,VEIL_LINK,VEIL_THREADS,VEIL_CASES,VEIL_SEED"]"#,
        ]);
    }
    cargo.args(&options.cargo);
    Ok(cargo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_finds_no_test_is_noticed() {
        let listed =
            "frame::tests::a_frame_comes_home: test\nhistogram::tests::ends: test\n\n2 tests, 0 benchmarks\n";
        assert!(finding_none(&["frame::", "histogram::", "--skip=ends"], listed).is_empty());
        assert_eq!(
            finding_none(&["frame::", "counter::", "benchmarks"], listed),
            ["counter::", "benchmarks"]
        );
        assert_eq!(finding_none(&["frame::"], ""), ["frame::"]);
    }
}
