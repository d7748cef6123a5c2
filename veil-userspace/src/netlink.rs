//! The host's interfaces, addresses and routes, by rtnetlink (rtnetlink(7)): one request, one answer, nothing in between.
//!
//! Called at start, to give the TUN its addresses, MTU and routes, and when a peer gives others; they go with the TUN when
//! it is closed. Invariant:
//! nothing that belongs to another interface is changed, and an error says what was attempted, on which interface, what
//! the kernel answered and the cure.

use anyhow::{Context, Result, anyhow};
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use veil_proto::allowed_ips::IpNet;

/// A connection to the kernel's routing tables, in the network namespace it was opened in.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    /// The main table as last read: who has which destination. Empty until the first route is added.
    routes: Option<HashMap<(IpAddr, u8), Vec<u32>>>,
}

impl Netlink {
    /// Opens a connection; needs no privilege.
    pub fn open() -> Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // The kernel's own words with an error, without our request repeated (Linux 4.12+); nice to have.
            let _ = socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true));
            Ok(socket)
        };
        let socket = open().context("cannot open a netlink socket")?;
        Ok(Netlink { socket, sequence: 0, routes: None })
    }

    /// The index of the interface called `name`.
    pub fn link_index(&mut self, name: &str) -> Result<u32> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = self.ask(RouteNetlinkMessage::GetLink(message), NLM_F_ACK).map_err(|e| {
            e.told(&format!("cannot find the interface {name}"), "see `ip link` for those there are")
        })?;
        let index = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        });
        index.with_context(|| format!("cannot find the interface {name}: the kernel gave no answer"))
    }

    /// Sets the interface's MTU and switches it on.
    pub fn set_link_up_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        self.set_link(index, mtu, LinkFlags::Up, " and switch it on")
    }

    /// Sets how long the super-packets may be that the host gives the interface, over IPv4 (Linux 6.3, before that as over
    /// IPv6) and over IPv6.
    pub fn set_gso_max_sizes(&mut self, index: u32, [ipv4, ipv6]: [u32; 2]) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::GsoMaxSize(ipv6), LinkAttribute::GsoIpv4MaxSize(ipv4)];
        self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop).map_err(|e| {
            let what = format!("cannot set the longest super-packets of {}", self.name(index));
            e.told(&what, "Linux 4.17 or later can")
        })
    }

    /// Sets the interface's MTU and nothing else.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        self.set_link(index, mtu, LinkFlags::empty(), "")
    }

    fn set_link(&mut self, index: u32, mtu: u32, flags: LinkFlags, too: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message.header.change_mask = flags;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop).map_err(|e| {
            let what = format!("cannot set the MTU of {} to {mtu}{too}", self.name(index));
            e.told(&what, "choose another mtu")
        })
    }

    /// Takes an address off the interface; one that is not there (any more) is fine.
    pub fn remove_address(&mut self, index: u32, net: IpNet) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(net.addr);
        message.header.prefix_len = net.prefix;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(net.addr));
        // Without it the kernel takes the first prefix that fits (net/ipv4/devinet.c, inet_rtm_deladdr).
        message.attributes.push(AddressAttribute::Address(net.addr));
        self.routes = None;
        match self.ask(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK) {
            Err(e) if e.errno() != libc::EADDRNOTAVAIL => {
                let what = format!("cannot take the address {net} off {}", self.name(index));
                Err(e.told(&what, "see `ip address`"))
            }
            _ => Ok(()),
        }
    }

    /// Removes the interface's route to a destination; one that is not there (any more) is fine.
    pub fn remove_route(&mut self, index: u32, net: IpNet) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header = route_header(net);
        message.attributes.push(RouteAttribute::Destination(net.network().addr.into()));
        message.attributes.push(RouteAttribute::Oif(index));
        self.routes = None;
        match self.ask(RouteNetlinkMessage::DelRoute(message), NLM_F_ACK) {
            Err(e) if e.errno() != libc::ESRCH => {
                let what = format!("cannot remove the route to {net} through {}", self.name(index));
                Err(e.told(&what, "see `ip route`"))
            }
            _ => Ok(()),
        }
    }

    /// Gives the interface an address; with it comes the kernel's route to the address's network. True if that gave it one;
    /// already there is fine.
    pub fn add_address(&mut self, index: u32, net: IpNet) -> Result<bool> {
        let mut message = AddressMessage::default();
        message.header.family = family(net.addr);
        message.header.prefix_len = net.prefix;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(net.addr));
        message.attributes.push(AddressAttribute::Address(net.addr));
        if net.addr.is_ipv6() {
            // Nobody else is on a TUN, and an address under duplicate detection cannot be bound yet.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.routes = None;
        let result =
            self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
        if result.as_ref().is_err_and(|e| e.errno() == libc::EEXIST) {
            return Ok(false);
        }
        result.map(|_| true).map_err(|e| {
            let what = format!("cannot give {} the address {net}", self.name(index));
            let cure = match e.errno() {
                libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT if net.addr.is_ipv6() => {
                    "IPv6 is switched off on this machine: run `sysctl -w net.ipv6.conf.all.disable_ipv6=0`, or leave out \
                     the IPv6 addresses"
                }
                _ => "correct it in the configuration",
            };
            e.told(&what, cure)
        })
    }

    /// Sends a destination into the interface (main table, scope link). True if that made a route; already there is fine. A
    /// route of another interface to exactly this destination is an error, whatever its metric.
    pub fn add_route(&mut self, index: u32, net: IpNet) -> Result<bool> {
        let destination = (net.network().addr, net.prefix);
        let owners = self.owners(destination)?;
        if owners.contains(&index) {
            return Ok(false);
        }
        if let Some(&other) = owners.first() {
            return Err(self.taken(index, net, other));
        }
        let mut message = RouteMessage::default();
        message.header = route_header(net);
        if net.prefix > 0 {
            message.attributes.push(RouteAttribute::Destination(destination.0.into()));
        }
        message.attributes.push(RouteAttribute::Oif(index));
        match self.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => {
                self.routes.get_or_insert_default().entry(destination).or_default().push(index);
                Ok(true)
            }
            Err(e) if e.errno() == libc::EEXIST => {
                // Somebody was quicker than our copy of the table.
                self.routes = None;
                match self.owners(destination)?.as_slice() {
                    owners if owners.contains(&index) => Ok(false),
                    [other, ..] => Err(self.taken(index, net, *other)),
                    [] => {
                        Err(e
                            .told(&format!("cannot route {net} into {}", self.name(index)), "see `ip route`"))
                    }
                }
            }
            Err(e) => {
                let what = format!("cannot route {net} into {}", self.name(index));
                Err(e.told(&what, "correct this allowed IP in the configuration"))
            }
        }
    }

    /// The IPv4 routes through the interface, in all tables, but for those the kernel makes itself and those `from` an
    /// address that goes; those that others may need for their gateway come first.
    pub fn ipv4_routes(&mut self, index: u32, from: &[IpAddr]) -> Result<Vec<RouteMessage>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let answers = self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP);
        let answers = answers.map_err(|e| e.told("cannot read the routing table", "see `ip route`"))?;
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        });
        let mut routes: Vec<_> = routes.filter(|route| may_go(route, index, from)).collect();
        routes.sort_by_key(|route| {
            route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Gateway(_)))
        });
        Ok(routes)
    }

    /// Makes a route again as [`ipv4_routes`](Self::ipv4_routes) gave it; one that is there still is fine.
    pub fn put_back(&mut self, index: u32, mut route: RouteMessage) -> Result<()> {
        // Flags of its state are not taken.
        route.header.flags &= RouteFlags::Onlink;
        if route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::NhId(_))) {
            // The kernel spells out what the nexthop object says, and takes the object's number alone.
            route.attributes.retain(|attribute| {
                !matches!(
                    attribute,
                    RouteAttribute::Oif(_) | RouteAttribute::Gateway(_) | RouteAttribute::Via(_)
                )
            });
        }
        self.routes = None;
        match self.ask(RouteNetlinkMessage::NewRoute(route), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Err(e) if e.errno() != libc::EEXIST => {
                let what = format!("cannot put back a route through {}", self.name(index));
                Err(e.told(&what, "see `ip route`"))
            }
            _ => Ok(()),
        }
    }

    fn taken(&mut self, index: u32, net: IpNet, other: u32) -> anyhow::Error {
        let (name, other) = (self.name(index), self.name(other));
        anyhow!(
            "cannot route {net} into {name}: {other} has a route to it already: remove that one \
             (`ip route del {net} dev {other}`) or narrow this allowed IP"
        )
    }

    /// The interfaces that the main table routes exactly this destination to.
    fn owners(&mut self, destination: (IpAddr, u8)) -> Result<Vec<u32>> {
        if self.routes.is_none() {
            let mut routes = HashMap::new();
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                self.read_routes(family, &mut routes)?;
            }
            self.routes = Some(routes);
        }
        Ok(self.routes.as_ref().and_then(|routes| routes.get(&destination)).cloned().unwrap_or_default())
    }

    fn read_routes(
        &mut self,
        family: AddressFamily,
        routes: &mut HashMap<(IpAddr, u8), Vec<u32>>,
    ) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let answers = match self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP) {
            Ok(answers) => answers,
            // A kernel without IPv6 has no such table.
            Err(e) if matches!(e.errno(), libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => return Ok(()),
            Err(e) => return Err(e.told("cannot read the routing table", "see `ip route`")),
        };
        for answer in answers {
            let RouteNetlinkMessage::NewRoute(route) = answer else { continue };
            if let Some((destination, index)) = main_route(&route) {
                routes.entry(destination).or_default().push(index);
            }
        }
        Ok(())
    }

    /// An interface's name for errors, or its number.
    fn name(&mut self, index: u32) -> String {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let answers = self.ask(RouteNetlinkMessage::GetLink(message), NLM_F_ACK).unwrap_or_default();
        let attributes = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(&link.attributes),
            _ => None,
        });
        let name = attributes.flatten().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        name.unwrap_or_else(|| format!("interface {index}"))
    }

    /// Sends one request and collects its answers, until the acknowledgement (`NLM_F_ACK`) or the end of the dump
    /// (`NLM_F_DUMP`): `flags` has one of them, so that an answer that cannot be read is not waited for. A dump is asked for
    /// again when the kernel says that its tables changed meanwhile.
    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>, Refused> {
        let mut answers = self.ask_once(request.clone(), flags)?;
        for _ in 1..TRIES {
            if !answers.interrupted {
                break;
            }
            answers = self.ask_once(request.clone(), flags)?;
        }
        Ok(answers.messages)
    }

    fn ask_once(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<Answers, Refused> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retried(|| self.socket.send(&bytes, 0))?;

        let mut answers = Answers::default();
        loop {
            let (datagram, _) = retried(|| self.socket.recv_from_full())?;
            let mut rest = datagram.as_slice();
            while let Ok(header) = NetlinkBuffer::new_checked(rest) {
                let (length, number) = (header.length().max(16) as usize, header.sequence_number());
                answers.interrupted |= header.flags() & NLM_F_DUMP_INTR != 0;
                let message = rest.get(..length).unwrap_or_default();
                // Each message starts at a multiple of four (NLMSG_ALIGN).
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if number != self.sequence {
                    continue;
                }
                // One that does not parse is left out: the others are worth having.
                let Ok(answer) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) else {
                    continue;
                };
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(Refused::new(&error)),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(inner) => answers.messages.push(inner),
                    _ => {}
                }
            }
        }
    }
}

