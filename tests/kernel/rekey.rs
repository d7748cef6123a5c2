//! Sessions are renewed while the tunnel is busy, and no packet is lost to it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use veil_lab::{Transfer, require_privileges};
use veil_tests::{number, show};

use crate::tunnel::{Hosts, Outer, PATIENCE};

const LENGTH: Duration = Duration::from_secs(8);
/// Bytes between two looks at the clock.
const STEP: u64 = 1 << 20;

#[test]
fn sessions_are_renewed_under_load_and_no_packet_is_lost_to_it() -> Result<()> {
    if !require_privileges("sessions_are_renewed_under_load_and_no_packet_is_lost_to_it") {
        return Ok(());
    }
    let mut hosts = Hosts::new("rekey", Outer::V4)?;
    for node in [&mut hosts.left, &mut hosts.right] {
        node.config.push_str("\n[timers]\nrekey-after = 2\n");
    }
    let tunnel = hosts.start()?;
    tunnel.ping()?;
    let handshakes = || number(&show(&tunnel.left)?["counters"], "datagrams_handshake");
    let before = handshakes()?;

    let (left, right) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    let transfer = Transfer::start(left, right, "10.8.0.2")?;
    let start = Instant::now();
    let mut arrived = 0;
    while start.elapsed() < LENGTH {
        arrived += STEP;
        transfer.wait_for(arrived, PATIENCE)?;
    }
    let bytes = transfer.finish()?;
    let renewed = handshakes()? - before;
    println!("{renewed} handshakes and {bytes} bytes in {LENGTH:?}");
    ensure!(renewed >= 2, "{renewed} handshake datagrams in {LENGTH:?} with rekey-after = 2");
    // The host's own queues may drop under load; what a daemon took from its host must not be lost to a renewal.
    for daemon in [&tunnel.left, &tunnel.right] {
        let shown = show(daemon)?;
        for reason in ["no-session", "unknown-index", "session-expired", "bad-tag", "replayed"] {
            ensure!(shown["drops"][reason].is_null(), "dropped for `{reason}`: {:#}", shown["drops"]);
        }
    }
    tunnel.assert_conserved()
}
