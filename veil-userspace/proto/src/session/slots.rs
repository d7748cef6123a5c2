//! Which of a peer's sessions seals: previous, current, next, and the rule for crossed handshakes (`protocol.md`, Sessions).
//!
//! Seal only under `current`; open under all three. What stands in `next` is unconfirmed, or the other half of a crossed
//! pair. Pure bookkeeping of ids: the caller wipes what is returned as retired.

use super::SessionId;

/// One peer's sessions.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Slots {
    previous: Option<SessionId>,
    current: Option<SessionId>,
    next: Option<SessionId>,
    crossed: Crossed,
}

/// Whether `current` and `next` came from initiations that crossed on the wire, and which of them ours has made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Crossed {
    #[default]
    No,
    OwnIsCurrent,
    OwnIsNext,
    /// Ours is current, and the other end has spoken in it: it will not go back.
    Settled,
}

/// What a datagram that opened did to the slots.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// A responder session was confirmed: it is current now, and our own pending initiation is moot.
    pub confirmed: bool,
    /// A session that left the slots and must be wiped.
    pub retired: Option<SessionId>,
}

impl Slots {
    /// The only session that seals.
    #[inline]
    pub fn current(&self) -> Option<SessionId> {
        self.current
    }

    /// Whether `id` seals, or may come to without another handshake.
    pub fn is_current_or_next(&self, id: SessionId) -> bool {
        [self.current, self.next].contains(&Some(id))
    }

    /// All sessions, newest role first.
    pub fn all(&self) -> impl Iterator<Item = SessionId> + use<> {
        [self.next, self.current, self.previous].into_iter().flatten()
    }

    /// A responder session was made: it waits in `next` for its first datagram. Returns the unconfirmed one it replaces.
    pub fn responder_ready(&mut self, id: SessionId) -> Option<SessionId> {
        self.crossed = Crossed::No;
        self.next.replace(id)
    }

    /// Our own initiation was answered: the new session is current. Returns what must be wiped.
    pub fn initiator_ready(&mut self, id: SessionId) -> [Option<SessionId>; 2] {
        // What a former crossing left in `next` belongs to no handshake still going on.
        let stale = if self.crossed == Crossed::No { None } else { self.next.take() };
        let retired = self.previous.take();
        self.previous = self.current.replace(id);
        self.crossed = if self.next.is_some() { Crossed::OwnIsCurrent } else { Crossed::No };
        [retired, stale]
    }

    /// A datagram opened in `id`. `smaller`: our static public key is bytewise smaller than the peer's.
    #[inline]
    pub fn opened(&mut self, id: SessionId, smaller: bool) -> Moved {
        if self.next != Some(id) {
            if self.crossed == Crossed::OwnIsCurrent && self.current == Some(id) {
                self.crossed = Crossed::Settled;
            }
            return Moved::default();
        }
        // Of a crossed pair, the smaller end keeps its own; the other follows the session in which it is spoken to. The
        // smaller one may leave its own for the other's, if it did not see them cross, but never the other way round: so
        // what comes in its own after that is late.
        if self.crossed != Crossed::No {
            if !smaller && self.crossed != Crossed::Settled {
                std::mem::swap(&mut self.current, &mut self.next);
                let own_was_current = self.crossed == Crossed::OwnIsCurrent;
                self.crossed = if own_was_current { Crossed::OwnIsNext } else { Crossed::Settled };
            }
            return Moved::default();
        }
        let retired = self.previous.take();
        self.previous = self.current.take();
        self.current = self.next.take();
        Moved { confirmed: true, retired }
    }

