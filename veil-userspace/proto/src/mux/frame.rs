//! Mux frames: `kind 1 | flags 1 | length 2 | payload`, one after another in an opened datagram
//! (`protocol.md`, Data body).
//!
//! [`Frames`] finds them and knows nothing of their payloads. It reads shared bytes and gives ranges, so that
//! the caller may work on the same datagram in place between two frames. A frame's failure concerns that
//! frame only, except a length past the end: nobody knows where the next frame would begin.

use std::ops::Range;

use crate::DropReason;

/// One zero byte that ends the plaintext.
pub const PAD: u8 = 0;
/// One IP packet.
pub const IP: u8 = 1;
/// A piece of an IP packet above the path MTU.
pub const FRAGMENT: u8 = 2;
/// Control stream messages.
pub const CONTROL: u8 = 3;
/// Acknowledgement of control frames.
pub const ACK: u8 = 4;
/// Path MTU probe, or its reply.
pub const PROBE: u8 = 5;

/// On [`IP`] and [`FRAGMENT`]: the transport checksum is left to the receiver.
pub const FLAG_PARTIAL: u8 = 1;

/// Bytes in front of a frame's payload.
pub const HEADER_LEN: usize = 4;

/// A frame as it stands in the plaintext; its kind may be unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// [`IP`] to [`PROBE`], or a kind of a later version; the caller skips and counts that.
    pub kind: u8,
    /// The flags: of a known kind, known ones only.
    pub flags: u8,
    /// Where the frame's header begins.
    pub offset: usize,
    /// Where its payload stands.
    pub payload: Range<usize>,
}

/// What [`Frames`] finds next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole frame.
    Frame(RawFrame),
    /// Bytes that are dropped.
    Refused {
        /// [`DropReason::FrameUnknownFlag`] for one frame, or [`DropReason::FrameTruncated`] for all the
        /// rest.
        reason: DropReason,
        /// Where they begin: at a header.
        offset: usize,
        /// How many they are, the header included.
        len: usize,
    },
}

/// The frames of one plaintext, in order.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    plaintext: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    /// Begins at the plaintext's first byte; all offsets are counted from it.
    #[inline]
    pub fn new(plaintext: &'a [u8]) -> Self {
        Frames { plaintext, at: 0 }
    }

    /// Begins at byte `at`: goes on where another iterator over the same plaintext [was](Self::position).
    #[inline]
    pub fn resume(plaintext: &'a [u8], at: usize) -> Self {
        Frames { plaintext, at }
    }

    /// Where the next frame begins; the plaintext's length at its end.
    #[inline]
    pub fn position(&self) -> usize {
        self.at
    }
}

impl Iterator for Frames<'_> {
    type Item = Item;

    #[inline]
    fn next(&mut self) -> Option<Item> {
        let offset = self.at;
        let rest = self.plaintext.get(offset..)?;
        // Nothing comes after padding or after a refused rest.
        self.at = self.plaintext.len();
        match rest.first() {
            None | Some(&PAD) => return None,
            Some(_) => {}
        }
        let truncated = Item::Refused { reason: DropReason::FrameTruncated, offset, len: rest.len() };
        let Some((&[kind, flags, low, high], payload)) = rest.split_first_chunk::<HEADER_LEN>() else {
            return Some(truncated);
        };
        let len = usize::from(u16::from_le_bytes([low, high]));
        if len > payload.len() {
            return Some(truncated);
        }
        let start = offset + HEADER_LEN;
        self.at = start + len;
        if flags & unknown_flags(kind) != 0 {
            let reason = DropReason::FrameUnknownFlag;
            return Some(Item::Refused { reason, offset, len: HEADER_LEN + len });
        }
        Some(Item::Frame(RawFrame { kind, flags, offset, payload: start..start + len }))
    }
}

impl std::iter::FusedIterator for Frames<'_> {}

/// The flags that drop a frame of this kind; a kind that is skipped anyway may have any.
#[inline]
fn unknown_flags(kind: u8) -> u8 {
    match kind {
        IP | FRAGMENT => !FLAG_PARTIAL,
        CONTROL | ACK | PROBE => !0,
        _ => 0,
    }
}

