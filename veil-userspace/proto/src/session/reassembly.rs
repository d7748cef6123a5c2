//! Putting FRAGMENT frames together again: packets larger than the path takes (`protocol.md`, Data body).
//!
//! One per session, bounded in packets and bytes, with nothing allocated until the first piece arrives. A piece that
//! overlaps another or disagrees with it drops the whole packet: what an attacker inside the peer could gain by that is
//! nothing it could not send whole, and every check on IP packets comes after.

use crate::DropReason;
use crate::time::SECOND;

/// Bytes in front of a piece: packet id 4, offset 2, total 2.
pub const FRAGMENT_HEADER: usize = 8;
/// The shortest piece, except the last of a packet.
pub const MIN_PIECE: usize = 512;
/// The longest packet that is put together.
pub const REASSEMBLY_LIMIT: usize = 9216;
/// Packets in progress in one session.
const MAX_PACKETS: usize = 8;
/// A packet not whole after this long is dropped.
const TIMEOUT: u64 = 5 * SECOND;

/// Writes the header of the piece at `offset` of packet `id`, which is `total` bytes long.
pub fn fragment_header(id: u32, offset: u16, total: u16) -> [u8; FRAGMENT_HEADER] {
    let mut header = [0; FRAGMENT_HEADER];
    header[..4].copy_from_slice(&id.to_le_bytes());
    header[4..6].copy_from_slice(&offset.to_le_bytes());
    header[6..].copy_from_slice(&total.to_le_bytes());
    header
}

/// A packet that is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Reassembled {
    /// The inner packet, not yet checked.
    pub bytes: Vec<u8>,
    /// The flags all its pieces carried.
    pub flags: u8,
    /// A piece of it came marked as having met congestion: so has the packet (RFC 3168, section 5.3).
    pub congested: bool,
}

struct Partial {
    id: u32,
    flags: u8,
    congested: bool,
    started: u64,
    bytes: Vec<u8>,
    /// The ranges that have arrived, in order and without overlap.
    have: Vec<(usize, usize)>,
}

/// The packets of one session that are not whole yet.
#[derive(Default)]
pub struct FragmentReassembly {
    packets: Vec<Partial>,
    given_up: u64,
}

impl FragmentReassembly {
    /// Takes one FRAGMENT payload in, which came marked as having met congestion or not. Returns the packet that it
    /// completes.
    ///
    /// # Errors
    /// [`DropReason::FrameMalformed`] for a piece that cannot be one; [`DropReason::FragmentConflict`] when it overlaps or
    /// disagrees with others of its packet, which is dropped with it.
    pub fn accept(
        &mut self,
        flags: u8,
        congested: bool,
        payload: &[u8],
        now: u64,
    ) -> Result<Option<Reassembled>, DropReason> {
        self.expire(now);
        let (header, piece) =
            payload.split_first_chunk::<FRAGMENT_HEADER>().ok_or(DropReason::FrameMalformed)?;
        let [i0, i1, i2, i3, o0, o1, t0, t1] = *header;
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let offset = usize::from(u16::from_le_bytes([o0, o1]));
        let total = usize::from(u16::from_le_bytes([t0, t1]));
        let end = offset + piece.len();
        let is_last = end == total;
        if piece.is_empty()
            || end > total
            || total > REASSEMBLY_LIMIT
            || (piece.len() < MIN_PIECE && !is_last)
        {
            return Err(DropReason::FrameMalformed);
        }
        let at = match self.packets.iter().position(|p| p.id == id) {
            Some(at) => at,
            None => {
                if self.packets.len() == MAX_PACKETS {
                    self.packets.remove(0);
                    self.given_up += 1;
                }
                let (bytes, have) = (vec![0; total], Vec::new());
                let partial = Partial { id, flags, congested: false, started: now, bytes, have };
                self.packets.push(partial);
                self.packets.len() - 1
            }
        };
        let Some(packet) = self.packets.get_mut(at) else { return Err(DropReason::FrameMalformed) };
        let place = packet.have.partition_point(|&(start, _)| start < offset);
        let before = place.checked_sub(1).and_then(|i| packet.have.get(i)).is_none_or(|&(_, e)| e <= offset);
        let after = packet.have.get(place).is_none_or(|&(s, _)| s >= end);
        if packet.flags != flags || packet.bytes.len() != total || !before || !after {
            self.packets.remove(at);
            return Err(DropReason::FragmentConflict);
        }
        if let Some(room) = packet.bytes.get_mut(offset..end) {
            room.copy_from_slice(piece);
        }
        packet.have.insert(place, (offset, end));
        packet.congested |= congested;
        if packet.have.iter().map(|(start, end)| end - start).sum::<usize>() == total {
            let Partial { bytes, flags, congested, .. } = self.packets.remove(at);
            return Ok(Some(Reassembled { bytes, flags, congested }));
        }
        Ok(None)
    }

