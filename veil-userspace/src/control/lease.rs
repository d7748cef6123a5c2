//! What peers have given this host: applied to the TUN interface, and taken back when they give something else.
//!
//! Only peers with `lease = true` get this far, and only with what lies within their allowed IPs
//! ([`Sessions::accept_control`](veil_proto::tunnel::Sessions::accept_control)). A lease is the whole of what a peer gives:
//! what no peer gives any more is removed, and nothing else ever is: addresses and routes that were there before stay.
//! Name servers are never set, only shown. What the host refuses is logged and left out; the tunnel goes on.
//!
//! Every change costs the event loop system calls, so a lease is bounded, and applied at most once in ten seconds.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::Result;
use veil_proto::PeerId;
use veil_proto::allowed_ips::IpNet;
use veil_proto::mux::Config;
use veil_proto::time::SECOND;

use super::show::{LeaseSnapshot, Snapshot};
use crate::netlink::Netlink;

/// No interface is made narrower than IPv6 allows (RFC 8200 5).
const MIN_MTU: u16 = 1280;
/// Addresses, and routes, that one peer may give.
pub const MAX_ENTRIES: usize = 16;
/// Changes are so far apart, nanoseconds.
const APART: u64 = 10 * SECOND;

/// What one peer gives.
struct Held {
    name: String,
    lease: Config,
    /// How many entries were more than one peer may give.
    too_many: usize,
    /// What does not fit here, as was last judged.
    unfit: Vec<IpNet>,
    /// The log has it.
    told: bool,
}

impl Held {
    fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.lease.addresses.iter().chain(&self.lease.routes).copied()
    }
}

/// The leases in force.
pub struct Leases {
    interface: String,
    /// The configured MTU: peers can only lower it.
    mtu: u16,
    held: HashMap<PeerId, Held>,
    /// What was added here, and so may be removed here.
    addresses: Vec<IpNet>,
    routes: Vec<IpNet>,
    /// What the kernel would not add.
    refused: Vec<IpNet>,
    /// The interface's MTU, where it is not the configured one.
    lowered: Option<u16>,
    changed: bool,
    /// What was left out, or taken in, may be to be judged differently by now.
    again: bool,
    /// The last change was not made, or not all of it, and the log has it.
    failed: bool,
    not_before: u64,
}

impl Leases {
    /// None yet, for the TUN `interface`, whose MTU is configured as `mtu`.
    pub fn new(interface: &str, mtu: u16) -> Self {
        Leases {
            interface: interface.to_owned(),
            mtu,
            held: HashMap::new(),
            addresses: Vec::new(),
            routes: Vec::new(),
            refused: Vec::new(),
            lowered: None,
            changed: false,
            again: false,
            failed: false,
            not_before: 0,
        }
    }

    /// Notes what `peer`, called `name`, gives, in place of what it gave before; [`apply`](Self::apply) puts it into force.
    pub fn take(&mut self, peer: PeerId, name: &str, mut lease: Config) {
        let too_many = lease.addresses.len().saturating_sub(MAX_ENTRIES)
            + lease.routes.len().saturating_sub(MAX_ENTRIES);
        lease.addresses.truncate(MAX_ENTRIES);
        lease.routes.truncate(MAX_ENTRIES);
        if let Some(held) = self.held.get(&peer).filter(|held| held.lease == lease) {
            // It is said in every session, and what was refused may be taken by now.
            self.again |= held.nets().any(|net| self.refused.contains(&net));
            return;
        }
        let held = Held { name: name.to_owned(), lease, too_many, unfit: Vec::new(), told: false };
        self.held.insert(peer, held);
        (self.changed, self.failed) = (true, false);
    }

    /// Peers are, or may be, elsewhere than they were: other networks lead to them.
    pub fn look_again(&mut self) {
        self.again |= !self.held.is_empty();
    }

    /// When [`apply`](Self::apply) has something to do, monotonic nanoseconds.
    pub fn deadline(&self) -> Option<u64> {
        (self.changed || self.again).then_some(self.not_before)
    }

