//! How long the host's super-packets should be: just so long that each fills one run.
//!
//! Left to itself, TCP makes them almost 64 KiB long, which with our headers is more than a datagram of the outer UDP holds:
//! two runs, two messages to send and two to receive. A little shorter, they take one. What the host may give a device is
//! for the device to say.

use super::{MAX_DATAGRAMS, MAX_RUN};
use crate::tun::offload::{IPV4_LEN, IPV6_LEN};
use veil_proto::mux::frame::HEADER_LEN as MUX_HEADER;
use veil_proto::session::MIN_DATAGRAM;

/// Bytes of a TCP header without options (RFC 9293 3.1).
const TCP_HEADER: usize = 20;
/// What the kernel keeps free for headers (include/net/tcp.h); 256 in small configurations.
const MAX_TCP_HEADER: usize = 320;
/// The longest super-packet of a device that has not been told otherwise (include/linux/netdevice.h).
const GSO_LEGACY_MAX_SIZE: usize = 65_536;

/// The `gso_max_size` of a TUN device of this MTU, for IPv4 and for IPv6, with which TCP's super-packets fill one run each.
///
/// Their payload comes to that size less `MAX_TCP_HEADER + 1` (net/core/sock.c, `sk_dst_gso_max_size`), in whole segments
/// (net/ipv4/tcp_output.c, `tcp_tso_autosize`). Options make segments shorter, but not by so much that one more would fit.
pub fn gso_max_sizes(mtu: u16) -> [u32; 2] {
    let mtu = usize::from(mtu);
    let segments = (MAX_RUN / (MUX_HEADER + mtu + MIN_DATAGRAM)).clamp(1, MAX_DATAGRAMS);
    [IPV4_LEN, IPV6_LEN].map(|ip| {
        let payload = segments * mtu.saturating_sub(ip + TCP_HEADER);
        (payload + MAX_TCP_HEADER + 1).min(GSO_LEGACY_MAX_SIZE) as u32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMESTAMPS: usize = 12;

    #[test]
    fn tcp_makes_as_many_segments_as_one_run_holds() {
        for mtu in 1280..=9000 {
            let datagram = MUX_HEADER + mtu + MIN_DATAGRAM;
            for (size, ip) in gso_max_sizes(mtu as u16).into_iter().zip([IPV4_LEN, IPV6_LEN]) {
                for (kept_free, options) in [(320, 0), (320, TIMESTAMPS), (256, 0), (256, TIMESTAMPS)] {
                    let segment = mtu - ip - TCP_HEADER - options;
                    let segments = (size as usize - kept_free - 1) / segment;
                    assert!(segments * datagram <= MAX_RUN, "MTU {mtu}: {segments} segments are too many");
                    assert!(
                        (segments + 1) * datagram > MAX_RUN,
                        "MTU {mtu}: {segments} segments are too few"
                    );
                }
            }
        }
    }
}
