//! Where a datagram goes next: a mirror of the kernel's links, neighbours and addresses, and its answers about routes.
//!
//! [`NextHops`] hears what changes over rtnetlink's multicast groups (rtnetlink(7)) and keeps it. [`NextHops::resolve`]
//! asks the kernel for the route, so that policy rules, metrics and VRFs count, and looks the neighbour up in the mirror.
//! Its answer holds until [`NextHops::version`] changes: keep it, and ask again only then. Nothing is ever sent to a
//! neighbour from here; who is not known yet is for the kernel to find, when it sends the next datagram.

mod rtnetlink;
mod tables;
#[cfg(test)]
mod tests;

use rtnetlink::{Events, Requests};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use tables::Tables;

/// An Ethernet interface, as the kernel last described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// Switched on.
    pub up: bool,
    /// Up, and with a carrier.
    pub running: bool,
    /// Frames have an Ethernet header.
    pub ethernet: bool,
    /// The program on its XDP hook; 0 if there is none.
    pub program: u32,
}

/// Where a datagram goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The interface it leaves by.
    pub interface: u32,
    /// The address of this host that it leaves from.
    pub source: IpAddr,
    pub source_mac: [u8; 6],
    /// Who takes it next: the destination itself, or a gateway.
    pub neighbour: IpAddr,
    pub neighbour_mac: [u8; 6],
    /// Bytes of an IP packet that the interface and the route take.
    pub mtu: u32,
}

/// Why it is not known where a datagram goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// The kernel has no route, or one that refuses.
    NoRoute,
    /// To this host itself, or to many.
    NotUnicast,
    /// The interface is down, or its frames have no Ethernet header.
    Interface(u32),
    /// The kernel does not know the next hop's Ethernet address (yet).
    Neighbour(IpAddr),
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unresolved::NoRoute => write!(f, "there is no route"),
            Unresolved::NotUnicast => write!(f, "it is this host's own, or a group's"),
            Unresolved::Interface(index) => write!(f, "interface {index} is down, or not Ethernet"),
            Unresolved::Neighbour(ip) => write!(f, "the Ethernet address of {ip} is not known yet"),
        }
    }
}

/// What has changed since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// A link came, went, or changed.
    pub links: bool,
    /// A neighbour's Ethernet address became known, unknown, or another.
    pub neighbours: bool,
    /// Some route, a rule that chooses among tables of them, or an object that routes name.
    pub routes: bool,
    /// This host's addresses.
    pub addresses: bool,
}

impl Changes {
    fn any(self) -> bool {
        self.links || self.neighbours || self.routes || self.addresses
    }
}

/// The mirror, in the network namespace it was opened in.
pub struct NextHops {
    events: Events,
    requests: Requests,
    tables: Tables,
    /// Whether the tables have everything that the kernel's had when they were read.
    complete: bool,
    version: u64,
    refreshed: HashMap<(u32, IpAddr), u64>,
}

/// A stale neighbour is asked for again no sooner than this, in nanoseconds.
const REFRESH_EVERY: u64 = 30_000_000_000;

impl NextHops {
    /// Opens the mirror and fills it. Needs no privilege.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket, or refuses to list what it knows.
    pub fn open() -> io::Result<Self> {
        // Listening first: what changes while the tables are read is heard afterwards.
        let (events, mut requests) = (Events::open()?, Requests::open()?);
        let mut tables = Tables::default();
        let complete = requests.dump(&mut tables)?;
        tables.changes = Changes::default();
        Ok(NextHops { events, requests, tables, complete, version: 1, refreshed: HashMap::new() })
    }

    /// Takes in what has changed; call it when [`as_fd`](Self::as_fd) is readable, and every second or so: what could not
    /// be read at once is read then. Waits for nobody but the kernel.
    ///
    /// # Errors
    /// When the kernel refuses to go on; what is known may be out of date until a later call succeeds.
    pub fn update(&mut self) -> io::Result<Changes> {
        self.tables.changes = Changes::default();
        let heard = self.events.read(&mut self.tables);
        // Some may have been lost for want of room.
        self.complete &= matches!(heard, Ok(true));
        heard?;
        if !self.complete {
            // Everything anew, and nothing of before is to be trusted.
            let mut tables = Tables::default();
            self.complete = self.requests.dump(&mut tables)?;
            tables.changes = Changes { links: true, neighbours: true, routes: true, addresses: true };
            self.tables = tables;
        }
        let changes = self.tables.changes;
        if changes.any() {
            self.version += 1;
        }
        Ok(changes)
    }

