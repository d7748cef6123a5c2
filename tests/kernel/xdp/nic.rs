//! The NIC changes under running daemons: down and up, gone and back, its program detached, its MTU another. The tunnel
//! goes on by UDP and returns to AF_XDP.

use anyhow::{Context, Result, ensure};
use veil_lab::{Ping, Transfer, ping, require_privileges};
use veil_tests::{number, show};

use super::detach::detach;
use super::hook::on_the_hook;
use super::{
    GENERIC, Link, NATIVE, count, finish, goes_by_ring, goes_by_socket, rung, said, stands_on, start, until,
};
use crate::tunnel::{Hosts, Outer, PATIENCE, Tunnel};

/// The name of the rung that a link reaches on a veth.
fn standing(link: Link) -> &'static str {
    if link == GENERIC { "generic copy" } else { "native copy" }
}

/// What happened to a daemon: so many transitions, and each of these lines so often.
fn happened(daemon: &veil_lab::Daemon, transitions: u64, lines: &[(&str, usize)]) -> Result<()> {
    let counted = count(daemon, "transitions")?;
    ensure!(counted == transitions, "{counted} transitions:\n{}", daemon.log());
    for (line, times) in lines {
        ensure!(said(daemon, line) == *times, "not {times} times {line:?}:\n{}", daemon.log());
    }
    Ok(())
}

fn ring_both_ways(tunnel: &Tunnel) -> Result<()> {
    goes_by_ring(&tunnel.left, &tunnel.hosts.left.namespace, "10.8.0.2")?;
    goes_by_ring(&tunnel.right, &tunnel.hosts.right.namespace, "10.8.0.1")
}

fn down_and_up(name: &str, link: Link) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    let tunnel = start(Hosts::new(name, Outer::V4)?, link, link)?;
    ring_both_ways(&tunnel)?;
    let (near, far) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    let transfer = Transfer::start(near, far, "10.8.0.2")?;
    transfer.wait_for(1 << 20, PATIENCE)?;
    near.exec(["ip", "link", "set", "eth0", "down"])?;
    // The other end has lost its carrier.
    for daemon in [&tunnel.left, &tunnel.right] {
        stands_on(daemon, "udp")?;
        let reason = show(daemon)?["rung_reason"].to_string();
        ensure!(reason.contains("the interface is down"), "{reason}");
    }
    near.exec(["ip", "link", "set", "eth0", "up"])?;
    for daemon in [&tunnel.left, &tunnel.right] {
        stands_on(daemon, standing(link))?;
    }
    let arrived = transfer.arrived();
    transfer.wait_for(arrived + (1 << 20), PATIENCE)?;
    transfer.finish()?;
    ring_both_ways(&tunnel)?;
    for daemon in [&tunnel.left, &tunnel.right] {
        let up = format!("link {}: ", standing(link));
        happened(daemon, 3, &[("link udp: the interface is down", 1), (&up, 2)])?;
    }
    finish(tunnel)
}

#[test]
fn a_nic_goes_down_and_up_native() -> Result<()> {
    down_and_up("down-native", NATIVE)
}

#[test]
fn a_nic_goes_down_and_up_generic() -> Result<()> {
    down_and_up("down-generic", GENERIC)
}

fn gone_and_back(name: &str, link: Link) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    let tunnel = start(Hosts::new(name, Outer::V4)?, link, link)?;
    ring_both_ways(&tunnel)?;
    let (near, far) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    let transfer = Transfer::start(near, far, "10.8.0.2")?;
    transfer.wait_for(1 << 20, PATIENCE)?;
    for round in 1..=2 {
        near.exec(["ip", "link", "del", "eth0"])?;
        for daemon in [&tunnel.left, &tunnel.right] {
            stands_on(daemon, "udp")?;
        }
        tunnel.hosts.lab().veth(near, "eth0", far, "eth0")?;
        near.address("eth0", "10.99.0.1/24")?;
        far.address("eth0", "10.99.0.2/24")?;
        for daemon in [&tunnel.left, &tunnel.right] {
            stands_on(daemon, standing(link))?;
            let gone =
                said(daemon, "link udp: the interface is gone") + said(daemon, "link udp: the interface was");
            ensure!(gone == round, "{}", daemon.log());
            ensure!(count(daemon, "transitions")? == 1 + 2 * round as u64, "{}", daemon.log());
        }
        ring_both_ways(&tunnel)?;
        let arrived = transfer.arrived();
        transfer.wait_for(arrived + (1 << 20), PATIENCE)?;
    }
    transfer.finish()?;
    finish(tunnel)
}