/// Writes the header of a frame with `payload_len` bytes after it.
#[inline]
pub fn write_header(header: &mut [u8; HEADER_LEN], kind: u8, flags: u8, payload_len: u16) {
    let [low, high] = payload_len.to_le_bytes();
    *header = [kind, flags, low, high];
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; HEADER_LEN];
        write_header(&mut header, kind, flags, payload.len() as u16);
        [&header[..], payload].concat()
    }

    fn found(plaintext: &[u8]) -> Vec<Item> {
        Frames::new(plaintext).collect()
    }

    fn good(kind: u8, flags: u8, offset: usize, len: usize) -> Item {
        let start = offset + HEADER_LEN;
        Item::Frame(RawFrame { kind, flags, offset, payload: start..start + len })
    }

    #[test]
    fn a_keepalive_has_no_frames() {
        assert_eq!(found(&[]), []);
    }

    #[test]
    fn frames_follow_one_another_until_padding() {
        let mut plaintext = frame(IP, FLAG_PARTIAL, b"packet");
        plaintext.extend(frame(ACK, 0, &[7; 12]));
        plaintext.extend(frame(PROBE, 0, b""));
        plaintext.extend([0, IP, 0xff, 0xff, 0xff]);
        assert_eq!(found(&plaintext), [good(IP, 1, 0, 6), good(ACK, 0, 10, 12), good(PROBE, 0, 26, 0)]);
    }

    #[test]
    fn the_length_is_little_endian() {
        let mut header = [0; 4];
        write_header(&mut header, IP, 0, 0x0102);
        assert_eq!(header, [1, 0, 2, 1]);
    }

    #[test]
    fn an_unknown_kind_is_given_as_it_is_whatever_its_flags() {
        let mut plaintext = frame(200, 0xff, b"later");
        plaintext.extend(frame(IP, 0, b"now"));
        assert_eq!(found(&plaintext), [good(200, 0xff, 0, 5), good(IP, 0, 9, 3)]);
    }

    #[test]
    fn an_unknown_flag_drops_its_frame_only() {
        for (kind, flags) in [(IP, 2), (FRAGMENT, 0x81), (CONTROL, FLAG_PARTIAL), (ACK, 1), (PROBE, 0x80)] {
            let mut plaintext = frame(kind, flags, b"odd");
            plaintext.extend(frame(IP, 0, b"even"));
            let refused = Item::Refused { reason: DropReason::FrameUnknownFlag, offset: 0, len: 7 };
            assert_eq!(found(&plaintext), [refused, good(IP, 0, 7, 4)]);
        }
    }

    #[test]
    fn a_length_past_the_end_drops_the_rest_once() {
        let whole = frame(IP, 0, b"packet");
        for cut in 1..whole.len() {
            let mut plaintext = frame(ACK, 0, b"");
            plaintext.extend(&whole[..cut]);
            let refused = Item::Refused { reason: DropReason::FrameTruncated, offset: 4, len: cut };
            let mut frames = Frames::new(&plaintext);
            assert_eq!(frames.next(), Some(good(ACK, 0, 0, 0)));
            assert_eq!(frames.next(), Some(refused));
            assert_eq!((frames.next(), frames.next()), (None, None));
        }
    }

    #[test]
    fn an_iterator_can_be_resumed_where_it_was() {
        let mut plaintext = frame(IP, 0, b"one");
        plaintext.extend(frame(IP, 0, b"two"));
        let mut first = Frames::new(&plaintext);
        first.next();
        let rest: Vec<_> = Frames::resume(&plaintext, first.position()).collect();
        assert_eq!(rest, [good(IP, 0, 7, 3)]);
        assert_eq!(Frames::resume(&plaintext, usize::MAX).next(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_covered_once_and_in_order(
            plaintext in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                // Mostly plausible frames, so that more than the first is seen.
                prop::collection::vec((0u8..8, 0u8..3, prop::collection::vec(any::<u8>(), 0..20), 0usize..40), 0..8)
                    .prop_map(|frames| frames.into_iter().flat_map(|(kind, flags, payload, cut)| {
                        let mut bytes = frame(kind, flags, &payload);
                        if cut < 3 { bytes.truncate(bytes.len().saturating_sub(cut)); }
                        bytes
                    }).collect::<Vec<_>>()),
            ],
        ) {
            let mut at = 0;
            for item in Frames::new(&plaintext) {
                match item {
                    Item::Frame(f) => {
                        prop_assert_eq!(f.offset, at);
                        prop_assert_eq!(f.payload.start, at + HEADER_LEN);
                        prop_assert_eq!(f.kind, plaintext[at]);
                        prop_assert_ne!(f.kind, PAD);
                        at = f.payload.end;
                    }
                    Item::Refused { reason, offset, len } => {
                        prop_assert_eq!(offset, at);
                        prop_assert!(len > 0);
                        at += len;
                        prop_assert!(reason != DropReason::FrameTruncated || at == plaintext.len());
                    }
                }
                prop_assert!(at <= plaintext.len());
            }
            prop_assert!(at == plaintext.len() || plaintext[at] == PAD);
        }
    }
}
