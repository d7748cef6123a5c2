//! The TUN's offloads through whole daemons: super-packets in, super-packets out, every byte and every checksum right.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use veil_lab::{
    Namespace, Transfer, ping, require_privileges, require_program, set_udp_segment, uninterrupted,
};
use veil_tests::{assert_conserved, number, show};
use veil_userspace::event_loop::process::gso_max_sizes;

use crate::tunnel::{Hosts, Outer, PATIENCE, Tunnel};

const BYTES: u64 = 8 << 20;

/// The counters that tell whether super-packets were read and written.
struct Seen {
    read: u64,
    written: u64,
    refused: u64,
}

impl Seen {
    fn at(shown: &Value) -> Result<Seen> {
        let counters = &shown["counters"];
        Ok(Seen {
            read: number(counters, "tun_super_packets")?,
            written: number(counters, "super_packets_written")?,
            refused: number(counters, "super_packets_refused")?,
        })
    }
}

/// Content-checked transfers over IPv4 and IPv6, both ways, between `left` and the host at the addresses `far`.
fn transfers(left: &Namespace, near: [&str; 2], right: &Namespace, far: [&str; 2]) -> Result<()> {
    for (near, far) in near.into_iter().zip(far) {
        for (from, into, to) in [(left, right, far), (right, left, near)] {
            let transfer = Transfer::start(from, into, to)?;
            transfer.wait_for(BYTES, PATIENCE).with_context(|| format!("to {to}"))?;
            transfer.finish().with_context(|| format!("to {to}"))?;
        }
    }
    Ok(())
}

/// Packets that a host threw away because their sums were wrong.
fn checksum_errors(host: &Namespace) -> Result<u64> {
    let mut total = 0;
    let files = ["/proc/net/snmp", "/proc/net/snmp6", "/proc/net/netstat"];
    for file in files {
        let text = host.exec(["cat", file])?;
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        // Either "name value" on one line, or names on one line and values below them.
        for (names, values) in lines.iter().zip(lines.iter().skip(1)) {
            let pairs = names.iter().zip(values).filter(|(name, _)| name.ends_with("InCsumErrors"));
            total += pairs.filter_map(|(_, value)| value.parse::<u64>().ok()).sum::<u64>();
        }
        let pairs = lines.iter().filter(|line| line.len() == 2 && line[0].ends_with("InCsumErrors"));
        total += pairs.filter_map(|line| line[1].parse::<u64>().ok()).sum::<u64>();
    }
    Ok(total)
}

fn inner_transfers(tunnel: &Tunnel) -> Result<()> {
    let (left, right) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    transfers(left, ["10.8.0.1", "fd08::1"], right, ["10.8.0.2", "fd08::2"])?;
    for host in [left, right] {
        ensure!(checksum_errors(host)? == 0, "{} met wrong checksums", host.name());
    }
    Ok(())
}

/// Two hosts with `line` in `[interface]` of both.
fn tunnel_with(title: &str, line: &str) -> Result<Tunnel> {
    let mut hosts = Hosts::new(title, Outer::V4)?;
    for node in [&mut hosts.left, &mut hosts.right] {
        node.config = node.config.replacen("[interface]\n", &format!("[interface]\n{line}\n"), 1);
    }
    hosts.start()
}

#[test]
fn tcp_crosses_in_super_packets_both_ways() -> Result<()> {
    if !require_privileges("tcp_crosses_in_super_packets_both_ways") {
        return Ok(());
    }
    let tunnel = Tunnel::new("tso", Outer::V4)?;
    tunnel.ping()?;
    inner_transfers(&tunnel)?;
    for daemon in [&tunnel.left, &tunnel.right] {
        let shown = show(daemon)?;
        ensure!(number(&shown["counters"], "tun_tso")? == 1, "{shown:#}");
        let seen = Seen::at(&shown)?;
        ensure!(seen.read > 0 && seen.written > 0 && seen.refused == 0, "{shown:#}");
    }
    tunnel.assert_conserved()
}

#[test]
fn without_offloads_everything_crosses_packet_by_packet() -> Result<()> {
    if !require_privileges("without_offloads_everything_crosses_packet_by_packet") {
        return Ok(());
    }
    let tunnel = tunnel_with("plain", "offload = false")?;
    tunnel.ping()?;
    inner_transfers(&tunnel)?;
    for daemon in [&tunnel.left, &tunnel.right] {
        let shown = show(daemon)?;
        let seen = Seen::at(&shown)?;
        ensure!(seen.read == 0 && seen.written == 0, "{shown:#}");
    }
    tunnel.assert_conserved()
}

