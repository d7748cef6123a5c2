//! `cargo xtask demo`: a tunnel between two network namespaces of this machine, watched while it works.
//!
//! Needs root and nothing else: ping and transfer are our own. Everything it makes belongs to one `Lab`, which takes
//! it down at the end, after an error and on Ctrl-C alike.

use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use veil_lab::{Daemon, Lab, Namespace, Node, Ping, Transfer};

use crate::elevate::as_root;
use crate::interrupt;

const PINGS: u32 = 10;
const BAR: usize = 30;

#[derive(Args)]
pub struct Options {
    /// How long the transfer runs
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u64,
}

pub fn demo(options: &Options) -> Result<()> {
    // Release, because a demo of an unoptimised cipher would be a demo of something else.
    let veil = match std::env::var_os("VEIL_BIN") {
        Some(named) => named.into(),
        None => crate::program::build(None)?,
    };
    if !veil_lab::is_root() {
        return again_as_root(options, &veil);
    }
    if std::env::var_os("VEIL_BIN").is_none() {
        return again(std::process::Command::new(std::env::current_exe()?), options, &veil);
    }
    interrupt::watch();
    let result = show_off(options);
    match &result {
        Ok(()) => println!("\nBoth daemons, their namespaces and all files are gone again."),
        Err(_) => println!("\nTaken down: daemons, namespaces and files are gone."),
    }
    result
}

/// Network namespaces need root; building does not, and is done.
fn again_as_root(options: &Options, veil: &std::path::Path) -> Result<()> {
    println!("Network namespaces need root, so sudo may ask for your password.");
    let mut command = as_root("env")?;
    command.arg(format!("VEIL_BIN={}", veil.display())).arg(std::env::current_exe()?);
    again(command, options, veil)
}

/// The lab learns of the program by `VEIL_BIN`, which is read at its start.
fn again(mut command: std::process::Command, options: &Options, veil: &std::path::Path) -> Result<()> {
    command.env("VEIL_BIN", veil).args(["demo", "--seconds", &options.seconds.to_string()]);
    Err(command.exec()).context("starting the demo")
}

fn show_off(options: &Options) -> Result<()> {
    veil_lab::privileges()?;
    for name in veil_lab::sweep_leftovers() {
        println!("removed {name}, left behind by a run that was killed");
    }
    let lab = Lab::new("demo")?;
    let (left, right) = two_hosts(&lab)?;
    println!(
        "Two hosts in a box:\n\n  \
         left  10.8.0.1 [{}] 10.99.0.1 ~~~ veth ~~~ 10.99.0.2 [{}] 10.8.0.2  right\n",
        left.interface, right.interface
    );
    // Declared after the lab, so that on any way out they end before their namespaces do.
    let left_daemon = left.start()?;
    let right_daemon = right.start()?;
    println!("Two veil daemons, pid {} and {}, are ready.\n", left_daemon.pid(), right_daemon.pid());

    // The very first one includes the handshake.
    for target in ["10.8.0.2", "fd08::2"] {
        ping(&left.namespace, target)?;
    }
    transfer(&left.namespace, &right.namespace, Duration::from_secs(options.seconds))?;
    summary(&left_daemon)?;
    interrupt::check()?;
    for daemon in [left_daemon, right_daemon] {
        let stopped = daemon.stop()?;
        ensure!(stopped.status.success(), "a daemon ended with {}:\n{}", stopped.status, stopped.log);
    }
    Ok(())
}

fn two_hosts(lab: &Lab) -> Result<(Node, Node)> {
    let mut left = lab.node("l", &["10.8.0.1/24", "fd08::1/64"])?;
    let mut right = lab.node("r", &["10.8.0.2/24", "fd08::2/64"])?;
    lab.veth(&left.namespace, "eth0", &right.namespace, "eth0")?;
    left.namespace.address("eth0", "10.99.0.1/24")?;
    right.namespace.address("eth0", "10.99.0.2/24")?;
    left.add_peer(&right, Some("10.99.0.2:4433"));
    right.add_peer(&left, None);
    Ok((left, right))
}

fn ping(from: &Namespace, target: &str) -> Result<()> {
    let address: IpAddr = target.parse()?;
    let _inside = from.enter()?;
    let mut ping = Ping::new(address)?;
    println!("Ping {target} through the tunnel:");
    let mut answered: Vec<Duration> = Vec::new();
    for number in 1..=PINGS {
        interrupt::check()?;
        match ping.once(56, Duration::from_secs(2))? {
            Some(time) => {
                println!("  {number:>2}  {:>8.3} ms", time.as_secs_f64() * 1e3);
                answered.push(time);
            }
            None => println!("  {number:>2}  no reply"),
        }
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(!answered.is_empty(), "no reply at all: the tunnel does not work");
    println!("  {} of {PINGS} answered\n", answered.len());
    Ok(())
}

fn transfer(from: &Namespace, into: &Namespace, length: Duration) -> Result<()> {
    println!("A TCP transfer through the tunnel, every byte compared on arrival:");
    let transfer = Transfer::start(from, into, "10.8.0.2")?;
    let live = std::io::stdout().is_terminal();
    let start = Instant::now();
    let mut next = Duration::from_secs(1);
    while start.elapsed() < length && transfer.running() {
        interrupt::check()?;
        thread::sleep(Duration::from_millis(100));
        if live || start.elapsed() >= next {
            next += Duration::from_secs(1);
            progress(start.elapsed(), length, transfer.arrived(), if live { '\r' } else { '\n' });
        }
    }
    let elapsed = start.elapsed();
    let bytes = transfer.finish()?;
    if live {
        println!();
    }
    println!(
        "  {:.1} MB arrived intact, {:.0} Mbit/s on this machine with both ends on it\n",
        bytes as f64 / 1e6,
        rate(bytes, elapsed)
    );
    Ok(())
}

fn progress(elapsed: Duration, length: Duration, bytes: u64, end: char) {
    let share = (elapsed.as_secs_f64() / length.as_secs_f64().max(0.001)).min(1.0);
    let full = (share * BAR as f64) as usize;
    let bar = "#".repeat(full) + &".".repeat(BAR - full);
    print!("  [{bar}] {:>9.1} MB {:>7.0} Mbit/s{end}", bytes as f64 / 1e6, rate(bytes, elapsed));
    // A progress line that cannot be shown is no reason to stop.
    let _ = std::io::stdout().flush();
}

fn rate(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 * 8.0 / 1e6 / elapsed.as_secs_f64().max(1e-6)
}

fn summary(left: &Daemon) -> Result<()> {
    println!("What the left daemon says (`veil show`):\n");
    for line in left.show(&[])?.lines() {
        println!("  {line}");
    }
    Ok(())
}