    /// Puts into force what has changed, if its time has come. Nothing that would lead to one of `endpoints` is touched:
    /// the tunnel would swallow its own datagrams.
    pub fn apply(&mut self, endpoints: impl Iterator<Item = IpAddr>, now: u64) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        self.not_before = now + APART;
        self.again = false;
        let mut differs = self.changed || !self.refused.is_empty();
        let endpoints: Vec<IpAddr> = endpoints.collect();
        // Here and not in `take`: a peer that keeps changing its mind does not fill the log.
        for held in self.held.values_mut() {
            let unfit = held.nets().filter(|net| !fits(*net, &endpoints)).collect();
            let were = std::mem::replace(&mut held.unfit, unfit);
            if !std::mem::replace(&mut held.told, true) {
                tracing::info!("lease from {}: {}", held.name, LeaseSnapshot::from(&held.lease));
                if held.too_many > 0 {
                    tracing::warn!("lease from {}: {} entries too many, left out", held.name, held.too_many);
                }
            }
            differs |= held.unfit != were;
            if !held.unfit.is_empty() && held.unfit != were {
                let unfit: Vec<_> = held.unfit.iter().map(IpNet::to_string).collect();
                let why = "left out: no tunnel's business, or where a peer is reached";
                tracing::warn!("lease from {}: {} {why}", held.name, unfit.join(", "));
            }
        }
        if !differs {
            return;
        }
        let changed = self.change(&endpoints);
        self.changed = changed.is_err();
        let said = std::mem::replace(&mut self.failed, changed.is_err());
        if let (Err(error), false) = (changed, said) {
            tracing::warn!("leases, not all in force, tried again: {error:#}");
        }
    }

    /// Enters what peers have given this host.
    pub fn enter(&self, snapshot: &mut Snapshot) {
        snapshot.mtu = self.lowered.map_or(snapshot.mtu, u64::from);
        for (id, held) in &self.held {
            let Some(peer) = snapshot.peers.get_mut(id.index()) else { continue };
            let is_out = |net: &IpNet| held.unfit.contains(net) || self.refused.contains(net);
            peer.lease_left_out = held.nets().filter(is_out).map(|net| net.to_string()).collect();
            let mut taken = held.lease.clone();
            taken.addresses.retain(|net| !is_out(net));
            taken.routes.retain(|net| !is_out(net));
            taken.mtu = taken.mtu.map(|mtu| self.bounded(mtu));
            peer.lease = Some(LeaseSnapshot::from(&taken));
            peer.lease_in_force = !self.changed;
        }
    }

    fn bounded(&self, mtu: u16) -> u16 {
        mtu.clamp(MIN_MTU.min(self.mtu), self.mtu)
    }

    /// # Errors
    /// What should have been taken back, or the MTU, is not as it should be. What could not be added is in `refused`.
    fn change(&mut self, endpoints: &[IpAddr]) -> Result<()> {
        let mut netlink = Netlink::open()?;
        let index = netlink.link_index(&self.interface)?;
        let fit = |net: &IpNet| fits(*net, endpoints);
        let all = |of: fn(&Config) -> &[IpNet]| -> Vec<IpNet> {
            self.held.values().flat_map(|held| of(&held.lease)).copied().filter(fit).collect()
        };
        let (addresses, routes) = (all(|lease| &lease.addresses), all(|lease| &lease.routes));
        // What is new comes first: with an interface's last address the kernel takes all its routes of that family away.
        let mut not_added = self.add(&mut netlink, index, &addresses, &routes);
        let mut undone = Vec::new();
        let mut gone = |result: Result<()>| result.map_err(|error| undone.push(error)).is_ok();
        self.routes.retain(|net| routes.contains(net) || !gone(netlink.remove_route(index, *net)));
        let ended = |net: &IpNet| !addresses.contains(net);
        let through_here = match self.addresses.iter().any(|net| ended(net) && net.addr.is_ipv4()) {
            true => {
                // One that stays with another prefix may still be sent from.
                let stays = |ip: &IpAddr| addresses.iter().any(|net| net.addr == *ip);
                let gone = self.addresses.iter().map(|net| net.addr).filter(|ip| !stays(ip));
                netlink.ipv4_routes(index, &gone.collect::<Vec<_>>())
            }
            false => Ok(Vec::new()),
        };
        let held = self.addresses.len();
        self.addresses.retain(|net| !ended(net) || !gone(netlink.remove_address(index, *net)));
        if self.addresses.len() < held {
            // With an address its secondaries may go, and with the last one all IPv4 routes, whoever made them
            // (net/ipv4/devinet.c, `__inet_del_ifa`; fib_frontend.c, `fib_inetaddr_event`); and IPv6 has an address once,
            // whatever its prefix. Gateways need the addresses.
            not_added = self.add(&mut netlink, index, &addresses, &[]);
            match through_here {
                Ok(routes) => {
                    for error in routes.into_iter().filter_map(|route| netlink.put_back(index, route).err()) {
                        tracing::warn!("after an address went: {error:#}");
                    }
                }
                Err(error) => tracing::warn!("routes may have gone with an address: {error:#}"),
            }
            not_added.append(&mut self.add(&mut netlink, index, &[], &routes));
        }
        let refused: Vec<IpNet> = not_added.iter().map(|(net, _)| *net).collect();
        let were = std::mem::replace(&mut self.refused, refused);
        if let Some((_, first)) = not_added.first().filter(|_| self.refused != were) {
            tracing::warn!("leases: {} of the entries refused, the first: {first:#}", not_added.len());
        }
        let mtu = self.held.values().filter_map(|held| held.lease.mtu).min();
        if mtu.is_some() || self.lowered.is_some() {
            let mtu = self.bounded(mtu.unwrap_or(self.mtu));
            match netlink.set_mtu(index, mtu.into()) {
                Ok(()) => self.lowered = (mtu < self.mtu).then_some(mtu),
                Err(error) => undone.push(error),
            }
        }
        undone.into_iter().next().map_or(Ok(()), Err)
    }

    /// Adds what is not there, and remembers what was not there before. Returns what was refused, and why.
    fn add(
        &mut self,
        netlink: &mut Netlink,
        index: u32,
        addresses: &[IpNet],
        routes: &[IpNet],
    ) -> Vec<(IpNet, anyhow::Error)> {
        let mut refused = Vec::new();
        let mut add = |net: IpNet, ours: &mut Vec<IpNet>, added: Result<bool>| match added {
            Ok(true) if !ours.contains(&net) => ours.push(net),
            Ok(_) => {}
            Err(error) => refused.push((net, error)),
        };
        for &net in addresses {
            add(net, &mut self.addresses, netlink.add_address(index, net));
        }
        for &net in routes {
            add(net, &mut self.routes, netlink.add_route(index, net));
        }
        refused
    }
}

