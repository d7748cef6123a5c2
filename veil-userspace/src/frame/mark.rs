//! What the process stage tells the TX stage about each inner packet, written where its mux header was.
//!
//! The four bytes in front of every inner packet of an opened datagram held a mux header; once checked, they hold an
//! [`InnerMark`] instead. So the TX stage walks a datagram without knowing the protocol, and no table of packets is
//! needed beside the frame. The invariant: marks cover a datagram's plaintext extent without gaps.

use std::ops::Range;

/// Bytes of an encoded mark, as long as the mux header it replaces.
pub const MARK_LEN: usize = 4;

const DELIVER: u8 = 1;
const PARTIAL: u8 = 2;

/// One inner packet's fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerMark {
    /// Bytes that follow the mark and belong to it.
    pub length: u16,
    /// Whether these bytes are a packet for the host. Refused packets and other frames are skipped.
    pub deliver: bool,
    /// Whether the packet's transport checksum is only the pseudo-header's sum.
    pub partial: bool,
}

impl InnerMark {
    /// The mark as it stands in the frame.
    #[inline]
    pub fn encode(self) -> [u8; MARK_LEN] {
        let [low, high] = self.length.to_le_bytes();
        let flags = if self.deliver { DELIVER } else { 0 } | if self.partial { PARTIAL } else { 0 };
        [low, high, flags, 0]
    }

    /// The inverse of `encode`.
    #[inline]
    pub fn decode(bytes: [u8; MARK_LEN]) -> Self {
        let [low, high, flags, _] = bytes;
        InnerMark {
            length: u16::from_le_bytes([low, high]),
            deliver: flags & DELIVER != 0,
            partial: flags & PARTIAL != 0,
        }
    }
}

/// Walks the marks of one datagram from the front of its plaintext extent to its end.
///
/// Yields each mark with the range, within the extent, of the bytes it speaks of. Bytes too few for a mark, or a mark
/// that reaches past the extent, end the walk.
#[derive(Clone, Debug)]
pub struct Marks<'a> {
    extent: &'a [u8],
    at: usize,
}

impl<'a> Marks<'a> {
    /// The marks in `extent`.
    pub fn new(extent: &'a [u8]) -> Self {
        Marks { extent, at: 0 }
    }
}

impl Iterator for Marks<'_> {
    type Item = (InnerMark, Range<usize>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let mark = InnerMark::decode(*self.extent.get(self.at..)?.first_chunk()?);
        let start = self.at + MARK_LEN;
        let end = start + usize::from(mark.length);
        if end > self.extent.len() {
            self.at = self.extent.len();
            return None;
        }
        self.at = end;
        Some((mark, start..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packets() -> impl Strategy<Value = Vec<(Vec<u8>, bool, bool)>> {
        let packet = (prop::collection::vec(any::<u8>(), 0..200), any::<bool>(), any::<bool>());
        prop::collection::vec(packet, 0..12)
    }

    proptest! {
        #[test]
        fn what_was_marked_is_what_is_walked(packets in packets(), rest in 0..MARK_LEN) {
            let mut extent = Vec::new();
            for (bytes, deliver, partial) in &packets {
                let mark = InnerMark { length: bytes.len() as u16, deliver: *deliver, partial: *partial };
                extent.extend_from_slice(&mark.encode());
                extent.extend_from_slice(bytes);
            }
            extent.resize(extent.len() + rest, 0xff);
            let walked: Vec<_> =
                Marks::new(&extent).map(|(m, r)| (extent[r].to_vec(), m.deliver, m.partial)).collect();
            prop_assert_eq!(walked, packets);
        }

        #[test]
        fn any_bytes_are_walked_within_bounds(extent in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut at = 0;
            for (mark, range) in Marks::new(&extent) {
                prop_assert_eq!(range.start, at + MARK_LEN);
                prop_assert_eq!(range.len(), usize::from(mark.length));
                prop_assert!(range.end <= extent.len());
                at = range.end;
            }
        }
    }
}