#[test]
fn a_nic_is_deleted_and_made_again_native() -> Result<()> {
    gone_and_back("gone-native", NATIVE)
}

#[test]
fn a_nic_is_deleted_and_made_again_generic() -> Result<()> {
    gone_and_back("gone-generic", GENERIC)
}

/// Whoever detaches the program means it, until the interface changes.
fn detached(name: &str, link: Link) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    let tunnel = start(Hosts::new(name, Outer::V4)?, link, link)?;
    ring_both_ways(&tunnel)?;
    let (near, far) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    let transfer = Transfer::start(near, far, "10.8.0.2")?;
    transfer.wait_for(1 << 20, PATIENCE)?;
    detach(*on_the_hook(far)?.first().context("nothing is attached")?)?;
    stands_on(&tunnel.right, "udp")?;
    ensure!(on_the_hook(far)?.is_empty(), "it was attached again");
    let arrived = transfer.arrived();
    transfer.wait_for(arrived + (1 << 20), PATIENCE)?;
    transfer.finish()?;
    goes_by_socket(&tunnel.right, far, "10.8.0.1")?;
    let why = "link udp: somebody has detached the steering program";
    happened(&tunnel.right, 2, &[(why, 1)])?;
    happened(&tunnel.left, 1, &[(why, 0)])?;

    far.exec(["ip", "link", "set", "eth0", "down"])?;
    until("the interface to be seen down", || {
        Ok(show(&tunnel.right)?["rung_reason"] == "the interface is down")
    })?;
    far.exec(["ip", "link", "set", "eth0", "up"])?;
    stands_on(&tunnel.right, standing(link))?;
    ring_both_ways(&tunnel)?;
    happened(&tunnel.right, 3, &[(why, 1)])?;
    finish(tunnel)
}

#[test]
fn a_detached_program_leaves_the_tunnel_to_udp_native() -> Result<()> {
    detached("detach-native", NATIVE)
}

#[test]
fn a_detached_program_leaves_the_tunnel_to_udp_generic() -> Result<()> {
    detached("detach-generic", GENERIC)
}

/// The size of the inner packets that travel whole, over IPv4 outside.
fn full_size(tunnel: &Tunnel) -> Result<usize> {
    Ok(usize::try_from(number(&show(&tunnel.left)?, "mtu")?)? - 28)
}

/// Pings of the tunnel's full size, until several in a row are answered.
fn full_packets(tunnel: &Tunnel) -> Result<()> {
    let _inside = tunnel.hosts.left.namespace.enter()?;
    let mut ping = Ping::new("10.8.0.2".parse()?)?;
    let (size, mut row) = (full_size(tunnel)?, 0);
    until("full-sized packets", || {
        let answered = ping.once(size, PATIENCE / 40)?.is_some();
        row = if answered { row + 1 } else { 0 };
        Ok(row == 5)
    })
}

#[test]
fn the_mtu_of_the_nic_changes_native() -> Result<()> {
    mtu("mtu-native", NATIVE)
}

#[test]
fn the_mtu_of_the_nic_changes_generic() -> Result<()> {
    mtu("mtu-generic", GENERIC)
}

fn mtu(name: &str, link: Link) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    let mut hosts = Hosts::new(name, Outer::V4)?;
    let wide = "mtu = 2800\nlisten =";
    for node in [&mut hosts.left, &mut hosts.right] {
        node.config = node.config.replace("listen =", wide);
    }
    let tunnel = start(hosts, link, link)?;
    ping(&tunnel.hosts.left.namespace, "10.8.0.2", PATIENCE)?;
    full_packets(&tunnel)?;
    let set = |mtu: &str| -> Result<()> {
        for namespace in [&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace] {
            namespace.exec(["ip", "link", "set", "eth0", "mtu", mtu])?;
        }
        Ok(())
    };
    for smaller in ["1400", "1500"] {
        set(smaller)?;
        full_packets(&tunnel)?;
        ring_both_ways(&tunnel)?;
    }
    for daemon in [&tunnel.left, &tunnel.right] {
        ensure!(count(daemon, "transitions")? == 1, "{}", daemon.log());
    }
    // Beyond what the frames hold: larger ones, and the tunnel is there again.
    set("3000")?;
    for daemon in [&tunnel.left, &tunnel.right] {
        until("larger frames", || Ok(count(daemon, "transitions")? == 3))
            .map_err(|error| error.context(daemon.log()))?;
        ensure!(rung(daemon)? == standing(link) && said(daemon, "outgrown") == 1, "{}", daemon.log());
    }
    full_packets(&tunnel)?;
    ring_both_ways(&tunnel)?;
    set("1500")?;
    full_packets(&tunnel)?;
    finish(tunnel)
}
