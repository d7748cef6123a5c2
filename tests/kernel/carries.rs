//! The tunnel carries: ping and iperf3, IPv4 and IPv6 inside and outside, in both directions.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use veil_lab::{Ping, dropped, require_privileges, require_program, run};
use veil_tests::{number, peer, show};

use crate::tunnel::{Outer, PATIENCE, Tunnel};
use crate::xdp::until;

#[test]
fn ping_of_every_size_inside_over_ipv4_outside() -> Result<()> {
    if !require_privileges("ping_of_every_size_inside_over_ipv4_outside") {
        return Ok(());
    }
    pings_of_every_size(Outer::V4)
}

#[test]
fn ping_of_every_size_inside_over_ipv6_outside() -> Result<()> {
    if !require_privileges("ping_of_every_size_inside_over_ipv6_outside") {
        return Ok(());
    }
    pings_of_every_size(Outer::V6)
}

fn pings_of_every_size(outer: Outer) -> Result<()> {
    let tunnel = Tunnel::new("ping", outer)?;
    tunnel.ping()?;
    let (left, right) = (&tunnel.hosts.left, &tunnel.hosts.right);
    let mtu = usize::try_from(number(&show(&tunnel.left)?, "mtu")?)?;
    for (from, to) in [(left, right), (right, left)] {
        for target in to.hosts() {
            let headers = if target.contains(':') { 40 + 8 } else { 20 + 8 };
            let _inside = from.namespace.enter()?;
            let mut ping = Ping::new(target.parse()?)?;
            // The smallest, both sides of a typical block, the MTU exactly, and one the host's kernel fragments.
            for payload in [0, 1, 15, 16, 17, 512, mtu - headers, mtu - headers + 1, 3000] {
                let reply = ping.once(payload, PATIENCE)?;
                ensure!(
                    reply.is_some(),
                    "no reply from {target} to a payload of {payload} (MTU {mtu}, {outer:?})"
                );
            }
        }
    }
    tunnel.assert_conserved()
}

#[test]
fn what_each_side_shows_of_the_other_is_true() -> Result<()> {
    if !require_privileges("what_each_side_shows_of_the_other_is_true") {
        return Ok(());
    }
    let tunnel = Tunnel::new("show", Outer::V4)?;
    let (left, right) = (&tunnel.hosts.left, &tunnel.hosts.right);
    let before = show(&tunnel.right)?;
    let asked = std::env::var("VEIL_LINK").unwrap_or_default();
    let link = if asked.starts_with("xdp") { "xdp" } else { "udp" };
    let threads = std::env::var("VEIL_THREADS").unwrap_or_else(|_| "auto".into());
    let wanted =
        before["threads"] == threads || (threads == "auto" && before["threads_reason"] != "as asked");
    ensure!(before["link"] == link && wanted, "{before:#}");
    ensure!(
        peer(&before, &left.interface)?["endpoint"].is_null(),
        "it has not heard of left yet: {before:#}"
    );

    tunnel.ping()?;
    let after = show(&tunnel.right)?;
    let left_as_seen = peer(&after, &left.interface)?;
    ensure!(
        after["interface"] == right.interface.as_str() && after["public_key"] == right.keys.public.as_str()
    );
    ensure!(left_as_seen["public_key"] == left.keys.public.as_str(), "{left_as_seen:#}");
    ensure!(left_as_seen["endpoint"].as_str().is_some_and(|at| at.contains("10.99.0.1")), "{left_as_seen:#}");
    ensure!(number(left_as_seen, "last_handshake_s_ago")? < 60, "{left_as_seen:#}");
    for counter in ["rx_bytes", "tx_bytes", "rx_packets", "tx_packets"] {
        ensure!(number(left_as_seen, counter)? > 0, "{counter}: {left_as_seen:#}");
    }
    let people = tunnel.right.show(&[])?;
    ensure!(people.contains(&left.interface) && people.contains("10.99.0.1"), "{people}");
    ensure!(!people.contains(&right.keys.private), "the private key is never shown");
    ensure!(!tunnel.right.log().contains(&right.keys.private), "nor logged");
    tunnel.assert_conserved()
}

