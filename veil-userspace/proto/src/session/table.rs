//! All sessions, found by receiver index.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU32;

use super::TransportSession;

/// A session's place in the table; reused after removal, so it is dropped from all [`Slots`](super::Slots) first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(NonZeroU32);

impl SessionId {
    const fn new(place: u32) -> Self {
        // Of so many sessions none would find room in memory.
        SessionId(NonZeroU32::MIN.saturating_add(place))
    }

    fn place(self) -> usize {
        (self.0.get() - 1) as usize
    }

    /// A made-up place, for tests of rules that never look into the table.
    pub const fn for_test(n: u32) -> Self {
        SessionId::new(n)
    }
}

/// Receiver indices are random and ours, so multiplying spreads them well enough over buckets and tags.
#[derive(Default)]
pub struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte) ^ self.0 as u32);
        }
    }

    #[inline]
    fn write_u32(&mut self, index: u32) {
        self.0 = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Receiver index to session. Owned by the process stage; no lock.
#[derive(Default)]
pub struct SessionTable {
    by_index: HashMap<u32, SessionId, BuildHasherDefault<IndexHasher>>,
    sessions: Vec<Option<Box<TransportSession>>>,
    free: Vec<SessionId>,
}

impl SessionTable {
    /// Takes a session in, bound to this thread from here on.
    pub fn insert(&mut self, mut session: Box<TransportSession>) -> SessionId {
        session.hand_over();
        let index = session.rotator.index();
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.sessions.push(None);
                SessionId::new((self.sessions.len() - 1) as u32)
            }
        };
        self.by_index.insert(index, id);
        self.sessions[id.place()] = Some(session);
        id
    }

    /// Takes all sessions over on this thread.
    pub fn hand_over(&mut self) {
        if cfg!(debug_assertions) {
            self.sessions.iter_mut().flatten().for_each(|session| session.rebind());
        }
    }

    /// Wipes a session and returns its receiver indices, which may be given out again.
    pub fn remove(&mut self, id: SessionId) -> impl Iterator<Item = u32> + use<> {
        let session = self.sessions.get_mut(id.place()).and_then(Option::take);
        let indices = session.map(|session| session.rotator.indices());
        if let Some(indices) = indices.clone() {
            self.free.push(id);
            indices.for_each(|index| {
                self.by_index.remove(&index);
            });
        }
        indices.into_iter().flatten()
    }

    /// Has datagrams with this receiver index, too, belong to session `id`.
    pub fn add_index(&mut self, index: u32, id: SessionId) {
        self.by_index.insert(index, id);
    }

    /// Has no datagrams with this receiver index belong to any session.
    pub fn release_index(&mut self, index: u32) {
        self.by_index.remove(&index);
    }

    /// The session that datagrams with this receiver index belong to.
    #[inline]
    pub fn find(&self, index: u32) -> Option<SessionId> {
        self.by_index.get(&index).copied()
    }

    /// A session to use.
    #[inline]
    pub fn get(&mut self, id: SessionId) -> Option<&mut TransportSession> {
        let session = self.sessions.get_mut(id.place())?.as_deref_mut()?;
        session.assert_owned();
        Some(session)
    }

    /// A session to look at, on whichever thread.
    #[inline]
    pub(crate) fn peek(&self, id: SessionId) -> Option<&TransportSession> {
        self.sessions.get(id.place())?.as_deref()
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.sessions.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use crate::PeerId;
    use crate::crypto::{AeadKey, HeaderKey, NetworkSecret, PublicKey, Suite};
    use crate::session::{Opener, Role, Sealer, SessionRotator};

    fn session() -> Box<TransportSession> {
        let key = || AeadKey::new(Suite::Aes256Gcm, &[7; 32]);
        let header = HeaderKey::derive(&PublicKey([1; 32]), &NetworkSecret::default());
        let (sealer, opener) = (Sealer::new(key(), 5, header), Opener::new(key()));
        Box::new(TransportSession::new(PeerId(0), Role::Initiator, 0, 4, sealer, opener))
    }

    #[test]
    fn no_index_of_a_session_that_is_gone_leads_to_the_one_in_its_place() {
        let mut table = SessionTable::default();
        let id = table.insert(session());
        table.add_index(6, id);
        table.get(id).expect("it is there").rotator.rotate(6, 0, 1);
        assert_eq!(table.remove(id).collect::<Vec<_>>(), [6, 4]);
        assert_eq!((table.len(), table.remove(id).count()), (0, 0));
        let mut other = session();
        other.rotator = SessionRotator::new(7, 0, 1);
        assert_eq!(table.insert(other), id);
        assert_eq!([4, 6, 7].map(|index| table.find(index)), [None, None, Some(id)]);
    }

    #[test]
    fn a_session_used_by_a_thread_that_has_not_taken_it_over_is_caught() {
        let mut table = SessionTable::default();
        let id = table.insert(session());
        assert!(table.get(id).is_some());
        let used = std::thread::spawn(move || table.get(id).is_some()).join();
        let why = used.expect_err("used on another thread");
        let why = why.downcast_ref::<String>().map_or("", String::as_str);
        assert!(why.contains("hand-over without rebind_to_current()"), "{why}");
    }

    #[test]
    fn a_session_made_by_one_thread_is_taken_over_by_another() {
        let made = std::thread::spawn(session).join().unwrap();
        let mut table = SessionTable::default();
        let id = table.insert(made);
        assert!(table.get(id).is_some());
    }
}
