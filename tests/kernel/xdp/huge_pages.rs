//! The rings' frames in huge pages, where the host has reserved some.

use std::fs;

use anyhow::{Context, Result, ensure};
use veil_lab::require_privileges;
use veil_tests::show;

use super::{NATIVE, finish, goes_by_ring, start};
use crate::tunnel::{Hosts, Outer};

const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
/// Enough for both daemons, and for those of other tests that run meanwhile.
const PAGES: u64 = 128;

/// Huge pages that the host has reserved beyond its own; it takes them back.
struct Reserved {
    before: u64,
}

impl Reserved {
    fn new() -> Result<Self> {
        let reserved = || -> Result<u64> { Ok(fs::read_to_string(RESERVED)?.trim().parse()?) };
        let before = reserved().context("this kernel knows no huge pages")?;
        let this = Reserved { before };
        fs::write(RESERVED, (before + PAGES).to_string())?;
        let got = reserved()?;
        ensure!(got == before + PAGES, "the host has memory for {} huge pages only", got - before);
        Ok(this)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let _ = fs::write(RESERVED, self.before.to_string());
    }
}

#[test]
fn frames_are_in_huge_pages_where_the_host_has_reserved_some() -> Result<()> {
    if !require_privileges("hugepages") {
        return Ok(());
    }
    let hosts = Hosts::new("hugepages", Outer::V4)?;
    let reserved = Reserved::new()?;
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
