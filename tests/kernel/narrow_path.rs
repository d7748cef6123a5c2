//! The outer path is narrower than the tunnel's packets: they arrive in pieces, whole.

use anyhow::{Result, ensure};
use veil_lab::{Ping, Transfer, require_privileges};
use veil_tests::{number, show};

use crate::tunnel::{Hosts, Outer, PATIENCE};
use crate::xdp::until;

/// The inner packet of the default tunnel MTU, as an ICMP echo's payload: 1416 less IPv4 and ICMP headers.
const FULL_SIZE: usize = 1416 - 28;

fn full_packets_arrive(name: &str, outer: Outer) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    let hosts = Hosts::new(name, outer)?;
    for namespace in [&hosts.left.namespace, &hosts.right.namespace] {
        namespace.exec(["ip", "link", "set", "eth0", "mtu", "1300"])?;
    }
    let tunnel = hosts.start()?;
    tunnel.ping()?;
    let (left, right) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    {
        let _inside = left.enter()?;
        let mut ping = Ping::new("10.8.0.2".parse()?)?;
        // Each side may lose its first large datagram: that is how it learns. Both have, once a large one was answered.
        until("a large ping", || Ok(ping.once(FULL_SIZE, PATIENCE / 20)?.is_some()))?;
        for n in 0..10 {
            ensure!(ping.once(FULL_SIZE, PATIENCE)?.is_some(), "large ping {n} after that was lost");
        }
    }
    let transfer = Transfer::start(left, right, "10.8.0.2")?;
    transfer.wait_for(4 << 20, PATIENCE)?;
    transfer.finish()?;
    let shown = [show(&tunnel.left)?, show(&tunnel.right)?];
    for side in &shown {
        let counters = &side["counters"];
        ensure!(
            number(counters, "packets_fragmented")? > 0 && number(counters, "ip_reassembled")? > 0,
            "{counters:#}"
        );
        // It was told, and has not found out.
        ensure!(number(counters, "path_black_holes")? == 0, "{counters:#}");
    }
    tunnel.assert_conserved()
}

#[test]
fn packets_wider_than_an_ipv4_path_arrive_in_pieces() -> Result<()> {
    full_packets_arrive("narrow-v4", Outer::V4)
}

#[test]
fn packets_wider_than_an_ipv6_path_arrive_in_pieces() -> Result<()> {
    full_packets_arrive("narrow-v6", Outer::V6)
}
