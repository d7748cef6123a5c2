//! Ethernet frames with a UDP datagram in them, written and read the slow and obvious way.

use std::net::{IpAddr, SocketAddr};

/// The whole Ethernet frame. The UDP checksum is left out over IPv4 and computed over IPv6.
pub fn udp_frame(macs: ([u8; 6], [u8; 6]), from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut udp = [from.port().to_be_bytes(), to.port().to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    udp.extend_from_slice(payload);
    let mut frame = [macs.1, macs.0].concat();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
            header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            header.extend(from.octets().into_iter().chain(to.octets()));
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend([0x08, 0x00]);
            frame.extend(header);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let pseudo = [&addresses[..], &u32::from(length).to_be_bytes(), &[0, 0, 0, 17], &udp].concat();
            let sum = match checksum(&pseudo) {
                0 => 0xffff,
                sum => sum,
            };
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([17, 64]);
            frame.extend(addresses);
        }
        _ => panic!("both ends of a datagram are of one family"),
    }
    frame.extend(udp);
    frame
}

/// The payload of a frame that holds a UDP datagram without options or extension headers.
pub fn udp_payload(frame: &[u8]) -> Option<&[u8]> {
    let udp = match frame.get(12..14)? {
        [0x08, 0x00] => 34,
        [0x86, 0xdd] => 54,
        _ => return None,
    };
    let length = u16::from_be_bytes(*frame.get(udp + 4..)?.first_chunk()?);
    frame.get(udp + 8..udp + usize::from(length))
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}