    /// Forgets a session that has ended. Returns the other half of its pair, which must be wiped, if nobody will speak in
    /// that any more.
    pub fn remove(&mut self, id: SessionId) -> Option<SessionId> {
        let useless = self.crossed == Crossed::Settled && self.current == Some(id);
        for slot in [&mut self.previous, &mut self.current, &mut self.next] {
            if *slot == Some(id) {
                *slot = None;
            }
        }
        if self.next.is_none() || self.current.is_none() {
            self.crossed = Crossed::No;
        }
        if useless { self.next.take() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId::for_test(1);
    const B: SessionId = SessionId::for_test(2);
    const C: SessionId = SessionId::for_test(3);

    #[test]
    fn a_responder_session_seals_only_after_its_first_datagram() {
        let mut slots = Slots::default();
        assert_eq!(slots.responder_ready(A), None);
        assert_eq!(slots.current(), None);
        assert_eq!(slots.opened(A, true), Moved { confirmed: true, retired: None });
        assert_eq!(slots.current(), Some(A));
    }

    #[test]
    fn an_unconfirmed_session_is_replaced_and_wiped() {
        let mut slots = Slots::default();
        slots.responder_ready(A);
        assert_eq!(slots.responder_ready(B), Some(A));
    }

    #[test]
    fn three_rekeys_retire_the_first_session() {
        let mut slots = Slots::default();
        assert_eq!(slots.initiator_ready(A), [None, None]);
        assert_eq!(slots.initiator_ready(B), [None, None]);
        assert_eq!(slots.initiator_ready(C), [Some(A), None]);
        assert_eq!(slots.current(), Some(C));
    }

    #[test]
    fn after_a_crossing_the_smaller_key_stays_and_the_other_follows() {
        for smaller in [true, false] {
            let mut slots = Slots::default();
            slots.responder_ready(A);
            slots.initiator_ready(B);
            assert_eq!(slots.current(), Some(B));
            assert_eq!(slots.opened(A, smaller), Moved::default());
            assert_eq!(slots.current(), Some(if smaller { B } else { A }));
            assert_eq!(slots.opened(B, smaller), Moved::default());
            assert_eq!(slots.current(), Some(B));
            assert_eq!(slots.opened(A, smaller), Moved::default());
            assert_eq!(slots.current(), Some(B), "what comes in the other after that is late");
        }
    }

    #[test]
    fn who_has_been_spoken_to_in_its_own_session_at_once_stays_there() {
        let mut slots = Slots::default();
        slots.responder_ready(A);
        slots.initiator_ready(B);
        for id in [B, A] {
            assert_eq!(slots.opened(id, false), Moved::default());
            assert_eq!(slots.current(), Some(B));
        }
        // Of the next pair it is not known yet.
        slots.responder_ready(A);
        slots.initiator_ready(C);
        assert_eq!(slots.opened(A, false), Moved::default());
        assert_eq!(slots.current(), Some(A));
    }

    #[test]
    fn with_the_session_in_which_both_speak_its_other_half_goes() {
        let mut slots = Slots::default();
        slots.responder_ready(A);
        slots.initiator_ready(B);
        slots.opened(B, false);
        assert_eq!(slots.remove(B), Some(A));
        assert_eq!(slots.all().count(), 0);
    }

    #[test]
    fn a_crossed_pair_ends_when_either_slot_is_emptied_or_gets_another_session() {
        let crossed = || {
            let mut slots = Slots::default();
            slots.responder_ready(A);
            slots.initiator_ready(B);
            slots
        };
        for smaller in [true, false] {
            let mut slots = crossed();
            assert_eq!(slots.remove(B), None);
            assert_eq!(slots.opened(A, smaller), Moved { confirmed: true, retired: None });
            assert_eq!(slots.current(), Some(A));

            let mut slots = crossed();
            assert_eq!(slots.remove(A), None);
            assert_eq!(slots.responder_ready(C), None);
            assert_eq!(slots.opened(C, smaller), Moved { confirmed: true, retired: None });
            assert_eq!(slots.current(), Some(C));

            let mut slots = crossed();
            assert_eq!(slots.responder_ready(C), Some(A));
            assert_eq!(slots.opened(C, smaller), Moved { confirmed: true, retired: None });
            assert_eq!(slots.current(), Some(C));
        }
    }

    #[test]
    fn a_rekey_after_a_crossing_clears_the_crossed_session() {
        let mut slots = Slots::default();
        slots.responder_ready(A);
        slots.initiator_ready(B);
        assert_eq!(slots.initiator_ready(C), [None, Some(A)]);
        assert_eq!(slots.all().collect::<Vec<_>>(), [C, B]);
    }
}
