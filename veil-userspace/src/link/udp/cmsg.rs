//! Control messages and socket addresses as the kernel lays them out, built and read as plain bytes.
//!
//! Layouts: `struct cmsghdr` (include/linux/socket.h; unix(7)/cmsg(3)), `struct sockaddr_in` and `sockaddr_in6`
//! (ip(7), ipv6(7)), `in_pktinfo`, `in6_pktinfo`. Everything here is safe code over byte arrays: what the kernel
//! wrote is read with bounds, what we write fits by construction. The batches hand these arrays to the system calls.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use veil_proto::Path;

/// `cmsg_len` (as long as a pointer on Linux), `cmsg_level`, `cmsg_type`.
const HEADER: usize = size_of::<usize>() + 8;
const ALIGN: usize = size_of::<usize>();

/// Room for the control messages of one datagram or run, either way.
pub const CONTROL_LEN: usize = 192;

/// The control messages of one `msghdr`.
#[derive(Clone)]
#[repr(C, align(8))]
pub struct Control {
    bytes: [u8; CONTROL_LEN],
    len: usize,
}

// The array comes first, so that a pointer to it is aligned as the kernel's structures want.
const _: () = assert!(std::mem::offset_of!(Control, bytes) == 0);

impl Control {
    /// No messages.
    pub const fn new() -> Self {
        Control { bytes: [0; CONTROL_LEN], len: 0 }
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds one message.
    ///
    /// # Panics
    /// When there is no room; all that [`Control::set`] can add fits, which a test shows.
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let out = &mut self.bytes[self.len..][..HEADER + data.len().next_multiple_of(ALIGN)];
        let (length, rest) = out.split_at_mut(size_of::<usize>());
        length.copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        rest[..4].copy_from_slice(&level.to_ne_bytes());
        rest[4..8].copy_from_slice(&kind.to_ne_bytes());
        rest[8..8 + data.len()].copy_from_slice(data);
        rest[8 + data.len()..].fill(0);
        self.len += HEADER + data.len().next_multiple_of(ALIGN);
    }

    /// The messages one run is sent with: its segment size when it is more than one datagram, the source address when
    /// one is known, the TOS byte when it is not zero.
    pub fn set(&mut self, path: &Path, local: Option<IpAddr>, tos: u8, segment: Option<u16>) {
        self.clear();
        if let Some(segment) = segment {
            self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        match (path.is_ipv4(), local) {
            (true, Some(IpAddr::V4(local))) => {
                // in_pktinfo: interface 0 (any), ipi_spec_dst the source, ipi_addr ignored.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&local.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            (false, Some(IpAddr::V6(local))) => {
                // in6_pktinfo: the source, then the interface, which only a link-local source needs.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&local.octets());
                if let (true, SocketAddr::V6(remote)) = (local.is_unicast_link_local(), path.remote()) {
                    info[16..].copy_from_slice(&remote.scope_id().to_ne_bytes());
                }
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            _ => {}
        }
        if tos != 0 {
            let (level, kind) = match path.is_ipv4() {
                true => (libc::IPPROTO_IP, libc::IP_TOS),
                false => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
            };
            self.push(level, kind, &i32::from(tos).to_ne_bytes());
        }
    }

    /// The messages as written; a receiving system call gets `room_mut` instead.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// All the room, for the kernel to fill.
    pub fn room_mut(&mut self) -> &mut [u8; CONTROL_LEN] {
        &mut self.bytes
    }

    /// Sets how much the kernel filled.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(CONTROL_LEN);
    }
}

/// One control message: level, type, content.
pub type Message<'a> = (i32, i32, &'a [u8]);

/// Reads control messages; the first malformed one ends the walk.
pub fn messages(control: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = control;
    std::iter::from_fn(move || {
        let length = usize::from_ne_bytes(*rest.first_chunk()?);
        let level = int(rest.get(size_of::<usize>()..)?)?;
        let kind = int(rest.get(size_of::<usize>() + 4..)?)?;
        let data = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((level, kind, data))
    })
}

/// What the control messages of a received datagram say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// The address it was sent to, when that is one we can send from.
    pub local: Option<IpAddr>,
    pub tos: u8,
    /// The datagrams' size when the kernel joined several.
    pub segment: Option<u16>,
    /// Datagrams this socket has lost so far to a full receive buffer (`SO_RXQ_OVFL`).
    pub overflow: Option<u32>,
}

impl Info {
    /// Reads the control messages of one received datagram or run.
    pub fn read(control: &[u8]) -> Self {
        let mut info = Info::default();
        for (level, kind, data) in messages(control) {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // ipi_spec_dst: for unicast the destination, for the rest an address of the interface.
                    info.local = data.get(4..8).and_then(|d| d.first_chunk::<4>()).map(|&d| d.into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    info.local = data
                        .first_chunk::<16>()
                        .map(|&d| Ipv6Addr::from(d))
                        .filter(|ip| !ip.is_multicast())
                        .map(IpAddr::V6);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => info.tos = data.first().copied().unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => info.tos = int(data).unwrap_or(0) as u8,
                (libc::SOL_UDP, libc::UDP_GRO) => info.segment = int(data).and_then(|n| n.try_into().ok()),
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => info.overflow = int(data).map(|n| n as u32),
                _ => {}
            }
        }
        info
    }
}

fn int(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().map(|&b| i32::from_ne_bytes(b))
}

