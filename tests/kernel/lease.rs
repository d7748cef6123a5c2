//! What a peer gives this host is put on the tunnel's interface, and taken off again; what was there before stays.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use veil_lab::{Lab, Namespace, ping, require_privileges};
use veil_proto::PeerId;
use veil_proto::allowed_ips::IpNet;
use veil_proto::mux::Config;
use veil_proto::time::SECOND;
use veil_tests::{assert_conserved, show};
use veil_userspace::control::lease::Leases;
use veil_userspace::control::show::{PeerSnapshot, Snapshot};

use crate::peer_by_hand::{DAEMON, PeerByHand};
use crate::tunnel::{Hosts, Outer, PATIENCE, Tunnel};

/// Far enough apart for each change to be put into force.
const STEP: u64 = 60 * SECOND;

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("a network")).collect()
}

struct Host {
    namespace: Namespace,
    leases: Leases,
    now: u64,
}

impl Host {
    fn give(&mut self, peer: u32, addresses: &[&str], routes: &[&str], mtu: Option<u16>) -> Result<String> {
        let lease = Config { addresses: nets(addresses), routes: nets(routes), mtu, ..Config::default() };
        self.now += STEP;
        let _inside = self.namespace.enter()?;
        self.leases.take(PeerId(peer), "peer", lease);
        self.leases.apply(std::iter::once(IpAddr::from([203, 0, 113, 7])), self.now);
        let shown = [
            self.namespace.exec(["ip", "-brief", "address", "show", "dev", "tun0"])?,
            self.namespace.exec(["ip", "route", "show"])?,
            self.namespace.exec(["ip", "link", "show", "dev", "tun0"])?,
        ];
        Ok(shown.join("\n"))
    }
}

#[test]
fn leases_come_and_go_and_touch_nothing_else() -> Result<()> {
    if !require_privileges("leases_come_and_go_and_touch_nothing_else") {
        return Ok(());
    }
    let lab = Lab::new("lease")?;
    let (namespace, other) = (lab.namespace("h")?, lab.namespace("o")?);
    lab.veth(&namespace, "tun0", &other, "eth0")?;
    namespace.address("tun0", "10.8.0.2/24")?;
    namespace.exec(["ip", "route", "add", "default", "dev", "tun0"])?;
    namespace.exec(["ip", "route", "add", "10.70.0.0/16", "dev", "tun0"])?;
    let mut host = Host { namespace, leases: Leases::new("tun0", 1416), now: 0 };

    // Given: an address, one that is there already, the operator's own route, the default route, and a peer's whereabouts.
    let routes = ["10.60.0.0/16", "10.70.0.0/16", "0.0.0.0/0", "203.0.113.0/24", "127.0.0.0/8"];
    let shown = host.give(0, &["10.9.0.7/32", "10.8.0.2/24", "10.8.0.2/32"], &routes, Some(1300))?;
    for wanted in ["10.9.0.7/32", "10.8.0.2/24", "10.60.0.0/16", "mtu 1300"] {
        ensure!(shown.contains(wanted), "no {wanted}:\n{shown}");
    }
    ensure!(!shown.contains("203.0.113.0/24") && !shown.contains("127.0.0.0/8"), "{shown}");
    let mut snapshot = Snapshot { peers: vec![PeerSnapshot::default()], ..Snapshot::default() };
    host.leases.enter(&mut snapshot);
    ensure!(
        snapshot.peers[0].lease_left_out == ["0.0.0.0/0", "203.0.113.0/24", "127.0.0.0/8"],
        "{snapshot:?}"
    );

    // A second peer gives one of the same, and less room.
    let shown = host.give(1, &["10.9.0.7/32"], &[], Some(1290))?;
    ensure!(shown.contains("mtu 1290"), "{shown}");
    let shown = host.give(0, &[], &[], Some(1400))?;
    ensure!(
        shown.contains("10.9.0.7/32") && shown.contains("mtu 1290"),
        "the second peer gives it still:\n{shown}"
    );
    ensure!(!shown.contains("10.60.0.0/16"), "nobody gives it any more:\n{shown}");

    let shown = host.give(1, &[], &[], None)?;
    ensure!(!shown.contains("10.9.0.7"), "{shown}");
    for own in ["10.8.0.2/24", "default", "10.70.0.0/16", "mtu 1400"] {
        ensure!(shown.contains(own), "the operator's own {own} is gone:\n{shown}");
    }
    let shown = host.give(0, &[], &[], None)?;
    ensure!(shown.contains("mtu 1416"), "{shown}");
    Ok(())
}

