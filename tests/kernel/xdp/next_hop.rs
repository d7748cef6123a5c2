//! Who takes the datagrams next changes: a gateway on the way, another Ethernet address, another gateway, another NIC.

use anyhow::{Context, Result, ensure};
use veil_lab::{Lab, Namespace, Node, Received, ping, require_privileges};

use super::{GENERIC, Link, NATIVE, finish, goes_by_ring, goes_by_socket, start, until};
use crate::tunnel::{Hosts, LEFT, Outer, PATIENCE, RIGHT, Tunnel};

/// Two hosts, each on a switch of its own, and two routers that are on both.
struct Routed {
    left: Node,
    right: Node,
    routers: [Namespace; 2],
    lab: Lab,
}

/// A network's prefix, of either family, that the host's number completes.
fn network(outer: Outer, side: &str) -> String {
    match outer {
        Outer::V4 => format!("10.{}.0.", if side == "l" { 98 } else { 99 }),
        Outer::V6 => format!("fd{}::", if side == "l" { 98 } else { 99 }),
    }
}

impl Routed {
    fn new(title: &str, outer: Outer) -> Result<Routed> {
        let lab = Lab::new(title)?;
        let (mut left, mut right) = (lab.node("l", &LEFT)?, lab.node("r", &RIGHT)?);
        let routers = [lab.namespace("m")?, lab.namespace("n")?];
        let length = if matches!(outer, Outer::V4) { 24 } else { 64 };
        for (side, host) in [("l", &left.namespace), ("r", &right.namespace)] {
            let switch = lab.namespace(&format!("sw{side}"))?;
            switch.exec(["ip", "link", "add", "br0", "type", "bridge"])?;
            switch.exec(["ip", "link", "set", "br0", "up"])?;
            let router_wire = if side == "l" { "eth0" } else { "eth1" };
            let on = [(host, "eth0", 1), (&routers[0], router_wire, 253), (&routers[1], router_wire, 254)];
            for (n, (namespace, wire, number)) in on.into_iter().enumerate() {
                let port = format!("p{n}");
                lab.veth(namespace, wire, &switch, &port)?;
                switch.exec(["ip", "link", "set", &port, "master", "br0"])?;
                namespace.address(wire, &format!("{}{number}/{length}", network(outer, side)))?;
                // Whoever gets another Ethernet address says so.
                for notify in ["ipv4.conf.all.arp_notify=1", "ipv6.conf.all.ndisc_notify=1"] {
                    namespace.exec(["sysctl", "-qw", &format!("net.{notify}")])?;
                }
                for notify in ["ipv4/conf", "ipv6/conf"].iter().zip(["arp_notify", "ndisc_notify"]) {
                    let key = format!("net/{}/{wire}/{}=1", notify.0, notify.1);
                    namespace.exec(["sysctl", "-qw", &key])?;
                }
            }
        }
        for router in &routers {
            router.exec(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        }
        for (host, own, far) in [(&left.namespace, "l", "r"), (&right.namespace, "r", "l")] {
            route(host, outer, own, far, 253)?;
        }
        let endpoint = match outer {
            Outer::V4 => "10.99.0.1:4433",
            Outer::V6 => "[fd99::1]:4433",
        };
        left.add_peer(&right, Some(endpoint));
        right.add_peer(&left, None);
        Ok(Routed { left, right, routers, lab })
    }
}

/// The way from a host to the other side: by the router with that number.
fn route(host: &Namespace, outer: Outer, own: &str, far: &str, router: u32) -> Result<()> {
    let length = if matches!(outer, Outer::V4) { 24 } else { 64 };
    let to = format!("{}/{length}", network(outer, far) + if length == 24 { "0" } else { "" });
    host.exec(["ip", "route", "replace", &to, "via", &format!("{}{router}", network(outer, own))])?;
    Ok(())
}

fn gateways(name: &str, outer: Outer, link: Link) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    let Routed { left, right, routers, lab } = Routed::new(name, outer)?;
    let daemons = [left.start_with(link)?, right.start_with(link)?];
    let both = || -> Result<()> {
        goes_by_ring(&daemons[0], &left.namespace, "10.8.0.2")?;
        goes_by_ring(&daemons[1], &right.namespace, "fd08::1")
    };
    both().context("by the first gateway")?;

