//! Running other programs: `ip` and friends, with their complaint in the error when they fail.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, bail};

use crate::sys;

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

/// Ends a child: SIGTERM, then, if it takes longer than `within`, SIGKILL. How it ended, and whether it did so in time.
pub fn terminate(child: &mut Child, within: Duration) -> io::Result<(ExitStatus, bool)> {
    // It may be gone already: `try_wait` below tells.
    let _ = sys::signal(child.id(), libc::SIGTERM);
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok((status, true));
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    Ok((child.wait()?, false))
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
