//! The client's outer address changes in the middle of a TCP transfer, which completes intact.

use anyhow::{Result, ensure};
use veil_lab::{Transfer, ping, require_privileges};
use veil_tests::{peer, show};

use crate::tunnel::{Outer, PATIENCE, Tunnel};

const BEFORE: u64 = 2 << 20;
const AFTER: u64 = 8 << 20;

#[test]
fn an_upload_survives_a_change_of_address() -> Result<()> {
    if !require_privileges("an_upload_survives_a_change_of_address") {
        return Ok(());
    }
    let tunnel = Tunnel::new("roam-up", Outer::V4)?;
    let (left, right) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    let transfer = Transfer::start(left, right, "10.8.0.2")?;
    survive(&tunnel, &transfer)?;
    transfer.finish()?;
    tunnel.assert_conserved()
}

#[test]
fn a_download_survives_a_change_of_address() -> Result<()> {
    if !require_privileges("a_download_survives_a_change_of_address") {
        return Ok(());
    }
    let tunnel = Tunnel::new("roam-down", Outer::V4)?;
    // Left speaks first: right does not know where it is.
    tunnel.ping()?;
    let (left, right) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    let transfer = Transfer::start(right, left, "10.8.0.1")?;
    survive(&tunnel, &transfer)?;
    transfer.finish()?;
    tunnel.assert_conserved()
}

fn survive(tunnel: &Tunnel, transfer: &Transfer) -> Result<()> {
    let left = &tunnel.hosts.left.namespace;
    transfer.wait_for(BEFORE, PATIENCE)?;
    left.remove_address("eth0", "10.99.0.1/24")?;
    left.address("eth0", "10.99.0.77/24")?;
    let moved_at = transfer.arrived();
    // A client that only receives falls silent; the far end learns of its new address when it next speaks.
    if let Err(error) = ping(left, "10.8.0.2", PATIENCE) {
        anyhow::bail!("{error:#}\nleft:\n{}\nright:\n{}", tunnel.left.show(&[])?, tunnel.right.show(&[])?);
    }
    transfer.wait_for(moved_at + AFTER, 2 * PATIENCE)?;
    let shown = show(&tunnel.right)?;
    let client = peer(&shown, &tunnel.hosts.left.interface)?;
    ensure!(client["endpoint"].as_str().is_some_and(|at| at.contains("10.99.0.77")), "{client:#}");
    Ok(())
}