#[test]
fn one_end_without_offloads_understands_one_that_has_them() -> Result<()> {
    if !require_privileges("one_end_without_offloads_understands_one_that_has_them") {
        return Ok(());
    }
    let mut hosts = Hosts::new("mixed", Outer::V6)?;
    hosts.right.config = hosts.right.config.replacen("[interface]\n", "[interface]\noffload = false\n", 1);
    let tunnel = hosts.start()?;
    tunnel.ping()?;
    inner_transfers(&tunnel)?;
    // Left's packets come whole from the kernel of the one, and leave it for right unfinished: both verified.
    let (left, right) = (Seen::at(&show(&tunnel.left)?)?, Seen::at(&show(&tunnel.right)?)?);
    ensure!(left.read > 0 && left.written > 0, "left joins what came whole, verified");
    ensure!(right.read == 0 && right.written == 0, "right does neither");
    tunnel.assert_conserved()
}

#[test]
fn finished_checksums_are_right() -> Result<()> {
    if !require_privileges("finished_checksums_are_right") {
        return Ok(());
    }
    let tunnel = tunnel_with("finish", "finish-checksums = true")?;
    tunnel.ping()?;
    inner_transfers(&tunnel)?;
    for daemon in [&tunnel.left, &tunnel.right] {
        let shown = show(daemon)?;
        let seen = Seen::at(&shown)?;
        ensure!(seen.read > 0 && seen.written == 0, "{shown:#}");
    }
    tunnel.assert_conserved()
}

/// Datagram `number` of a burst: its number, then bytes that follow from it.
fn datagram(number: usize, len: usize) -> Vec<u8> {
    let mut out: Vec<u8> = (0..len).map(|at| (at * 13 + number * 7) as u8).collect();
    out[..2].copy_from_slice(&(number as u16).to_be_bytes());
    out
}

