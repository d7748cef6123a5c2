//! What a peer has given this host: applied to the TUN interface, and taken back when the peer gives something else.
//!
//! Only peers with `lease = true` get this far, and only with what lies within their allowed IPs
//! ([`Sessions::accept_control`](veil_proto::tunnel::Sessions::accept_control)). A lease is the whole of what the peer gives:
//! what is not in it any more is removed. Name servers are never set, only shown in the log. What the host refuses is
//! logged and left out; the tunnel goes on.

use std::collections::HashMap;

use anyhow::Result;
use veil_proto::PeerId;
use veil_proto::allowed_ips::IpNet;
use veil_proto::mux::Config;

use crate::netlink::Netlink;

/// No interface is made narrower than IPv6 allows (RFC 8200 5).
const MIN_MTU: u16 = 1280;

/// The leases in force.
pub struct Leases {
    interface: String,
    /// The configured MTU: a peer can only lower it.
    mtu: u16,
    held: HashMap<PeerId, Config>,
}

impl Leases {
    /// None yet, for the TUN `interface`, whose MTU is configured as `mtu`.
    pub fn new(interface: &str, mtu: u16) -> Self {
        Leases { interface: interface.to_owned(), mtu, held: HashMap::new() }
    }

    /// Puts what `peer`, called `name`, gives into force, in place of what it gave before.
    pub fn apply(&mut self, peer: PeerId, name: &str, lease: Config) {
        if self.held.get(&peer) == Some(&lease) {
            return;
        }
        let before = self.held.remove(&peer).unwrap_or_default();
        if let Err(error) = self.change(&before, &lease) {
            tracing::warn!("lease from {name}: {error:#}");
        }
        tracing::info!("lease from {name}: {}", described(&lease));
        self.held.insert(peer, lease);
    }

    fn change(&self, before: &Config, lease: &Config) -> Result<()> {
        let mut netlink = Netlink::open()?;
        let index = netlink.link_index(&self.interface)?;
        let warn = |result: Result<()>| {
            if let Err(error) = result {
                tracing::warn!("{error:#}");
            }
        };
        for &net in gone(&before.routes, &lease.routes) {
            warn(netlink.remove_route(index, net));
        }
        for &net in gone(&before.addresses, &lease.addresses) {
            warn(netlink.remove_address(index, net));
        }
        if let Some(mtu) = lease.mtu.or(before.mtu.map(|_| self.mtu)) {
            warn(netlink.set_link_up_mtu(index, mtu.clamp(MIN_MTU, self.mtu).into()));
        }
        for &net in gone(&lease.addresses, &before.addresses) {
            warn(netlink.add_address(index, net));
        }
        // A default route is the operator's to set, as with allowed IPs.
        for &net in gone(&lease.routes, &before.routes).filter(|net| net.prefix > 0) {
            warn(netlink.add_route(index, net));
        }
        Ok(())
    }
}

/// What is in `these` and not in `those`.
fn gone<'a>(these: &'a [IpNet], those: &'a [IpNet]) -> impl Iterator<Item = &'a IpNet> {
    these.iter().filter(|net| !those.contains(net))
}

fn described(lease: &Config) -> String {
    let listed = |what: &str, items: Vec<String>| match items.is_empty() {
        true => None,
        false => Some(format!("{what} {}", items.join(", "))),
    };
    let strings = |nets: &[IpNet]| nets.iter().map(IpNet::to_string).collect();
    let parts = [
        listed("addresses", strings(&lease.addresses)),
        listed("routes", strings(&lease.routes)),
        listed("name servers (not set)", lease.dns.iter().map(ToString::to_string).collect()),
        lease.mtu.map(|mtu| format!("mtu {mtu}")),
        lease.keepalive.map(|seconds| format!("keepalive {seconds} s")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_described_in_a_line() {
        let net = |text: &str| text.parse().unwrap();
        let lease = Config {
            addresses: vec![net("10.8.0.7/24"), net("fd08::7/64")],
            routes: vec![net("192.168.7.0/24")],
            dns: vec!["10.8.0.1".parse().unwrap()],
            mtu: Some(1400),
            keepalive: Some(25),
        };
        let text = "addresses 10.8.0.7/24, fd08::7/64; routes 192.168.7.0/24; name servers (not set) 10.8.0.1; \
                    mtu 1400; keepalive 25 s";
        assert_eq!(described(&lease), text);
        assert_eq!(described(&Config::default()), "nothing");
    }
}
