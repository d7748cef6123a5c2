//! The sending half of a session's control stream: messages kept until the peer has them.
//!
//! Frames are numbered from 0. One timer runs while anything is outstanding; when it is up, what the peer is not known to
//! have goes again and the timeout doubles (RFC 6298, 5.4 to 5.6; all of it and not only the oldest, because frames are
//! few and small, and share datagrams). Only what was sent once measures the round trip (Karn). All is bounded: frames,
//! bytes, and tries. When tries are exhausted the stream is dead, and a new session is its end.

use std::collections::VecDeque;

use super::RttEstimator;
use crate::DropReason;
use crate::mux::control::MAX_MESSAGES;
use crate::timers::NEVER;

/// Frames that may be outstanding.
pub const MAX_OUTSTANDING: usize = 64;
/// Bytes in front of a CONTROL frame's messages: its sequence number.
pub const SEQUENCE_LEN: usize = 4;
/// How often one frame is sent at most.
const MAX_TRIES: u32 = 6;

/// What the timer led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// It is not up yet, or nothing is outstanding.
    NotYet,
    /// So many frames are to be sent again.
    Retransmit(u64),
    /// The oldest has been sent so often that the stream is given up. Said once.
    Exhausted,
}

struct Frame {
    sequence: u32,
    /// Sequence number and messages: a CONTROL frame's payload.
    payload: Vec<u8>,
    sent_at: u64,
    tries: u32,
    due: bool,
    /// The peer has it, but not all before it.
    received: bool,
}

/// Control frames on their way; nothing is allocated until there is one.
#[derive(Default)]
pub struct RetransmitBuffer {
    frames: VecDeque<Frame>,
    next_sequence: u32,
    rtt: RttEstimator,
    /// When the timer is up, while it runs.
    timer: Option<u64>,
    dead: bool,
}

impl RetransmitBuffer {
    /// Takes `messages` (whole ones, at most [`MAX_MESSAGES`] bytes) to be sent. False if there is no room, or the stream
    /// is dead: a later session carries what still matters.
    pub fn push(&mut self, messages: &[u8]) -> bool {
        if self.dead || self.frames.len() == MAX_OUTSTANDING || messages.len() > MAX_MESSAGES {
            return false;
        }
        let sequence = self.next_sequence;
        let payload = [&sequence.to_le_bytes(), messages].concat();
        self.next_sequence += 1;
        self.frames.push_back(Frame { sequence, payload, sent_at: 0, tries: 0, due: true, received: false });
        true
    }

    /// The payload of a frame that is to be sent now; from here on it counts as sent at `now`.
    pub fn next_due(&mut self, now: u64) -> Option<&[u8]> {
        let frame = self.frames.iter_mut().find(|frame| frame.due)?;
        frame.due = false;
        frame.tries += 1;
        frame.sent_at = now;
        let timeout = now + self.rtt.timeout();
        self.timer.get_or_insert(timeout);
        Some(&frame.payload)
    }

    /// Takes in that the peer has every frame before `next`, and of those after it the ones whose bit is set: bit i is
    /// frame `next` + 1 + i.
    ///
    /// # Errors
    /// [`DropReason::FrameMalformed`]: it speaks of frames that were never sent; nothing has changed then.
    pub fn process_ack(&mut self, next: u32, bitmap: u64, now: u64) -> Result<(), DropReason> {
        let highest = match bitmap {
            0 => u64::from(next),
            bits => u64::from(next) + 2 + u64::from(bits.ilog2()),
        };
        let sent = |frame: &Frame| frame.tries > 0;
        let first_unsent = self.frames.iter().find(|frame| !sent(frame)).map(|frame| frame.sequence);
        if highest > u64::from(first_unsent.unwrap_or(self.next_sequence)) {
            return Err(DropReason::FrameMalformed);
        }
        let mut sample = None;
        for frame in &mut self.frames {
            let bit = frame.sequence.checked_sub(next).and_then(|ahead| ahead.checked_sub(1));
            let has = frame.sequence < next || bit.is_some_and(|bit| bit < 64 && bitmap >> bit & 1 == 1);
            if has && !std::mem::replace(&mut frame.received, true) {
                frame.due = false;
                if frame.tries == 1 {
                    sample = Some(now.saturating_sub(frame.sent_at));
                }
            }
        }
        if let Some(rtt) = sample {
            self.rtt.sample(rtt);
        }
        let before = self.frames.len();
        while self.frames.front().is_some_and(|frame| frame.sequence < next) {
            self.frames.pop_front();
        }
        if !self.frames.iter().any(sent) {
            self.timer = None;
        } else if self.frames.len() < before {
            self.timer = Some(now + self.rtt.timeout());
        }
        Ok(())
    }

