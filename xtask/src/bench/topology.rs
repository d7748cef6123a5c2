//! One contender at work: two namespaces joined by a veth pair, a daemon in each, and the address that is reached through
//! them. Made anew for each contender in each round, so that nothing carries over; dropping it takes all of it down.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use veil_lab::{Daemon, Lab, Namespace, Received, ping};

use super::calls::Calls;
use super::contenders::{Contender, Kind};
use super::cpu;
use super::figures::Direction;
use super::openvpn::{self, Ends, Identity};
use super::peers::{self, Speaks};
use super::program::Program;
use super::wireguard::{self, Configuration, KEYS};

/// What both ends of the veth pair are called.
pub const WIRE: &str = "eth0";
pub const OUTER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2)];
const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 8, 0, 1), Ipv4Addr::new(10, 8, 0, 2)];
const VEIL_ENDPOINT: &str = "10.99.0.2:4433";
const FIRST_REPLY_WITHIN: Duration = Duration::from_secs(10);
const ETHERNET_HEADER: u64 = 14;

/// What the wire between the two ends is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// As veth comes: it carries super-packets whole.
    Plain,
    /// Without UDP segmentation offload: each datagram crosses alone.
    Segmented,
    /// 100 Mbit/s each way.
    Shaped,
}

enum Running {
    Veil(Daemon),
    Peer(Program),
}

impl Running {
    fn pid(&self) -> u32 {
        match self {
            Running::Veil(daemon) => daemon.pid(),
            Running::Peer(program) => program.pid(),
        }
    }

    fn log(&self) -> String {
        match self {
            Running::Veil(daemon) => daemon.log(),
            Running::Peer(program) => program.log(),
        }
    }
}

/// CPU seconds the two daemons have used, or used between two looks.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    pub left: f64,
    pub right: f64,
}

impl Cpu {
    pub fn since(self, before: Cpu) -> Cpu {
        Cpu { left: self.left - before.left, right: self.right - before.right }
    }

    /// Of the daemon at the sending end and of the one at the receiving end.
    pub fn by_role(self, direction: Direction) -> [f64; 2] {
        match direction {
            Direction::Forward => [self.left, self.right],
            Direction::Back => [self.right, self.left],
        }
    }
}

// Fields are dropped in this order: daemons end before their namespaces do.
pub struct Tunnel {
    daemons: Vec<Running>,
    pub left: Namespace,
    pub right: Namespace,
    /// The right end's address through the tunnel.
    pub target: Ipv4Addr,
    /// The right daemon's public key, if it is VEIL's.
    pub server_key: Option<String>,
    /// The interface at which packets leave the tunnel on the right.
    device: String,
    /// Bytes the device's counter counts before an IP header.
    link_header: u64,
    _lab: Lab,
}

impl Tunnel {
    /// Starts the contender's daemons and waits until a ping comes back through them.
    pub fn start(contender: &Contender) -> Result<Tunnel> {
        let lab = Lab::new("bench")?;
        let tunnel = match (contender.kind, &contender.program) {
            (Kind::Raw, _) => bare(lab)?,
            (Kind::Veil | Kind::NullCipher, Some(program)) => veil(lab, contender, program)?,
            (Kind::Peer, Some(program)) => peer(lab, contender, program)?,
            (_, None) => anyhow::bail!("{} has no program", contender.name),
        };
        ping(&tunnel.left, &tunnel.target.to_string(), FIRST_REPLY_WITHIN)
            .with_context(|| format!("the tunnel does not work{}", tunnel.logs()))?;
        tunnel.on_its_rung(contender)?;
        Ok(tunnel)
    }

    /// Whether both daemons stand on the rung of the link that the contender is named after. What went by another is no
    /// figure of it.
    ///
    /// # Errors
    /// One of them does not, with the reason it gives.
    pub fn on_its_rung(&self, contender: &Contender) -> Result<()> {
        let Some(wanted) = contender.rung() else { return Ok(()) };
        for shown in self.show()?.into_iter().flatten() {
            let rung = shown["rung"].as_str().unwrap_or("unknown");
            let reason = shown["rung_reason"].as_str().unwrap_or_default();
            ensure!(rung == wanted, "{} stands on {rung:?}, not on {wanted:?}: {reason}", contender.name);
        }
        Ok(())
    }

