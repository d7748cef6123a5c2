//! Two namespaces joined by a veth pair: `ours` will have the AF_XDP sockets, `theirs` ordinary ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use veil_lab::{Lab, Namespace, ping};

/// The name of the veth's end, in both namespaces.
pub const INTERFACE: &str = "veth0";
pub const OURS_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const THEIRS_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub const OURS_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
pub const THEIRS_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

/// Our address and theirs, for each family.
pub const PAIRS: [(IpAddr, IpAddr); 2] =
    [(IpAddr::V4(OURS_V4), IpAddr::V4(THEIRS_V4)), (IpAddr::V6(OURS_V6), IpAddr::V6(THEIRS_V6))];

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Wire {
    pub ours: Namespace,
    pub theirs: Namespace,
    pub our_mac: [u8; 6],
    pub their_mac: [u8; 6],
    _lab: Lab,
}

impl Wire {
    /// A wire whose ends have so many queues, with addresses of both families and each other's Ethernet addresses.
    pub fn new(title: &str, queues: u32) -> Result<Wire> {
        let lab = Lab::new(title)?;
        let (ours, theirs) = (lab.namespace("ours")?, lab.namespace("theirs")?);
        let end = format!("numrxqueues {queues} numtxqueues {queues}");
        let add = format!(
            "ip link add {INTERFACE} {end} type veth peer name {INTERFACE} {end} netns {}",
            theirs.name()
        );
        ours.exec(add.split(' '))?;
        for (namespace, v4, v6) in [(&ours, OURS_V4, OURS_V6), (&theirs, THEIRS_V4, THEIRS_V6)] {
            namespace.exec(["ip", "link", "set", INTERFACE, "up"])?;
            namespace.address(INTERFACE, &format!("{v4}/24"))?;
            namespace.address(INTERFACE, &format!("{v6}/64"))?;
        }
        let (our_mac, their_mac) = (mac(&ours)?, mac(&theirs)?);
        let wire = Wire { ours, theirs, our_mac, their_mac, _lab: lab };
        wire.alive()?;
        Ok(wire)
    }

    /// Pings ours from theirs in both families, so that neighbours are known from here on.
    pub fn alive(&self) -> Result<()> {
        for (ours, _) in PAIRS {
            ping(&self.theirs, &ours.to_string(), PATIENCE).with_context(|| format!("pinging {ours}"))?;
        }
        Ok(())
    }
}

fn mac(namespace: &Namespace) -> Result<[u8; 6]> {
    let text = namespace.exec(["cat", &format!("/sys/class/net/{INTERFACE}/address")])?;
    let bytes: Result<Vec<u8>, _> = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?.try_into().ok().context("an Ethernet address has six bytes")
}

/// Repeats `step` until it says that it is done.
pub fn until(what: &str, mut step: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !step()? {
        ensure!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
