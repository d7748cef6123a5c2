//! The conversation with the kernel: events as they come, dumps, and one question about a route at a time.

use super::tables::Tables;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

/// Groups of events that every kernel has: RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR,
/// _IPV6_ROUTE, _IPV6_RULE (include/uapi/linux/rtnetlink.h).
const GROUPS: [u32; 8] = [1, 3, 5, 7, 8, 9, 11, 19];
/// RTNLGRP_NEXTHOP: nexthop objects, which routes may name instead of a gateway (Linux 5.3).
const NEXTHOP_GROUP: u32 = 32;

/// How often a dump is asked for that the kernel says was interrupted.
const TRIES: usize = 4;

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
        match socket.add_membership(NEXTHOP_GROUP) {
            // A kernel without such objects.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            joined => joined?,
        }
        Ok(Events { socket })
    }

    /// Takes in all that waits. False if the kernel has dropped events for want of room.
    pub fn read(&mut self, tables: &mut Tables) -> io::Result<bool> {
        let mut complete = true;
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => messages(&datagram).for_each(|message| tables.hear(message)),
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
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        Ok(Requests { socket, sequence: 0 })
    }

    /// Reads everything that [`Tables`] holds. False if the kernel's own tables did not hold still for it: then something
    /// may be missing.
    pub fn dump(&mut self, tables: &mut Tables) -> io::Result<bool> {
        let all = [
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        ];
        let mut complete = true;
        for request in all {
            complete &= repeated(|| self.ask(request.clone(), NLM_F_DUMP, |message| tables.take(message)))?;
        }
        Ok(complete)
    }

    /// The route of a UDP datagram from `port` to `remote`, with this code point; `None` if there is none. Rules may ask for
    /// all of it (ip-rule(8)), and so may the choice between several next hops.
    pub fn route(&mut self, remote: SocketAddr, local: Option<IpAddr>, port: u16, dscp: u8) -> Option<Route> {
        let ip = remote.ip();
        let mut message = RouteMessage::default();
        message.header.address_family = family(ip);
        message.header.destination_prefix_length = bits(ip);
        message.header.tos = dscp << 2;
        message.attributes.push(RouteAttribute::Destination(ip.into()));
        if let Some(local) = local.filter(|local| local.is_ipv4() == ip.is_ipv4()) {
            message.header.source_prefix_length = bits(local);
            message.attributes.push(RouteAttribute::Source(local.into()));
        }
        let scope = scope(remote);
        if scope != 0 {
            message.attributes.push(RouteAttribute::Oif(scope));
        }
        message.attributes.push(RouteAttribute::IpProto(libc::IPPROTO_UDP as u8));
        message.attributes.push(RouteAttribute::Sport(port));
        message.attributes.push(RouteAttribute::Dport(remote.port()));
        let mut route = None;
        let asked = self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_ACK, |answer| {
            if let RouteNetlinkMessage::NewRoute(answer) = answer {
                route = Some(read_route(answer));
            }
        });
        asked.ok().and(route)
    }

    /// Tells the kernel that a neighbour is in use (`NTF_USE`), so that it confirms a stale one.
    pub fn use_neighbour(&mut self, interface: u32, neighbour: IpAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(neighbour);
        message.header.ifindex = interface;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(match neighbour {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewNeighbour(message), flags, |_| {}).map(drop)
    }

    /// Sends one request and hands on its answers, until the acknowledgement (`NLM_F_ACK`) or the end of the dump
    /// (`NLM_F_DUMP`): `flags` has one of them, so that an answer that cannot be read is not waited for. False if the dump
    /// was interrupted.
    fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut answer: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retried(|| self.socket.send(&bytes, 0))?;
        let mut answers = Answers::to(self.sequence);
        loop {
            let (datagram, _) = retried(|| self.socket.recv_from_full())?;
            if let Some(end) = answers.read(&datagram, &mut answer) {
                return end;
            }
        }
    }
}

/// What the kernel answers to one request.
pub struct Answers {
    sequence: u32,
    interrupted: bool,
}

impl Answers {
    /// To the request with that number.
    pub fn to(sequence: u32) -> Self {
        Answers { sequence, interrupted: false }
    }

    /// Hands on the answers in a datagram. `None` if more are to come; else what [`Requests::ask`] says.
    pub fn read(
        &mut self,
        datagram: &[u8],
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Option<io::Result<bool>> {
        for bytes in messages(datagram) {
            let header = NetlinkBuffer::new(bytes);
            // The rest of an answer that was given up, after an error in its midst.
            if header.sequence_number() != self.sequence {
                continue;
            }
            self.interrupted |= header.flags() & NLM_F_DUMP_INTR != 0;
            match NetlinkMessage::deserialize(bytes).map(|message| message.payload) {
                Ok(NetlinkPayload::InnerMessage(message)) => each(message),
                Ok(NetlinkPayload::Error(refusal)) if refusal.code.is_some() => {
                    return Some(Err(refusal.to_io()));
                }
                Ok(NetlinkPayload::Done(done)) if done.code < 0 => {
                    return Some(Err(io::Error::from_raw_os_error(-done.code)));
                }
                Ok(NetlinkPayload::Error(_) | NetlinkPayload::Done(_)) => return Some(Ok(!self.interrupted)),
                // Also what does not parse: the others are worth having.
                _ => {}
            }
        }
        None
    }
}

/// Asks for a dump until one is not interrupted, [`TRIES`] times at most. False if none was.
pub fn repeated(mut dump: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    for _ in 0..TRIES {
        if dump()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Again when a signal came in between.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The messages of a datagram, headers included, none shorter than a header. One that is cut short ends them.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER)?;
        // Each begins at a multiple of four (NLMSG_ALIGN).
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Bytes of struct nlmsghdr.
const HEADER: usize = 16;

pub fn read_route(message: RouteMessage) -> Route {
    let mut encapsulated = false;
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
            // It is sent inside something else.
            RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => encapsulated = true,
            _ => {}
        }
    }
    if encapsulated { Route::default() } else { route }
}

fn ip(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// The interface that a link-local address names, or 0.
fn scope(remote: SocketAddr) -> u32 {
    match remote {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}