    /// CPU seconds used so far; `None` where there are no daemons.
    pub fn cpu(&self) -> Result<Option<Cpu>> {
        let [left, right] = self.daemons.as_slice() else { return Ok(None) };
        let (left, right) = (cpu::seconds(left.pid())?, cpu::seconds(right.pid())?);
        Ok(Some(Cpu { left, right }))
    }

    /// The daemons' process ids, left and right; `None` where no VEIL runs.
    pub fn veil(&self) -> Option<[u32; 2]> {
        let [Running::Veil(left), Running::Veil(right)] = self.daemons.as_slice() else { return None };
        Some([left.pid(), right.pid()])
    }

    /// What `veil show --json` prints on the left and on the right; `None` where no VEIL runs.
    pub fn show(&self) -> Result<Option<[Value; 2]>> {
        let [Running::Veil(left), Running::Veil(right)] = self.daemons.as_slice() else { return Ok(None) };
        let of = |daemon: &Daemon| -> Result<Value> {
            serde_json::from_str(&daemon.show(&["--json"])?).context("reading `veil show --json`")
        };
        Ok(Some([of(left)?, of(right)?]))
    }

    /// System calls made so far by both daemons; `None` where they are not VEIL's.
    pub fn calls(&self) -> Result<Option<Calls>> {
        let [Running::Veil(left), Running::Veil(right)] = self.daemons.as_slice() else { return Ok(None) };
        Ok(Some(Calls::parse(&left.show(&["--json"])?)? + Calls::parse(&right.show(&["--json"])?)?))
    }

    /// UDP packets of `payload` bytes that left the tunnel on the right between two looks at [`Tunnel::received`]. Counted
    /// by bytes, because a super-packet is one packet to the device, with one header.
    pub fn datagrams(&self, received: Received, payload: u64) -> u64 {
        payloads(received, self.link_header, payload)
    }

    pub fn received(&self) -> Result<Received> {
        Received::of(&self.right, &self.device)
    }

    /// Changes the wire; it was [`Wire::Plain`] before.
    pub fn set_wire(&self, wire: Wire) -> Result<()> {
        for end in [&self.left, &self.right] {
            match wire {
                Wire::Plain => {
                    end.exec(["ethtool", "-K", WIRE, "tx-udp-segmentation", "on"])?;
                }
                Wire::Segmented => {
                    end.exec(["ethtool", "-K", WIRE, "tx-udp-segmentation", "off"])?;
                }
                Wire::Shaped => {
                    // A queue so deep (a third of a second) that its own length never decides: what is measured is how
                    // much the sending program lets pile up in it.
                    let words = ["tc", "qdisc", "add", "dev", WIRE, "root", "tbf"];
                    end.exec(words.into_iter().chain(["rate", "100mbit", "burst", "64kb", "limit", "4mb"]))?;
                }
            }
        }
        Ok(())
    }

    fn logs(&self) -> String {
        self.daemons.iter().map(|daemon| format!("\n{}", daemon.log().trim())).collect()
    }
}

fn payloads(received: Received, link_header: u64, payload: u64) -> u64 {
    let headers = received.packets * (link_header + 20 + 8);
    received.bytes.saturating_sub(headers) / payload
}

/// Joins two namespaces and gives the wire its addresses.
fn join(lab: &Lab, left: &Namespace, right: &Namespace) -> Result<()> {
    lab.veth(left, WIRE, right, WIRE)?;
    for (namespace, address) in [left, right].into_iter().zip(OUTER) {
        namespace.address(WIRE, &format!("{address}/24"))?;
    }
    Ok(())
}

