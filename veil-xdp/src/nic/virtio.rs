//! What a virtio NIC and its host agreed on, as far as it decides about XDP (VIRTIO 1.2, sections 5.1.3 and 6).

use serde::Serialize;

/// A virtio device's negotiated features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Virtio {
    features: u64,
}

const GUEST_CSUM: u32 = 1;
const CTRL_GUEST_OFFLOADS: u32 = 2;
const GUEST_TSO4: u32 = 7;
const GUEST_TSO6: u32 = 8;
const GUEST_ECN: u32 = 9;
const GUEST_UFO: u32 = 10;
const ACCESS_PLATFORM: u32 = 33;
const RING_RESET: u32 = 40;
const GUEST_USO4: u32 = 54;
const GUEST_USO6: u32 = 55;

impl Virtio {
    pub const fn new(features: u64) -> Virtio {
        Virtio { features }
    }

    /// The features of the device called `name` ("virtio0"): sysfs has a digit for each, the lowest first. Devices of
    /// a bus are the same in every network namespace.
    pub(super) fn read(name: &str) -> Option<Virtio> {
        Virtio::parse(&std::fs::read_to_string(format!("/sys/bus/virtio/devices/{name}/features")).ok()?)
    }

    fn parse(digits: &str) -> Option<Virtio> {
        let digits = digits.trim_end().get(..64)?;
        digits.bytes().all(|digit| matches!(digit, b'0' | b'1')).then_some(())?;
        Some(Virtio::new(digits.bytes().rev().fold(0, |sum, digit| sum << 1 | u64::from(digit == b'1'))))
    }

    const fn has(self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// Whether the host may hand over several TCP packets as one.
    pub const fn joins_packets(self) -> bool {
        self.has(GUEST_TSO4) || self.has(GUEST_TSO6)
    }

    /// Whether the driver takes XDP programs: packets must come as they were on the wire, so the host must do nothing
    /// to them or let itself be stopped (drivers/net/virtio_net.c, virtnet_xdp_set).
    pub fn takes_programs(self) -> bool {
        let offloads = [GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_UFO, GUEST_USO4, GUEST_USO6];
        self.has(CTRL_GUEST_OFFLOADS) || !offloads.into_iter().any(|offload| self.has(offload))
    }

    /// Whether the driver can hand the UMEM to the host: it needs a device to map memory for
    /// (drivers/net/virtio_net.c, virtnet_xsk_pool_enable), and queues that can be reset by themselves.
    pub const fn maps_memory(self) -> bool {
        self.has(ACCESS_PLATFORM) && self.has(RING_RESET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn with(features: &[u32]) -> Virtio {
        let (mut bits, mut at) = (0, 0);
        while at < features.len() {
            bits |= 1 << features[at];
            at += 1;
        }
        Virtio::new(bits)
    }

    #[test]
    fn sysfs_writes_the_lowest_feature_first() {
        let digits = format!("01{}1{}\n", "0".repeat(31), "0".repeat(30 + 64));
        assert_eq!(Virtio::parse(&digits), Some(with(&[GUEST_CSUM, ACCESS_PLATFORM])));
        assert_eq!(Virtio::parse("0101"), None);
        assert_eq!(Virtio::parse(&"x".repeat(64)), None);
    }

    #[test]
    fn a_host_that_changes_packets_must_be_stoppable() {
        assert!(with(&[]).takes_programs());
        assert!(!with(&[GUEST_CSUM]).takes_programs());
        assert!(!with(&[GUEST_USO6]).takes_programs());
        assert!(with(&[GUEST_CSUM, GUEST_TSO4, CTRL_GUEST_OFFLOADS]).takes_programs());
    }

    #[test]
    fn zero_copy_takes_both() {
        assert!(with(&[ACCESS_PLATFORM, RING_RESET]).maps_memory());
        assert!(!with(&[ACCESS_PLATFORM]).maps_memory() && !with(&[RING_RESET]).maps_memory());
    }
}