#[test]
fn iperf3_tcp_both_ways() -> Result<()> {
    if !ready_for_iperf3("iperf3_tcp_both_ways") {
        return Ok(());
    }
    let tunnel = Tunnel::new("tcp", Outer::V4)?;
    for (target, direction) in
        [("10.8.0.2", "up"), ("10.8.0.2", "down"), ("fd08::2", "up"), ("fd08::2", "down")]
    {
        let report = iperf3(&tunnel, target, direction, &[])?;
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().context("no rate")?;
        println!("TCP {direction} to {target}: {:.0} Mbit/s", rate / 1e6);
        ensure!(rate > 1e6, "TCP {direction} to {target} moved next to nothing");
    }
    tunnel.assert_conserved()
}

#[test]
fn iperf3_udp_both_ways() -> Result<()> {
    if !ready_for_iperf3("iperf3_udp_both_ways") {
        return Ok(());
    }
    let tunnel = Tunnel::new("udp", Outer::V6)?;
    for (target, direction) in
        [("10.8.0.2", "up"), ("10.8.0.2", "down"), ("fd08::2", "up"), ("fd08::2", "down")]
    {
        let report = iperf3(&tunnel, target, direction, &["--udp", "--bitrate", "20M", "--length", "1300"])?;
        let sum = &report["end"]["sum"];
        let (packets, lost) = (number(sum, "packets")?, sum["lost_packets"].as_i64().unwrap_or(0));
        println!("UDP {direction} to {target}: {lost} of {packets} lost");
        // How many of them a busy machine loses in full socket buffers says nothing of the tunnel; what it says is below.
        ensure!(packets as i64 > lost, "UDP {direction} to {target}: {sum:#}");
    }
    tunnel.assert_conserved()?;
    let [left, right] = [(&tunnel.left, &tunnel.hosts.left), (&tunnel.right, &tunnel.hosts.right)];
    for (from, to) in [(left, right), (right, left)] {
        until("whatever has left is there, or was dropped by the kernel", || {
            // In this order: what is sent in between can make it look as if something were missing, and not the other way.
            let received = number(&show(to.0)?["counters"], "datagrams_received")?;
            let sent = number(&show(from.0)?["counters"], "datagrams_sent")?;
            let dropped = dropped(&from.1.namespace)? + dropped(&to.1.namespace)?;
            println!("{sent} datagrams sent, {received} received, at most {dropped} dropped by the kernel");
            ensure!(received <= sent, "more came than was sent");
            Ok(received + dropped >= sent)
        })?;
    }
    Ok(())
}

fn ready_for_iperf3(test: &str) -> bool {
    require_privileges(test) && require_program(test, "iperf3")
}

/// Two seconds of iperf3 between the left host (client) and the right one; its report.
fn iperf3(tunnel: &Tunnel, target: &str, direction: &str, arguments: &[&str]) -> Result<Value> {
    let server = tunnel.hosts.right.namespace.command("iperf3");
    let _server = Server::start(server, target)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = tunnel.hosts.left.namespace.command("iperf3");
        client
            .args(["--json", "--time", "2", "--connect-timeout", "3000", "--client", target])
            .args(arguments);
        if direction == "down" {
            client.arg("--reverse");
        }
        // The server needs a moment to listen; iperf3 may end well and say so only in its report.
        let error = match run(&mut client) {
            Ok(report) => {
                let report: Value =
                    serde_json::from_str(&report).with_context(|| format!("iperf3 printed {report}"))?;
                match &report["error"] {
                    Value::Null => return Ok(report),
                    error => anyhow::anyhow!("iperf3: {error}"),
                }
            }
            Err(error) => error,
        };
        ensure!(Instant::now() < deadline, "{error:#}");
        println!("again: {error:#}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// An iperf3 server, ended at drop.
struct Server(Child);

impl Server {
    fn start(mut command: std::process::Command, address: &str) -> Result<Server> {
        command.args(["--server", "--bind", address]).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Server(command.spawn().context("starting iperf3's server")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It can only fail by being gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