fn bare(lab: Lab) -> Result<Tunnel> {
    let (left, right) = (lab.namespace("l")?, lab.namespace("r")?);
    join(&lab, &left, &right)?;
    let (daemons, device, server_key) = (Vec::new(), WIRE.to_owned(), None);
    let (target, link_header) = (OUTER[1], ETHERNET_HEADER);
    Ok(Tunnel { daemons, left, right, target, server_key, device, link_header, _lab: lab })
}

fn veil(lab: Lab, contender: &Contender, program: &Path) -> Result<Tunnel> {
    let [left_address, right_address] = INNER.map(|address| format!("{address}/24"));
    let mut left = lab.node("l", &[&left_address])?;
    let mut right = lab.node("r", &[&right_address])?;
    join(&lab, &left.namespace, &right.namespace)?;
    left.add_peer(&right, Some(VEIL_ENDPOINT));
    right.add_peer(&left, None);
    let arguments: Vec<&str> = contender.arguments.iter().map(String::as_str).collect();
    let mut daemons = Vec::new();
    for node in [&left, &right] {
        daemons.push(Running::Veil(node.start_program(program, &arguments)?));
    }
    let (device, server_key) = (right.interface.clone(), Some(right.keys.public.clone()));
    let (left, right) = (left.namespace.clone(), right.namespace.clone());
    Ok(Tunnel { daemons, left, right, target: INNER[1], server_key, device, link_header: 0, _lab: lab })
}

fn peer(lab: Lab, contender: &Contender, program: &Path) -> Result<Tunnel> {
    let (left, right) = (lab.namespace("l")?, lab.namespace("r")?);
    join(&lab, &left, &right)?;
    let interfaces = [lab.interface("l")?, lab.interface("r")?];
    let speaks = peers::speaks(&contender.name);
    let identity = match speaks {
        Speaks::WireGuard => None,
        Speaks::OpenVpn => Some(Identity::generate(lab.folder())?),
    };
    let mut daemons = Vec::new();
    for (own, namespace) in [&left, &right].into_iter().enumerate() {
        let (other, interface, folder) = (1 - own, &interfaces[own], lab.folder());
        let started = match &identity {
            None => {
                let configuration = Configuration {
                    keys: KEYS[own],
                    peer: KEYS[other],
                    peer_endpoint: OUTER[other],
                    peer_address: INNER[other],
                };
                let address = format!("{}/24", INNER[own]);
                wireguard::start(program, namespace, interface, &address, &configuration, folder)
            }
            Some(identity) => {
                let (outer, inner) = ([OUTER[own], OUTER[other]], [INNER[own], INNER[other]]);
                let ends = Ends { outer, inner, server: own == 1 };
                openvpn::start(program, namespace, interface, &ends, identity, folder)
            }
        };
        daemons.push(Running::Peer(started.with_context(|| contender.name.clone())?));
    }
    let [_, device] = interfaces;
    let (target, server_key) = (INNER[1], None);
    Ok(Tunnel { daemons, left, right, target, server_key, device, link_header: 0, _lab: lab })
}

/// Why the figures of `wire` cannot be measured on this machine, if they cannot.
pub fn lacking(wire: Wire) -> Result<()> {
    let (program, package) = match wire {
        Wire::Plain => return Ok(()),
        Wire::Segmented => ("ethtool", "ethtool"),
        Wire::Shaped => ("tc", "iproute2"),
    };
    ensure!(veil_lab::has_program(program), "needs {program} (package {package})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_counted_alone_and_inside_super_packets() {
        let one = |header: u64| header + 20 + 8 + 64;
        assert_eq!(payloads(Received { bytes: 10 * one(14), packets: 10 }, 14, 64), 10);
        assert_eq!(payloads(Received { bytes: 10 * one(0), packets: 10 }, 0, 64), 10);
        // 40 segments behind one header, and one packet alone.
        let bytes = 20 + 8 + 40 * 64 + one(0);
        assert_eq!(payloads(Received { bytes, packets: 2 }, 0, 64), 41);
        assert_eq!(
            payloads(Received { bytes: 10, packets: 5 }, 0, 64),
            0,
            "other packets are not an underflow"
        );
    }
}
