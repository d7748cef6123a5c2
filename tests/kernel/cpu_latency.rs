//! A daemon that was told to keeps the machine's cores awake, for as long as it runs.

use std::fs::File;
use std::io::{ErrorKind, Read};

use anyhow::{Result, ensure};
use veil_lab::require_privileges;
use veil_tests::{assert_conserved, show};

use crate::tunnel::{Hosts, Outer, Tunnel};

/// Within how many microseconds all who asked want cores to wake, as the kernel has it; nothing where it cannot be asked.
fn in_force() -> Result<Option<i32>> {
    let mut device = match File::open("/dev/cpu_dma_latency") {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        device => device?,
    };
    let mut value = [0; 4];
    device.read_exact(&mut value)?;
    Ok(Some(i32::from_ne_bytes(value)))
}

#[test]
fn cores_stay_awake_while_a_daemon_asks_for_it_and_no_longer() -> Result<()> {
    if !require_privileges("cores_stay_awake_while_a_daemon_asks_for_it_and_no_longer") {
        return Ok(());
    }
    let before = in_force()?;
    let mut hosts = Hosts::new("awake", Outer::V4)?;
    hosts.left.config.push_str("\n[threads]\ncpu-latency = 0\n");
    let Tunnel { left, right, hosts: _hosts } = hosts.start()?;
    let (asking, other) = (show(&left)?, show(&right)?);
    ensure!(other["cpu_latency_us"].is_null(), "{other}");
    match before {
        Some(_) => ensure!(in_force()? == Some(0) && asking["cpu_latency_us"] == 0, "{asking}"),
        None => ensure!(left.log().contains("cannot ask for cpu-latency = 0"), "{}", left.log()),
    }
    assert_conserved(&left)?;
    left.stop()?;
    ensure!(in_force()? == before);
    assert_conserved(&right).map(drop)
}
