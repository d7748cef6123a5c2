//! SIGTERM at any moment of a full load: the daemon ends cleanly, with every frame home and every thread joined.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use veil_lab::require_privileges;

use crate::tunnel::{Hosts, Outer, Tunnel};

/// How often each threading mode is stopped, and how often with `VEIL_LONG`.
const TIMES: u32 = 6;
const LONG_TIMES: u32 = 100;
/// How soon it must have ended.
const AT_ONCE: Duration = Duration::from_secs(1);

#[test]
fn sigterm_under_full_load_leaves_every_frame_home() -> Result<()> {
    if !require_privileges("sigterm_under_full_load_leaves_every_frame_home") {
        return Ok(());
    }
    let long = std::env::var_os("VEIL_LONG").is_some();
    let times = if long { LONG_TIMES } else { TIMES };
    let mut longest = Duration::ZERO;
    let mut hosts = Hosts::new("stop", Outer::V4)?;
    let over = Arc::new(AtomicBool::new(false));
    for time in 0..times {
        // Each side in each mode, in turn.
        let modes = if time % 2 == 0 { ["single", "pipeline"] } else { ["pipeline", "single"] };
        let [left, right] = [(&hosts.left, modes[0]), (&hosts.right, modes[1])]
            .map(|(node, mode)| node.start_with(&["--threads", mode]));
        let tunnel = Tunnel { left: left?, right: right?, hosts };
        tunnel.ping()?;
        over.store(false, Relaxed);
        let (left, right) = (&tunnel.hosts.left, &tunnel.hosts.right);
        let loads = [(left, "10.8.0.2:9"), (right, "10.8.0.1:9")].map(|(node, to)| {
            let over = over.clone();
            node.namespace.spawn(move || load(to, &over))
        });
        std::thread::sleep(Duration::from_millis(20 + u64::from(time % 10) * 7));
        let Tunnel { left, right, hosts: same } = tunnel;
        hosts = same;
        for daemon in [left, right] {
            let start = Instant::now();
            let stopped = daemon.stop()?;
            longest = longest.max(start.elapsed());
            ensure!(stopped.status.success(), "round {time}: {}\n{}", stopped.status, stopped.log);
            ensure!(stopped.log.contains(": stopped\n"), "round {time}: {}", stopped.log);
        }
        over.store(true, Relaxed);
        for load in loads {
            load.join().map_err(|_| anyhow!("the load panicked"))??;
        }
    }
    println!("the longest of {} ends took {longest:?}", 2 * times);
    // A machine busy with all the other tests may need more; who runs the long ones has it to himself.
    ensure!(!long || longest <= AT_ONCE, "the longest end took {longest:?}");
    Ok(())
}

/// Datagrams as fast as they go; without a tunnel there is nowhere for them to go, which is no matter.
fn load(to: &str, over: &AtomicBool) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    while !over.load(Relaxed) {
        let _ = socket.send_to(&[7; 1200], to);
    }
    Ok(())
}
