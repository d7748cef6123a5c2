//! The receiving half of a session's control stream: frames put in order, each delivered once.

use std::collections::VecDeque;

use super::retransmit_buffer::{MAX_OUTSTANDING, SEQUENCE_LEN};
use crate::DropReason;
use crate::mux::control::MAX_MESSAGES;

/// Control frames received; nothing is allocated until one arrives too early.
#[derive(Default)]
pub struct ControlReceiver {
    next: u32,
    /// Frame `next` + i, where it has arrived. The first is never there.
    early: VecDeque<Option<Vec<u8>>>,
}

impl ControlReceiver {
    /// Takes a CONTROL frame's payload in; gives the messages of every frame that is in order now. One that came before
    /// gives nothing, and is no error: its acknowledgement was lost.
    ///
    /// # Errors
    /// [`DropReason::FrameMalformed`] for what cannot be one; [`DropReason::ControlAhead`] for one further ahead than a peer
    /// may send.
    pub fn accept(&mut self, payload: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
        let (sequence, messages) =
            payload.split_first_chunk::<SEQUENCE_LEN>().ok_or(DropReason::FrameMalformed)?;
        if messages.len() > MAX_MESSAGES {
            return Err(DropReason::FrameMalformed);
        }
        let Some(ahead) = u32::from_le_bytes(*sequence).checked_sub(self.next) else {
            return Ok(Vec::new());
        };
        let ahead = ahead as usize;
        if ahead >= MAX_OUTSTANDING {
            return Err(DropReason::ControlAhead);
        }
        if self.early.len() <= ahead {
            self.early.resize(ahead + 1, None);
        }
        if let Some(place) = self.early.get_mut(ahead) {
            place.get_or_insert_with(|| messages.to_vec());
        }
        let mut in_order = Vec::new();
        while let Some(Some(messages)) = self.early.front_mut().map(Option::take) {
            self.early.pop_front();
            self.next = self.next.saturating_add(1);
            in_order.push(messages);
        }
        Ok(in_order)
    }

    /// What the acknowledgement says: the next frame expected, and which of the 64 after it are there already.
    pub fn ack(&self) -> (u32, u64) {
        let after = self.early.iter().skip(1).take(64).enumerate();
        let bitmap = after.filter(|(_, place)| place.is_some()).fold(0, |bits, (n, _)| bits | 1 << n);
        (self.next, bitmap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(sequence: u32) -> Vec<u8> {
        [&sequence.to_le_bytes()[..], &[sequence as u8]].concat()
    }

    #[test]
    fn frames_are_delivered_in_order_and_once() {
        let mut receiver = ControlReceiver::default();
        assert_eq!(receiver.accept(&frame(1)), Ok(vec![]));
        assert_eq!(receiver.accept(&frame(3)), Ok(vec![]));
        assert_eq!(receiver.ack(), (0, 0b101));
        assert_eq!(receiver.accept(&frame(0)), Ok(vec![vec![0], vec![1]]));
        assert_eq!(receiver.accept(&frame(0)), Ok(vec![]), "again");
        assert_eq!(receiver.ack(), (2, 0b1));
        assert_eq!(receiver.accept(&frame(2)), Ok(vec![vec![2], vec![3]]));
        assert_eq!(receiver.ack(), (4, 0));
    }

    #[test]
    fn the_first_copy_of_an_early_frame_counts() {
        let mut receiver = ControlReceiver::default();
        receiver.accept(&frame(1)).unwrap();
        receiver.accept(&[1, 0, 0, 0, 99]).unwrap();
        assert_eq!(receiver.accept(&frame(0)), Ok(vec![vec![0], vec![1]]));
    }

    #[test]
    fn what_is_too_far_ahead_or_too_short_is_refused() {
        let mut receiver = ControlReceiver::default();
        assert_eq!(receiver.accept(&frame(64)), Err(DropReason::ControlAhead));
        assert_eq!(receiver.accept(&frame(63)), Ok(vec![]));
        assert_eq!(receiver.ack(), (0, 1 << 62));
        assert_eq!(receiver.accept(&[0, 0, 0]), Err(DropReason::FrameMalformed));
        assert_eq!(receiver.accept(&[0; SEQUENCE_LEN + MAX_MESSAGES + 1]), Err(DropReason::FrameMalformed));
        assert_eq!(receiver.ack(), (0, 1 << 62));
    }

    proptest! {
        #[test]
        fn any_order_ends_in_order(order in prop::collection::vec(0u32..80, 0..400)) {
            let mut receiver = ControlReceiver::default();
            let mut got = Vec::new();
            for sequence in order {
                got.extend(receiver.accept(&frame(sequence)).unwrap_or_default());
            }
            let wanted: Vec<Vec<u8>> = (0..got.len()).map(|n| vec![n as u8]).collect();
            prop_assert_eq!(receiver.ack().0 as usize, got.len());
            prop_assert_eq!(got, wanted);
        }
    }
}
