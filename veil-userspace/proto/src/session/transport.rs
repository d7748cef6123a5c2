//! One session's two directions: sealing under one key, opening under the other.

use super::limits::{Budget, REJECT_AFTER};
use super::rotator::{ROTATE_AFTER, SessionRotator};
use super::{ControlReceiver, FragmentReassembly, HEADER_LEN, MIN_DATAGRAM, ReplayWindow, RetransmitBuffer};
use crate::crypto::{AeadKey, HeaderKey, Suite, aead_decrypt, aead_encrypt, scrub_stack};
use crate::handshake::message::{Header, TYPE_DATA};
use crate::mux::Config;
use crate::thread_checker::ThreadChecker;
use crate::{DropReason, PeerId};

/// Which end started the handshake that made a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We sent the initiation.
    Initiator,
    /// The peer sent it.
    Responder,
}

/// The key's limit is reached: nothing more may be sealed under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session key has reached its limit")]
pub struct Exhausted;

/// The sending half: the only source of nonces for its key, each handed out once. All of it on one cache line.
#[repr(C, align(64))]
pub struct Sealer {
    key: AeadKey,
    counter: u64,
    budget: Budget,
    receiver_index: u32,
    receiver_header: HeaderKey,
}

impl Sealer {
    /// A sealer that has sent nothing yet, for datagrams to `receiver_index` masked under the receiver's header key.
    pub fn new(key: AeadKey, receiver_index: u32, receiver_header: HeaderKey) -> Self {
        let budget = Budget::new(key.suite() == Suite::Aes256Gcm);
        Sealer { key, counter: 0, budget, receiver_index, receiver_header }
    }

    /// Seals one datagram in place: 16 bytes to be the header, the plaintext, 16 bytes to be the tag.
    ///
    /// # Errors
    /// [`Exhausted`] once the key's reject limit is reached; the datagram is unchanged then.
    #[inline]
    pub fn seal(&mut self, datagram: &mut [u8]) -> Result<(), Exhausted> {
        self.seal_unmasked(datagram)?;
        self.receiver_header.mask(datagram);
        Ok(())
    }

    /// Masks the headers of a run whose datagrams were sealed by [`seal_unmasked`](Self::seal_unmasked).
    pub fn mask_run(&self, run: &mut [u8], segment: usize) {
        self.receiver_header.mask_run(run, segment);
    }

    /// The same as [`seal`](Self::seal) with the header left as it is: it must be masked before it is sent.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    #[inline]
    pub fn seal_unmasked(&mut self, datagram: &mut [u8]) -> Result<(), Exhausted> {
        debug_assert!(datagram.len() >= MIN_DATAGRAM);
        if self.budget.exhausted() {
            return Err(Exhausted);
        }
        self.budget.charge(datagram.len().saturating_sub(MIN_DATAGRAM));
        let counter = self.counter;
        self.counter += 1;
        let (header, body) = datagram.split_at_mut(HEADER_LEN);
        Header { kind: TYPE_DATA, index: self.receiver_index, counter }.write(header);
        aead_encrypt(&self.key, counter, header, body);
        Ok(())
    }

    pub(crate) fn key(&self) -> &AeadKey {
        &self.key
    }

    pub(crate) fn header_key(&self) -> &HeaderKey {
        &self.receiver_header
    }

    /// Whether the key has been used so much that a new one should be agreed.
    pub fn must_rekey(&self) -> bool {
        self.budget.must_rekey()
    }

    /// Whether the key may not be used any more.
    #[inline]
    pub fn exhausted(&self) -> bool {
        self.budget.exhausted()
    }

    /// The index the receiver gave this session.
    pub fn receiver_index(&self) -> u32 {
        self.receiver_index
    }

    /// The receiver has given the session another index. False, and nothing changed, unless `old` is the one in use; to be
    /// told of one already in use is fine.
    pub fn redirect(&mut self, old: u32, new: u32) -> bool {
        let applies = new != 0 && (self.receiver_index == old || self.receiver_index == new);
        if applies {
            self.receiver_index = new;
        }
        applies
    }
}