/// How often a dump is asked for that the kernel says was interrupted.
const TRIES: usize = 4;

/// What the kernel has answered to one request.
#[derive(Default)]
struct Answers {
    messages: Vec<RouteNetlinkMessage>,
    /// It is a dump, and something may be missing.
    interrupted: bool,
}

/// The kernel's refusal: an error number, and its own words where it has some.
#[derive(Debug)]
struct Refused {
    error: io::Error,
    words: Option<String>,
}

/// Type of the attribute that carries the kernel's words (linux/netlink.h, NLMSGERR_ATTR_MSG).
const ATTR_MSG: u16 = 1;

impl Refused {
    fn new(message: &ErrorMessage) -> Self {
        // The request's header (16 bytes, capped), then attributes: length 2, type 2, value, padded to four.
        let mut rest = message.header.get(16..).unwrap_or_default();
        let mut words = None;
        while let [l0, l1, t0, t1, tail @ ..] = rest {
            let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
            let Some(value) = length.checked_sub(4).and_then(|len| tail.get(..len)) else { break };
            if u16::from_ne_bytes([*t0, *t1]) == ATTR_MSG {
                words = Some(String::from_utf8_lossy(value).trim_end_matches(['\0', '.']).to_owned());
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Refused { error: message.to_io(), words }
    }

    fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(0)
    }

    /// "what: what the kernel said: cure".
    fn told(&self, what: &str, cure: &str) -> anyhow::Error {
        let cure = match self.errno() {
            libc::EPERM => "needs CAP_NET_ADMIN, run as root (sudo)",
            libc::ENODEV if !what.starts_with("cannot find") => "the interface is gone, start again",
            _ => cure,
        };
        match &self.words {
            Some(words) => anyhow!("{what}: {} ({words}): {cure}", self.error),
            None => anyhow!("{what}: {}: {cure}", self.error),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused { error, words: None }
    }
}

/// Destination and interface of a unicast route in the main table.
fn main_route(route: &RouteMessage) -> Option<((IpAddr, u8), u32)> {
    let header = &route.header;
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    if table.unwrap_or(header.table.into()) != u32::from(RouteHeader::RT_TABLE_MAIN)
        || header.kind != RouteType::Unicast
        // What has been learnt of a path.
        || header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let mut index = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = (*ip).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => destination = (*ip).into(),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::MultiPath(hops) => index = hops.first().map(|hop| hop.interface_index),
            _ => {}
        }
    }
    Some(((destination, header.destination_prefix_length), index?))
}

