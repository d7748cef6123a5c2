//! `classify` on the host.

use proptest::collection::vec;
use proptest::prelude::*;
use veil_ebpf::headers::{Ethernet, Ipv4, Ipv6, Packet, Udp};
use veil_ebpf::steer;
use veil_ebpf::{SteeringConfig, Verdict};

use crate::frames::{CONFIG, damaged, local, table, truncated, v4, v6};
use crate::reference::is_ours;

/// The verdict with the table's configuration and addresses.
pub fn classify(frame: &[u8]) -> Verdict {
    steer::classify(frame, &CONFIG, |address| local().contains(address))
}

#[test]
fn every_frame_of_the_table_gets_its_verdict() {
    for (what, frame, verdict) in table() {
        assert_eq!(classify(&frame), verdict, "{what}");
        assert_eq!(is_ours(&frame), verdict == Verdict::Redirect, "the reference, on {what}");
    }
}

#[test]
fn the_table_has_every_verdict_of_a_configured_program() {
    let seen: Vec<Verdict> = table().into_iter().map(|(_, _, verdict)| verdict).collect();
    for verdict in Verdict::ALL {
        let by_others = matches!(verdict, Verdict::NoSocket | Verdict::NotConfigured);
        assert_eq!(seen.contains(&verdict), !by_others, "{}", verdict.name());
    }
}

#[test]
fn a_good_frame_cut_at_any_length_passes() {
    for frame in truncated() {
        assert_eq!(classify(&frame), Verdict::Malformed, "{} bytes", frame.len());
    }
}

#[test]
fn without_a_port_nothing_is_redirected() {
    let config = SteeringConfig::default();
    let to_port_0 = |mut frame: Vec<u8>| {
        frame[..6].fill(0);
        frame[36..38].fill(0);
        frame
    };
    for frame in [v4(64), to_port_0(v4(64))] {
        assert_eq!(steer::classify(&frame[..], &config, |_| true), Verdict::NotConfigured);
    }
}

#[test]
fn what_classify_does_not_read_is_read_right_too() {
    let (frame, other) = (v4(64), v6(64));
    let ip = Ipv4(frame.load(Ethernet::LENGTH).unwrap());
    assert_eq!((ip.tos(), ip.source(), ip.destination()), (3, [198, 51, 100, 7], [192, 0, 2, 1]));
    let ip = Ipv6(other.load(Ethernet::LENGTH).unwrap());
    assert_eq!((ip.traffic_class(), ip.source()[15], ip.destination()[15]), (3, 9, 1));
    assert_eq!(Udp(other.load(Ethernet::LENGTH + Ipv6::LENGTH).unwrap()).source(), 51820);
}

#[test]
fn counters_are_numbered_and_named_one_by_one() {
    for (at, verdict) in Verdict::ALL.into_iter().enumerate() {
        assert_eq!(verdict as usize, at);
        assert_eq!(Verdict::ALL.iter().filter(|other| other.name() == verdict.name()).count(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn what_is_redirected_is_what_the_reference_calls_ours(frame in damaged()) {
        prop_assert_eq!(classify(&frame) == Verdict::Redirect, is_ours(&frame));
    }

    #[test]
    fn noise_passes(mut frame in vec(any::<u8>(), 0..200), ip in prop::sample::select(vec![[8, 0], [0x86, 0xdd]])) {
        prop_assert_eq!(classify(&frame) == Verdict::Redirect, is_ours(&frame));
        if let Some(header) = frame.get_mut(..14) {
            header[..6].copy_from_slice(&CONFIG.mac);
            header[12..].copy_from_slice(&ip);
        }
        prop_assert_eq!(classify(&frame) == Verdict::Redirect, is_ours(&frame));
    }
}
