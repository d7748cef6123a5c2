//! The conversation with the kernel: events as they come, dumps, and one question about a route at a time.

use super::{Changes, Link, Neighbour, Tables};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE (include/uapi/linux/rtnetlink.h).
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];

/// What the kernel says of a route.
#[derive(Debug, Default)]
pub struct Route {
    pub unicast: bool,
    pub interface: Option<u32>,
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
    pub mtu: Option<u32>,
}

/// The socket that hears what changes.
pub struct Events {
    socket: Socket,
}

impl Events {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Events { socket })
    }

    /// Takes in all that waits. False if the kernel has dropped events for want of room.
    pub fn read(&mut self, tables: &mut Tables) -> io::Result<bool> {
        let mut complete = true;
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, _)) => messages(&bytes, |payload| {
                    if let NetlinkPayload::InnerMessage(message) = payload {
                        take(tables, message);
                    }
                    false
                }),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(complete),
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => complete = false,
                    _ => return Err(error),
                },
            }
        }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The socket for questions.
pub struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Requests { socket, sequence: 0 })
    }

    /// Reads everything that [`Tables`] holds.
    pub fn dump(&mut self, tables: &mut Tables) -> io::Result<()> {
        let all = [
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        ];
        for request in all {
            self.ask(request, NLM_F_DUMP, |message| take(tables, message))?;
        }
        Ok(())
    }

    /// The route to `remote`; `None` if there is none.
    pub fn route(&mut self, remote: IpAddr, scope: u32, local: Option<IpAddr>) -> Option<Route> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(remote);
        message.header.destination_prefix_length = bits(remote);
        message.attributes.push(RouteAttribute::Destination(remote.into()));
        if let Some(local) = local.filter(|local| local.is_ipv4() == remote.is_ipv4()) {
            message.header.source_prefix_length = bits(local);
            message.attributes.push(RouteAttribute::Source(local.into()));
        }
        if scope != 0 {
            message.attributes.push(RouteAttribute::Oif(scope));
        }
        let mut route = None;
        let asked = self.ask(RouteNetlinkMessage::GetRoute(message), 0, |answer| {
            if let RouteNetlinkMessage::NewRoute(answer) = answer {
                route = Some(read_route(answer));
            }
        });
        asked.ok().and(route)
    }

    /// Tells the kernel that a neighbour is in use (`NTF_USE`), so that it confirms a stale one.
    pub fn use_neighbour(&mut self, interface: u32, neighbour: IpAddr) {
        let mut message = NeighbourMessage::default();
        message.header.family = family(neighbour);
        message.header.ifindex = interface;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(match neighbour {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        // Without the privilege, or without the neighbour, it is not refreshed: a datagram by the socket will do it.
        let _ = self.ask(RouteNetlinkMessage::NewNeighbour(message), flags, |_| {});
    }

    /// Sends one request and hands on its answers: one, or a whole dump.
    fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut answer: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (mut done, mut error) = (false, None);
        while !done {
            let (bytes, _) = self.socket.recv_from_full()?;
            messages(&bytes, |payload| {
                done = match payload {
                    NetlinkPayload::InnerMessage(message) => {
                        answer(message);
                        flags & (NLM_F_DUMP | NLM_F_ACK) == 0
                    }
                    NetlinkPayload::Error(refusal) => {
                        error = refusal.code.map(|_| refusal.to_io());
                        true
                    }
                    NetlinkPayload::Done(_) => true,
                    _ => false,
                };
                done
            });
        }
        error.map_or(Ok(()), Err)
    }
}

/// Calls `each` on every message of a buffer until it says that it has enough. What does not parse is passed over.
fn messages(buffer: &[u8], mut each: impl FnMut(NetlinkPayload<RouteNetlinkMessage>) -> bool) {
    let mut rest = buffer;
    while let Some(length) = rest.first_chunk().map(|&length| u32::from_ne_bytes(length) as usize) {
        let Some(bytes) = rest.get(..length).filter(|bytes| bytes.len() >= 16) else { return };
        if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
            && each(message.payload)
        {
            return;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Enters what a message says.
fn take(tables: &mut Tables, message: RouteNetlinkMessage) {
    let Tables { links, neighbours, addresses, changes } = tables;
    match message {
        RouteNetlinkMessage::NewLink(message) => {
            let index = message.header.index;
            if let Some(link) = read_link(&message) {
                changes.links |= links.insert(index, link.clone()).as_ref() != Some(&link);
            }
        }
        RouteNetlinkMessage::DelLink(message) => {
            let index = message.header.index;
            // The bridge module says so of a port that only left its bridge.
            if message.header.interface_family == AddressFamily::Bridge {
                return;
            }
            changes.links |= links.remove(&index).is_some();
            neighbours.retain(|&(interface, _), _| interface != index);
            addresses.retain(|&(interface, _)| interface != index);
        }
        RouteNetlinkMessage::NewNeighbour(message) => {
            let Some(key) = neighbour_key(&message) else { return };
            let neighbour = read_neighbour(&message);
            let before = match neighbour {
                Some(neighbour) => neighbours.insert(key, neighbour),
                None => neighbours.remove(&key),
            };
            // Whether it is stale is no news for who sends to it.
            changes.neighbours |= before.map(|n| n.mac) != neighbour.map(|n| n.mac);
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            if let Some(key) = neighbour_key(&message) {
                changes.neighbours |= neighbours.remove(&key).is_some();
            }
        }
        RouteNetlinkMessage::NewAddress(message) => {
            let ip = address(&message);
            changes.addresses |= ip.is_some_and(|ip| addresses.insert((message.header.index, ip)));
        }
        RouteNetlinkMessage::DelAddress(message) => {
            let ip = address(&message);
            changes.addresses |= ip.is_some_and(|ip| addresses.remove(&(message.header.index, ip)));
        }
        RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => {
            *changes = Changes { routes: true, ..*changes };
        }
        _ => {}
    }
}

fn read_link(message: &LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    let mut link = Link {
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        running: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether && !flags.contains(LinkFlags::Noarp),
        program: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Xdp(xdp) => {
                let id = xdp.iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id) => Some(*id),
                    _ => None,
                });
                link.program = id.unwrap_or(0);
            }
            _ => {}
        }
    }
    // Messages about one aspect of a link alone name neither.
    (!link.name.is_empty() && link.mtu > 0).then_some(link)
}

fn neighbour_key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    Some((message.header.ifindex, ip))
}

/// The neighbour, if it can be sent to.
fn read_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let stale = match message.header.state {
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => false,
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => true,
        _ => return None,
    };
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    })?;
    Some(Neighbour { mac, stale })
}

fn address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    // Of a point-to-point link, ADDRESS is the other end's.
    find(true).or_else(|| find(false))
}

fn read_route(message: RouteMessage) -> Route {
    let mut route = Route { unicast: message.header.kind == RouteType::Unicast, ..Route::default() };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.interface = Some(index),
            RouteAttribute::Gateway(gateway) => route.gateway = ip(gateway),
            RouteAttribute::Via(RouteVia::Inet(ip)) => route.gateway = Some(ip.into()),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => route.gateway = Some(ip.into()),
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.into_iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    route
}

fn ip(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}
