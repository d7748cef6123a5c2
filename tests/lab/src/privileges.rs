//! What the machine lets us do. Without privileges a test skips, loudly; with `VEIL_PRIVILEGED=1` that is a failure,
//! so that CI cannot grow green by skipping.

use std::io::Write;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};

use crate::namespace::Namespace;
use crate::program::has_program;
use crate::sys;

/// Whether this process runs as root.
pub fn is_root() -> bool {
    sys::effective_user() == 0
}

/// Makes sure that network namespaces can be made here. Asked once per process.
///
/// # Errors
/// They cannot, for want of root, of `ip` or of a kernel that agrees.
pub fn privileges() -> Result<()> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    let answer = ANSWER.get_or_init(|| probe().map_err(|error| format!("{error:#}")));
    answer.as_ref().map_err(|why| anyhow!("{why}")).copied()
}

fn probe() -> Result<()> {
    ensure!(is_root(), "network namespaces take root");
    ensure!(
        has_program("ip"),
        "network namespaces take ip (package iproute2), which is missing: `cargo xtask setup --install` gets it"
    );
    let probe = format!("{}{}-0-probe", crate::leftovers::PREFIX, std::process::id());
    let made = Namespace::create(&probe);
    made.context("this kernel or container does not let root make network namespaces")?.remove();
    Ok(())
}

/// `true` if `test` may run. Otherwise says so past the test harness's capture, or panics under `VEIL_PRIVILEGED=1`.
pub fn require_privileges(test: &str) -> bool {
    require(test, privileges())
}

/// The same rule for a program the test calls.
pub fn require_program(test: &str, program: &str) -> bool {
    let missing = || anyhow!("{program} is missing: `cargo xtask setup --install` gets it");
    require(test, has_program(program).then_some(()).ok_or_else(missing))
}

fn require(test: &str, need: Result<()>) -> bool {
    let Err(why) = need else { return true };
    if std::env::var_os("VEIL_PRIVILEGED").is_some_and(|value| value == "1") {
        panic!("{test}: {why} (VEIL_PRIVILEGED=1 forbids skipping)");
    }
    // `eprintln!` would be captured and never seen for a test that passes.
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED {test}: {why} ***");
    false
}