    /// Looks at the timer.
    pub fn on_timer(&mut self, now: u64) -> Timeout {
        if self.timer.is_none_or(|at| at > now) {
            return Timeout::NotYet;
        }
        self.timer = None;
        if self.frames.iter().any(|frame| frame.tries == MAX_TRIES && !frame.received) {
            self.dead = true;
            self.frames = VecDeque::new();
            return Timeout::Exhausted;
        }
        let lost = self.frames.iter_mut().filter(|frame| frame.tries > 0 && !frame.received);
        let count = lost.map(|frame| frame.due = true).count();
        self.rtt.back_off();
        Timeout::Retransmit(count as u64)
    }

    /// When [`on_timer`](Self::on_timer) has something to do.
    pub fn deadline(&self) -> u64 {
        self.timer.unwrap_or(NEVER)
    }

    /// How many frames the peer is not known to have.
    pub fn outstanding(&self) -> usize {
        self.frames.iter().filter(|frame| !frame.received).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{MILLISECOND, SECOND};
    use proptest::prelude::*;

    fn due(buffer: &mut RetransmitBuffer, now: u64) -> Vec<u32> {
        let sequence = |payload: &[u8]| u32::from_le_bytes(*payload.first_chunk().unwrap());
        std::iter::from_fn(|| buffer.next_due(now).map(sequence)).collect()
    }

    fn holding(count: usize) -> RetransmitBuffer {
        let mut buffer = RetransmitBuffer::default();
        (0..count).for_each(|n| assert!(buffer.push(&[n as u8])));
        buffer
    }

    #[test]
    fn a_frame_is_numbered_from_zero_and_sent_once_until_its_time_is_up() {
        let mut buffer = holding(2);
        assert_eq!(buffer.next_due(5), Some(&[0, 0, 0, 0, 0][..]));
        assert_eq!(buffer.next_due(5), Some(&[1, 0, 0, 0, 1][..]));
        assert_eq!(buffer.next_due(6), None);
        assert_eq!(buffer.on_timer(5 + SECOND - 1), Timeout::NotYet);
        assert_eq!(buffer.on_timer(5 + SECOND), Timeout::Retransmit(2));
        assert_eq!(due(&mut buffer, 5 + SECOND), [0, 1]);
        assert_eq!(buffer.deadline(), 5 + SECOND + 2 * SECOND, "and the timeout has doubled");
    }

    #[test]
    fn what_is_acknowledged_is_not_sent_again() {
        let mut buffer = holding(4);
        due(&mut buffer, 0);
        // 0 and 2 have arrived, and 3.
        buffer.process_ack(1, 0b11, 0).unwrap();
        assert_eq!(buffer.outstanding(), 1);
        assert_eq!(buffer.on_timer(buffer.deadline()), Timeout::Retransmit(1));
        assert_eq!(due(&mut buffer, SECOND), [1]);
        buffer.process_ack(4, 0, SECOND).unwrap();
        assert_eq!((buffer.outstanding(), buffer.deadline()), (0, NEVER));
    }

    #[test]
    fn what_is_acknowledged_before_it_goes_again_does_not_go_again() {
        let mut buffer = holding(2);
        due(&mut buffer, 0);
        assert_eq!(buffer.on_timer(SECOND), Timeout::Retransmit(2));
        buffer.process_ack(0, 0b1, SECOND).unwrap();
        assert_eq!(due(&mut buffer, SECOND), [0], "frame 1 is there");
    }

    #[test]
    fn an_ack_says_nothing_about_frames_beyond_its_64_bits() {
        let mut buffer = holding(MAX_OUTSTANDING);
        due(&mut buffer, 0);
        buffer.process_ack(MAX_OUTSTANDING as u32, 0, 0).unwrap();
        (0..MAX_OUTSTANDING).for_each(|n| assert!(buffer.push(&[n as u8])));
        due(&mut buffer, 0);
        // One that was long under way: of the frames outstanding now, 64 is its last bit's, and 65 no bit's.
        for bitmap in [0b1, 0b11, u64::MAX >> 1] {
            buffer.process_ack(0, bitmap, 0).unwrap();
            assert_eq!(buffer.outstanding(), MAX_OUTSTANDING, "{bitmap:#x}");
        }
    }

    #[test]
    fn the_timer_runs_from_the_first_frame_and_starts_anew_when_the_oldest_is_acknowledged() {
        // RFC 6298, 5.1 and 5.3.
        let mut buffer = holding(2);
        due(&mut buffer, 0);
        buffer.push(&[2]);
        due(&mut buffer, 300 * MILLISECOND);
        assert_eq!(buffer.deadline(), SECOND, "it runs already");
        buffer.process_ack(0, 0b10, 400 * MILLISECOND).unwrap();
        assert_eq!(buffer.deadline(), SECOND, "the oldest is still missing");
        buffer.process_ack(1, 0, 500 * MILLISECOND).unwrap();
        assert_eq!(buffer.deadline(), 500 * MILLISECOND + buffer.rtt.timeout());
    }

    #[test]
    fn only_what_was_sent_once_measures_the_round_trip() {
        let mut buffer = holding(1);
        due(&mut buffer, 0);
        buffer.on_timer(SECOND);
        due(&mut buffer, SECOND);
        buffer.process_ack(1, 0, SECOND + MILLISECOND).unwrap();
        assert!(buffer.rtt.timeout() == 2 * SECOND, "still backed off");
        buffer.push(&[1]);
        due(&mut buffer, 2 * SECOND);
        buffer.process_ack(2, 0, 2 * SECOND + 100 * MILLISECOND).unwrap();
        assert_eq!(buffer.rtt.timeout(), SECOND);
    }

    #[test]
    fn an_ack_of_what_was_never_sent_is_refused_and_changes_nothing() {
        let mut buffer = holding(3);
        let first = buffer.next_due(0).map(<[u8]>::to_vec);
        assert!(first.is_some());
        for (next, bitmap) in [(2, 0), (0, 1), (0, 1 << 63), (u32::MAX, u64::MAX)] {
            assert_eq!(
                buffer.process_ack(next, bitmap, 0),
                Err(DropReason::FrameMalformed),
                "{next} {bitmap}"
            );
        }
        assert_eq!(buffer.outstanding(), 3);
        assert_eq!(buffer.process_ack(1, 0, 0), Ok(()));
    }

    #[test]
    fn tries_are_bounded_and_exhaustion_is_said_once() {
        let mut buffer = holding(1);
        let mut tries = due(&mut buffer, 0).len();
        loop {
            let now = buffer.deadline();
            match buffer.on_timer(now) {
                Timeout::Retransmit(_) => tries += due(&mut buffer, now).len(),
                Timeout::Exhausted => break,
                Timeout::NotYet => panic!("the timer was up"),
            }
        }
        assert_eq!(tries, MAX_TRIES as usize);
        assert_eq!(buffer.on_timer(u64::MAX), Timeout::NotYet);
        assert_eq!((buffer.outstanding(), buffer.next_due(u64::MAX)), (0, None));
        assert!(!buffer.push(b"late"), "a dead stream takes nothing");
    }

    #[test]
    fn frames_and_bytes_are_bounded() {
        let mut buffer = holding(MAX_OUTSTANDING);
        assert!(!buffer.push(b"one more"));
        due(&mut buffer, 0);
        buffer.process_ack(1, 0, 0).unwrap();
        assert!(buffer.push(b"now"));
        let mut buffer = RetransmitBuffer::default();
        assert!(!buffer.push(&[0; MAX_MESSAGES + 1]));
    }

    proptest! {
        /// Whatever the wire loses, the other half gets everything in order as long as tries last.
        #[test]
        fn everything_arrives_in_order(
            lost in prop::collection::vec((any::<bool>(), any::<bool>()), 0..40),
            count in 1usize..MAX_OUTSTANDING,
        ) {
            let mut buffer = holding(count);
            let mut receiver = crate::session::ControlReceiver::default();
            let (mut now, mut got, mut wire) = (0, Vec::new(), lost.into_iter());
            for _ in 0..1000 {
                while let Some(payload) = buffer.next_due(now).map(<[u8]>::to_vec) {
                    // Losses end before tries do.
                    let (forth, back) = wire.next().unwrap_or_default();
                    let first_try = buffer.frames.iter().all(|f| f.tries < 4);
                    if forth && first_try {
                        continue;
                    }
                    got.extend(receiver.accept(&payload).unwrap());
                    if !(back && first_try) {
                        let (next, bitmap) = receiver.ack();
                        buffer.process_ack(next, bitmap, now + MILLISECOND).unwrap();
                    }
                }
                if buffer.outstanding() == 0 {
                    break;
                }
                now = buffer.deadline();
                prop_assert_ne!(buffer.on_timer(now), Timeout::Exhausted);
            }
            let wanted: Vec<Vec<u8>> = (0..count).map(|n| vec![n as u8]).collect();
            prop_assert_eq!(got, wanted);
        }
    }
}
