//! What the kernel may say, made by hand after include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,neighbour}.h.

mod answers;
mod events;

use std::net::IpAddr;

const NEW_LINK: u16 = 16;
const NEW_ROUTE: u16 = 24;
const INET: u8 = 2;
const INET6: u8 = 10;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// struct nlmsghdr and what follows it, padded.
fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
    bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    bytes.extend([sequence.to_ne_bytes(), 0u32.to_ne_bytes()].concat());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// struct rtattr and its value, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn octets(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (INET6, ip.octets().to_vec()),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// struct ifinfomsg of an Ethernet interface that is up and running, IFLA_ADDRESS, _IFNAME and _MTU.
fn link(family: u8, index: u32, mtu: u32) -> Vec<u8> {
    let mut body = [vec![family, 0], 1u16.to_ne_bytes().to_vec()].concat();
    body.extend([index.to_ne_bytes(), 0x1_0041u32.to_ne_bytes(), [0; 4]].concat());
    body.extend([attribute(1, &MAC), attribute(3, b"eth7\0"), attribute(4, &mtu.to_ne_bytes())].concat());
    body
}

/// struct ifaddrmsg and IFA_ADDRESS.
fn address(index: u32, flags: u8, prefix: u8, at: &str) -> Vec<u8> {
    let (family, octets) = octets(ip(at));
    [vec![family, prefix, flags, 0], index.to_ne_bytes().to_vec(), attribute(1, &octets)].concat()
}

/// struct ndmsg, NDA_DST and NDA_LLADDR.
fn neighbour(index: u32, state: u16, at: &str, mac: &[u8]) -> Vec<u8> {
    let (family, octets) = octets(ip(at));
    let mut body = [vec![family, 0, 0, 0], index.to_ne_bytes().to_vec()].concat();
    body.extend([state.to_ne_bytes(), [0, 1]].concat());
    [body, attribute(1, &octets), attribute(2, mac)].concat()
}

/// struct rtmsg of a unicast route, RTA_OIF and other attributes.
fn route(index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![INET, 32, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0];
    body.extend(attribute(4, &index.to_ne_bytes()));
    body.extend(attributes.concat());
    body
}
