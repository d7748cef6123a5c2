//! The child of the key memory test: the real code with entropy that the parent foresees. Never part of `veil`.
//!
//! `veil-seeded daemon SEED CONFIG CONTROL STATE` is `veil run` as it is; `veil-seeded virtual SEED FOLDER PUBLIC-KEY` drives the
//! protocol's two halves in virtual time, as its stdin says; `veil-seeded plant SEED` holds bytes for the scanner to find. When the
//! work is done and its owner dropped, the child says `over` and lives on until its stdin ends, so that its memory can be read.

mod plant;
mod virtual_time;

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use veil_tests::seeded::Seeded;
use veil_userspace::config::{Config, LinkMode, ThreadsChoice};
use veil_userspace::daemon::{self, RunOptions};

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["daemon", seed, config, control, state] => run_daemon(seed.parse()?, config, control, state)?,
        ["virtual", seed, folder, peer] => virtual_time::run(seed.parse()?, Path::new(folder), peer)?,
        ["plant", seed] => plant::run(seed.parse()?)?,
        _ => bail!("unknown arguments {arguments:?}"),
    }
    say("over")?;
    while hear()?.is_some() {}
    Ok(())
}

/// As `veil run` does it.
fn run_daemon(seed: u64, config: &str, control: &str, state: &str) -> Result<()> {
    let config = Config::load(Path::new(config))?;
    let options = RunOptions {
        xdp_mode: None,
        iface: None,
        link: LinkMode::Auto,
        threads: threads()?,
        control: Some(PathBuf::from(control)),
        state: Some(PathBuf::from(state)),
    };
    daemon::run_with(config, options, Box::new(Seeded::new(seed)))
}

/// The mode that `VEIL_THREADS` names, as for the daemons of the lab.
fn threads() -> Result<ThreadsChoice> {
    match std::env::var("VEIL_THREADS").as_deref() {
        Ok("pipeline") => Ok(ThreadsChoice::Pipeline),
        Ok("single") => Ok(ThreadsChoice::Single),
        Ok(other) => bail!("VEIL_THREADS={other} is no threading mode"),
        Err(_) => Ok(ThreadsChoice::Auto),
    }
}

/// One line to the parent.
fn say(line: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("the parent is gone")
}

/// One line from the parent; none once it has nothing more to say.
fn hear() -> Result<Option<String>> {
    let mut line = String::new();
    let len = io::stdin().lock().read_line(&mut line)?;
    Ok((len > 0).then(|| line.trim_end().to_owned()))
}
