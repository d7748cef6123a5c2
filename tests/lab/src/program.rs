//! Running other programs: `ip` and friends, with their complaint in the error when they fail.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Runs `command` to its end and returns what it printed; a failure carries the command line and its stderr.
pub fn run(command: &mut Command) -> Result<String> {
    // A group of its own: Ctrl-C at the terminal must not kill the `ip` that is cleaning up.
    let output = command.process_group(0).output().with_context(|| format!("starting {}", line(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", line(command), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `name` is a program on the search path or in the administrator's folders.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).map(|folder| folder.join(name));
    let mut places = folders.chain(["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name)));
    places.any(|place| place.is_file())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