/// Sends bursts of `count` datagrams of `size` bytes (the last is shorter) as super-packets, and receives them all in
/// order, every byte right.
fn bursts(from: &Namespace, into: &Namespace, to: &str, size: usize, count: usize) -> Result<()> {
    let receiver = {
        let _inside = into.enter()?;
        UdpSocket::bind(SocketAddr::new(to.parse()?, 0))?
    };
    receiver.set_read_timeout(Some(PATIENCE))?;
    let sender = {
        let _inside = from.enter()?;
        UdpSocket::bind(if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" })?
    };
    sender.connect(receiver.local_addr()?)?;
    set_udp_segment(&sender, size as u16).context("UDP_SEGMENT")?;
    let datagrams: Vec<Vec<u8>> =
        (0..count).map(|n| datagram(n, if n + 1 == count { size / 2 + 1 } else { size })).collect();
    let burst = datagrams.concat();
    for round in 0..20 {
        ensure!(sender.send(&burst)? == burst.len());
        for (n, expected) in datagrams.iter().enumerate() {
            let mut got = vec![0; 2000];
            let len = uninterrupted(|| receiver.recv(&mut got))
                .with_context(|| format!("datagram {n} of burst {round} to {to}, {size} bytes each"))?;
            ensure!(got[..len] == expected[..], "datagram {n} of burst {round} to {to}, {size} bytes each");
        }
    }
    Ok(())
}

#[test]
fn udp_super_packets_arrive_datagram_by_datagram() -> Result<()> {
    if !require_privileges("udp_super_packets_arrive_datagram_by_datagram") {
        return Ok(());
    }
    let tunnel = Tunnel::new("uso", Outer::V4)?;
    tunnel.ping()?;
    let (left, right) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    // Full size, odd, several to a datagram of ours.
    for (size, count) in [(1300, 40), (999, 50), (61, 60)] {
        bursts(left, right, "10.8.0.2", size, count)?;
        bursts(left, right, "fd08::2", size, count)?;
        bursts(right, left, "10.8.0.1", size, count)?;
    }
    for host in [left, right] {
        ensure!(checksum_errors(host)? == 0, "{} met wrong checksums", host.name());
    }
    let (here, there) = (show(&tunnel.left)?, show(&tunnel.right)?);
    if number(&here["counters"], "tun_uso")? == 1 {
        ensure!(Seen::at(&here)?.read > 0 && Seen::at(&there)?.written > 0, "{here:#}\n{there:#}");
    } else {
        println!("this kernel's TUN knows no USO: the datagrams crossed one by one");
    }
    tunnel.assert_conserved()
}

/// A third host behind right; `plain_wire` takes the offloads of the wire to it away, so that what right forwards must
/// be cut and finished by right's kernel, and what it gets from there comes packet by packet.
fn forwards(name: &str, plain_wire: bool) -> Result<()> {
    if !require_privileges(name) || plain_wire && !require_program(name, "ethtool") {
        return Ok(());
    }
    let mut hosts = Hosts::new(if plain_wire { "third-plain" } else { "third" }, Outer::V4)?;
    let third = hosts.third("10.77.0", "fd77:")?;
    // Left may send there, through right.
    let wider = "allowed-ips = [\"10.77.0.0/24\", \"fd77::/64\", ";
    hosts.left.config = hosts.left.config.replacen("allowed-ips = [", wider, 1);
    let right = hosts.right.namespace.clone();
    for (host, wire) in [(&right, "eth1"), (&third, "eth0")] {
        if plain_wire {
            host.exec(["ethtool", "-K", wire, "tx", "off", "tso", "off", "gso", "off", "gro", "off"])?;
        }
    }
    let tunnel = hosts.start()?;
    let left = &tunnel.hosts.left.namespace;
    ping(left, "10.77.0.2", PATIENCE)?;
    ping(left, "fd77::2", PATIENCE)?;
    transfers(left, ["10.8.0.1", "fd08::1"], &third, ["10.77.0.2", "fd77::2"])?;
    for (size, count) in [(1300, 40), (61, 60)] {
        bursts(left, &third, "10.77.0.2", size, count)?;
        bursts(&third, left, "fd08::1", size, count)?;
    }
    for host in [left, &right, &third] {
        ensure!(checksum_errors(host)? == 0, "{} met wrong checksums", host.name());
    }
    let (near, far) = (Seen::at(&show(&tunnel.left)?)?, Seen::at(&show(&tunnel.right)?)?);
    ensure!(near.read > 0 && far.written > 0 && far.refused == 0 && near.refused == 0);
    ensure!(near.written > 0, "what comes back is joined");
    tunnel.assert_conserved()
}

#[test]
fn super_packets_are_forwarded_to_a_third_host_and_back() -> Result<()> {
    forwards("super_packets_are_forwarded_to_a_third_host_and_back", false)
}

#[test]
fn a_third_host_on_a_wire_without_offloads_gets_right_checksums() -> Result<()> {
    forwards("a_third_host_on_a_wire_without_offloads_gets_right_checksums", true)
}

#[test]
fn on_a_narrow_path_tcp_is_cut_shorter_and_udp_goes_in_pieces() -> Result<()> {
    if !require_privileges("on_a_narrow_path_tcp_is_cut_shorter_and_udp_goes_in_pieces") {
        return Ok(());
    }
    let hosts = Hosts::new("narrow-tso", Outer::V4)?;
    for namespace in [&hosts.left.namespace, &hosts.right.namespace] {
        namespace.exec(["ip", "link", "set", "eth0", "mtu", "1300"])?;
    }
    let tunnel = hosts.start()?;
    tunnel.ping()?;
    inner_transfers(&tunnel)?;
    let before = show(&tunnel.left)?;
    let fragmented = |shown: &Value| number(&shown["counters"], "packets_fragmented");
    let segments = number(&before["counters"], "tun_super_segments")?;
    ensure!(fragmented(&before)? * 20 < segments, "TCP is cut shorter, not sent in pieces: {before:#}");
    let (left, right) = (&tunnel.hosts.left.namespace, &tunnel.hosts.right.namespace);
    let deadline = Instant::now() + PATIENCE;
    // The path's MTU is known by now.
    bursts(left, right, "10.8.0.2", 1380, 30)?;
    let after = show(&tunnel.left)?;
    ensure!(fragmented(&after)? >= fragmented(&before)? + 20 * 29, "UDP goes in pieces: {after:#}");
    ensure!(Instant::now() < deadline, "a wait was met");
    tunnel.assert_conserved()
}

#[test]
fn the_host_is_told_how_long_a_super_packet_fits_one_run() -> Result<()> {
    if !require_privileges("the_host_is_told_how_long_a_super_packet_fits_one_run") {
        return Ok(());
    }
    let mut hosts = Hosts::new("gso-size", Outer::V4)?;
    hosts.right.config = hosts.right.config.replacen("[interface]\n", "[interface]\noffload = false\n", 1);
    let tunnel = hosts.start()?;
    for (host, interface, offload) in [
        (&tunnel.hosts.left, &tunnel.hosts.left.interface, true),
        (&tunnel.hosts.right, &tunnel.hosts.right.interface, false),
    ] {
        let shown = host.namespace.exec(["ip", "-details", "-json", "link", "show", interface])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let (mtu, size) = (number(&shown[0], "mtu")?, number(&shown[0], "gso_max_size")?);
        let wanted = if offload { u64::from(gso_max_sizes(mtu as u16)[1]) } else { 65_536 };
        ensure!(size == wanted, "{size} bytes, not {wanted}: {shown:#}");
    }
    tunnel.assert_conserved()
}

#[test]
fn a_link_without_batches_carries_as_well() -> Result<()> {
    if !require_privileges("a_link_without_batches_carries_as_well") {
        return Ok(());
    }
    let mut hosts = Hosts::new("unbatched", Outer::V4)?;
    hosts.left.config =
        hosts.left.config.replacen("[[peer]]\n", "[link]\ngso = false\ngro = false\n\n[[peer]]\n", 1);
    let tunnel = hosts.start()?;
    tunnel.ping()?;
    inner_transfers(&tunnel)?;
    let counters = [show(&tunnel.left)?, show(&tunnel.right)?].map(|shown| shown["counters"].clone());
    // A generic program would be given what the kernel joins for the socket.
    let generic = std::env::var("VEIL_LINK").is_ok_and(|link| link == "xdp-generic");
    for (side, gso, gro) in [(0, 0, 0), (1, 1, u64::from(!generic))] {
        ensure!(counters[side]["gso"] == gso && counters[side]["gro"] == gro, "{:#}", counters[side]);
    }
    tunnel.assert_conserved()
}

/// What a histogram has counted.
fn counted(shown: &Value, histogram: &str) -> Result<u64> {
    let histogram = &shown["histograms"][histogram];
    let buckets = histogram["buckets"].as_array().context("no buckets")?;
    let sum: u64 = buckets.iter().filter_map(|bucket| bucket[1].as_u64()).sum();
    let count = number(histogram, "count")?;
    ensure!(sum == count && number(histogram, "p50")? <= number(histogram, "max")?, "{histogram:#}");
    Ok(count)
}

/// That the histograms have all that is counted elsewhere, too, and nothing twice.
fn histograms_agree(shown: &Value) -> Result<()> {
    let counter = |name| number(&shown["counters"], name);
    let read = counter("tun_packets")? + counter("tun_super_packets")? - counter("tun_super_segments")?;
    for (histogram, wanted) in [
        ("added_inbound_ns", counted(shown, "run_datagrams_received")?),
        ("added_outbound_ns", read),
        ("run_datagrams_sealed", counter("runs_sealed")?),
        ("packets_per_datagram_sealed", counter("datagrams_sealed")?),
    ] {
        let found = counted(shown, histogram)?;
        ensure!(found > 0 && found == wanted, "{histogram}: {found}, not {wanted}: {shown:#}");
    }
    Ok(())
}

#[test]
fn every_run_and_packet_is_in_the_histograms_once() -> Result<()> {
    if !require_privileges("every_run_and_packet_is_in_the_histograms_once") {
        return Ok(());
    }
    let tunnel = Hosts::new("spread", Outer::V4)?.start()?;
    tunnel.ping()?;
    inner_transfers(&tunnel)?;
    for daemon in [&tunnel.left, &tunnel.right] {
        let (mut shown, deadline) = (assert_conserved(daemon)?, Instant::now() + PATIENCE);
        // What a thread has just counted is in its histogram a moment later.
        while let Err(error) = histograms_agree(&shown) {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(10));
            shown = assert_conserved(daemon)?;
        }
        let counter = |name| number(&shown["counters"], name);
        let received = counted(&shown, "run_datagrams_received")?;
        let longest = number(&shown["histograms"]["run_datagrams_received"], "max")?;
        ensure!(longest > 1 && received < counter("datagrams_received")?, "runs came: {shown:#}");
        ensure!(number(&shown["histograms"]["run_datagrams_sealed"], "max")? > 1, "runs went: {shown:#}");
        let people = daemon.show(&[])?;
        ensure!(people.contains("added inbound") && people.contains("runs sealed"), "{people}");
        let offloads = shown["offloads"].as_object().context("no offloads")?;
        for (name, on) in offloads {
            let counter = counter(name)?;
            ensure!(on.as_bool() == Some(counter == 1), "{name}: {on}, and {counter}");
        }
        ensure!(!offloads.is_empty());
    }
    Ok(())
}
