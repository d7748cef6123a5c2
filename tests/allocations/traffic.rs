//! What the hosts at both ends send: packets made beforehand, with their checksums left to whoever comes next, as hosts
//! send them to a device with offloads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use veil_proto::mux::checksum::{TCP_OFFSET, UDP_OFFSET, pseudo_v4, pseudo_v6, sum};
use veil_userspace::frame::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHdr};

/// Who sends to whom, by the sender.
pub const HOSTS: [[usize; 2]; 2] = [[0, 1], [1, 0]];
/// The tunnel's MTU.
pub const MTU: u16 = 1416;
const TCP: u8 = 6;
const UDP: u8 = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn header_len(self) -> usize {
        if self == Family::V4 { 20 } else { 40 }
    }

    /// The address of host `n`.
    pub fn address(self, n: usize) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::new(10, 8, 0, 1 + n as u8).into(),
            Family::V6 => Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, 1 + n as u16).into(),
        }
    }
}

/// What a host sends at once.
pub struct Batch {
    pub reads: Vec<(VnetHdr, Vec<u8>)>,
    /// Packets the other host gets of it, those joined counted one by one.
    pub packets: u64,
}

impl Batch {
    /// As large as they come, for segments that fill the tunnel's MTU.
    pub fn tcp_super_packets(family: Family, hosts: [usize; 2], count: usize) -> Batch {
        let headers = family.header_len() + 20;
        let size = usize::from(MTU) - headers;
        let gso_type = if family == Family::V4 { GSO_TCPV4 } else { GSO_TCPV6 };
        Self::super_packets(packet(family, hosts, TCP, 64_000), gso_type, headers, size, count)
    }

    /// Of datagrams of 64 bytes.
    pub fn udp_super_packets(family: Family, hosts: [usize; 2], count: usize) -> Batch {
        let headers = family.header_len() + 8;
        Self::super_packets(packet(family, hosts, UDP, headers + 50 * 64), GSO_UDP_L4, headers, 64, count)
    }

    fn super_packets(packet: Vec<u8>, gso_type: u8, headers: usize, size: usize, count: usize) -> Batch {
        let packets = count * (packet.len() - headers).div_ceil(size);
        let header =
            VnetHdr { gso_type, gso_size: size as u16, hdr_len: headers as u16, ..needs_csum(&packet) };
        Batch { reads: vec![(header, packet); count], packets: packets as u64 }
    }

    /// The same super-packets, to leave the tunnel as those that fit into an outer packet of `mtu` bytes.
    pub fn cut_for(mut self, mtu: usize) -> Batch {
        // Outer IPv4 and UDP, the datagram's header and tag, the frame's header.
        let inner = mtu - 28 - 32 - 4;
        let cut = |(header, packet): &(VnetHdr, Vec<u8>)| {
            let headers = usize::from(header.hdr_len);
            (packet.len() - headers).div_ceil(inner - headers) as u64
        };
        self.packets = self.reads.iter().map(cut).sum();
        self
    }

    /// `count` UDP packets of `len` bytes, one by one.
    pub fn singles(family: Family, hosts: [usize; 2], count: usize, len: usize) -> Batch {
        let packet = packet(family, hosts, UDP, len);
        Batch { reads: vec![(needs_csum(&packet), packet); count], packets: count as u64 }
    }
}

fn needs_csum(packet: &[u8]) -> VnetHdr {
    let (start, protocol) = if packet[0] >> 4 == 4 { (20, packet[9]) } else { (40, packet[6]) };
    VnetHdr::needs_csum(start, if protocol == TCP { TCP_OFFSET } else { UDP_OFFSET })
}

/// A packet of `len` bytes from host to host, with only the pseudo-header's sum in its checksum field.
fn packet(family: Family, [from, to]: [usize; 2], protocol: u8, len: usize) -> Vec<u8> {
    let transport_len = (len - family.header_len()) as u16;
    let [a, b] = transport_len.to_be_bytes();
    let (mut packet, pseudo) = match (family.address(from), family.address(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [c, d] = (len as u16).to_be_bytes();
            let mut header = vec![0x45, 0, c, d, 0, 1, 0x40, 0, 64, protocol, 0, 0];
            header.extend(from.octets().into_iter().chain(to.octets()));
            let checksum = !sum(&header, 0);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            (header, pseudo_v4(from.octets(), to.octets(), protocol, transport_len))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0, a, b, protocol, 64];
            header.extend(from.octets().into_iter().chain(to.octets()));
            (header, pseudo_v6(from.octets(), to.octets(), protocol, transport_len.into()))
        }
        _ => unreachable!("both hosts are of one family"),
    };
    let [c, d] = pseudo.to_be_bytes();
    // From port 40000 to port 443.
    packet.extend([0x9c, 0x40, 1, 187]);
    match protocol {
        TCP => packet.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, c, d, 0, 0]),
        _ => packet.extend([a, b, c, d]),
    }
    packet.resize(len, 0x5a);
    packet
}