/// The kernel takes an interface's routes away with its last address, and secondary addresses with their primary one.
#[test]
fn a_lease_that_changes_leaves_the_routes_and_the_other_addresses() -> Result<()> {
    if !require_privileges("a_lease_that_changes_leaves_the_routes_and_the_other_addresses") {
        return Ok(());
    }
    let lab = Lab::new("lease2")?;
    let (namespace, other) = (lab.namespace("h")?, lab.namespace("o")?);
    lab.veth(&namespace, "tun0", &other, "eth0")?;
    namespace.exec(["sysctl", "-qw", "net.ipv4.conf.tun0.promote_secondaries=0"])?;
    namespace.exec(["ip", "route", "add", "10.8.0.0/16", "dev", "tun0"])?;
    namespace.exec(["ip", "route", "add", "default", "dev", "tun0", "metric", "77"])?;
    namespace.exec(["ip", "route", "add", "10.71.0.0/16", "dev", "tun0", "table", "100"])?;
    namespace.exec(["ip", "nexthop", "add", "id", "7", "dev", "tun0"])?;
    namespace.exec(["ip", "route", "add", "10.72.0.0/16", "nhid", "7"])?;
    let mut host = Host { namespace, leases: Leases::new("tun0", 1416), now: 0 };
    let steps: [(&[&str], &[&str]); 4] = [
        (&["10.8.0.7/24", "10.8.0.8/24"], &["10.60.0.0/16"]),
        (&["10.8.0.8/24"], &["10.60.0.0/16"]),
        (&["10.8.0.9/24"], &["10.60.0.0/16"]),
        (&[], &["10.60.0.0/16"]),
    ];
    for (addresses, routes) in steps {
        let shown = host.give(0, addresses, routes, None)?;
        let own = host.namespace.exec(["ip", "route", "show", "table", "100"])?;
        ensure!(own.contains("10.71.0.0/16 dev tun0"), "of another table: {own}");
        for wanted in addresses.iter().chain(routes).chain(&[
            "10.8.0.0/16",
            "default dev tun0 scope link metric 77",
            "10.72.0.0/16 nhid 7",
        ]) {
            ensure!(shown.contains(wanted), "no {wanted}:\n{shown}");
        }
        for gone in ["10.8.0.7/24", "10.8.0.8/24", "10.8.0.9/24"] {
            ensure!(shown.contains(gone) == addresses.contains(&gone), "{gone}:\n{shown}");
        }
    }
    Ok(())
}

/// IPv6 has an address once, whatever its prefix, and takes the network's route away with it.
#[test]
fn a_lease_over_ipv6_may_change_its_prefix() -> Result<()> {
    if !require_privileges("a_lease_over_ipv6_may_change_its_prefix") {
        return Ok(());
    }
    let lab = Lab::new("lease6")?;
    let (namespace, other) = (lab.namespace("h")?, lab.namespace("o")?);
    lab.veth(&namespace, "tun0", &other, "eth0")?;
    let mut host = Host { namespace, leases: Leases::new("tun0", 1416), now: 0 };
    for (address, was) in [
        ("fd08::7/64", None),
        ("fd08::7/128", Some("fd08::7/64")),
        ("fd08::8/64", None),
        ("fd09::8/64", None),
    ] {
        let shown = host.give(0, &[address], &["fd08::/64"], None)?;
        ensure!(shown.contains(address) && was.is_none_or(|was| !shown.contains(was)), "{address}:\n{shown}");
        let routes = host.namespace.exec(["ip", "-6", "route", "show", "dev", "tun0"])?;
        ensure!(routes.contains("fd08::/64"), "{address}:\n{routes}");
    }
    Ok(())
}

/// The gateway is reached by nothing but the given address, which its successor is secondary to.
#[test]
fn a_lease_that_changes_leaves_the_routes_by_a_gateway() -> Result<()> {
    if !require_privileges("a_lease_that_changes_leaves_the_routes_by_a_gateway") {
        return Ok(());
    }
    let lab = Lab::new("lease3")?;
    let (namespace, other) = (lab.namespace("h")?, lab.namespace("o")?);
    lab.veth(&namespace, "tun0", &other, "eth0")?;
    namespace.exec(["sysctl", "-qw", "net.ipv4.conf.tun0.promote_secondaries=0"])?;
    let mut host = Host { namespace, leases: Leases::new("tun0", 1416), now: 0 };
    host.give(0, &["10.8.0.7/24"], &[], None)?;
    host.namespace.exec(["ip", "route", "add", "192.168.0.0/16", "via", "10.8.0.1"])?;
    host.namespace.exec(["ip", "route", "add", "192.168.7.0/24", "via", "10.8.0.1", "src", "10.8.0.7"])?;
    let shown = host.give(0, &["10.8.0.9/24"], &[], None)?;
    ensure!(shown.contains("10.8.0.9/24") && !shown.contains("10.8.0.7"), "{shown}");
    ensure!(shown.contains("192.168.0.0/16 via 10.8.0.1"), "{shown}");
    // Sent from an address that stays with another prefix.
    host.namespace.exec(["ip", "route", "add", "192.168.9.0/24", "via", "10.8.0.1", "src", "10.8.0.9"])?;
    let shown = host.give(0, &["10.8.0.9/25"], &[], None)?;
    ensure!(shown.contains("10.8.0.9/25") && !shown.contains("10.8.0.9/24"), "{shown}");
    ensure!(shown.contains("192.168.9.0/24 via 10.8.0.1"), "{shown}");
    Ok(())
}

