//! The messages of the control stream, inside CONTROL frames (`protocol.md`, Data body).
//!
//! A message is `type 1 | length 2 | value`; a frame carries whole messages only. Types that are not known are skipped,
//! so that later versions can add some; what cannot be read at all refuses its frame.

use super::tlv::{HEADER, split_tlv, write_tlv};
use crate::DropReason;
use crate::mux::config::Config;

const CONFIG: u8 = 1;
const NEW_INDEX: u8 = 2;
const CLOSE: u8 = 3;

/// Bytes of messages that one CONTROL frame carries at most.
pub const MAX_MESSAGES: usize = 1024;

/// Why a session is closed, as the wire has it; other numbers than these are taken as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseReason(pub u8);

impl CloseReason {
    /// The sender ends in order.
    pub const SHUTDOWN: CloseReason = CloseReason(0);
}

/// One message. All are state, never a change to it: applying one twice does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The addresses and the like that the sender gives the receiver.
    Config(Config),
    /// Datagrams of this session go to receiver index `new` from now on, no longer to `old`.
    NewIndex {
        /// The index so far.
        old: u32,
        /// The one from now on.
        new: u32,
    },
    /// The sender is done with this session.
    Close(CloseReason),
    /// A type of a later version.
    Unknown(u8),
}

impl Message {
    /// Appends the message as it goes on the wire.
    ///
    /// # Errors
    /// Gives the length back if it is more than one frame carries; nothing is appended then.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), usize> {
        let (kind, value) = match self {
            Message::Config(config) => (CONFIG, config.encode()),
            Message::NewIndex { old, new } => (NEW_INDEX, [old.to_le_bytes(), new.to_le_bytes()].concat()),
            Message::Close(reason) => (CLOSE, vec![reason.0]),
            Message::Unknown(kind) => (*kind, Vec::new()),
        };
        if HEADER + value.len() > MAX_MESSAGES {
            return Err(HEADER + value.len());
        }
        write_tlv(out, kind, &value);
        Ok(())
    }
}

/// Reads all messages of one frame.
///
/// # Errors
/// [`DropReason::FrameMalformed`] if any of them cannot be read: the frame counts as a whole.
pub fn read_messages(bytes: &[u8]) -> Result<Vec<Message>, DropReason> {
    if bytes.len() > MAX_MESSAGES {
        return Err(DropReason::FrameMalformed);
    }
    let mut messages = Vec::new();
    let mut rest = bytes;
    while let Some((kind, value)) = split_tlv(&mut rest)? {
        messages.push(match kind {
            CONFIG => Message::Config(Config::decode(value)?),
            NEW_INDEX => {
                let &[a, b, c, d, e, f, g, h] = value else { return Err(DropReason::FrameMalformed) };
                let (old, new) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
                Message::NewIndex { old, new }
            }
            CLOSE => {
                let &[reason] = value else { return Err(DropReason::FrameMalformed) };
                Message::Close(CloseReason(reason))
            }
            unknown => Message::Unknown(unknown),
        });
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(messages: &[Message]) -> Vec<u8> {
        let mut out = Vec::new();
        messages.iter().for_each(|message| message.write(&mut out).unwrap());
        out
    }

    #[test]
    fn messages_stand_on_the_wire_as_the_protocol_says() {
        let messages = [Message::NewIndex { old: 1, new: 0x0403_0201 }, Message::Close(CloseReason(7))];
        assert_eq!(written(&messages), [2, 8, 0, 1, 0, 0, 0, 1, 2, 3, 4, 3, 1, 0, 7]);
    }

    #[test]
    fn all_messages_of_a_frame_are_read_in_order_and_unknown_ones_are_kept_as_such() {
        let messages = [
            Message::Config(Config::default()),
            Message::Unknown(99),
            Message::NewIndex { old: 5, new: 6 },
            Message::Close(CloseReason::SHUTDOWN),
        ];
        assert_eq!(read_messages(&written(&messages)), Ok(messages.to_vec()));
        assert_eq!(read_messages(&[]), Ok(Vec::new()));
    }

    #[test]
    fn a_message_cut_anywhere_refuses_its_frame() {
        let whole = written(&[Message::Close(CloseReason(1)), Message::NewIndex { old: 5, new: 6 }]);
        for cut in 1..whole.len() {
            let at_a_boundary = cut == 4;
            assert_eq!(read_messages(&whole[..cut]).is_ok(), at_a_boundary, "cut at {cut}");
        }
        assert_eq!(read_messages(&[CLOSE, 2, 0, 1, 1]), Err(DropReason::FrameMalformed), "too long");
        assert_eq!(read_messages(&vec![0; MAX_MESSAGES + 1]), Err(DropReason::FrameMalformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(messages) = read_messages(&bytes) {
                // Every message takes its header at least.
                prop_assert!(messages.len() * HEADER <= bytes.len());
            }
        }
    }
}
