//! An attacker's end of a wire: UDP datagrams from whatever IPv4 address it likes, and an ear for what comes back.
//!
//! What comes back is heard before the namespace's own stack looks whether it is for it, so that nobody there answers
//! for addresses that are nobody's. The ear is apart: each packet that enters passes by it, heard or not.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use anyhow::{Context, Result};

use crate::sys;

const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;

/// Sends from any address, in one namespace.
#[derive(Debug)]
pub struct Spoofer {
    sender: UdpSocket,
    packet: Vec<u8>,
}

/// Hears every packet that enters one namespace.
#[derive(Debug)]
pub struct Ear {
    listener: UdpSocket,
    heard: Vec<u8>,
}

/// An IPv4 packet that came in.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    /// As IANA numbers it: 17 is UDP.
    pub protocol: u8,
    /// What follows the IP header.
    pub content: &'a [u8],
}

impl Spoofer {
    /// A socket in the calling thread's namespace (see [`Namespace::enter`](crate::Namespace::enter)); it stays there.
    pub fn new() -> Result<Spoofer> {
        let sender = sys::packet_sender().context("opening a raw socket (needs CAP_NET_RAW)")?;
        Ok(Spoofer { sender, packet: Vec::new() })
    }

    /// Sends `payload` in one unfragmented packet that claims to come from `from`.
    ///
    /// # Errors
    /// Those of sendto(2), and of a payload longer than any UDP datagram.
    pub fn send(&mut self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> io::Result<()> {
        let length = |bytes: usize| u16::try_from(bytes).map_err(|_| ErrorKind::InvalidInput);
        let total = length(IPV4_HEADER + UDP_HEADER + payload.len())?;
        let packet = &mut self.packet;
        packet.clear();
        // Identification and header checksum are the kernel's to fill in (raw(7)); no UDP checksum (RFC 768).
        packet.extend([0x45, 0]);
        packet.extend(total.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
        packet.extend(from.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend(from.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend((total - IPV4_HEADER as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        self.sender.send_to(packet, SocketAddrV4::new(*to.ip(), 0)).map(drop)
    }
}

impl Ear {
    /// A socket in the calling thread's namespace; it stays there.
    pub fn new() -> Result<Ear> {
        let listener = sys::packet_listener().context("opening a packet socket (needs CAP_NET_RAW)")?;
        listener.set_nonblocking(true)?;
        Ok(Ear { listener, heard: vec![0; 1 << 16] })
    }

    /// The next packet that came in, if there is one by now.
    pub fn hear(&mut self) -> Result<Option<Heard<'_>>> {
        match self.listener.recv(&mut self.heard) {
            Ok(length) => Heard::parse(&self.heard[..length]).map(Some).context("no IPv4 packet came in"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("listening to the wire"),
        }
    }
}

impl<'a> Heard<'a> {
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let (header, _) = packet.split_first_chunk::<IPV4_HEADER>()?;
        let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let content = packet.get(usize::from(header[0] & 15) * 4..total)?;
        Some(Heard { from: address(12), to: address(16), protocol: header[9], content })
    }

    /// Source port, destination port and payload, if it is a whole UDP datagram.
    pub fn udp(&self) -> Option<(u16, u16, &'a [u8])> {
        let (&[s0, s1, d0, d1, l0, l1, _, _], _) = self.content.split_first_chunk::<UDP_HEADER>()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let payload = self.content.get(UDP_HEADER..length)?;
        (self.protocol == UDP).then(|| (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]), payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_taken_apart_and_a_broken_one_is_none() {
        let mut packet = vec![0x45, 0, 0, 31, 0, 0, 0, 0, 64, UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        packet.extend([0, 1, 0, 2, 0, 11, 0, 0, 7, 8, 9, 0xee]);
        let heard = Heard::parse(&packet).expect("a packet");
        assert_eq!((heard.from.octets(), heard.to.octets()), ([192, 0, 2, 1], [192, 0, 2, 2]));
        assert_eq!(heard.udp(), Some((1, 2, &[7, 8, 9][..])));
        assert!(Heard { protocol: 1, ..heard }.udp().is_none());
        packet[25] = 12;
        assert!(Heard::parse(&packet).expect("a packet").udp().is_none());
        packet[3] = 200;
        assert!(Heard::parse(&packet).is_none());
    }
}
