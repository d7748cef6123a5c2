//! Inner packets: TCP with a partial checksum, as hosts that leave checksums to their NIC send them.
//!
//! Called by the benchmarks of what happens inside an opened datagram. All are accepted by a [`Hub`](crate::Hub).

use veil_proto::PeerId;
use veil_proto::mux::checksum;
use veil_proto::mux::frame::{self, FLAG_PARTIAL, IP};
use veil_proto::mux::inner::TCP;

use crate::hub::{inner_v4, inner_v6};

const TCP_HEADER: usize = 20;
/// The flag (RFC 9293 3.1) that all segments of an open connection carry.
const ACK: u8 = 0x10;

/// An IPv4 packet of `len` bytes (40 to 65 535) from `peer`.
pub fn ipv4(peer: PeerId, len: usize) -> Vec<u8> {
    let total_len = u16::try_from(len).expect("an IPv4 packet's length").to_be_bytes();
    let mut packet = vec![0x45, 0, total_len[0], total_len[1], 0, 1, 0x40, 0, 64, TCP, 0, 0];
    packet.extend(inner_v4(peer).octets());
    packet.extend([10, 255, 0, 1]);
    let checksum = !checksum::sum(&packet, 0);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(tcp(len - packet.len()));
    packet
}

/// An IPv6 packet of `len` bytes (60 to 65 575) from `peer`.
pub fn ipv6(peer: PeerId, len: usize) -> Vec<u8> {
    let payload_len = u16::try_from(len - 40).expect("an IPv6 packet's length").to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, payload_len[0], payload_len[1], TCP, 64];
    packet.extend(inner_v6(peer).octets());
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 1]);
    packet.extend(tcp(len - packet.len()));
    packet
}

/// The plaintext that holds `count` copies of `packet`, each in a frame with its checksum declared partial.
pub fn plaintext(packet: &[u8], count: usize) -> Vec<u8> {
    let mut header = [0; frame::HEADER_LEN];
    let len = u16::try_from(packet.len()).expect("a packet that fits a frame");
    frame::write_header(&mut header, IP, FLAG_PARTIAL, len);
    [&header[..], packet].concat().repeat(count)
}

fn tcp(len: usize) -> Vec<u8> {
    let mut segment = vec![0; TCP_HEADER];
    segment[12] = (TCP_HEADER as u8 / 4) << 4;
    segment[13] = ACK;
    segment.resize(len, 0x61);
    segment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hub;
    use veil_proto::mux::{Frames, Item};
    use veil_proto::tunnel::Accepted;

    #[test]
    fn a_hub_accepts_each_packet_of_a_plaintext() {
        let hub = Hub::new(3);
        let peer = PeerId(1);
        for packet in [ipv4(peer, 64), ipv4(peer, 1416), ipv6(peer, 64), ipv6(peer, 1416)] {
            let mut bytes = plaintext(&packet, 2);
            let frames: Vec<_> = Frames::new(&bytes).collect();
            assert_eq!(frames.len(), 2);
            for item in frames {
                let Item::Frame(frame) = item else { panic!("{item:?}") };
                let accepted = hub.sessions.accept_ip(peer, frame.flags, &mut bytes[frame.payload], 0);
                assert_eq!(accepted, Ok(Accepted { partial: true }));
            }
        }
    }
}
