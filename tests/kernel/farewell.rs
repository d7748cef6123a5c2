//! A daemon that ends in order tells its peers, once; they do not go on talking to nobody.

use anyhow::{Result, ensure};
use veil_lab::{ping, require_privileges};
use veil_tests::{number, show};

use crate::tunnel::{Outer, PATIENCE, Tunnel};

#[test]
fn a_daemon_that_stops_tells_its_peer() -> Result<()> {
    if !require_privileges("a_daemon_that_stops_tells_its_peer") {
        return Ok(());
    }
    let Tunnel { left, right, hosts } = Tunnel::new("farewell", Outer::V4)?;
    ping(&hosts.left.namespace, "10.8.0.2", PATIENCE)?;
    ensure!(number(&show(&right)?["counters"], "sessions")? == 1);
    let stopped = left.stop()?;
    ensure!(stopped.status.success(), "{}", stopped.log);
    // Sent before the process ended, so it is there by now, or within a turn of the event loop.
    let start = std::time::Instant::now();
    while number(&show(&right)?["counters"], "sessions_closed_by_peers")? == 0 {
        ensure!(start.elapsed() < PATIENCE, "nothing was said: {:#}", show(&right)?);
    }
    ensure!(number(&show(&right)?["counters"], "sessions")? == 0, "the session is still there");
    ensure!(right.log().contains("has ended its session"), "{}", right.log());
    // Both find together again.
    let left = hosts.left.start()?;
    ping(&hosts.right.namespace, "10.8.0.1", PATIENCE)?;
    Tunnel { left, right, hosts }.assert_conserved()
}
