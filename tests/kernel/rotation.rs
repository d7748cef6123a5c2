//! Receiver indices change while traffic flows, and no packet is lost to it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use veil_lab::{Transfer, require_privileges};
use veil_tests::{number, show};

use crate::tunnel::{Hosts, Outer, PATIENCE};

#[test]
fn receiver_indices_change_under_load_and_no_packet_is_lost_to_it() -> Result<()> {
    if !require_privileges("receiver_indices_change_under_load_and_no_packet_is_lost_to_it") {
        return Ok(());
    }
    let mut hosts = Hosts::new("rotation", Outer::V4)?;
    for node in [&mut hosts.left, &mut hosts.right] {
        node.config.push_str("\n[timers]\nrotate-after = 1\n");
    }
    let tunnel = hosts.start()?;
    tunnel.ping()?;
    let (left, right) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    let transfer = Transfer::start(left, right, "10.8.0.2")?;
    let (start, mut arrived) = (Instant::now(), 0);
    let rotations = || -> Result<[u64; 2]> {
        let of = |daemon| number(&show(daemon)?["counters"], "index_rotations");
        Ok([of(&tunnel.left)?, of(&tunnel.right)?])
    };
    // The old index lingers for 10 s, so the second change shows that it was let go.
    while rotations()?.into_iter().any(|count| count < 2) {
        ensure!(start.elapsed() < Duration::from_secs(10) + PATIENCE, "only {:?}", rotations()?);
        arrived += 1 << 20;
        transfer.wait_for(arrived, PATIENCE)?;
    }
    transfer.finish()?;
    println!("{:?} changes in {:?}", rotations()?, start.elapsed());
    for daemon in [&tunnel.left, &tunnel.right] {
        let shown = show(daemon)?;
        for reason in ["unknown-index", "bad-tag", "replayed", "control-stray", "control-lost"] {
            ensure!(shown["drops"][reason].is_null(), "dropped for `{reason}`: {:#}", shown["drops"]);
        }
        ensure!(number(&shown["counters"], "acks_sent")? >= 2, "{:#}", shown["counters"]);
    }
    tunnel.assert_conserved()
}