/// A socket address in the kernel's layout.
#[derive(Clone)]
#[repr(C, align(8))]
pub struct Address {
    bytes: [u8; ADDRESS_LEN],
}

/// `sizeof(struct sockaddr_in6)`, the longer of the two.
pub const ADDRESS_LEN: usize = 28;
const V4_LEN: usize = 16;

impl Address {
    /// No address.
    pub const fn new() -> Self {
        Address { bytes: [0; ADDRESS_LEN] }
    }

    /// Writes `address`; returns the length to tell the kernel.
    pub fn set(&mut self, address: SocketAddr) -> usize {
        self.bytes = [0; ADDRESS_LEN];
        let (family, len) = match address {
            SocketAddr::V4(_) => (libc::AF_INET, V4_LEN),
            SocketAddr::V6(_) => (libc::AF_INET6, ADDRESS_LEN),
        };
        self.bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        self.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => self.bytes[4..8].copy_from_slice(&v4.ip().octets()),
            SocketAddr::V6(v6) => {
                self.bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                self.bytes[8..24].copy_from_slice(&v6.ip().octets());
                self.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            }
        }
        len
    }

    /// Reads the address of which the kernel wrote `len` bytes.
    pub fn get(&self, len: usize) -> Option<SocketAddr> {
        let bytes = &self.bytes[..len.min(ADDRESS_LEN)];
        let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
        match family {
            libc::AF_INET => {
                let ip = Ipv4Addr::from(*bytes.get(4..)?.first_chunk::<4>()?);
                Some(SocketAddrV4::new(ip, port).into())
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?);
                let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
                Some(SocketAddrV6::new(ip, port, 0, scope).into())
            }
            _ => None,
        }
    }

    /// All the room, for the kernel to read or fill.
    pub fn room_mut(&mut self) -> &mut [u8; ADDRESS_LEN] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_a_run_can_need_fits_and_reads_back() {
        for (remote, local) in [("192.0.2.7:9", "192.0.2.1"), ("[2001:db8::7]:9", "2001:db8::1")] {
            let path = Path::to(remote.parse().unwrap()).from_local(local.parse().unwrap());
            let mut control = Control::new();
            control.set(&path, path.local(), 0x2e << 2 | 1, Some(1400));
            let found: Vec<_> = messages(control.bytes()).collect();
            assert_eq!(found.len(), 3);
            assert_eq!(found[0], (libc::SOL_UDP, libc::UDP_SEGMENT, &1400u16.to_ne_bytes()[..]));
            assert_eq!(found[2].2, i32::from(0x2eu8 << 2 | 1).to_ne_bytes());
            let info = Info::read(control.bytes());
            assert_eq!(info.local, path.local());
            assert_eq!(info.tos, 0x2e << 2 | 1);
        }
    }

    #[test]
    fn a_lone_datagram_without_source_or_tos_needs_no_message() {
        let path = Path::to("192.0.2.7:9".parse().unwrap());
        let mut control = Control::new();
        control.set(&path, None, 0, None);
        assert_eq!(control.bytes(), b"");
    }

    #[test]
    fn only_a_link_local_source_names_its_interface() {
        let remote = SocketAddrV6::new("fe80::2".parse().unwrap(), 9, 0, 5).into();
        let mut control = Control::new();
        let interface = |control: &Control| {
            let (_, _, data) = messages(control.bytes()).next().unwrap();
            u32::from_ne_bytes(data[16..20].try_into().unwrap())
        };
        let path = Path::to(remote).from_local("fe80::1".parse().unwrap());
        control.set(&path, path.local(), 0, None);
        assert_eq!(interface(&control), 5);
        let path = Path::to(remote).from_local("2001:db8::1".parse().unwrap());
        control.set(&path, path.local(), 0, None);
        assert_eq!(interface(&control), 0);
    }

    #[test]
    fn a_source_of_the_other_family_is_left_out() {
        let path = Path::to("192.0.2.7:9".parse().unwrap());
        let mut control = Control::new();
        control.set(&path, Some("2001:db8::1".parse().unwrap()), 0, None);
        assert_eq!(control.bytes(), b"");
    }

    #[test]
    fn the_layout_is_the_c_librarys() {
        assert_eq!(HEADER, size_of::<libc::cmsghdr>());
        assert_eq!(ADDRESS_LEN, size_of::<libc::sockaddr_in6>());
        assert_eq!(V4_LEN, size_of::<libc::sockaddr_in>());
    }

    proptest! {
        #[test]
        fn addresses_read_back(v6 in any::<bool>(), ip in any::<[u8; 16]>(), port in any::<u16>(), scope in any::<u32>()) {
            let address: SocketAddr = match v6 {
                true => SocketAddrV6::new(ip.into(), port, 0, scope).into(),
                false => SocketAddr::new(Ipv4Addr::from(*ip.first_chunk::<4>().unwrap()).into(), port),
            };
            let mut raw = Address::new();
            let len = raw.set(address);
            prop_assert_eq!(raw.get(len), Some(address));
            prop_assert_eq!(raw.get(3), None);
        }

        #[test]
        fn any_bytes_are_read_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..CONTROL_LEN), length in 0usize..64) {
            let mut bytes = bytes;
            if let Some(head) = bytes.first_chunk_mut() {
                *head = length.to_ne_bytes();
            }
            let _ = Info::read(&bytes);
        }
    }
}
