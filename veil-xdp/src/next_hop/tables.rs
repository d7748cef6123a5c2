//! What is kept of what the kernel says, and how its messages are read.

use super::{Changes, Link};
use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// After these another route may be taken: RTM_NEWROUTE, _DELROUTE, _NEWRULE, _DELRULE, _NEWNEXTHOP, _DELNEXTHOP
/// (include/uapi/linux/rtnetlink.h). What they say does not matter, since the kernel is asked then.
const ROUTING: [u16; 6] = [24, 25, 32, 33, 104, 105];

/// How a neighbour is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub mac: [u8; 6],
    /// Known once, not confirmed lately.
    pub stale: bool,
}

/// What the kernel knows, as far as it matters here.
#[derive(Debug, Default)]
pub struct Tables {
    /// By the interface's number.
    pub links: HashMap<u32, Link>,
    pub neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// Interface, address and length of the prefix: an interface may have an IPv4 address with several.
    pub addresses: HashSet<(u32, IpAddr, u8)>,
    pub changes: Changes,
}

impl Tables {
    /// Enters what an event says, given as its bytes from its header on (at least that).
    pub fn hear(&mut self, event: &[u8]) {
        if ROUTING.contains(&NetlinkBuffer::new(event).message_type()) {
            self.changes.routes = true;
        } else if let Ok(NetlinkPayload::InnerMessage(message)) =
            NetlinkMessage::deserialize(event).map(|message| message.payload)
        {
            self.take(message);
        }
    }

    /// Enters what a message says of links, neighbours or addresses.
    pub fn take(&mut self, message: RouteNetlinkMessage) {
        let Tables { links, neighbours, addresses, changes } = self;
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
                let before = addresses.len();
                addresses.retain(|&(interface, ..)| interface != index);
                changes.addresses |= addresses.len() != before;
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
                let Some(key) = address_key(&message) else { return };
                changes.addresses |=
                    if may_be_anothers(&message) { addresses.remove(&key) } else { addresses.insert(key) };
            }
            RouteNetlinkMessage::DelAddress(message) => {
                changes.addresses |= address_key(&message).is_some_and(|key| addresses.remove(&key));
            }
            _ => {}
        }
    }

    /// Whether an address is this host's, on whatever interface.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|&(_, ip, _)| ip == address)
    }

    /// See [`NextHops::local_addresses`](super::NextHops::local_addresses).
    pub fn local_addresses(&self, interface: u32) -> Vec<IpAddr> {
        let heard_on = |at: u32, ip: IpAddr| match ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => at == interface,
            ip => !ip.is_loopback(),
        };
        let here = self.addresses.iter().filter(|&&(at, ip, _)| heard_on(at, ip)).map(|&(_, ip, _)| ip);
        here.collect::<HashSet<_>>().into_iter().collect()
    }
}

fn read_link(message: &LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    let mut link = Link {
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
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

fn address_key(message: &AddressMessage) -> Option<(u32, IpAddr, u8)> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    // Of a point-to-point link, ADDRESS is the other end's.
    let ip = find(true).or_else(|| find(false))?;
    Some((message.header.index, ip, message.header.prefix_len))
}

/// Whether the kernel still looks for another host with this address, or has found one (RFC 4862, section 5.4). It says so
/// again when it knows.
fn may_be_anothers(message: &AddressMessage) -> bool {
    message.header.flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed)
}
