//! Any frame: the outer parser takes just what steering, told to expect this very frame, would redirect, and says of it
//! what the bytes say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;
use veil_ebpf::steer::classify;
use veil_ebpf::{SteeringConfig, Verdict};
use veil_xdp::outer::{IPV4_HEADERS, IPV6_HEADERS, parse};

fuzz_target!(|frame: &[u8]| {
    let parsed = parse(frame);
    // Where the headers are if the frame is good; of any other frame this is nonsense that does no harm.
    let headers = if frame.get(12..14) == Some(&[8, 0]) { IPV4_HEADERS } else { IPV6_HEADERS };
    let (Some(mac), Some(udp)) = (frame.first_chunk(), frame.get(headers - 8..headers)) else {
        assert!(parsed.is_none(), "{parsed:?} in {} bytes", frame.len());
        return;
    };
    let port = u16::from_be_bytes([udp[2], udp[3]]);
    let verdict = classify(frame, &SteeringConfig { mac: *mac, port }, |_| true);
    match parsed {
        None => assert_ne!(verdict, Verdict::Redirect),
        Some(outer) => {
            let mapped = matches!(outer.to, IpAddr::V6(to) if to.to_ipv4_mapped().is_some());
            // Port 0 is how steering is told to redirect nothing.
            let wanted = match (port, mapped) {
                (0, _) => Verdict::NotConfigured,
                (_, true) => Verdict::WrongAddress,
                _ => Verdict::Redirect,
            };
            assert_eq!(verdict, wanted, "{outer:?}");
            assert_eq!(outer.payload.start, headers);
            assert_eq!(outer.payload.len() + 8, usize::from(u16::from_be_bytes([udp[4], udp[5]])));
            assert!(outer.payload.end <= frame.len());
            assert_eq!(outer.from.port(), u16::from_be_bytes([udp[0], udp[1]]));
        }
    }
});
