//! A running `veil` daemon, its log and its control socket. Dropping it ends it (SIGTERM, then SIGKILL).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::namespace::Namespace;
use crate::program::{run, terminate};

const READY_WITHIN: Duration = Duration::from_secs(15);
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// A daemon in a namespace.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    program: PathBuf,
    interface: String,
    control: PathBuf,
    log: PathBuf,
    finished: bool,
}

/// How a daemon ended and all it said.
#[derive(Debug)]
pub struct Stopped {
    pub status: ExitStatus,
    pub log: String,
}

impl Daemon {
    /// Starts `veil run` in `namespace`, by that program, and returns once its control socket answers and the log says it is ready.
    /// Log and control socket are placed in `folder`.
    pub fn start(
        veil: &Path,
        namespace: &Namespace,
        interface: &str,
        config: &Path,
        folder: &Path,
        arguments: &[&str],
    ) -> Result<Daemon> {
        let (control, log) = (folder.join("veil.sock"), folder.join("veil.log"));
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = namespace
            .command(veil)
            .args(["run", "--config"])
            .arg(config)
            .arg("--control")
            .arg(&control)
            .args(arguments)
            .args(threads(arguments))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C at a terminal is for whoever runs the lab; the lab then ends its daemons in order.
            .process_group(0)
            .spawn()
            .context("starting veil")?;
        let (program, interface) = (veil.to_owned(), interface.to_owned());
        let mut daemon = Daemon { child, program, interface, control, log, finished: false };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    /// `veil show` with further arguments ("--json", a peer's name).
    pub fn show(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(&self.program).arg("show").args(arguments).arg("--control").arg(&self.control))
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The control socket's path.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// SIGTERM, then waits for a clean end; an error if there is none in time.
    pub fn stop(mut self) -> Result<Stopped> {
        let status = self.terminate()?;
        Ok(Stopped { status, log: self.log() })
    }

    /// SIGKILL: the daemon gets no chance to say goodbye.
    pub fn kill9(mut self) -> Result<()> {
        self.child.kill().context("killing veil")?;
        self.child.wait().context("waiting for veil")?;
        self.finished = true;
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let announcement = format!("{}: ready", self.interface);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                self.finished = true;
                bail!("veil ended ({status}) before it was ready:\n{}", self.log());
            }
            if self.log().contains(&announcement) && self.show(&[]).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("veil was not ready within {READY_WITHIN:?}; its log:\n{}", self.log());
    }

    fn terminate(&mut self) -> Result<ExitStatus> {
        let (status, in_time) = terminate(&mut self.child, GONE_WITHIN)?;
        self.finished = true;
        if in_time {
            return Ok(status);
        }
        bail!("veil did not end within {GONE_WITHIN:?} of SIGTERM; its log:\n{}", self.log());
    }
}

/// Which threading mode the daemons of this run are to use, by `VEIL_THREADS`, where the test itself does not say.
fn threads(arguments: &[&str]) -> Vec<String> {
    match std::env::var("VEIL_THREADS") {
        Ok(mode) if !arguments.contains(&"--threads") => vec!["--threads".to_owned(), mode],
        _ => Vec::new(),
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.finished && self.terminate().is_err() {
            // Killed by now, and a drop has nobody to tell.
        }
        if thread::panicking() {
            // `eprintln!` panics when stderr is a closed pipe, and a second panic would abort before the lab is cleared.
            let _ = writeln!(io::stderr(), "--- log of {} ---\n{}", self.interface, self.log());
        }
    }
}
