//! Which packets are VEIL's. Only what is certainly ours is redirected, because what is redirected the host never
//! sees; VEIL's UDP socket stays bound and takes what passes.
//!
//! The XDP program and the host run this same code. It changes nothing, allocates nothing and has no loop.

use crate::headers::{Ethernet, Ipv4, Ipv6, Packet, Udp, ether_type, mac_number, protocol};
use crate::{SteeringConfig, Verdict, local_key};

/// The verdict on `frame`, which starts with its Ethernet header. `is_local` says whether a key of
/// [`maps::LOCAL`](crate::maps::LOCAL) is in it; it is asked last, and at most once.
///
/// Checksums are not looked at: NICs and veth deliver unfinished ones, and the AEAD is the check.
#[inline(always)]
pub fn classify<P: Packet + ?Sized>(
    frame: &P,
    config: &SteeringConfig,
    is_local: impl FnOnce(&[u8; 16]) -> bool,
) -> Verdict {
    if config.port == 0 {
        return Verdict::NotConfigured;
    }
    let Some(ethernet) = frame.load(0).map(Ethernet) else { return Verdict::Malformed };
    if ethernet.destination() != mac_number(config.mac) {
        return Verdict::WrongMac;
    }
    let local = match ethernet.ether_type() {
        ether_type::IPV4 => ipv4(frame, config.port).map(|destination| is_local(&local_key(destination))),
        ether_type::IPV6 => ipv6(frame, config.port).map(is_local),
        ether_type::VLAN | ether_type::PROVIDER_VLAN => Err(Verdict::Vlan),
        _ => Err(Verdict::NotIp),
    };
    match local {
        // Asked by a byte, not by the length: the verifier follows only comparisons with the packet's end.
        Ok(true) if frame.load::<1>(config.longest as usize).is_some() => Verdict::TooLong,
        Ok(true) => Verdict::Redirect,
        Ok(false) => Verdict::WrongAddress,
        Err(verdict) => verdict,
    }
}

/// The destination of a frame that is IPv4, whole, without options, UDP to `port`; else why it is not.
#[inline(always)]
fn ipv4<P: Packet + ?Sized>(frame: &P, port: u16) -> Result<[u8; 4], Verdict> {
    let header = frame.load(Ethernet::LENGTH).map(Ipv4).ok_or(Verdict::Malformed)?;
    let there = frame.length() - Ethernet::LENGTH;
    if header.version() != 4 || header.header_length() < Ipv4::LENGTH || header.total_length() > there {
        return Err(Verdict::Malformed);
    }
    if header.header_length() > Ipv4::LENGTH {
        return Err(Verdict::Options);
    }
    let payload = header.total_length().checked_sub(Ipv4::LENGTH).ok_or(Verdict::Malformed)?;
    if header.is_fragment() {
        return Err(Verdict::Fragment);
    }
    if header.protocol() != protocol::UDP {
        return Err(Verdict::NotUdp);
    }
    udp(frame, Ethernet::LENGTH + Ipv4::LENGTH, payload, port)?;
    Ok(header.destination())
}

/// The destination of a frame that is IPv6, without extension headers, UDP to `port`; else why it is not.
#[inline(always)]
fn ipv6<P: Packet + ?Sized>(frame: &P, port: u16) -> Result<&[u8; 16], Verdict> {
    let header = frame.load(Ethernet::LENGTH).map(Ipv6).ok_or(Verdict::Malformed)?;
    let there = frame.length() - Ethernet::LENGTH - Ipv6::LENGTH;
    if header.version() != 6 || header.payload_length() > there {
        return Err(Verdict::Malformed);
    }
    match header.next_header() {
        protocol::UDP => {}
        protocol::IPV6_FRAGMENT => return Err(Verdict::Fragment),
        other if protocol::is_extension(other) => return Err(Verdict::ExtensionHeader),
        _ => return Err(Verdict::NotUdp),
    }
    udp(frame, Ethernet::LENGTH + Ipv6::LENGTH, header.payload_length(), port)?;
    let destination = header.destination();
    // An IPv4-mapped one would find the key of an IPv4 address, and belongs on no wire.
    match destination {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..] => Err(Verdict::WrongAddress),
        _ => Ok(destination),
    }
}

/// Whether the `payload` bytes at offset `at` are a UDP datagram to `port`. Bytes behind the datagram are padding.
#[inline(always)]
fn udp<P: Packet + ?Sized>(frame: &P, at: usize, payload: usize, port: u16) -> Result<(), Verdict> {
    if payload < Udp::LENGTH {
        return Err(Verdict::BadUdpLength);
    }
    let header = frame.load(at).map(Udp).ok_or(Verdict::Malformed)?;
    if header.destination() != port {
        return Err(Verdict::WrongPort);
    }
    if header.length() < Udp::LENGTH || header.length() > payload {
        return Err(Verdict::BadUdpLength);
    }
    Ok(())
}