#[test]
fn a_daemon_takes_the_lease_it_asks_for_and_no_other() -> Result<()> {
    if !require_privileges("a_daemon_takes_the_lease_it_asks_for_and_no_other") {
        return Ok(());
    }
    for asks in [true, false] {
        let mut hosts = Hosts::new("taker", Outer::V4)?;
        hosts.left.config.push_str("persistent-keepalive = 1\n");
        if asks {
            hosts.left.config.push_str("lease = true\n");
        }
        // The right host's own inner address is all that is its to give.
        let mut by_hand = PeerByHand::new(&hosts.right, "10.99.0.2:4433".parse()?, &hosts.left)?;
        let addresses = nets(&["10.8.0.2/32", "10.8.0.77/32"]);
        by_hand.sessions.offer(DAEMON, Config { addresses, mtu: Some(1300), ..Config::default() });
        let daemon = hosts.left.start()?;
        let acked = |by_hand: &mut PeerByHand| Ok(by_hand.sessions.unacknowledged(DAEMON) == Some(0));
        by_hand.run_until(PATIENCE, acked)?;
        let interface = &hosts.left.interface;
        let shown = || hosts.left.namespace.exec(["ip", "address", "show", "dev", interface]);
        // It is acknowledged before it is in force.
        let start = std::time::Instant::now();
        while asks && !shown()?.contains("10.8.0.2/32") {
            ensure!(start.elapsed() < PATIENCE, "{}{}", shown()?, daemon.log());
        }
        let shown = shown()?;
        ensure!(shown.contains("mtu 1300") == asks && shown.contains("10.8.0.2/32") == asks, "{shown}");
        ensure!(!shown.contains("10.8.0.77"), "not the peer's to give:\n{shown}");
        ensure!(daemon.log().contains("lease from") == asks, "{}", daemon.log());
        let told = show(&daemon)?;
        let lease = &told["peers"][0]["lease"];
        let addresses = serde_json::json!(["10.8.0.2/32"]);
        ensure!(if asks { lease["addresses"] == addresses } else { lease.is_null() }, "{told}");
        ping(&hosts.left.namespace, "10.8.0.1", PATIENCE)?;
        assert_conserved(&daemon)?;
    }
    Ok(())
}

/// A host that knows a server's key and where it is, and has everything else from it, as long as it is offered.
#[test]
fn a_daemon_gives_a_peer_what_its_configuration_offers_and_takes_it_back() -> Result<()> {
    if !require_privileges("a_daemon_gives_a_peer_what_its_configuration_offers_and_takes_it_back") {
        return Ok(());
    }
    let mut hosts = Hosts::new("giver", Outer::V4)?;
    let Hosts { left, right, .. } = &mut hosts;
    let lines = left.config.lines().map(|line| match line.split(" = ").next() {
        Some("addresses") => "addresses = []\n".to_owned(),
        // Of which nothing is a route of the host's own.
        Some("allowed-ips") => "allowed-ips = [\"0.0.0.0/0\"]\n".to_owned(),
        _ => format!("{line}\n"),
    });
    left.config = lines.collect::<String>() + "lease = true\n";
    right.config += "offer = { addresses = [\"10.8.0.1/24\"], routes = [\"10.60.0.0/16\"], mtu = 1300 }\n";
    let Tunnel { left: taker, right: giver, mut hosts } = hosts.start()?;
    let (host, interface) = (&hosts.left.namespace, hosts.left.interface.as_str());
    let until = |all: bool| -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            let addresses = host.exec(["ip", "address", "show", "dev", interface])?;
            let shown = addresses + &host.exec(["ip", "route", "show", "dev", interface])?;
            if ["inet 10.8.0.1/24", "mtu 1300", "10.60.0.0/16"].iter().all(|it| shown.contains(it) == all) {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "{shown}{}", taker.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    until(true)?;
    let (there, here) = (show(&giver)?, show(&taker)?);
    let (offered, leased) = (&there["peers"][0]["offer"], &here["peers"][0]["lease"]);
    ensure!(offered == leased && leased["mtu"] == 1300 && here["mtu"] == 1300, "{there} {here}");
    ensure!(here["peers"][0]["lease_in_force"] == true, "{here}");
    ping(host, "10.8.0.2", PATIENCE)?;
    assert_conserved(&giver)?;
    giver.stop()?;

    let offer = hosts.right.config.find("offer").expect("it was put there");
    hosts.right.config.replace_range(offer.., "offer = {}\n");
    let giver = hosts.right.start()?;
    until(false)?;
    let here = show(&taker)?;
    ensure!(here["peers"][0]["lease"]["addresses"] == serde_json::json!([]), "{here}");
    assert_conserved(&giver)?;
    assert_conserved(&taker).map(drop)
}
