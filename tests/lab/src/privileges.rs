//! What the machine lets us do. Without privileges a test skips, loudly; with `VEIL_PRIVILEGED=1` that is a failure,
//! so that CI cannot grow green by skipping.

use std::io::Write;
use std::sync::OnceLock;

use crate::namespace::Namespace;
use crate::program::has_program;
use crate::sys;

/// Whether this process runs as root.
pub fn is_root() -> bool {
    sys::effective_user() == 0
}

/// Whether network namespaces can be made here: root, `ip`, and a kernel that agrees. Asked once per process.
pub fn privileged() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let probe = format!("{}{}-0-probe", crate::leftovers::PREFIX, std::process::id());
        is_root() && Namespace::create(&probe).map(|namespace| namespace.remove()).is_ok()
    })
}

/// `true` if `test` may run. Otherwise says so past the test harness's capture, or panics under `VEIL_PRIVILEGED=1`.
pub fn require_privileges(test: &str) -> bool {
    require(test, privileged(), "needs root and network namespaces; run the tests as root")
}

/// The same rule for a program the test calls.
pub fn require_program(test: &str, program: &str) -> bool {
    require(test, has_program(program), &format!("needs {program}; `cargo xtask setup --install` gets it"))
}

fn require(test: &str, satisfied: bool, need: &str) -> bool {
    if satisfied {
        return true;
    }
    if std::env::var_os("VEIL_PRIVILEGED").is_some_and(|value| value == "1") {
        panic!("{test} {need} (VEIL_PRIVILEGED=1 forbids skipping)");
    }
    // `eprintln!` would be captured and never seen for a test that passes.
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED {test}: {need} ***");
    false
}
