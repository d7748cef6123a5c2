//! Who else is there: a daemon that was killed, one on the same port, one on another port that finds the hook taken.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use veil_lab::{Daemon, Namespace, Node, ping, require_privileges};
use veil_tests::show;
use veil_xdp::nic::Facts;

use super::{AUTO, GENERIC, Link, NATIVE, count, end, finish, goes_by_ring, rung, stands_on, start, until};
use crate::attached::attached_programs;
use crate::tunnel::{Hosts, Outer, PATIENCE, Tunnel};

/// The kernel's numbers of the programs on eth0.
pub fn on_the_hook(namespace: &Namespace) -> Result<Vec<u32>> {
    let _inside = namespace.enter()?;
    attached_programs(Facts::gather("eth0")?.nic.index)
}

/// Starts a daemon where another has just been killed: the kernel may take longer to free its queue than a daemon waits.
fn start_again(node: &Node, link: Link) -> Result<Daemon> {
    let killed = Instant::now();
    loop {
        match node.start_with(link) {
            Err(error) if killed.elapsed() < PATIENCE && format!("{error:#}").contains("busy") => {}
            started => return started,
        }
    }
}

fn killed(name: &str, link: Link, standing: &str) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    let Tunnel { left, right, hosts } = start(Hosts::new(name, Outer::V4)?, link, link)?;
    let (near, far) = (&hosts.left.namespace, &hosts.right.namespace);
    goes_by_ring(&left, near, "10.8.0.2")?;
    ensure!(on_the_hook(far)?.len() == 1, "libbpf does not see the program");
    let mut right = right;
    for round in 0..3 {
        let killed = Instant::now();
        right.kill9()?;
        until("the program is detached", || Ok(on_the_hook(far)?.is_empty()))?;
        println!("the program is gone after {:?}", killed.elapsed());
        // `--link xdp`: it would not start if the queue were not free.
        right = start_again(&hosts.right, link).with_context(|| format!("restart {round}"))?;
        ensure!(rung(&right)? == standing && count(&right, "transitions")? == 1, "{}", right.log());
    }
    ping(near, "10.8.0.2", PATIENCE)?;
    goes_by_ring(&right, far, "10.8.0.1")?;
    finish(Tunnel { left, right, hosts })
}

#[test]
fn a_killed_daemon_leaves_the_nic_to_the_next_native() -> Result<()> {
    killed("killed-native", NATIVE, "native copy")
}

#[test]
fn a_killed_daemon_leaves_the_nic_to_the_next_generic() -> Result<()> {
    killed("killed-generic", GENERIC, "generic copy")
}

/// Another daemon's place on the right host, listening on that port.
fn rival(hosts: &Hosts, name: &str, port: u16) -> Result<Node> {
    let mut rival = hosts.lab().node(name, &["10.9.0.1/24"])?;
    rival.namespace = hosts.right.namespace.clone();
    rival.config = rival.config.replace("4433", &port.to_string());
    rival.add_peer(&hosts.left, None);
    rival.config = rival.config.replace("10.8.0.1/32", "10.9.0.2/32").replace("fd08::1/128", "fd09::2/128");
    Ok(rival)
}

fn refusal(started: Result<Daemon>) -> Result<String> {
    match started {
        Ok(daemon) => bail!("it started:\n{}", daemon.log()),
        Err(error) => {
            let text = format!("{error:#}");
            let line = text.lines().find(|line| line.contains("error:")).context(text.clone())?.to_owned();
            println!("{line}");
            Ok(line)
        }
    }
}

#[test]
fn a_second_daemon_is_told_who_is_there() -> Result<()> {
    if !require_privileges("a_second_daemon_is_told_who_is_there") {
        return Ok(());
    }
    let tunnel = start(Hosts::new("rivals", Outer::V4)?, NATIVE, NATIVE)?;
    let far = &tunnel.hosts.right.namespace;
    goes_by_ring(&tunnel.left, &tunnel.hosts.left.namespace, "10.8.0.2")?;
    let program = on_the_hook(far)?.first().context("no program")?.to_string();
    let line = refusal(rival(&tunnel.hosts, "x", 4433)?.start_with(NATIVE))?;
    for word in ["4433", "in use", &format!("process {}", tunnel.right.pid())] {
        ensure!(line.contains(word), "{word:?} is not in: {line}");
    }
    let rival = rival(&tunnel.hosts, "y", 5544)?;
    let line = refusal(rival.start_with(NATIVE))?;
    for word in ["eth0", "veil_steer", &program, &format!("pid {}", tunnel.right.pid())] {
        ensure!(line.contains(word), "{word:?} is not in: {line}");
    }
    // And with `auto` it runs all the same.
    let second = rival.start_with(AUTO)?;
    let shown = show(&second)?;
    let reason = shown["rung_reason"].as_str().context("no reason")?;
    ensure!(shown["rung"] == "udp" && reason.contains("veil_steer") && reason.contains(&program), "{reason}");
    ensure!(on_the_hook(far)?.len() == 1);
    goes_by_ring(&tunnel.right, far, "10.8.0.1")?;
    // The first ends, and the hook is the second's.
    let Tunnel { left, right, hosts } = tunnel;
    end(right)?;
    stands_on(&second, "native copy")?;
    ensure!(count(&second, "transitions")? == 1, "{}", second.log());
    end(second)?;
    end(left)?;
    drop(hosts);
    Ok(())
}
