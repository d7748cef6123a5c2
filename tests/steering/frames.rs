//! Frames, and the verdict each must get.

use proptest::collection::vec;
use proptest::prelude::*;
use veil_ebpf::{SteeringConfig, Verdict, local_key};

pub const CONFIG: SteeringConfig =
    SteeringConfig { mac: [2, 0, 0, 0xaa, 0xbb, 0xcc], port: 4433, longest: 1792 };
const HERE_V4: [u8; 4] = [192, 0, 2, 1];
const HERE_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The keys in the map of this host's addresses.
pub fn local() -> [[u8; 16]; 2] {
    [local_key(HERE_V4), HERE_V6]
}

/// An Ethernet frame to this host: `ether_type`, then the parts.
fn ethernet(ether_type: u16, parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = [&CONFIG.mac[..], &[2, 0, 0, 1, 2, 3], &ether_type.to_be_bytes()].concat();
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    [&51820u16.to_be_bytes()[..], &CONFIG.port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload]
        .concat()
}

fn v4_with(protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let [high, low] = ((header + payload.len()) as u16).to_be_bytes();
    let start = [0x40 | (header / 4) as u8, 3, high, low, 0x12, 0x34, 0x40, 0, 64, protocol, 0xbe, 0xef];
    ethernet(0x0800, &[&start, &[198, 51, 100, 7], &HERE_V4, options, payload])
}

fn v6_with(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let start = [0x60, 0x3a, 0xbc, 0xde, high, low, next_header, 64];
    let mut source = HERE_V6;
    source[15] = 9;
    ethernet(0x86dd, &[&start, &source, &HERE_V6, payload])
}

/// VEIL's own: a datagram of `length` bytes over IPv4.
pub fn v4(length: usize) -> Vec<u8> {
    v4_with(17, &[], &udp(&vec![0xa5; length]))
}

/// VEIL's own: a datagram of `length` bytes over IPv6.
pub fn v6(length: usize) -> Vec<u8> {
    v6_with(17, &udp(&vec![0x5a; length]))
}

