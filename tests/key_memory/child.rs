//! The child process: `veil-seeded`, optimised, since it is optimised code that users run and whose leftovers matter.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tempfile::NamedTempFile;
use veil_lab::{Profile, build_program};

/// Long enough for a machine busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// `veil-seeded` at work; killed when dropped.
pub struct Child {
    process: Process,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    log: NamedTempFile,
}

impl Child {
    /// Starts it with these arguments.
    pub fn start(mode: &str, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(program()?);
        command.arg(mode).args(arguments);
        Child::spawn(command)
    }

    /// Starts `command`, which becomes `veil-seeded`.
    pub fn spawn(mut command: Command) -> Result<Child> {
        let log = NamedTempFile::new()?;
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log.path())?)
            .spawn()
            .context("starting veil-seeded")?;
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().context("no stdout")?);
        let (sender, lines) = channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Child { process, stdin, lines, log })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its stdin is closed")?;
        writeln!(stdin, "{line}").context("the child is gone")
    }

    pub fn hear(&self) -> Result<String> {
        self.lines
            .recv_timeout(PATIENCE)
            .map_err(|error| anyhow!("the child said nothing ({error}):\n{}", self.log()))
    }

    pub fn expect(&self, wanted: &str) -> Result<()> {
        let line = self.hear()?;
        ensure!(line == wanted, "the child said {line:?} instead of {wanted:?}");
        Ok(())
    }

    /// All it has logged, be it text or not.
    pub fn log_bytes(&self) -> Result<Vec<u8>> {
        Ok(fs::read(self.log.path())?)
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&self.log_bytes().unwrap_or_default()).into_owned()
    }

    /// Waits until it has logged this.
    pub fn wait_for_log(&self, text: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            if Instant::now() > deadline {
                bail!("{text:?} did not come:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Lets it end, which it must do well.
    pub fn end(mut self) -> Result<()> {
        self.stdin = None;
        let status = self.process.wait()?;
        ensure!(status.success(), "it ended with {status}:\n{}", self.log());
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It has ended, or nobody needs it any more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where `veil-seeded` is: `VEIL_SEEDED_BIN`, or built here for release.
pub fn program() -> Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| match std::env::var_os("VEIL_SEEDED_BIN") {
        Some(named) => Ok(PathBuf::from(named)),
        None => build_program("veil-tests", "veil-seeded", Profile::Release).map_err(|e| format!("{e:#}")),
    });
    found.clone().map_err(|error| anyhow!("{error}"))
}
