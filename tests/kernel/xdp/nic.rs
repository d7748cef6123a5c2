//! The NIC changes under running daemons: down and up, gone and back, its program detached, its MTU another. The tunnel
//! goes on by UDP and returns to AF_XDP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use veil_lab::{Daemon, Namespace, Ping, Transfer, require_privileges};
use veil_tests::{number, show};

use super::detach::detach;
use super::hook::on_the_hook;
use super::{
    GENERIC, Link, NATIVE, count, finish, goes_by_ring, goes_by_socket, rung, said, stands_on, start, until,
};
use crate::tunnel::{Hosts, Outer, PATIENCE, Tunnel};

/// Two daemons over AF_XDP whose NICs will change.
struct Scene {
    tunnel: Tunnel,
    /// The name of the rung that their link reaches on a veth.
    standing: &'static str,
}

/// Plays a scenario between two hosts of that name.
fn play(name: &str, link: Link, scenario: fn(Hosts, Link) -> Result<()>) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    scenario(Hosts::new(name, Outer::V4)?, link)
}

impl Scene {
    /// Each daemon sends by its ring.
    fn new(hosts: Hosts, link: Link) -> Result<Scene> {
        let standing = if link == GENERIC { "generic copy" } else { "native copy" };
        let scene = Scene { tunnel: start(hosts, link, link)?, standing };
        scene.ring_both_ways()?;
        Ok(scene)
    }

    fn near(&self) -> &Namespace {
        &self.tunnel.hosts.left.namespace
    }

    fn far(&self) -> &Namespace {
        &self.tunnel.hosts.right.namespace
    }

    fn daemons(&self) -> [&Daemon; 2] {
        [&self.tunnel.left, &self.tunnel.right]
    }

    fn ring_both_ways(&self) -> Result<()> {
        goes_by_ring(&self.tunnel.left, self.near(), "10.8.0.2")?;
        goes_by_ring(&self.tunnel.right, self.far(), "10.8.0.1")
    }

    /// Waits until both daemons stand on that rung.
    fn both_stand_on(&self, rung: &str) -> Result<()> {
        self.daemons().into_iter().try_for_each(|daemon| stands_on(daemon, rung))
    }

    /// A transfer through the tunnel, under way.
    fn transfer(&self) -> Result<Transfer> {
        let transfer = Transfer::start(self.near(), self.far(), "10.8.0.2")?;
        goes_on(&transfer)?;
        Ok(transfer)
    }
}

/// Waits until more has arrived.
fn goes_on(transfer: &Transfer) -> Result<()> {
    transfer.wait_for(transfer.arrived() + (1 << 20), PATIENCE)
}

/// What happened to a daemon: so many transitions, and each of these lines so often.
fn happened(daemon: &Daemon, transitions: u64, lines: &[(&str, usize)]) -> Result<()> {
    let counted = count(daemon, "transitions")?;
    ensure!(counted == transitions, "{counted} transitions:\n{}", daemon.log());
    for (line, times) in lines {
        ensure!(said(daemon, line) == *times, "not {times} times {line:?}:\n{}", daemon.log());
    }
    Ok(())
}

fn down_and_up(hosts: Hosts, link: Link) -> Result<()> {
    let scene = Scene::new(hosts, link)?;
    let transfer = scene.transfer()?;
    scene.near().exec(["ip", "link", "set", "eth0", "down"])?;
    // The other end has lost its carrier.
    scene.both_stand_on("udp")?;
    for daemon in scene.daemons() {
        let reason = show(daemon)?["rung_reason"].to_string();
        ensure!(reason.contains("the interface is down"), "{reason}");
    }
    scene.near().exec(["ip", "link", "set", "eth0", "up"])?;
    scene.both_stand_on(scene.standing)?;
    goes_on(&transfer)?;
    transfer.finish()?;
    scene.ring_both_ways()?;
    for daemon in scene.daemons() {
        let up = format!("link {}: ", scene.standing);
        happened(daemon, 3, &[("link udp: the interface is down", 1), (&up, 2)])?;
    }
    finish(scene.tunnel)
}

#[test]
fn a_nic_goes_down_and_up_native() -> Result<()> {
    play("down-native", NATIVE, down_and_up)
}

#[test]
fn a_nic_goes_down_and_up_generic() -> Result<()> {
    play("down-generic", GENERIC, down_and_up)
}