    /// How many packets have been given up since this was last asked: too old, or too many at once.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    /// How many packets are not whole yet.
    pub fn unfinished(&self) -> u64 {
        self.packets.len() as u64
    }

    /// Drops what is too old.
    fn expire(&mut self, now: u64) {
        let before = self.packets.len();
        self.packets.retain(|packet| now.saturating_sub(packet.started) < TIMEOUT);
        self.given_up += (before - self.packets.len()) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(id: u32, offset: usize, total: usize, bytes: &[u8]) -> Vec<u8> {
        [&fragment_header(id, offset as u16, total as u16)[..], bytes].concat()
    }

    fn packet(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 7 % 251) as u8).collect()
    }

    #[test]
    fn a_packet_is_whole_with_its_last_piece_and_only_then() {
        let (mut reassembly, whole) = (FragmentReassembly::default(), packet(1500));
        let first = reassembly.accept(1, false, &piece(9, 0, 1500, &whole[..1000]), 0).unwrap();
        assert_eq!(first, None);
        let last = reassembly.accept(1, false, &piece(9, 1000, 1500, &whole[1000..]), 0).unwrap();
        assert_eq!(last, Some(Reassembled { bytes: whole, flags: 1, congested: false }));
        assert!(reassembly.packets.is_empty());
    }

    #[test]
    fn whichever_piece_met_congestion_so_did_the_packet() {
        for marked in 0..3 {
            let (mut reassembly, whole) = (FragmentReassembly::default(), packet(1800));
            let mut made = None;
            for n in 0..3 {
                let bytes = &whole[600 * n..600 * (n + 1)];
                made = reassembly.accept(0, n == marked, &piece(9, 600 * n, 1800, bytes), 0).unwrap();
            }
            assert!(made.is_some_and(|made| made.congested), "piece {marked}");
        }
    }

    #[test]
    fn an_overlapping_piece_drops_the_packet() {
        let (mut reassembly, whole) = (FragmentReassembly::default(), packet(1500));
        reassembly.accept(0, false, &piece(9, 0, 1500, &whole[..1000]), 0).unwrap();
        let overlap = reassembly.accept(0, false, &piece(9, 900, 1500, &whole[900..]), 0);
        assert_eq!(overlap, Err(DropReason::FragmentConflict));
        // Not even the true piece completes it any more.
        let true_piece = reassembly.accept(0, false, &piece(9, 1000, 1500, &whole[1000..]), 0).unwrap();
        assert_eq!(true_piece, None);
    }

    #[test]
    fn a_piece_that_reaches_into_a_later_one_drops_the_packet_and_so_does_one_that_comes_twice() {
        for (offset, end) in [(0, 601), (88, 601), (600, 1200)] {
            let (mut reassembly, whole) = (FragmentReassembly::default(), packet(1500));
            reassembly.accept(0, false, &piece(9, 600, 1500, &whole[600..1200]), 0).unwrap();
            let overlap = reassembly.accept(0, false, &piece(9, offset, 1500, &whole[offset..end]), 0);
            assert_eq!(overlap, Err(DropReason::FragmentConflict), "{offset} to {end}");
            assert_eq!(reassembly.unfinished(), 0, "{offset} to {end}");
        }
    }

    #[test]
    fn pieces_that_disagree_about_total_or_flags_drop_the_packet() {
        for (flags, total) in [(1, 1500), (0, 1501)] {
            let (mut reassembly, whole) = (FragmentReassembly::default(), packet(1501));
            reassembly.accept(0, false, &piece(9, 0, 1500, &whole[..1000]), 0).unwrap();
            let other = reassembly.accept(flags, false, &piece(9, 1000, total, &whole[1000..total]), 0);
            assert_eq!(other, Err(DropReason::FragmentConflict));
        }
    }

    #[test]
    fn pieces_too_short_too_long_or_out_of_bounds_are_malformed() {
        let mut reassembly = FragmentReassembly::default();
        let bytes = packet(REASSEMBLY_LIMIT + 1);
        for (offset, total, len) in
            [(0, 1500, MIN_PIECE - 1), (0, 1500, 0), (1000, 1500, 501), (0, REASSEMBLY_LIMIT + 1, 1000)]
        {
            let refused = reassembly.accept(0, false, &piece(1, offset, total, &bytes[..len]), 0);
            assert_eq!(refused, Err(DropReason::FrameMalformed), "{offset} {total} {len}");
        }
        assert_eq!(reassembly.accept(0, false, &[0; 7], 0), Err(DropReason::FrameMalformed));
    }

    #[test]
    fn what_is_not_whole_after_five_seconds_is_given_up_and_counted() {
        let (mut reassembly, whole) = (FragmentReassembly::default(), packet(1500));
        reassembly.accept(0, false, &piece(1, 0, 1500, &whole[..1000]), 0).unwrap();
        let late = reassembly.accept(0, false, &piece(1, 1000, 1500, &whole[1000..]), TIMEOUT).unwrap();
        assert_eq!((late, reassembly.take_given_up(), reassembly.unfinished()), (None, 1, 1));
        // Whatever the next piece is.
        assert!(reassembly.accept(0, false, &[0; 7], 2 * TIMEOUT).is_err());
        assert_eq!((reassembly.take_given_up(), reassembly.unfinished()), (1, 0));
    }

    #[test]
    fn only_eight_packets_are_in_progress_and_the_oldest_gives_way() {
        let (mut reassembly, whole) = (FragmentReassembly::default(), packet(1500));
        for id in 0..20 {
            reassembly.accept(0, false, &piece(id, 0, 1500, &whole[..1000]), 0).unwrap();
        }
        assert_eq!((reassembly.take_given_up(), reassembly.packets.len()), (12, MAX_PACKETS));
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_make_the_packet(cuts in prop::collection::vec(512usize..1400, 1..8), seed: u64) {
            let total = (cuts.iter().sum::<usize>() + 100).min(REASSEMBLY_LIMIT);
            let whole = packet(total);
            let mut pieces = Vec::new();
            let mut at = 0;
            for cut in cuts {
                let end = (at + cut).min(total);
                if end > at {
                    pieces.push((at, end));
                }
                at = end;
            }
            if at < total {
                pieces.push((at, total));
            }
            let mut state = seed;
            for i in (1..pieces.len()).rev() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                pieces.swap(i, (state >> 33) as usize % (i + 1));
            }
            let mut reassembly = FragmentReassembly::default();
            let mut made = None;
            for (start, end) in pieces {
                prop_assert!(made.is_none());
                made = reassembly.accept(0, false, &piece(5, start, total, &whole[start..end]), 0).unwrap();
            }
            prop_assert_eq!(made.map(|m| m.bytes), Some(whole));
        }

        #[test]
        fn any_payload_is_taken_without_panic(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..20)) {
            let mut reassembly = FragmentReassembly::default();
            for payload in payloads {
                let _ = reassembly.accept(0, false, &payload, 0);
                prop_assert!(reassembly.packets.len() <= MAX_PACKETS);
            }
        }
    }
}