/// `frame` with `bytes` written from offset `at`.
fn put(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// `frame` with `bytes` put in between at offset `at`.
fn insert(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame.splice(at..at, bytes.iter().copied());
    frame
}

/// Where fields are in [`v4`] and [`v6`].
const V4_FRAGMENT: usize = 20;
const V4_DESTINATION: usize = 30;
const V4_UDP: usize = 34;
const V6_DESTINATION: usize = 38;
const V6_UDP: usize = 54;

/// What each frame must get, by what is special about it.
pub fn table() -> Vec<(&'static str, Vec<u8>, Verdict)> {
    use Verdict::*;
    let extended = |header: u8, first: [u8; 8]| v6_with(header, &[&first, &udp(&[1; 64])[..]].concat());
    let tcp = [&[0x11, 0x51, 0x11, 0x51][..], &[0; 16]].concat();
    vec![
        ("IPv4", v4(64), Redirect),
        ("IPv4, full size", v4(1472), Redirect),
        ("IPv4, empty datagram", v4(0), Redirect),
        ("IPv4, padded by Ethernet", [v4(0), vec![0; 18]].concat(), Redirect),
        ("IPv4, bytes behind the datagram", put(v4(64), V4_UDP + 4, &[0, 40]), Redirect),
        ("IPv4, may be fragmented but is not", put(v4(64), V4_FRAGMENT, &[0, 0]), Redirect),
        ("IPv6", v6(64), Redirect),
        ("IPv6, full size", v6(1452), Redirect),
        ("IPv6, empty datagram", v6(0), Redirect),
        ("IPv6, bytes behind the packet", [v6(64), vec![0; 4]].concat(), Redirect),
        ("IPv6, bytes behind the datagram", put(v6(64), V6_UDP + 4, &[0, 40]), Redirect),
        ("IPv4, as long as there is room for", v4(1750), Redirect),
        ("IPv4, longer", v4(1751), TooLong),
        ("IPv6, as long as there is room for", v6(1730), Redirect),
        ("IPv6, longer", v6(1731), TooLong),
        ("IPv4, longer, and forwarded", put(v4(1751), V4_DESTINATION + 3, &[2]), WrongAddress),
        ("802.1Q, IPv4", insert(v4(64), 12, &[0x81, 0, 0, 7]), Vlan),
        ("802.1Q, IPv6", insert(v6(64), 12, &[0x81, 0, 0, 7]), Vlan),
        ("802.1ad", insert(v4(64), 12, &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 7]), Vlan),
        ("to another host's MAC", put(v4(64), 5, &[0xcd]), WrongMac),
        ("to another vendor's MAC", put(v6(64), 0, &[6]), WrongMac),
        ("broadcast", put(v4(64), 0, &[0xff; 6]), WrongMac),
        ("multicast", put(v6(64), 0, &[0x33, 0x33, 0, 0, 0, 1]), WrongMac),
        ("ARP", ethernet(0x0806, &[&[0, 1, 8, 0, 6, 4, 0, 1], &[0; 20]]), NotIp),
        ("an 802.3 length", ethernet(0x0040, &[&[0x42; 64]]), NotIp),
        ("IPv4 with options", v4_with(17, &[1, 1, 1, 0], &udp(&[1; 64])), Options),
        ("IPv4, first fragment", put(v4(64), V4_FRAGMENT, &[0x20, 0]), Fragment),
        ("IPv4, later fragment", put(v4(64), V4_FRAGMENT, &[0x20, 100]), Fragment),
        ("IPv4, last fragment", put(v4(64), V4_FRAGMENT, &[0, 100]), Fragment),
        ("IPv4, last fragment far out", put(v4(64), V4_FRAGMENT, &[0x1f, 0]), Fragment),
        ("IPv6, first fragment", extended(44, [17, 0, 0, 1, 0, 0, 0, 7]), Fragment),
        ("IPv6, later fragment", extended(44, [17, 0, 0, 80, 0, 0, 0, 7]), Fragment),
        ("IPv6, hop-by-hop options", extended(0, [17, 0, 1, 4, 0, 0, 0, 0]), ExtensionHeader),
        ("IPv6, routing header", extended(43, [17, 0, 0, 0, 0, 0, 0, 0]), ExtensionHeader),
        ("IPv6, destination options", extended(60, [17, 0, 1, 4, 0, 0, 0, 0]), ExtensionHeader),
        ("IPv6, authentication header", extended(51, [17, 0, 0, 0, 0, 0, 0, 0]), ExtensionHeader),
        ("IPv4, TCP to the port", v4_with(6, &[], &tcp), NotUdp),
        ("IPv6, TCP to the port", v6_with(6, &tcp), NotUdp),
        ("ICMP echo", v4_with(1, &[], &[8, 0, 0, 0, 0, 1, 0, 1]), NotUdp),
        ("neighbour solicitation", v6_with(58, &[&[135, 0, 0, 0][..], &[0; 28]].concat()), NotUdp),
        ("IPv6, no next header", v6_with(59, &[]), NotUdp),
        ("IPv4, another port", put(v4(64), V4_UDP + 2, &53u16.to_be_bytes()), WrongPort),
        ("IPv6, another port", put(v6(64), V6_UDP + 2, &53u16.to_be_bytes()), WrongPort),
        ("IPv4, from the port to another", put(v4(64), V4_UDP, &[0x11, 0x51, 0, 53]), WrongPort),
        ("IPv4, the port's bytes swapped", put(v4(64), V4_UDP + 2, &[0x51, 0x11]), WrongPort),
        ("IPv4, UDP length beyond the packet", put(v4(64), V4_UDP + 4, &[0, 73]), BadUdpLength),
        (
            "IPv4, that, in Ethernet's padding",
            put([v4(64), vec![0; 9]].concat(), V4_UDP + 4, &[0, 80]),
            BadUdpLength,
        ),
        ("IPv4, UDP length below its header", put(v4(64), V4_UDP + 4, &[0, 7]), BadUdpLength),
        ("IPv4, UDP length 0", put(v4(64), V4_UDP + 4, &[0, 0]), BadUdpLength),
        ("IPv6, UDP length beyond the packet", put(v6(64), V6_UDP + 4, &[0, 73]), BadUdpLength),
        ("IPv6, UDP length below its header", put(v6(64), V6_UDP + 4, &[0, 7]), BadUdpLength),
        ("IPv6, UDP length 0", put(v6(64), V6_UDP + 4, &[0, 0]), BadUdpLength),
        ("IPv4, no room for UDP", v4_with(17, &[], &[0x11; 7]), BadUdpLength),
        ("IPv6, no room for UDP", v6_with(17, &[0x11; 7]), BadUdpLength),
        ("IPv4, forwarded", put(v4(64), V4_DESTINATION + 3, &[2]), WrongAddress),
        ("IPv4, multicast", put(v4(64), V4_DESTINATION, &[224, 0, 0, 1]), WrongAddress),
        ("IPv4, limited broadcast", put(v4(64), V4_DESTINATION, &[255; 4]), WrongAddress),
        ("IPv6, forwarded", put(v6(64), V6_DESTINATION + 15, &[2]), WrongAddress),
        ("IPv6 to this host's IPv4 address", put(v6(64), V6_DESTINATION, &local_key(HERE_V4)), WrongAddress),
        ("IPv4 that says version 5", put(v4(64), 14, &[0x55]), Malformed),
        ("IPv4 in IPv6's EtherType", put(v4(64), 12, &[0x86, 0xdd]), Malformed),
        ("IPv6 in IPv4's EtherType", put(v6(64), 12, &[8, 0]), Malformed),
        ("IPv4, header length below 20", put(v4(64), 14, &[0x44]), Malformed),
        ("IPv4, longer than the frame", put(v4(64), 16, &[0, 93]), Malformed),
        ("IPv4, shorter than its header", put(v4(64), 16, &[0, 19]), Malformed),
        ("IPv6, longer than the frame", put(v6(64), 18, &[0, 73]), Malformed),
        ("Ethernet alone, IPv4", ethernet(0x0800, &[]), Malformed),
        ("Ethernet alone, IPv6", ethernet(0x86dd, &[]), Malformed),
    ]
}

/// Every good frame, cut at every length short of its own; none may be redirected.
pub fn truncated() -> impl Iterator<Item = Vec<u8>> {
    let good = [v4(64), v6(64), v4(0), v6(0)];
    good.into_iter().flat_map(|frame| (0..frame.len()).map(move |length| frame[..length].to_vec()))
}

/// Frames of the table with some bytes changed, cut or lengthened: near the edge of what is redirected.
pub fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let frames: Vec<Vec<u8>> = table().into_iter().map(|(_, frame, _)| frame).collect();
    let edits = vec((0usize..64, prop_oneof![any::<u8>(), Just(0), Just(1 << 5), Just(17)]), 0..3);
    let lengths = prop_oneof![4 => Just(None), 1 => (14usize..140).prop_map(Some)];
    (prop::sample::select(frames), edits, lengths).prop_map(|(mut frame, edits, length)| {
        for (at, byte) in edits {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.resize(length.unwrap_or(frame.len()), 0);
        frame
    })
}
