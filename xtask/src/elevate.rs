//! Doing one thing as root: directly when we are, through sudo when we are not.
//!
//! Only package installation, loading a kernel module and the built programs go through here; cargo never does, so
//! that no file in the target folder ends up owned by root.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Result, ensure};

/// A command that will run as root.
pub fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if veil_lab::is_root() {
        return Ok(Command::new(program));
    }
    ensure!(
        veil_lab::has_program("sudo"),
        "{} needs root and there is no sudo: become root and try again",
        program.as_ref().display()
    );
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    Ok(command)
}
