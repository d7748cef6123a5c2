//! One end AF_XDP and the other something else; and datagrams that the rings do not carry arrive by the sockets.

use anyhow::{Result, ensure};
use veil_lab::{Transfer, ping, require_privileges};
use veil_proto::mux::Config;
use veil_tests::{number, show};

use super::{GENERIC, Link, NATIVE, UDP, count, end, finish, goes_by_ring, goes_by_socket, start};
use crate::peer_by_hand::{DAEMON, PeerByHand};
use crate::tunnel::{Hosts, Outer, PATIENCE};

const BYTES: u64 = 2 << 20;

fn carries(name: &str, left: Link, right: Link) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    for (outer, gso) in [Outer::V4, Outer::V6].into_iter().flat_map(|outer| [(outer, false), (outer, true)]) {
        let mut hosts = Hosts::new(name, outer)?;
        for host in [&mut hosts.left, &mut hosts.right] {
            host.config = format!("[link]\ngso = {gso}\n{}", host.config);
        }
        let tunnel = start(hosts, left, right)?;
        tunnel.ping()?;
        let (near, far) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
        for (from, into, to) in [(near, far, "10.8.0.2"), (far, near, "fd08::1")] {
            let transfer = Transfer::start(from, into, to)?;
            transfer.wait_for(BYTES, PATIENCE)?;
            transfer.finish()?;
        }
        for (daemon, link, namespace, to) in
            [(&tunnel.left, left, near, "10.8.0.2"), (&tunnel.right, right, far, "10.8.0.1")]
        {
            if link != UDP {
                goes_by_ring(daemon, namespace, to)?;
                let all = number(&show(daemon)?["counters"], "datagrams_sent")?;
                let (sent, received) = (count(daemon, "ring_sent")?, count(daemon, "ring_received")?);
                let runs = count(daemon, "gso_runs")?;
                if gso && link == NATIVE {
                    // Copied either way: runs by the socket, what is none by the ring.
                    ensure!(runs > 0 && sent > 0, "{runs} runs by the socket, {sent} datagrams by the ring");
                } else {
                    // A few by the socket, before the neighbour was known; the bulk by the rings.
                    ensure!(runs == 0, "{runs} runs by the socket");
                    ensure!(sent * 10 > all * 9, "{sent} of {all} sent by the ring");
                }
                // Generic mode sees what segmentation offload has joined, and leaves that to the socket.
                let joined = link == GENERIC && gso;
                let wanted = if joined { 1 } else { BYTES / 1500 };
                ensure!(received >= wanted, "{received} received by the ring");
                ensure!(count(daemon, "kernel_rx_dropped")? == 0, "the kernel dropped some");
            }
        }
        finish(tunnel)?;
    }
    Ok(())
}

#[test]
fn udp_and_native() -> Result<()> {
    carries("udp-native", UDP, NATIVE)
}

#[test]
fn native_and_udp() -> Result<()> {
    carries("native-udp", NATIVE, UDP)
}

#[test]
fn generic_and_udp() -> Result<()> {
    carries("generic-udp", GENERIC, UDP)
}

#[test]
fn udp_and_generic() -> Result<()> {
    carries("udp-generic", UDP, GENERIC)
}

#[test]
fn native_and_generic() -> Result<()> {
    carries("native-generic", NATIVE, GENERIC)
}

/// Every datagram of the peer, handshakes too, comes in pieces: only the socket puts them together.
#[test]
fn fragments_of_the_outer_packet_arrive_by_the_socket() -> Result<()> {
    if !require_privileges("fragments_of_the_outer_packet_arrive_by_the_socket") {
        return Ok(());
    }
    for link in [NATIVE, GENERIC] {
        let mut hosts = Hosts::new("pieces", Outer::V4)?;
        hosts.left.config.push_str("persistent-keepalive = 1\n");
        // What the peer's kernel believes of the way; the daemon's hears nothing of it.
        let believes = ["ip", "route", "add", "10.99.0.1/32", "dev", "eth0", "mtu", "lock", "68"];
        hosts.right.namespace.exec(believes)?;
        let mut peer = PeerByHand::new(&hosts.right, "10.99.0.2:4433".parse()?, &hosts.left)?;
        peer.sessions.offer(DAEMON, Config::default());
        let daemon = hosts.left.start_with(link)?;
        peer.run_until(PATIENCE, |peer| Ok(peer.sessions.unacknowledged(DAEMON) == Some(0)))?;
        let (pieces, by_ring) = (count(&daemon, "verdict_fragment")?, count(&daemon, "ring_received")?);
        ensure!(pieces >= 4 && by_ring == 0, "{pieces} pieces seen, {by_ring} datagrams by the ring");
        ensure!(number(&show(&daemon)?["counters"], "sessions")? == 1);
        drop(peer);
        end(daemon)?;
    }
    Ok(())
}

/// Between VLAN devices: nothing goes out by the NIC's ring, and tagged frames are left to the kernel.
#[test]
fn a_vlan_goes_by_the_socket() -> Result<()> {
    if !require_privileges("a_vlan_goes_by_the_socket") {
        return Ok(());
    }
    let mut hosts = Hosts::new("vlan", Outer::V4)?;
    let probe = ["ip", "link", "add", "link", "lo", "name", "lo.5", "type", "vlan", "id", "5"];
    if hosts.lab().namespace("probe")?.exec(probe).is_err_and(|e| e.to_string().contains("Unknown device")) {
        println!(
            "*** SKIPPED a_vlan_goes_by_the_socket: this kernel has no VLAN devices (CONFIG_VLAN_8021Q) ***"
        );
        return Ok(());
    }
    for (namespace, host) in [(&hosts.left.namespace, 1), (&hosts.right.namespace, 2)] {
        // Else the tag travels beside the frame, where a program does not see it.
        namespace.exec(["ethtool", "-K", "eth0", "tx-vlan-hw-insert", "off", "rx-vlan-hw-parse", "off"])?;
        namespace.exec(["ip", "link", "add", "link", "eth0", "name", "eth0.5", "type", "vlan", "id", "5"])?;
        namespace.exec(["ip", "link", "set", "eth0.5", "up"])?;
        namespace.address("eth0.5", &format!("10.95.0.{host}/24"))?;
    }
    hosts.left.config = hosts.left.config.replace("10.99.0.2:4433", "10.95.0.2:4433");
    let tunnel = start(hosts, NATIVE, NATIVE)?;
    let (near, far) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    goes_by_socket(&tunnel.left, near, "10.8.0.2")?;
    goes_by_socket(&tunnel.right, far, "10.8.0.1")?;
    for daemon in [&tunnel.left, &tunnel.right] {
        ensure!(count(daemon, "verdict_vlan")? > 0 && count(daemon, "ring_received")? == 0);
    }
    finish(tunnel)
}

#[test]
fn without_udp_checksums_it_works_over_ipv4() -> Result<()> {
    if !require_privileges("without_udp_checksums_it_works_over_ipv4") {
        return Ok(());
    }
    for right in [NATIVE, UDP] {
        let mut hosts = Hosts::new("no-sum", Outer::V4)?;
        for node in [&mut hosts.left, &mut hosts.right] {
            node.config = format!("[link]\nudp-checksum = false\n{}", node.config);
        }
        let tunnel = start(hosts, NATIVE, right)?;
        goes_by_ring(&tunnel.left, &tunnel.hosts.left.namespace, "10.8.0.2")?;
        ping(&tunnel.hosts.right.namespace, "fd08::1", PATIENCE)?;
        finish(tunnel)?;
    }
    Ok(())
}