/// The receiving half. All of it on one cache line, but for the bits of the window.
#[repr(C, align(64))]
pub struct Opener {
    key: AeadKey,
    budget: Budget,
    window: ReplayWindow,
}

impl Opener {
    /// An opener that has received nothing yet.
    pub fn new(key: AeadKey) -> Self {
        let budget = Budget::new(key.suite() == Suite::Aes256Gcm);
        Opener { key, window: ReplayWindow::default(), budget }
    }

    /// Opens an unmasked datagram in place and returns the plaintext's length; it begins after the 16 header bytes.
    /// The second value says whether this counter is the highest so far.
    ///
    /// # Errors
    /// [`DropReason::BadTag`], [`DropReason::Replayed`] or [`DropReason::SessionExpired`]; nothing has moved then.
    #[inline]
    pub fn open(&mut self, counter: u64, datagram: &mut [u8]) -> Result<(usize, bool), DropReason> {
        if datagram.len() < MIN_DATAGRAM {
            return Err(DropReason::TooShort);
        }
        if self.budget.exhausted() {
            return Err(DropReason::SessionExpired);
        }
        let (header, body) = datagram.split_at_mut(HEADER_LEN);
        let plaintext = aead_decrypt(&self.key, counter, header, body).map_err(|_| DropReason::BadTag)?;
        let newest = self.window.highest().is_none_or(|highest| counter > highest);
        if !self.window.check_and_mark(counter) {
            return Err(DropReason::Replayed);
        }
        self.budget.charge(plaintext.len());
        Ok((plaintext.len(), newest))
    }

    pub(crate) fn key(&self) -> &AeadKey {
        &self.key
    }

    /// Where the replay window keeps `counter`.
    pub(crate) fn window_word(&self, counter: u64) -> &u64 {
        self.window.word(counter)
    }

    /// Whether the key has been used so much that a new one should be agreed.
    pub fn must_rekey(&self) -> bool {
        self.budget.must_rekey()
    }
}

/// A finished session: one owner, moved only by value, its secrets wiped when it is dropped.
///
/// What every datagram needs comes first and on few cache lines, for where there are thousands of sessions each of them
/// comes from memory.
#[repr(C, align(64))]
pub struct TransportSession {
    /// When the handshake finished here, monotonic nanoseconds.
    pub created: u64,
    /// The indices under which datagrams for it arrive.
    pub rotator: SessionRotator,
    /// Whose session it is.
    pub peer: PeerId,
    /// Which end started it.
    pub role: Role,
    /// The peer is owed an acknowledgement.
    pub ack_due: bool,
    /// The receiver indices it began with, ours first: the other end has the same, the other way round.
    pub name: (u32, u32),
    /// The sending half.
    pub sealer: Sealer,
    /// The receiving half.
    pub opener: Opener,
    /// Packets of which only pieces have arrived.
    pub reassembly: FragmentReassembly,
    /// Control frames that the peer is not known to have.
    pub control_out: RetransmitBuffer,
    /// Control frames of the peer's.
    pub control_in: ControlReceiver,
    /// Which of the offers to its peer was last said in it: 0 none, the first is 1.
    pub offers_said: u32,
    /// The lease that its peer gave us last in it.
    pub leased: Option<Box<Config>>,
    checker: ThreadChecker,
}

impl TransportSession {
    /// A session made on this thread.
    pub fn new(
        peer: PeerId,
        role: Role,
        created: u64,
        local_index: u32,
        sealer: Sealer,
        opener: Opener,
    ) -> Self {
        let mut checker = ThreadChecker::default();
        checker.detach();
        TransportSession {
            name: (local_index, sealer.receiver_index()),
            peer,
            role,
            created,
            rotator: SessionRotator::new(local_index, created, ROTATE_AFTER),
            sealer,
            opener,
            reassembly: FragmentReassembly::default(),
            control_out: RetransmitBuffer::default(),
            control_in: ControlReceiver::default(),
            offers_said: 0,
            leased: None,
            ack_due: false,
            checker,
        }
    }

