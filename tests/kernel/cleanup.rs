//! After a clean end the host is as it was: no device, no address, no route, no socket file.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use veil_lab::{Namespace, ping, require_privileges};
use veil_tests::assert_conserved;

use crate::tunnel::{Hosts, Outer, PATIENCE};

#[test]
fn a_clean_end_undoes_everything_set_up_on_the_host() -> Result<()> {
    if !require_privileges("a_clean_end_undoes_everything_set_up_on_the_host") {
        return Ok(());
    }
    let hosts = Hosts::new("cleanup", Outer::V4)?;
    let before = settled_state(&hosts.left.namespace)?;

    let (left, right) = (hosts.left.start()?, hosts.right.start()?);
    ping(&hosts.left.namespace, "10.8.0.2", PATIENCE)?;
    assert_conserved(&left)?;
    assert_conserved(&right)?;
    let during = hosts.left.namespace.kernel_state()?;
    ensure!(during.contains(&hosts.left.interface) && during.contains("fd08::2"), "{during}");
    let control = left.control().to_owned();
    ensure!(control.exists());

    let stopped = left.stop()?;
    ensure!(stopped.status.success(), "it ended with {}:\n{}", stopped.status, stopped.log);
    ensure!(!control.exists(), "the control socket is still there");
    let after = hosts.left.namespace.kernel_state()?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    Ok(())
}

#[test]
fn after_a_kill_the_next_start_works_all_the_same() -> Result<()> {
    if !require_privileges("after_a_kill_the_next_start_works_all_the_same") {
        return Ok(());
    }
    let hosts = Hosts::new("killed", Outer::V4)?;
    let before = settled_state(&hosts.left.namespace)?;
    let left = hosts.left.start()?;
    let control = left.control().to_owned();
    left.kill9()?;
    ensure!(control.exists(), "a killed daemon cannot remove its socket file");
    let after = hosts.left.namespace.kernel_state()?;
    ensure!(before == after, "the kernel removes the rest:\nbefore:\n{before}\nafter:\n{after}");

    let stopped = hosts.left.start()?.stop()?;
    ensure!(stopped.status.success() && !control.exists(), "{}", stopped.log);
    Ok(())
}

#[test]
fn a_second_daemon_of_the_same_name_is_refused_and_the_first_unharmed() -> Result<()> {
    if !require_privileges("a_second_daemon_of_the_same_name_is_refused_and_the_first_unharmed") {
        return Ok(());
    }
    let hosts = Hosts::new("twice", Outer::V4)?;
    let (left, _right) = (hosts.left.start()?, hosts.right.start()?);
    let log = left.log();
    ping(&hosts.left.namespace, "10.8.0.2", PATIENCE)?;
    let Err(refusal) = hosts.left.start() else { anyhow::bail!("two daemons run with one configuration") };
    ensure!(format!("{refusal:#}").contains("error:"), "{refusal:#}\n{log}");
    ping(&hosts.left.namespace, "10.8.0.2", PATIENCE)?;
    assert_conserved(&left)?;
    Ok(())
}

/// The state once the kernel has finished with the wires: a link-local address is tentative for a second.
fn settled_state(namespace: &Namespace) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = namespace.kernel_state()?;
        if !state.contains("tentative") && state.contains("fe80::") {
            return Ok(state);
        }
        ensure!(Instant::now() < deadline, "the wires do not settle:\n{state}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_daemons_files_are_where_the_manual_says() -> Result<()> {
    if !require_privileges("the_daemons_files_are_where_the_manual_says") {
        return Ok(());
    }
    let hosts = Hosts::new("files", Outer::V4)?;
    let left = hosts.left.start()?;
    let mut names: Vec<String> = fs::read_dir(hosts.left.folder())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    ensure!(names == ["veil.key", "veil.log", "veil.sock", "veil.toml"], "{names:?}");
    ensure!(left.stop()?.status.success());
    Ok(())
}