/// Whether a host whose peers are at `endpoints` takes this network into its configuration.
fn fits(net: IpNet, endpoints: &[IpAddr]) -> bool {
    is_ordinary(net) && !endpoints.iter().any(|&endpoint| net.contains(endpoint))
}

/// Whether a network can be given at all: no default route (as with allowed IPs, that is the operator's to set), nothing
/// that stays on the host or the wire.
pub fn is_ordinary(net: IpNet) -> bool {
    let special: [IpNet; 7] = [
        IpNet { addr: [127, 0, 0, 0].into(), prefix: 8 },
        IpNet { addr: [169, 254, 0, 0].into(), prefix: 16 },
        IpNet { addr: [224, 0, 0, 0].into(), prefix: 3 },
        IpNet { addr: [0, 0, 0, 0].into(), prefix: 8 },
        IpNet { addr: [0u16, 0, 0, 0, 0, 0, 0, 0].into(), prefix: 127 },
        IpNet { addr: [0xfe80u16, 0, 0, 0, 0, 0, 0, 0].into(), prefix: 10 },
        IpNet { addr: [0xff00u16, 0, 0, 0, 0, 0, 0, 0].into(), prefix: 8 },
    ];
    net.prefix > 0 && !special.iter().any(|other| other.covers(net) || net.covers(*other))
}