    /// Takes the session over from the thread that made it, which must not touch it any more.
    pub fn hand_over(&mut self) {
        self.rebind();
        scrub_stack();
    }

    /// Takes the session over on this thread, with all that its owner has.
    pub fn rebind(&mut self) {
        self.checker.rebind_to_current();
    }

    /// Asserts, in debug builds, that this thread owns the session.
    #[inline]
    pub fn assert_owned(&self) {
        self.checker.assert_here();
    }

    /// As if its keys had been used so much already.
    #[cfg(test)]
    pub(crate) fn wear(&mut self, sealed: u64, opened: u64) {
        self.sealer.budget = Budget::worn(self.sealer.key.suite() == Suite::Aes256Gcm, sealed);
        self.opener.budget = Budget::worn(self.opener.key.suite() == Suite::Aes256Gcm, opened);
    }

    /// When the session must be wiped, monotonic nanoseconds.
    pub fn expires(&self) -> u64 {
        self.created.saturating_add(REJECT_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::Limits;
    use super::*;
    use crate::crypto::{NetworkSecret, PublicKey};

    /// Uses a key up in the largest datagrams there are.
    fn use_up(budget: &mut Budget) {
        while !budget.exhausted() {
            budget.charge(usize::from(u16::MAX));
        }
    }

    fn pair() -> (Sealer, Opener) {
        let key = || AeadKey::new(Suite::Aes256Gcm, &[7; 32]);
        let header = HeaderKey::derive(&PublicKey([1; 32]), &NetworkSecret::default());
        (Sealer::new(key(), 5, header), Opener::new(key()))
    }

    #[test]
    fn every_datagram_is_charged_to_its_key_at_both_ends() {
        let (mut sealer, mut opener) = pair();
        let header = sealer.receiver_header.clone();
        let mut blocks = 0;
        for (counter, len) in (0..).zip([0, 1, 16, 17, 1420]) {
            let mut datagram = vec![9; MIN_DATAGRAM + len];
            sealer.seal(&mut datagram).expect("a fresh key");
            header.mask(&mut datagram);
            assert_eq!(opener.open(counter, &mut datagram), Ok((len, true)));
            blocks += Limits::of(true).cost(len);
            assert_eq!((sealer.budget.used(), opener.budget.used()), (blocks, blocks), "{len} bytes");
        }
    }

    #[test]
    fn the_receiver_index_changes_only_from_the_one_in_use_and_never_to_0() {
        let (mut sealer, _) = pair();
        for (old, new, applies, index) in
            [(4, 6, false, 5), (5, 0, false, 5), (5, 6, true, 6), (5, 6, true, 6), (5, 7, false, 6)]
        {
            assert_eq!(sealer.redirect(old, new), applies, "from {old} to {new}");
            assert_eq!(sealer.receiver_index(), index, "from {old} to {new}");
        }
    }

    #[test]
    fn a_key_that_is_used_up_seals_nothing_and_the_datagram_is_unchanged() {
        let (mut sealer, _) = pair();
        let mut datagram = [9; MIN_DATAGRAM + 20];
        assert_eq!(sealer.seal(&mut datagram), Ok(()));
        use_up(&mut sealer.budget);
        assert!(sealer.exhausted() && sealer.must_rekey());
        let before = datagram;
        assert_eq!(sealer.seal(&mut datagram), Err(Exhausted));
        assert_eq!((datagram, sealer.counter), (before, 1));
    }

    #[test]
    fn a_key_that_is_used_up_opens_nothing_and_the_window_has_not_moved() {
        let (mut sealer, mut opener) = pair();
        let header = sealer.receiver_header.clone();
        let mut sealed = || {
            let mut datagram = [9; MIN_DATAGRAM + 20];
            sealer.seal(&mut datagram).expect("a fresh key");
            header.mask(&mut datagram);
            datagram
        };
        assert_eq!(opener.open(0, &mut sealed()), Ok((20, true)));
        use_up(&mut opener.budget);
        assert!(opener.must_rekey());
        assert_eq!(opener.open(1, &mut sealed()), Err(DropReason::SessionExpired));
        assert_eq!(opener.window.highest(), Some(0));
    }
}