fn gone_and_back(hosts: Hosts, link: Link) -> Result<()> {
    let scene = Scene::new(hosts, link)?;
    let (near, far) = (scene.near(), scene.far());
    let transfer = scene.transfer()?;
    for round in 1..=2 {
        near.exec(["ip", "link", "del", "eth0"])?;
        scene.both_stand_on("udp")?;
        scene.tunnel.hosts.lab().veth(near, "eth0", far, "eth0")?;
        near.address("eth0", "10.99.0.1/24")?;
        far.address("eth0", "10.99.0.2/24")?;
        scene.both_stand_on(scene.standing)?;
        for daemon in scene.daemons() {
            let gone =
                said(daemon, "link udp: the interface is gone") + said(daemon, "link udp: the interface was");
            ensure!(gone == round, "{}", daemon.log());
            happened(daemon, 1 + 2 * round as u64, &[])?;
        }
        scene.ring_both_ways()?;
        goes_on(&transfer)?;
    }
    transfer.finish()?;
    finish(scene.tunnel)
}

#[test]
fn a_nic_is_deleted_and_made_again_native() -> Result<()> {
    play("gone-native", NATIVE, gone_and_back)
}

#[test]
fn a_nic_is_deleted_and_made_again_generic() -> Result<()> {
    play("gone-generic", GENERIC, gone_and_back)
}

/// Whoever detaches the program means it, until the interface changes.
fn detached(hosts: Hosts, link: Link) -> Result<()> {
    let scene = Scene::new(hosts, link)?;
    let ([left, right], far) = (scene.daemons(), scene.far());
    let transfer = scene.transfer()?;
    // Some seconds after the start: what no event tells is looked at every second, and not once.
    std::thread::sleep(Duration::from_millis(2500));
    detach(*on_the_hook(far)?.first().context("nothing is attached")?)?;
    stands_on(right, "udp")?;
    ensure!(on_the_hook(far)?.is_empty(), "it was attached again");
    until("the socket's runs to be joined", || joins(right))?;
    goes_on(&transfer)?;
    transfer.finish()?;
    goes_by_socket(right, far, "10.8.0.1")?;
    let why = "link udp: somebody has detached the steering program";
    happened(right, 2, &[(why, 1)])?;
    happened(left, 1, &[(why, 0)])?;

    far.exec(["ip", "link", "set", "eth0", "down"])?;
    until("the interface to be seen down", || Ok(show(right)?["rung_reason"] == "the interface is down"))?;
    far.exec(["ip", "link", "set", "eth0", "up"])?;
    stands_on(right, scene.standing)?;
    scene.ring_both_ways()?;
    happened(right, 3, &[(why, 1)])?;
    // A generic program would be given what the kernel joins for the socket.
    until("a ring's own way", || Ok(joins(right)? == (scene.standing != "generic copy")))?;
    finish(scene.tunnel)
}

/// Whether the kernel joins datagrams that come by the socket.
fn joins(daemon: &Daemon) -> Result<bool> {
    Ok(number(&show(daemon)?["counters"], "gro")? == 1)
}

#[test]
fn a_detached_program_leaves_the_tunnel_to_udp_native() -> Result<()> {
    play("detach-native", NATIVE, detached)
}

#[test]
fn a_detached_program_leaves_the_tunnel_to_udp_generic() -> Result<()> {
    play("detach-generic", GENERIC, detached)
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

fn mtu(mut hosts: Hosts, link: Link) -> Result<()> {
    for node in [&mut hosts.left, &mut hosts.right] {
        node.config = node.config.replace("listen =", "mtu = 2800\nlisten =");
    }
    let scene = Scene::new(hosts, link)?;
    full_packets(&scene.tunnel)?;
    let set = |mtu: &str| -> Result<()> {
        for namespace in [scene.near(), scene.far()] {
            namespace.exec(["ip", "link", "set", "eth0", "mtu", mtu])?;
        }
        Ok(())
    };
    for smaller in ["1400", "1500"] {
        set(smaller)?;
        full_packets(&scene.tunnel)?;
        scene.ring_both_ways()?;
    }
    for daemon in scene.daemons() {
        happened(daemon, 1, &[])?;
    }
    // Beyond what the frames hold: larger ones, and the tunnel is there again.
    set("3000")?;
    for daemon in scene.daemons() {
        until("larger frames", || Ok(count(daemon, "transitions")? == 3))
            .map_err(|error| error.context(daemon.log()))?;
        ensure!(rung(daemon)? == scene.standing && said(daemon, "outgrown") == 1, "{}", daemon.log());
    }
    full_packets(&scene.tunnel)?;
    scene.ring_both_ways()?;
    set("1500")?;
    full_packets(&scene.tunnel)?;
    finish(scene.tunnel)
}

#[test]
fn the_mtu_of_the_nic_changes_native() -> Result<()> {
    play("mtu-native", NATIVE, mtu)
}

#[test]
fn the_mtu_of_the_nic_changes_generic() -> Result<()> {
    play("mtu-generic", GENERIC, mtu)
}
