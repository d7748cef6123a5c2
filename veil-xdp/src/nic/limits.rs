//! How large packets may be for a program that knows nothing of multi-buffer packets: each must fit a page, beside
//! what the kernel keeps there.

use serde::Serialize;

/// A page, without the room before the packet (XDP_PACKET_HEADROOM), the kernel's bookkeeping after it (struct
/// skb_shared_info, with 17 fragments, in whole cache lines) and the Ethernet header.
pub const XDP_MTU_MAX: u32 = 4096 - 256 - 320 - 14;

/// The largest MTU at which a driver takes such a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MtuLimit {
    /// In bytes of IP packet.
    pub bytes: u32,
    /// Where the number comes from.
    pub source: &'static str,
    /// Whether the driver is known to apply just this; otherwise it may be stricter.
    pub exact: bool,
}

impl MtuLimit {
    /// For the driver of this name. Computed for pages of 4 KiB, the least that Linux has.
    pub(super) fn of(driver: Option<&str>) -> MtuLimit {
        let (source, exact) = match driver {
            // It is the other end's MTU that counts, because that is what may arrive.
            Some("veth") => ("drivers/net/veth.c, veth_xdp_set: of the other end", true),
            Some("virtio_net") => ("drivers/net/virtio_net.c, virtnet_xdp_set", true),
            _ => ("a page less headroom and bookkeeping; the driver may set less", false),
        };
        MtuLimit { bytes: XDP_MTU_MAX, source, exact }
    }
}
