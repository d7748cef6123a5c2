//! A ping of our own (ICMP and ICMPv6 echo), so that the demo and the tests need no other program.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::namespace::Namespace;
use crate::sys;

const HEADER: usize = 8;

/// Echo requests to one address, from inside one namespace.
#[derive(Debug)]
pub struct Ping {
    socket: UdpSocket,
    target: SocketAddr,
    identifier: u16,
    sequence: u16,
}

impl Ping {
    /// A socket in the calling thread's namespace (see [`Namespace::enter`]); it stays there.
    pub fn new(target: IpAddr) -> Result<Ping> {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let socket =
            sys::icmp_socket(target.is_ipv6()).context("opening an ICMP socket (needs CAP_NET_RAW)")?;
        let identifier = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Ping { socket, target: SocketAddr::new(target, 0), identifier, sequence: 0 })
    }

    /// One request with `payload` bytes; the round trip time, or `None` if nothing came back within `patience`.
    pub fn once(&mut self, payload: usize, patience: Duration) -> Result<Option<Duration>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = self.request(payload);
        let start = Instant::now();
        // An unreachable or not yet routed target is no reply, not a broken ping.
        if self.socket.send_to(&request, self.target).is_err() {
            std::thread::sleep(patience.min(Duration::from_millis(50)));
            return Ok(None);
        }
        let mut buffer = vec![0; HEADER + payload + 60];
        while let Some(left) = patience.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) if from.ip() == self.target.ip() => {
                    if self.answers(&request, buffer.get(..length).unwrap_or_default()) {
                        return Ok(Some(start.elapsed()));
                    }
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("receiving an echo reply"),
            }
        }
        Ok(None)
    }

    fn request(&self, payload: usize) -> Vec<u8> {
        let mut packet = vec![if self.target.is_ipv6() { 128 } else { 8 }, 0, 0, 0];
        packet.extend(self.identifier.to_be_bytes());
        packet.extend(self.sequence.to_be_bytes());
        packet.extend((0..payload).map(|index| index as u8));
        if self.target.is_ipv4() {
            // The kernel computes ICMPv6's sum, not ICMP's.
            let sum = internet_checksum(&packet).to_be_bytes();
            packet[2..4].copy_from_slice(&sum);
        }
        packet
    }

    /// Whether `packet` is the reply to `request`: same identifier, sequence and payload.
    fn answers(&self, request: &[u8], packet: &[u8]) -> bool {
        let (kind, packet) = if self.target.is_ipv6() {
            (129, packet)
        } else {
            // Raw IPv4 sockets deliver the IP header as well.
            let header = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
            (0, packet.get(header..).unwrap_or_default())
        };
        packet.first() == Some(&kind) && packet.get(4..) == request.get(4..)
    }
}

/// Pings `target` from `namespace` until the first reply or the deadline; the time since the first request.
pub fn ping(namespace: &Namespace, target: &str, deadline: Duration) -> Result<Duration> {
    let target: IpAddr = target.parse().with_context(|| format!("{target} is no address"))?;
    let _inside = namespace.enter()?;
    let mut ping = Ping::new(target)?;
    let start = Instant::now();
    while start.elapsed() < deadline {
        if ping.once(56, Duration::from_millis(200))?.is_some() {
            return Ok(start.elapsed());
        }
    }
    anyhow::bail!("no echo reply from {target} in {} within {deadline:?}", namespace.name())
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071_section_3() {
        assert_eq!(internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
