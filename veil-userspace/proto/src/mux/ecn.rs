//! The ECN bits of an inner packet, and what the outer header's do to them.
//!
//! On the way out a datagram takes its packet's bits; on the way in RFC 6040 says what comes of both. Invariant: nothing
//! but ECN bits, and an IPv4 header checksum for them, changes.

use super::checksum::update;
use crate::DropReason;

/// ECN field of a packet that is not ECN-capable (RFC 3168).
pub const NOT_ECT: u8 = 0b00;
/// ECN field: ECN-capable, ECT(1).
pub const ECT_1: u8 = 0b01;
/// ECN field: ECN-capable, ECT(0).
pub const ECT_0: u8 = 0b10;
/// ECN field: congestion experienced.
pub const CE: u8 = 0b11;

/// The ECN field of an IP packet; [`NOT_ECT`] if it is none.
#[inline]
pub fn of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & 0b11,
        [first, second, ..] if first >> 4 == 6 => second >> 4 & 0b11,
        _ => NOT_ECT,
    }
}

/// Carries the outer header's congestion mark over to a packet that leaves the tunnel (RFC 6040, figure 4);
/// an IPv4 header checksum follows incrementally (RFC 1624), so that a wrong one stays wrong.
///
/// # Errors
/// [`DropReason::InnerEcn`]: marked outside, not ECN-capable inside. [`DropReason::InnerMalformed`]: no IP
/// packet. Nothing has changed then.
#[inline]
pub fn decapsulate(packet: &mut [u8], outer_ecn: u8) -> Result<(), DropReason> {
    let inner = of(packet);
    let ecn = match (inner, outer_ecn & 0b11) {
        (NOT_ECT, CE) => return Err(DropReason::InnerEcn),
        (NOT_ECT, _) | (CE, _) => inner,
        (_, CE) => CE,
        (_, ECT_1) => ECT_1,
        _ => inner,
    };
    if ecn == inner { Ok(()) } else { set(packet, ecn) }
}

fn set(packet: &mut [u8], ecn: u8) -> Result<(), DropReason> {
    let Some(h) = packet.first_chunk_mut::<20>() else { return Err(DropReason::InnerMalformed) };
    if h[0] >> 4 == 6 {
        h[1] = h[1] & !0x30 | ecn << 4;
        return Ok(());
    }
    let before = u16::from_be_bytes([h[0], h[1]]);
    h[1] = h[1] & !0b11 | ecn;
    let after = u16::from_be_bytes([h[0], h[1]]);
    let sum = update(u16::from_be_bytes([h[10], h[11]]), before, after);
    [h[10], h[11]] = sum.to_be_bytes();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::InnerPacket;
    use super::super::checksum::sum;
    use super::super::checksum::testing::{v4, v6};
    use super::super::inner::UDP;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ecn_is_carried_over_as_in_figure_4_of_rfc_6040() {
        let figure = [
            (NOT_ECT, [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), Err(DropReason::InnerEcn)]),
            (ECT_0, [Ok(ECT_0), Ok(ECT_0), Ok(ECT_1), Ok(CE)]),
            (ECT_1, [Ok(ECT_1), Ok(ECT_1), Ok(ECT_1), Ok(CE)]),
            (CE, [Ok(CE), Ok(CE), Ok(CE), Ok(CE)]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                for mut packet in [v4(UDP, &[0; 8], &[]), v6(UDP, &[0; 8])] {
                    set(&mut packet, inner).unwrap();
                    let before = packet.clone();
                    // Bits outside the ECN field are somebody else's.
                    let got = decapsulate(&mut packet, outer | 0xfc).map(|()| of(&packet));
                    assert_eq!(got, expected, "inner {inner} outer {outer}");
                    if got.is_err() || got == Ok(inner) {
                        assert_eq!(packet, before);
                    }
                    assert_eq!(InnerPacket::parse(&packet).unwrap().tos & 0b11, of(&packet));
                }
            }
        }
    }

    #[test]
    fn ecn_of_what_is_no_ip_packet_is_nothing() {
        for packet in [&[][..], &[0x45], &[0x55, 0xff, 0xff]] {
            assert_eq!(of(packet), NOT_ECT);
        }
        assert_eq!(decapsulate(&mut [0x45, 0x02, 0], CE), Err(DropReason::InnerMalformed));
    }

    proptest! {
        #[test]
        fn an_ipv4_header_checksum_stays_as_right_or_wrong_as_it_was(
            tos: u8, id: u16, ttl: u8, outer in 0u8..4, error: u16,
        ) {
            let mut packet = v4(UDP, &[0; 8], &[]);
            packet[1] = tos;
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[8] = ttl;
            packet[10..12].fill(0);
            let right = !sum(&packet[..20], 0);
            packet[10..12].copy_from_slice(&right.wrapping_add(error).to_be_bytes());
            let before = sum(&packet[..20], 0);
            let _ = decapsulate(&mut packet, outer);
            prop_assert_eq!(sum(&packet[..20], 0), before);
        }

        #[test]
        fn of_any_bytes_only_the_field_and_its_checksum_change(
            mut before in prop::collection::vec(any::<u8>(), 0..80), outer: u8, fit: bool,
        ) {
            if fit && let Some(first) = before.first_mut() {
                *first = if *first & 1 == 0 { 0x40 } else { 0x60 } | *first & 0x0f;
            }
            let mut packet = before.clone();
            match decapsulate(&mut packet, outer) {
                Err(_) => prop_assert_eq!(&packet, &before),
                Ok(()) if of(&packet) != of(&before) => {
                    let ipv4 = before[0] >> 4 == 4;
                    prop_assert!(set(&mut packet, of(&before)).is_ok());
                    if ipv4 {
                        packet[10..12].copy_from_slice(&before[10..12]);
                    }
                    prop_assert_eq!(&packet, &before);
                }
                Ok(()) => prop_assert_eq!(&packet, &before),
            }
        }
    }
}
