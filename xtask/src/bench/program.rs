//! A peer's daemon in a namespace, with its log. Dropping it ends it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use veil_lab::terminate;

/// For taking interface and socket away after SIGTERM.
const GONE_WITHIN: Duration = Duration::from_secs(3);

pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts what [`veil_lab::Namespace::command`] made, in the foreground.
    pub fn start(mut command: Command, log: &Path) -> Result<Program> {
        let output = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Ctrl-C is for whoever runs the measurement, who then ends its daemons in order.
        let child = command.process_group(0).spawn().context("starting it")?;
        Ok(Program { child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// An error with the log if it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("it ended ({status}):\n{}", self.log()),
            None => Ok(()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A drop has nobody to tell; the lab ends whatever is left inside.
        let _ = terminate(&mut self.child, GONE_WITHIN);
    }
}
