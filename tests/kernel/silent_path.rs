//! A router on the way becomes narrower, and no word of it reaches the sender: probes find out.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use veil_lab::{Lab, Transfer, require_privileges};
use veil_tests::{assert_conserved, number, show};

use crate::tunnel::{LEFT, PATIENCE, RIGHT};

/// Of the narrow link, and the datagram it takes less IPv4 and UDP headers.
const MTU: u64 = 1380;
const DATAGRAM: u64 = MTU - 28;

#[test]
fn a_path_that_shrinks_silently_mid_transfer_goes_on() -> Result<()> {
    if !require_privileges("a_path_that_shrinks_silently_mid_transfer_goes_on") {
        return Ok(());
    }
    let lab = Lab::new("silent")?;
    let (mut left, mut right) = (lab.node("l", &LEFT)?, lab.node("r", &RIGHT)?);
    let router = lab.namespace("m")?;
    lab.veth(&left.namespace, "eth0", &router, "eth0")?;
    lab.veth(&router, "eth1", &right.namespace, "eth0")?;
    left.namespace.address("eth0", "10.98.0.1/24")?;
    router.address("eth0", "10.98.0.254/24")?;
    router.address("eth1", "10.99.0.254/24")?;
    right.namespace.address("eth0", "10.99.0.2/24")?;
    router.exec(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
    left.namespace.exec(["ip", "route", "add", "10.99.0.0/24", "via", "10.98.0.254"])?;
    right.namespace.exec(["ip", "route", "add", "10.98.0.0/24", "via", "10.99.0.254"])?;
    // The router itself is mute, as behind many a firewall.
    router.exec(["ip", "rule", "add", "iif", "lo", "to", "10.98.0.1", "blackhole"])?;
    left.add_peer(&right, Some("10.99.0.2:4433"));
    right.add_peer(&left, None);
    let (left_daemon, right_daemon) = (left.start()?, right.start()?);
    veil_lab::ping(&left.namespace, "10.8.0.2", PATIENCE)?;

    let transfer = Transfer::start(&left.namespace, &right.namespace, "10.8.0.2")?;
    transfer.wait_for(20 << 20, PATIENCE)?;
    router.exec(["ip", "link", "set", "eth1", "mtu", &MTU.to_string()])?;
    let (start, mut last, mut stall) = (Instant::now(), (Instant::now(), transfer.arrived()), Duration::ZERO);
    let aim = transfer.arrived() + (40 << 20);
    while transfer.arrived() < aim {
        ensure!(start.elapsed() < 2 * PATIENCE, "{} bytes, then nothing", transfer.arrived());
        let arrived = transfer.arrived();
        if arrived > last.1 {
            stall = stall.max(last.0.elapsed());
            last = (Instant::now(), arrived);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("longest pause after the path had shrunk: {:.3} s", stall.as_secs_f64());
    transfer.finish()?;
    let shown = show(&left_daemon)?;
    ensure!(number(&shown["counters"], "path_black_holes")? >= 1, "{:#}", shown["counters"]);
    ensure!(number(&shown["counters"], "path_errors")? == 0, "the kernel was told after all");
    let found = number(&shown["peers"][0], "path_mtu_datagram")?;
    ensure!(found <= DATAGRAM, "found {found}, the path takes {DATAGRAM}");
    assert_conserved(&left_daemon)?;
    assert_conserved(&right_daemon)?;
    Ok(())
}