#[cfg(test)]
mod tests {
    use super::super::show::PeerSnapshot;
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_a_peers_to_give_is_never_given() {
        for text in [
            "0.0.0.0/0",
            "::/0",
            "127.0.0.1/32",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "224.0.0.5/32",
            "::1/128",
            "fe80::1/64",
            "ff02::1/128",
            "169.254.1.1/32",
        ] {
            assert!(!is_ordinary(net(text)), "{text}");
        }
        for text in ["10.0.0.0/8", "10.8.0.7/24", "fd08::7/64", "192.168.0.0/16", "2001:db8::/32"] {
            assert!(is_ordinary(net(text)), "{text}");
        }
    }

    #[test]
    fn changes_are_bounded_and_far_apart() {
        let mut leases = Leases::new("no-such-if", 1416);
        assert_eq!(leases.deadline(), None);
        let many =
            Config { routes: (0..40).map(|n| net(&format!("10.9.{n}.0/24"))).collect(), ..Config::default() };
        leases.take(PeerId(0), "hub", many);
        assert_eq!(leases.held[&PeerId(0)].lease.routes.len(), MAX_ENTRIES);
        assert_eq!(leases.deadline(), Some(0));
        leases.apply(std::iter::empty(), SECOND);
        assert_eq!(leases.deadline(), Some(SECOND + APART), "tried again, as there is no such interface");
        let mut snapshot =
            Snapshot { mtu: 1416, peers: vec![PeerSnapshot::default(); 2], ..Snapshot::default() };
        leases.enter(&mut snapshot);
        let [hub, other] = &snapshot.peers[..] else { panic!("two peers") };
        assert_eq!(hub.lease.as_ref().map(|lease| lease.routes.len()), Some(MAX_ENTRIES));
        assert!(!hub.lease_in_force && other.lease.is_none() && snapshot.mtu == 1416);
        leases.take(PeerId(0), "hub", Config::default());
        assert_eq!(leases.deadline(), Some(SECOND + APART));
        leases.take(PeerId(0), "hub", Config::default());
        leases.apply(std::iter::empty(), SECOND + APART - 1);
        assert!(leases.deadline().is_some(), "not yet");
    }

    #[test]
    fn where_peers_are_is_looked_at_again_when_one_has_moved() {
        let inside = || [IpAddr::from([10, 9, 0, 7])].into_iter();
        let mut leases = Leases::new("no-such-if", 1416);
        leases.look_again();
        assert_eq!(leases.deadline(), None, "there is nothing to judge");
        leases.take(PeerId(0), "hub", Config { routes: vec![net("10.9.0.0/24")], ..Config::default() });
        leases.apply(inside(), SECOND);
        let mut at = SECOND;
        // Whether it tried to change what is in force, there being no such interface.
        let mut tries = |leases: &mut Leases, outside: bool| {
            leases.changed = false;
            leases.look_again();
            at += APART;
            assert_eq!(leases.deadline(), Some(at));
            leases.apply(inside().filter(|_| !outside), at);
            assert_eq!(leases.held[&PeerId(0)].unfit.is_empty(), outside);
            (leases.changed, leases.deadline().is_some())
        };
        assert_eq!(tries(&mut leases, false), (false, false), "it is still there");
        assert_eq!(tries(&mut leases, true), (true, true));
        assert_eq!(tries(&mut leases, true), (false, false));
        assert_eq!(tries(&mut leases, false), (true, true));
    }

    #[test]
    fn what_the_kernel_refused_is_tried_again_when_it_is_said_again() {
        let mut leases = Leases::new("no-such-if", 1416);
        let lease = Config { routes: vec![net("10.9.0.0/24")], ..Config::default() };
        leases.take(PeerId(0), "hub", lease.clone());
        leases.changed = false;
        leases.take(PeerId(0), "hub", lease.clone());
        assert_eq!(leases.deadline(), None, "all of it is in force");
        leases.refused = lease.routes.clone();
        leases.take(PeerId(0), "hub", lease);
        assert_eq!(leases.deadline(), Some(0));
        leases.apply(std::iter::empty(), SECOND);
        assert!(leases.changed, "it was tried");
    }
}
