//! What a driver can do with XDP: the `netdev` family of generic netlink
//! (Documentation/netlink/specs/netdev.yaml, include/uapi/linux/netdev.h; Linux 6.3).

use super::netlink::ask;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, Nla,
    NlasIterator,
};
use netlink_sys::protocols::NETLINK_GENERIC;
use serde::Serialize;
use std::io;

/// `NETDEV_XDP_ACT_*` flags, and what belongs to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct XdpFeatures {
    /// Programs run in the driver: pass, drop, abort, and back out of the same interface.
    pub basic: bool,
    /// Programs may redirect, which is the way into an AF_XDP socket.
    pub redirect: bool,
    /// Others may redirect to it.
    pub ndo_xmit: bool,
    pub xsk_zerocopy: bool,
    pub hw_offload: bool,
    /// Programs that know multi-buffer packets lift the MTU's limit.
    pub rx_sg: bool,
    pub ndo_xmit_sg: bool,
    /// The most buffers of a packet in zero-copy; 1 is no multi-buffer.
    pub zerocopy_max_segments: u32,
}

impl XdpFeatures {
    fn new(flags: u64, zerocopy_max_segments: u32) -> Self {
        let has = |bit: u32| flags & 1 << bit != 0;
        XdpFeatures {
            basic: has(0),
            redirect: has(1),
            ndo_xmit: has(2),
            xsk_zerocopy: has(3),
            hw_offload: has(4),
            rx_sg: has(5),
            ndo_xmit_sg: has(6),
            zerocopy_max_segments,
        }
    }

    /// The kernel's names of the flags that are set.
    pub fn names(&self) -> Vec<&'static str> {
        let all = [
            ("basic", self.basic),
            ("redirect", self.redirect),
            ("ndo-xmit", self.ndo_xmit),
            ("xsk-zerocopy", self.xsk_zerocopy),
            ("hw-offload", self.hw_offload),
            ("rx-sg", self.rx_sg),
            ("ndo-xmit-sg", self.ndo_xmit_sg),
        ];
        all.into_iter().filter_map(|(name, set)| set.then_some(name)).collect()
    }
}

/// The features of the interface numbered `index`; `None` if this kernel does not say.
pub fn of(index: u32) -> Option<XdpFeatures> {
    let family = family("netdev").ok()?;
    let answers =
        request(family, DEV_GET, DefaultNla::new(DEV_IFINDEX, index.to_ne_bytes().to_vec())).ok()?;
    features(answers.first()?)
}

/// linux/genetlink.h: the family that names the others.
const CONTROL_FAMILY: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// linux/netdev.h.
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;
const DEV_XDP_ZC_MAX_SEGS: u16 = 4;

fn features(answer: &Generic) -> Option<XdpFeatures> {
    let flags = u64::from_ne_bytes(answer.attribute(DEV_XDP_FEATURES)?.try_into().ok()?);
    let segments = answer.attribute(DEV_XDP_ZC_MAX_SEGS).and_then(|bytes| bytes.try_into().ok());
    Some(XdpFeatures::new(flags, segments.map_or(1, u32::from_ne_bytes)))
}

fn family(name: &str) -> io::Result<u16> {
    let name = [name.as_bytes(), &[0]].concat();
    let answers = request(CONTROL_FAMILY, GET_FAMILY, DefaultNla::new(FAMILY_NAME, name))?;
    let id = answers.first().and_then(|answer| answer.attribute(FAMILY_ID)?.try_into().ok());
    id.map(u16::from_ne_bytes).ok_or_else(|| io::Error::other("a family without a number"))
}

fn request(family: u16, command: u8, attribute: DefaultNla) -> io::Result<Vec<Generic>> {
    ask(NETLINK_GENERIC, Generic { family, command, attributes: vec![attribute] }, false)
}

/// A message of generic netlink: command, version, two reserved bytes, attributes (struct genlmsghdr).
struct Generic {
    family: u16,
    command: u8,
    attributes: Vec<DefaultNla>,
}

const HEADER: usize = 4;

impl Generic {
    fn attribute(&self, kind: u16) -> Option<Vec<u8>> {
        let found = self.attributes.iter().find(|attribute| attribute.kind() == kind)?;
        let mut value = vec![0; found.value_len()];
        found.emit_value(&mut value);
        Some(value)
    }
}

impl NetlinkSerializable for Generic {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(HEADER);
        header.copy_from_slice(&[self.command, 1, 0, 0]);
        self.attributes.as_slice().emit(attributes);
    }
}

impl NetlinkDeserializable for Generic {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let (&[command, ..], attributes) = payload
            .split_first_chunk::<HEADER>()
            .ok_or_else(|| DecodeError::from("shorter than a generic netlink header"))?;
        let attributes = NlasIterator::new(attributes)
            .map(|found| found.map(|found| DefaultNla::new(found.kind(), found.value().to_vec())))
            .collect::<Result<_, _>>()?;
        Ok(Generic { family: header.message_type, command, attributes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_the_kernels_names() {
        let igb = XdpFeatures::new(0x0f, 1);
        assert_eq!(igb.names(), ["basic", "redirect", "ndo-xmit", "xsk-zerocopy"]);
        assert_eq!(XdpFeatures::new(0x23, 1).names(), ["basic", "redirect", "rx-sg"]);
        assert!(XdpFeatures::new(!0x7f, 1).names().is_empty());
    }

    #[test]
    fn an_answer_survives_the_wire_and_short_ones_are_refused() {
        let sent = Generic {
            family: 9,
            command: 1,
            attributes: vec![
                DefaultNla::new(DEV_XDP_FEATURES, 0x0bu64.to_ne_bytes().to_vec()),
                DefaultNla::new(DEV_XDP_ZC_MAX_SEGS, 17u32.to_ne_bytes().to_vec()),
            ],
        };
        let mut bytes = vec![0; sent.buffer_len()];
        sent.serialize(&mut bytes);
        let mut header = NetlinkHeader::default();
        header.message_type = 9;
        let got = Generic::deserialize(&header, &bytes).unwrap();
        assert_eq!((got.family, got.command), (9, 1));
        assert_eq!(features(&got), Some(XdpFeatures::new(0x0b, 17)));
        for length in [0, 3, 5, 10] {
            assert!(Generic::deserialize(&header, &bytes[..length]).is_err(), "{length}");
        }
        let without = Generic { attributes: vec![], ..got };
        assert_eq!(features(&without), None);
    }

    #[test]
    fn a_family_that_nobody_has_is_not_found() {
        assert_eq!(family("no-such-veil").unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }
}
