//! The rings' frames in huge pages, where the host has reserved some.

use std::thread;

use anyhow::{Result, ensure};
use veil_lab::require_privileges;
use veil_tests::show;

use super::{NATIVE, finish, goes_by_ring, start};
use crate::tunnel::{Hosts, Outer};

/// Six for the frames of each of two daemons with one queue.
const OWN: u64 = 12;
/// Plenty for those of another test that runs meanwhile: a daemon with four queues takes 24.
const ANOTHERS: u64 = 36;

#[test]
fn frames_are_in_huge_pages_where_the_host_has_reserved_some() -> Result<()> {
    if !require_privileges("hugepages") {
        return Ok(());
    }
    let hosts = Hosts::new("hugepages", Outer::V4)?;
    // No more than is needed: the host must have each in one piece.
    let others = thread::available_parallelism().map_or(1, usize::from) as u64 - 1;
    let reserved = hosts.lab().huge_pages(OWN + others.min(3) * ANOTHERS)?;
    let tunnel = start(hosts, NATIVE, NATIVE)?;
    for daemon in [&tunnel.left, &tunnel.right] {
        let reason = show(daemon)?["rung_reason"].as_str().unwrap_or_default().to_owned();
        ensure!(reason.contains("frames in huge pages"), "{reason}");
    }
    let left = tunnel.hosts.left.namespace.clone();
    goes_by_ring(&tunnel.left, &left, "10.8.0.2")?;
    // Those in use stay until nobody uses them.
    drop(reserved);
    goes_by_ring(&tunnel.left, &left, "10.8.0.2")?;
    finish(tunnel)
}
