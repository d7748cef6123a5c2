//! Without the privileges, and without the interface: what is missing is said, and the tunnel runs over UDP.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use veil_lab::{ping, require_privileges, require_program, run, veil_binary};
use veil_tests::show;

use super::{AUTO, NATIVE, end, finish};
use crate::tunnel::{Hosts, Outer, PATIENCE, Tunnel};

/// A program that is `veil` without these capabilities.
fn veil_without(hosts: &Hosts, capabilities: &str) -> Result<PathBuf> {
    let path = hosts.lab().folder().join(format!("veil{capabilities}"));
    let veil = veil_binary()?.display();
    let script = format!("#!/bin/sh\nexec setpriv --bounding-set={capabilities} '{veil}' \"$@\"\n");
    let draft = path.with_extension("draft");
    fs::write(&draft, script)?;
    // A copy that another process makes: what this one has open for writing, a child of another thread has, too, until its
    // exec, and so long nobody may run it.
    run(Command::new("cp").arg(&draft).arg(&path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn the_missing_capability_is_named_and_auto_runs_over_udp() -> Result<()> {
    let test = "the_missing_capability_is_named_and_auto_runs_over_udp";
    if !require_privileges(test) || !require_program(test, "setpriv") {
        return Ok(());
    }
    // CAP_SYS_ADMIN stands for CAP_BPF, and CAP_NET_ADMIN is what making the TUN needs.
    for (without, named, not) in [
        ("-sys_admin,-bpf", "CAP_BPF", "CAP_NET_RAW"),
        ("-sys_admin,-bpf,-net_raw", "CAP_BPF, CAP_NET_RAW", "CAP_NET_ADMIN"),
        ("-net_raw", "CAP_NET_RAW", "CAP_BPF"),
    ] {
        let hosts = Hosts::new("unpriv", Outer::V4)?;
        let veil = veil_without(&hosts, without)?;
        let Err(refusal) = hosts.left.start_program(&veil, NATIVE) else { anyhow::bail!("it started") };
        let text = format!("{refusal:#}");
        let line = text.lines().find(|line| line.contains("error:")).context(text.clone())?;
        println!("{line}");
        ensure!(line.contains(named) && line.contains("eth0") && !line.contains(not), "{line}");

        let left = hosts.left.start_program(&veil, AUTO)?;
        let right = hosts.right.start_with(NATIVE)?;
        let shown = show(&left)?;
        let reason = shown["rung_reason"].as_str().context("no reason")?;
        ensure!(shown["rung"] == "udp" && reason.contains(named), "{reason}");
        ping(&hosts.left.namespace, "10.8.0.2", PATIENCE)?;
        finish(Tunnel { left, right, hosts })?;
    }
    // Without CAP_NET_ADMIN there is no TUN either; but what AF_XDP lacks is said first.
    let hosts = Hosts::new("unpriv", Outer::V4)?;
    let veil = veil_without(&hosts, "-sys_admin,-net_admin,-bpf,-net_raw")?;
    let Err(refusal) = hosts.left.start_program(&veil, NATIVE) else { anyhow::bail!("it started") };
    let text = format!("{refusal:#}");
    ensure!(text.contains("CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW missing"), "{text}");
    Ok(())
}

#[test]
fn an_unknown_interface_is_answered_by_those_there_are() -> Result<()> {
    if !require_privileges("an_unknown_interface_is_answered_by_those_there_are") {
        return Ok(());
    }
    let hosts = Hosts::new("unknown", Outer::V4)?;
    for mode in ["xdp", "auto"] {
        let Err(refusal) = hosts.left.start_with(&["--link", mode, "--iface", "eth7"]) else {
            anyhow::bail!("--link {mode}: it started")
        };
        let text = format!("{refusal:#}");
        ensure!(text.contains("there is no interface eth7; there are: eth0, lo"), "{text}");
    }
    end(hosts.left.start_with(NATIVE)?)
}
