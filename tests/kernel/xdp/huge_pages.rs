//! The rings' frames in huge pages, where the host has reserved some.

use anyhow::{Result, ensure};
use veil_lab::require_privileges;
use veil_tests::show;

use super::{NATIVE, finish, goes_by_ring, start};
use crate::tunnel::{Hosts, Outer};

/// Six for the frames of each daemon with one queue, and plenty for those of other tests that run meanwhile.
const PAGES: u64 = 128;

#[test]
fn frames_are_in_huge_pages_where_the_host_has_reserved_some() -> Result<()> {
    if !require_privileges("hugepages") {
        return Ok(());
    }
    let hosts = Hosts::new("hugepages", Outer::V4)?;
    let reserved = hosts.lab().huge_pages(PAGES)?;
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
