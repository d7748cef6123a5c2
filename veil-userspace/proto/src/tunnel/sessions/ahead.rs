//! Looking ahead: where the memory lies that the next datagrams and packets will need, so that the caller can have it
//! fetched while it works on others.
//!
//! A server with thousands of sessions finds hardly one of them in its caches, and what a packet needs hangs together by
//! pointers: session, key schedule, peer, counters. Fetched one after the other, all of it costs several times what sealing
//! a small packet does. So it is fetched for a few packets in front of the one that is worked on, one pointer per packet: by
//! the time a pointer is followed, what it was read from has arrived. Only addresses are named here, and nothing is changed;
//! a wrong guess costs a cache line.

use super::{Peer, Sessions};
use crate::PeerId;
use crate::handshake::message::{Header, TYPE_DATA};
use crate::session::{SessionId, TransportSession};

/// Datagrams and packets looked ahead to at a time.
pub const AHEAD: usize = 32;

/// The size of a cache line on every machine this is likely to run on; another only makes it fetch too much or too little.
const LINE: usize = 64;

/// Sessions that a core's caches are likely to hold, at about 1.3 KiB of each: up to so many, looking ahead only costs.
const CACHED: usize = 1024;

/// How many packets before its turn what is found first for one is fetched, and how many packets later what that points to.
const LEAD: usize = 6;
const HOP: usize = 2;

/// Bytes of a [`Peer`] that a datagram needs, and that a packet does: what is known of the path's width as well.
const PEER_INBOUND: usize = 2 * LINE;
const PEER_OUTBOUND: usize = 3 * LINE;

/// What comes next, in its order; what needs nothing fetched, for that was just done for the one before it, is no entry.
struct Ahead<T> {
    items: [Option<T>; AHEAD],
    at: usize,
}

impl<T: Copy> Ahead<T> {
    fn new() -> Self {
        Ahead { items: [None; AHEAD], at: 0 }
    }

    /// The item that is `hops` pointers on its way.
    #[inline]
    fn item(&self, hops: usize) -> Option<T> {
        *self.items.get(self.at.checked_sub(hops * HOP)?)?
    }
}

/// Datagrams that come next: sessions, and the counters they are to be opened under.
pub struct InboundAhead(Ahead<(SessionId, u64)>);

/// Packets that come next: whose they are.
pub struct OutboundAhead(Ahead<PeerId>);

impl Sessions {
    /// Whether there are so many sessions that looking ahead pays.
    #[inline]
    pub fn looks_ahead(&self) -> bool {
        self.table.len() > CACHED
    }

    /// Looks ahead to these datagrams, at most [`AHEAD`], whose headers are unmasked already. The first of them are fetched
    /// at once; before each is opened, [`fetch_inbound`](Self::fetch_inbound) has to be called.
    pub fn look_ahead_inbound<'a>(
        &self,
        datagrams: impl Iterator<Item = &'a [u8]>,
        mut fetch: impl FnMut(*const u8),
    ) -> InboundAhead {
        let (mut ahead, mut last) = (InboundAhead(Ahead::new()), None);
        for (item, datagram) in ahead.0.items.iter_mut().zip(datagrams) {
            let Ok(header) = Header::parse(datagram) else { continue };
            if header.kind != TYPE_DATA || last == Some(header.index) {
                continue;
            }
            last = Some(header.index);
            *item = self.table.find(header.index).map(|id| (id, header.counter));
        }
        for _ in 0..LEAD {
            self.fetch_inbound(&mut ahead, &mut fetch);
        }
        ahead
    }

    /// Names to `fetch` the addresses that opening the datagrams in front of the next one will read.
    #[inline]
    pub fn fetch_inbound(&self, InboundAhead(ahead): &mut InboundAhead, mut fetch: impl FnMut(*const u8)) {
        let session = |hops| {
            let (id, counter): (SessionId, u64) = ahead.item(hops)?;
            self.table.peek(id).map(|session| (session, counter))
        };
        if let Some((session, counter)) = session(0) {
            line(session, &mut fetch);
            line(&session.opener, &mut fetch);
            line(session.opener.window_word(counter), &mut fetch);
        }
        let peer = |session: &TransportSession| self.peers.get(session.peer.index());
        if let Some((session, _)) = session(1) {
            lines(session.opener.key().schedule(), usize::MAX, &mut fetch);
            if let Some(peer) = peer(session) {
                lines(peer, PEER_INBOUND, &mut fetch);
            }
        }
        if let Some(peer) = session(2).and_then(|(session, _)| peer(session)) {
            line(&*peer.counters, &mut fetch);
        }
        ahead.at += 1;
    }

    /// Looks ahead to packets for these peers, at most [`AHEAD`]. The first of them are fetched for at once; before each is
    /// sealed, [`fetch_outbound`](Self::fetch_outbound) has to be called.
    pub fn look_ahead_outbound(
        &self,
        peers: impl Iterator<Item = PeerId>,
        mut fetch: impl FnMut(*const u8),
    ) -> OutboundAhead {
        let (mut ahead, mut last) = (OutboundAhead(Ahead::new()), None);
        for (item, id) in ahead.0.items.iter_mut().zip(peers) {
            *item = Some(id).filter(|_| last.replace(id) != Some(id));
        }
        for _ in 0..LEAD {
            self.fetch_outbound(&mut ahead, &mut fetch);
        }
        ahead
    }

    /// Names to `fetch` the addresses that sealing the packets in front of the next one will read.
    #[inline]
    pub fn fetch_outbound(&self, OutboundAhead(ahead): &mut OutboundAhead, mut fetch: impl FnMut(*const u8)) {
        let peer = |hops| self.peers.get(ahead.item(hops)?.index());
        let current = |peer: &Peer| peer.slots.current().and_then(|id| self.table.peek(id));
        if let Some(peer) = peer(0) {
            lines(peer, PEER_OUTBOUND, &mut fetch);
        }
        if let Some(peer) = peer(1) {
            line(&*peer.counters, &mut fetch);
            if let Some(session) = current(peer) {
                line(session, &mut fetch);
                line(&session.sealer, &mut fetch);
            }
        }
        if let Some(session) = peer(2).and_then(current) {
            lines(session.sealer.key().schedule(), usize::MAX, &mut fetch);
            lines(session.sealer.header_key().schedule(), usize::MAX, &mut fetch);
        }
        ahead.at += 1;
    }
}

/// The address of the cache line that `value` begins on.
#[inline(always)]
fn line<T>(value: &T, fetch: &mut impl FnMut(*const u8)) {
    fetch((&raw const *value).cast());
}

/// The addresses of every cache line that the first `len` bytes of `value` lie on.
#[inline(always)]
fn lines<T>(value: &T, len: usize, fetch: &mut impl FnMut(*const u8)) {
    let start = (&raw const *value).cast::<u8>();
    let before = start.addr() % LINE;
    for offset in (0..before + size_of::<T>().min(len)).step_by(LINE) {
        fetch(start.wrapping_sub(before).wrapping_add(offset));
    }
}