/// Whether it is an IPv4 route through the interface that may go with an address, and is missed then: neither the kernel's
/// own, nor what it has learnt of a path (`RTM_F_CLONED`), nor one `from` an address that is meant to go.
fn may_go(route: &RouteMessage, index: u32, from: &[IpAddr]) -> bool {
    let header = &route.header;
    let is_from = |source: &RouteAddress| match source {
        RouteAddress::Inet(ip) => from.contains(&(*ip).into()),
        _ => false,
    };
    header.protocol != RouteProtocol::Kernel
        && !header.flags.contains(RouteFlags::Cloned)
        && route.attributes.contains(&RouteAttribute::Oif(index))
        && !route
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, RouteAttribute::PrefSource(ip) if is_from(ip)))
}

/// A route of ours: main table, scope link.
fn route_header(net: IpNet) -> RouteHeader {
    RouteHeader {
        address_family: family(net.addr),
        destination_prefix_length: net.prefix,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Link,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Again when a signal came in between.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missed_is_put_back() {
        let route = |protocol, flags, attributes: &[RouteAttribute]| {
            let mut route = RouteMessage::default();
            (route.header.protocol, route.header.flags) = (protocol, flags);
            route.attributes = attributes.to_vec();
            may_go(&route, 7, &[[10, 8, 0, 7].into()])
        };
        let (through, none) = (RouteAttribute::Oif(7), RouteFlags::empty());
        let from = |ip| RouteAttribute::PrefSource(RouteAddress::Inet(std::net::Ipv4Addr::from(ip)));
        assert!(route(RouteProtocol::Boot, none, std::slice::from_ref(&through)));
        assert!(route(RouteProtocol::Static, none, &[through.clone(), from([10, 8, 0, 8])]));
        assert!(!route(RouteProtocol::Static, none, &[through.clone(), from([10, 8, 0, 7])]));
        assert!(!route(RouteProtocol::Boot, none, &[RouteAttribute::Oif(8)]));
        assert!(!route(RouteProtocol::Kernel, none, std::slice::from_ref(&through)));
        assert!(!route(RouteProtocol::Unspec, RouteFlags::Cloned, &[through]), "an MTU that was learnt");
    }

    #[test]
    fn interfaces_are_found_by_name() {
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link_index("lo").unwrap();
        assert_eq!(netlink.name(index), "lo");
        let error = netlink.link_index("veil-gone0").unwrap_err().to_string();
        assert!(error.starts_with("cannot find the interface veil-gone0: No such device"), "{error}");
        assert!(error.ends_with(": see `ip link` for those there are"), "{error}");
    }

    #[test]
    fn the_main_table_can_be_read() {
        let mut netlink = Netlink::open().unwrap();
        assert!(netlink.owners(("203.0.113.77".parse().unwrap(), 32)).unwrap().is_empty());
    }

    #[test]
    fn a_refusal_says_what_the_kernel_said_and_the_cure() {
        // A capped request header, a cookie attribute (type 3), then the kernel's words (type 1).
        let mut header = vec![0; 16];
        header.extend([6u16.to_ne_bytes(), 3u16.to_ne_bytes()].concat());
        header.extend([9, 9, 0, 0]);
        header.extend([14u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat());
        header.extend(b"Bad thing\0\0\0");
        let refused = |errno: i32, header: &[u8]| {
            let mut message = ErrorMessage::default();
            message.code = std::num::NonZeroI32::new(-errno);
            message.header = header.to_vec();
            Refused::new(&message).told("cannot do it on veil0", "do better")
        };
        let text = refused(libc::EINVAL, &header).to_string();
        assert_eq!(text, "cannot do it on veil0: Invalid argument (os error 22) (Bad thing): do better");
        let text = refused(libc::EPERM, &header[..21]).to_string();
        let wanted = "cannot do it on veil0: Operation not permitted (os error 1): needs CAP_NET_ADMIN, run as root (sudo)";
        assert_eq!(text, wanted);
    }

    #[test]
    fn only_unicast_routes_of_the_main_table_count() {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.destination_prefix_length = 8;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.kind = RouteType::Unicast;
        let destination: IpAddr = "10.0.0.0".parse().unwrap();
        route.attributes = vec![RouteAttribute::Destination(destination.into()), RouteAttribute::Oif(7)];
        assert_eq!(main_route(&route), Some(((destination, 8), 7)));
        route.attributes.push(RouteAttribute::Table(1000));
        assert_eq!(main_route(&route), None);
        route.attributes.pop();
        route.header.kind = RouteType::BlackHole;
        assert_eq!(main_route(&route), None);
    }
}
