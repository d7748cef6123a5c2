//! One network namespace, driven through the `ip` program. Cheap to clone: it is a name.
//!
//! The lab that created it removes it, together with every process still inside.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::enter::EnterGuard;
use crate::program::run;
use crate::sys;

/// The name of a network namespace of this lab.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn create(name: &str) -> Result<Namespace> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        Ok(Namespace { name: name.to_owned() })
    }

    pub(crate) fn existing(name: &str) -> Namespace {
        Namespace { name: name.to_owned() }
    }

    /// The name `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives an interface an address ("10.99.0.1/24", "fd99::1/64"), usable at once.
    pub fn address(&self, interface: &str, address: &str) -> Result<()> {
        // Duplicate address detection would keep a v6 address tentative for a second.
        let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
        run(self.command("ip").args(["address", "add", address, "dev", interface]).args(nodad))?;
        Ok(())
    }

    /// Takes an address away from an interface.
    pub fn remove_address(&self, interface: &str, address: &str) -> Result<()> {
        self.exec(["ip", "address", "del", address, "dev", interface])?;
        Ok(())
    }

    /// Runs a command line inside and returns what it printed.
    pub fn exec<I, S>(&self, words: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut words = words.into_iter();
        let program = words.next().context("an empty command line")?;
        run(self.command(program).args(words))
    }

    /// A command that will run inside. `ip netns exec` becomes the program, so the child's pid is the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Moves the calling thread inside until the guard is dropped.
    pub fn enter(&self) -> Result<EnterGuard> {
        EnterGuard::enter(&PathBuf::from("/run/netns").join(&self.name))
    }

    /// Runs `work` on a thread of its own inside the namespace.
    pub fn spawn<T, F>(&self, work: F) -> JoinHandle<Result<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let namespace = self.clone();
        thread::spawn(move || {
            let _inside = namespace.enter()?;
            work()
        })
    }

    /// Everything the kernel holds here that a daemon could have changed, as text to compare.
    pub fn kernel_state(&self) -> Result<String> {
        let mut state = String::new();
        for words in [
            "ip -o link show",
            "ip -o address show",
            "ip route show table all",
            "ip -6 route show table all",
            "ip rule show",
            "ip -6 rule show",
        ] {
            state.push_str(&self.exec(words.split(' ')).with_context(|| format!("looking at {words}"))?);
        }
        Ok(state)
    }

    /// Ends what runs inside (SIGTERM, then SIGKILL) and removes the namespace. Best effort, says nothing.
    pub(crate) fn remove(&self) {
        self.signal_all(libc::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(2);
        while !self.pids().is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        self.signal_all(libc::SIGKILL);
        let _ = run(Command::new("ip").args(["netns", "del", &self.name]));
    }

    fn signal_all(&self, signal: libc::c_int) {
        for pid in self.pids() {
            // It may have ended by itself since it was listed.
            let _ = sys::signal(pid, signal);
        }
    }

    /// Processes inside or on their way there, without this one (a thread of ours may be visiting).
    fn pids(&self) -> Vec<u32> {
        // In this order nobody is missed: who has arrived since is the same process still.
        let mut pids = self.arriving();
        let listed = run(Command::new("ip").args(["netns", "pids", &self.name])).unwrap_or_default();
        let own = std::process::id();
        let inside = listed.lines().filter_map(|line| line.trim().parse::<u32>().ok());
        pids.extend(inside.filter(|pid| *pid != own));
        pids
    }

    /// Processes that are still `ip`, and will be inside once they are the program of a [`command`](Self::command).
    fn arriving(&self) -> Vec<u32> {
        let start = format!("ip\0netns\0exec\0{}\0", self.name);
        let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let will_be_inside = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(start.as_bytes()))
        };
        pids.filter(will_be_inside).collect()
    }
}
