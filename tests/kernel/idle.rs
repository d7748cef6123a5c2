//! A daemon that has nothing to do does nothing: its threads sleep until something comes.
//!
//! What is counted hardly depends on how busy the machine is with other things: how often the daemon's threads went to
//! sleep, and how long they ran, both by the kernel's count (proc_pid_status(5), proc_pid_stat(5)).

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use veil_lab::{Daemon, require_privileges};
use veil_tests::{number, show};

use crate::tunnel::{Hosts, Outer, PATIENCE, Tunnel};
use crate::xdp::{Link, NATIVE, UDP, finish, goes_by_ring, until};

/// What both hosts say of themselves (neighbours, multicast groups) is mostly over after so long, and path MTU discovery too.
const SETTLES: Duration = Duration::from_secs(1);
/// One of several: what the kernel does for others may wake a daemon's threads, or have them wait for its locks, but not
/// all the time.
const WINDOW: Duration = Duration::from_secs(3);
const IN_A_ROW: u32 = 2;
/// In that time, all threads of a daemon together: room for some packets of the hosts' own and a timer or two. One thread
/// that wakes every 100 ms is more. One that never sleeps takes 300 hundredths of a second; where the machine is busy, or a
/// virtual one that is not let run, a few are charged to whoever happens to run when a tick comes late.
const SWITCHES: u64 = 20;
const TICKS: u64 = 30;

/// What a process has done so far.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// How often its threads left the processor of themselves.
    switches: u64,
    /// Hundredths of a second that they ran.
    ticks: u64,
}

impl Work {
    fn of(daemon: &Daemon) -> Result<Work> {
        let mut work = Work { switches: 0, ticks: 0 };
        for thread in fs::read_dir(format!("/proc/{}/task", daemon.pid())).context("reading its threads")? {
            work.add(&thread?.path())?;
        }
        Ok(work)
    }

    fn add(&mut self, thread: &Path) -> Result<()> {
        let status = fs::read_to_string(thread.join("status"))?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        self.switches += count.context("no count of switches")?.trim().parse::<u64>()?;
        let stat = fs::read_to_string(thread.join("stat"))?;
        // Behind the name, which may hold anything: the state is field 3, utime and stime are 14 and 15.
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        for time in fields.split_ascii_whitespace().skip(11).take(2) {
            self.ticks += time.parse::<u64>()?;
        }
        Ok(())
    }

    fn since(self, before: Work) -> Work {
        Work { switches: self.switches - before.switches, ticks: self.ticks - before.ticks }
    }

    fn is_idle(self) -> bool {
        self.switches <= SWITCHES && self.ticks <= TICKS
    }
}

/// One daemon in each threading mode, with a session.
fn start(hosts: Hosts, link: Link) -> Result<Tunnel> {
    let with = |threads| [link, &["--threads", threads]].concat();
    let (left, right) = (hosts.left.start_with(&with("single"))?, hosts.right.start_with(&with("pipeline"))?);
    let tunnel = Tunnel { left, right, hosts };
    tunnel.ping()?;
    if link == NATIVE {
        goes_by_ring(&tunnel.left, &tunnel.hosts.left.namespace, "10.8.0.2")?;
        goes_by_ring(&tunnel.right, &tunnel.hosts.right.namespace, "10.8.0.1")?;
    }
    Ok(tunnel)
}

/// Both have a session and nothing to do: each is idle, sooner or later, and then again.
fn idle(name: &str, link: Link) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    let tunnel = start(Hosts::new(name, Outer::V4)?, link)?;
    thread::sleep(SETTLES);
    let mut daemons = vec![("single", &tunnel.left, 0), ("pipeline", &tunnel.right, 0)];
    let deadline = Instant::now() + 2 * PATIENCE;
    while !daemons.is_empty() {
        let before = daemons.iter().map(|(_, daemon, _)| Work::of(daemon)).collect::<Result<Vec<_>>>()?;
        thread::sleep(WINDOW);
        let mut again = Vec::new();
        for ((mode, daemon, idle), before) in daemons.into_iter().zip(before) {
            let work = Work::of(daemon)?.since(before);
            println!("{name}, {mode}: {work:?} in {WINDOW:?}");
            let late = Instant::now() > deadline;
            ensure!(
                work.is_idle() || !late,
                "{mode}: {work:?} in {WINDOW:?} of doing nothing\n{}",
                daemon.log()
            );
            let idle = if work.is_idle() { idle + 1 } else { 0 };
            if idle < IN_A_ROW {
                again.push((mode, daemon, idle));
            }
        }
        daemons = again;
    }
    finish(tunnel)
}

#[test]
fn an_idle_daemon_uses_no_processor_time_udp() -> Result<()> {
    idle("idle-udp", UDP)
}

#[test]
fn an_idle_daemon_uses_no_processor_time_native() -> Result<()> {
    idle("idle-native", NATIVE)
}

/// The other way round: whoever never sleeps is not taken for idle, and carries packets all the same. With AF_XDP, since
/// that has the sockets of both kinds.
#[test]
fn daemons_told_to_poll_never_sleep() -> Result<()> {
    if !require_privileges("daemons_told_to_poll_never_sleep") {
        return Ok(());
    }
    let mut hosts = Hosts::new("poll", Outer::V4)?;
    for node in [&mut hosts.left, &mut hosts.right] {
        node.config.push_str("\n[threads]\nbusy-poll = true\n");
    }
    let tunnel = start(hosts, NATIVE)?;
    for (mode, daemon) in [("single", &tunnel.left), ("pipeline", &tunnel.right)] {
        let before = Work::of(daemon)?;
        until(&format!("{mode}: work without end"), || {
            let work = Work::of(daemon)?.since(before);
            Ok(work.ticks > TICKS)
        })?;
        let refused = number(&show(daemon)?["counters"], "busy_poll_refused")?;
        println!("{mode}: {refused} socket options refused");
    }
    finish(tunnel)
}