    /// Changes whenever an answer of [`resolve`](Self::resolve) might have.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Where a UDP datagram to `remote`, from `local` if that is given and from `port`, with the code point `dscp`, goes next.
    /// Asks the kernel: for once per path and version.
    ///
    /// # Errors
    /// Why that is not known; leave such a datagram to a UDP socket.
    pub fn resolve(
        &mut self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        port: u16,
        dscp: u8,
    ) -> Result<Hop, Unresolved> {
        // IPv6 answers for any source (net/ipv6/route.c), so whether it is this host's still is looked up here.
        if local.is_some_and(|local| !self.tables.is_local(local)) {
            return Err(Unresolved::NoRoute);
        }
        let route = self.requests.route(remote, local, port, dscp).ok_or(Unresolved::NoRoute)?;
        if !route.unicast {
            return Err(Unresolved::NotUnicast);
        }
        let interface = route.interface.ok_or(Unresolved::NoRoute)?;
        let source = local.or(route.source).ok_or(Unresolved::NoRoute)?;
        let link = self.tables.links.get(&interface).filter(|link| link.running && link.ethernet);
        let link = link.ok_or(Unresolved::Interface(interface))?;
        let neighbour = route.gateway.unwrap_or(remote.ip());
        let known = self.tables.neighbours.get(&(interface, neighbour));
        let known = known.ok_or(Unresolved::Neighbour(neighbour))?;
        let mtu = route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
        Ok(Hop { interface, source, source_mac: link.mac, neighbour, neighbour_mac: known.mac, mtu })
    }

    /// Whether it is time to [`refresh`] a neighbour: the kernel has not heard of it lately, and this has not been answered by
    /// yes for 30 s. `now` is in nanoseconds.
    pub fn is_due(&mut self, hop: &Hop, now: u64) -> bool {
        let key = (hop.interface, hop.neighbour);
        if !self.tables.neighbours.get(&key).is_some_and(|neighbour| neighbour.stale) {
            return false;
        }
        let last = self.refreshed.entry(key).or_insert(0);
        let due = *last == 0 || now.saturating_sub(*last) >= REFRESH_EVERY;
        if due {
            *last = now.max(1);
        }
        due
    }

    /// What is known of an interface.
    pub fn link(&self, interface: u32) -> Option<&Link> {
        self.tables.links.get(&interface)
    }

    /// The number of the interface called `name`.
    pub fn interface(&self, name: &str) -> Option<u32> {
        self.tables.links.iter().find(|(_, link)| link.name == name).map(|(&index, _)| index)
    }

    /// The names of all interfaces, in no order.
    pub fn interface_names(&self) -> Vec<&str> {
        self.tables.links.values().map(|link| link.name.as_str()).collect()
    }

    /// The unicast addresses of this host by which it is spoken to on `interface`, loopback excluded, in no order. Those of
    /// other interfaces are among them (Linux answers to each on all), but not their link-local ones (RFC 4291, section
    /// 2.5.6), nor any that may turn out to be another host's.
    pub fn local_addresses(&self, interface: u32) -> Vec<IpAddr> {
        self.tables.local_addresses(interface)
    }
}

/// Has the kernel confirm a neighbour on an interface, in the namespace of this thread: traffic that passes the kernel by
/// does not tell it that the neighbour is in use. Waits for RTNL, which others may hold for long.
///
/// # Errors
/// The kernel refuses: without the privilege, or without the neighbour. A datagram by the socket will do it then.
pub fn refresh(interface: u32, neighbour: IpAddr) -> io::Result<()> {
    Requests::open()?.use_neighbour(interface, neighbour)
}

/// Readable when something has changed.
impl AsFd for NextHops {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
