//! Where a datagram came from and how to answer it: the remote address and the local one it was sent to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// One outer path: remote address and port, and the local address to answer from (sticky source address).
///
/// Addresses are kept as 16 bytes with IPv4 mapped into IPv6 (RFC 4291 2.5.5.2), so that both spellings of one address
/// are one path, and so that a queue item holding a path stays within a cache line.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    remote: [u8; 16],
    local: [u8; 16],
    scope: u32,
    port: u16,
}

impl Path {
    /// A path to `remote` with no local address chosen yet: the kernel chooses.
    pub fn to(remote: SocketAddr) -> Self {
        let scope = match remote {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Path { remote: mapped(remote.ip()), local: [0; 16], scope, port: remote.port() }
    }

    /// The same path, answered from `local`.
    pub fn from_local(mut self, local: IpAddr) -> Self {
        self.local = mapped(local);
        self
    }

    /// The remote address; an IPv4 one is always given as IPv4.
    pub fn remote(&self) -> SocketAddr {
        match canonical(self.remote) {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), self.port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, self.scope).into(),
        }
    }

    /// The local address to send from, if one is known.
    pub fn local(&self) -> Option<IpAddr> {
        (self.local != [0; 16]).then(|| canonical(self.local))
    }

    /// Whether the remote side is IPv4.
    pub fn is_ipv4(&self) -> bool {
        canonical(self.remote).is_ipv4()
    }

    /// The remote address as `protocol.md` (cookies) spells it: 16 bytes with IPv4 mapped, then the port, little-endian.
    pub fn remote_bytes(&self) -> [u8; 18] {
        let mut out = [0; 18];
        out[..16].copy_from_slice(&self.remote);
        out[16..].copy_from_slice(&self.port.to_le_bytes());
        out
    }
}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.local() {
            Some(local) => write!(f, "{} from {local}", self.remote()),
            None => write!(f, "{}", self.remote()),
        }
    }
}

fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn canonical(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_an_ipv4_address_are_one_path() {
        let plain = Path::to("192.0.2.1:4433".parse().unwrap());
        let mapped = Path::to("[::ffff:192.0.2.1]:4433".parse().unwrap());
        assert_eq!(plain, mapped);
        assert_eq!(plain.remote(), "192.0.2.1:4433".parse().unwrap());
        assert!(plain.is_ipv4());
    }

    #[test]
    fn a_link_local_remote_keeps_its_scope() {
        let path = Path::to(SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, 3).into());
        let SocketAddr::V6(back) = path.remote() else { panic!("not IPv6") };
        assert_eq!(back.scope_id(), 3);
    }
}