    // The gateway's and the host's own Ethernet addresses, while both ends know the old ones.
    for (namespace, mac) in [(&routers[0], "02:00:00:00:00:71"), (&left.namespace, "02:00:00:00:00:72")] {
        namespace.exec(["ip", "link", "set", "eth0", "address", mac])?;
        both().with_context(|| format!("after {} became {mac}", namespace.name()))?;
    }

    // Another gateway, for one direction.
    let before = Received::of(&routers[1], "eth0")?;
    route(&left.namespace, outer, "l", "r", 254)?;
    both().context("by the other gateway")?;
    until("datagrams by the other gateway", || {
        ping(&left.namespace, "10.8.0.2", PATIENCE)?;
        Ok(Received::of(&routers[1], "eth0")?.since(before).packets > 20)
    })?;
    let [left_daemon, right_daemon] = daemons;
    super::end(left_daemon)?;
    super::end(right_daemon)?;
    drop(lab);
    Ok(())
}

#[test]
fn gateways_come_and_change_over_ipv4() -> Result<()> {
    gateways("gate-v4", Outer::V4, NATIVE)
}

#[test]
fn gateways_come_and_change_over_ipv6() -> Result<()> {
    gateways("gate-v6", Outer::V6, NATIVE)
}

#[test]
fn gateways_come_and_change_generic() -> Result<()> {
    gateways("gate-gen", Outer::V4, GENERIC)
}

#[test]
fn the_peers_ethernet_address_changes() -> Result<()> {
    if !require_privileges("the_peers_ethernet_address_changes") {
        return Ok(());
    }
    for outer in [Outer::V4, Outer::V6] {
        let tunnel = start(Hosts::new("mac", outer)?, NATIVE, NATIVE)?;
        let (near, far) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
        goes_by_ring(&tunnel.left, near, "10.8.0.2")?;
        goes_by_ring(&tunnel.right, far, "10.8.0.1")?;
        far.exec(["ip", "link", "set", "eth0", "address", "02:00:00:00:00:73"])?;
        // It speaks, and so asks for its neighbour by its new address.
        goes_by_ring(&tunnel.right, far, "10.8.0.1")?;
        goes_by_ring(&tunnel.left, near, "10.8.0.2")?;
        finish(tunnel)?;
    }
    Ok(())
}

/// The kernel sends by an interface that has no socket of ours: so it is left to the kernel.
#[test]
fn a_way_by_another_interface_goes_by_the_socket() -> Result<()> {
    if !require_privileges("a_way_by_another_interface_goes_by_the_socket") {
        return Ok(());
    }
    let tunnel: Tunnel = start(Hosts::new("egress", Outer::V4)?, NATIVE, NATIVE)?;
    let (near, far) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    tunnel.hosts.lab().veth(near, "eth1", far, "eth1")?;
    for (namespace, host) in [(near, 1), (far, 2)] {
        namespace.address("eth1", &format!("10.96.0.{host}/24"))?;
        let loose = ["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=0"];
        namespace.exec(["sysctl", "-qw", loose[0], loose[1], "net.ipv4.conf.eth1.rp_filter=0"])?;
    }
    goes_by_ring(&tunnel.left, near, "10.8.0.2")?;
    near.exec(["ip", "route", "add", "10.99.0.2/32", "via", "10.96.0.2"])?;
    goes_by_socket(&tunnel.left, near, "10.8.0.2")?;
    let before = Received::of(far, "eth1")?;
    ping(near, "10.8.0.2", PATIENCE)?;
    ensure!(Received::of(far, "eth1")?.since(before).packets > 0, "it went another way");
    near.exec(["ip", "route", "del", "10.99.0.2/32"])?;
    goes_by_ring(&tunnel.left, near, "10.8.0.2")?;
    finish(tunnel)
}
