//! AF_XDP's own scenarios: whole daemons whose NIC, neighbours, routes and rivals change under them.
//!
//! The scenarios of the tunnel run over AF_XDP as well (`VEIL_LINK`); these choose each daemon's link themselves. Every
//! one ends by [`finish`]: nothing lost, and a clean end.

mod beside;
mod detach;
mod hook;
mod huge_pages;
mod mixed;
mod next_hop;
mod nic;
mod privileges;
mod queues;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use veil_lab::{Daemon, Namespace, Ping};
use veil_tests::{assert_conserved, number, show};

use crate::tunnel::{Hosts, PATIENCE, Tunnel};

/// Arguments that choose the link.
pub type Link = &'static [&'static str];

pub const UDP: Link = &["--link", "udp"];
pub const NATIVE: Link = &["--link", "xdp", "--iface", "eth0"];
pub const GENERIC: Link = &["--link", "xdp", "--iface", "eth0", "--xdp-mode", "generic"];
pub const AUTO: Link = &["--link", "auto", "--iface", "eth0"];

/// A daemon on each host, by these links.
pub fn start(hosts: Hosts, left: Link, right: Link) -> Result<Tunnel> {
    Ok(Tunnel { left: hosts.left.start_with(left)?, right: hosts.right.start_with(right)?, hosts })
}

/// Repeats `step` until it says that it is done.
pub fn until(what: &str, mut step: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !step()? {
        ensure!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The rung a daemon stands on.
pub fn rung(daemon: &Daemon) -> Result<String> {
    Ok(show(daemon)?["rung"].as_str().unwrap_or_default().to_owned())
}

/// Waits until a daemon stands on that rung.
pub fn stands_on(daemon: &Daemon, wanted: &str) -> Result<()> {
    until(&format!("rung {wanted}"), || Ok(rung(daemon)? == wanted))
        .map_err(|error| error.context(daemon.log()))
}

/// What it has counted of AF_XDP under that name.
pub fn count(daemon: &Daemon, name: &str) -> Result<u64> {
    number(&show(daemon)?["xdp"], name)
}

/// How often its log says so.
pub fn said(daemon: &Daemon, words: &str) -> usize {
    daemon.log().matches(words).count()
}

/// Pings until `daemon`, in `namespace`, sends by its ring.
pub fn goes_by_ring(daemon: &Daemon, namespace: &Namespace, target: &str) -> Result<()> {
    let _inside = namespace.enter()?;
    let (mut ping, before) = (Ping::new(target.parse()?)?, count(daemon, "ring_sent")?);
    until("a datagram by the ring", || {
        let answered = ping.once(56, Duration::from_millis(200))?.is_some();
        Ok(answered && count(daemon, "ring_sent")? > before)
    })
    .map_err(|error| error.context(format!("{}\n{:#}", daemon.log(), show(daemon).unwrap_or_default())))
}

/// Pings until `daemon`, in `namespace`, has sent none of several by its ring: what was under way goes by it still.
pub fn goes_by_socket(daemon: &Daemon, namespace: &Namespace, target: &str) -> Result<()> {
    until("datagrams by the socket alone", || {
        let before = count(daemon, "ring_sent")?;
        for _ in 0..3 {
            veil_lab::ping(namespace, target, PATIENCE)?;
        }
        Ok(count(daemon, "ring_sent")? == before)
    })
    .map_err(|error| error.context(format!("{}\n{:#}", daemon.log(), show(daemon).unwrap_or_default())))
}

/// The end of every scenario: nothing is lost, and both daemons end as they should.
pub fn finish(tunnel: Tunnel) -> Result<()> {
    let Tunnel { left, right, hosts } = tunnel;
    end(left)?;
    end(right)?;
    drop(hosts);
    Ok(())
}

/// The same for one daemon.
pub fn end(daemon: Daemon) -> Result<()> {
    if let Err(error) = assert_conserved(&daemon) {
        return Err(error.context(daemon.log()));
    }
    let stopped = daemon.stop()?;
    ensure!(stopped.status.success(), "it ended with {}:\n{}", stopped.status, stopped.log);
    for word in ["frames missing", "panicked"] {
        ensure!(!stopped.log.contains(word), "{}", stopped.log);
    }
    Ok(())
}
