//! Looking ahead: where the memory lies that the next datagrams and packets will need, so that the caller can have it
//! fetched while it works on others.
//!
//! A server with thousands of sessions finds hardly one of them in its caches, and what a packet needs hangs together by
//! pointers: session, key schedule, peer, counters. Fetched one after the other, all of it costs several times what sealing
//! a small packet does; fetched for a whole batch at a time it costs little. Only addresses are named here, and nothing is
//! changed; a wrong guess costs a cache line.

use super::{Peer, Sessions};
use crate::PeerId;
use crate::handshake::message::{Header, TYPE_DATA};
use crate::session::SessionId;

/// Datagrams and packets looked ahead to at a time.
pub const AHEAD: usize = 32;

/// The size of a cache line on every machine this is likely to run on; another only makes it fetch too much or too little.
const LINE: usize = 64;

/// Sessions that a core's caches are likely to hold, at about 1.3 KiB of each: up to so many, looking ahead only costs.
const CACHED: usize = 1024;

impl Sessions {
    /// Whether there are so many sessions that looking ahead pays.
    #[inline]
    pub fn looks_ahead(&self) -> bool {
        self.table.len() > CACHED
    }

    /// Names to `fetch` the addresses that opening these datagrams, at most [`AHEAD`], will read. Their headers are
    /// unmasked already.
    pub fn look_ahead_inbound<'a>(
        &self,
        datagrams: impl Iterator<Item = &'a [u8]>,
        mut fetch: impl FnMut(*const u8),
    ) {
        let (mut found, mut last) = ([None; AHEAD], None);
        for (found, datagram) in found.iter_mut().zip(datagrams) {
            let Ok(header) = Header::parse(datagram) else { continue };
            if header.kind != TYPE_DATA {
                continue;
            }
            let Some(id) = self.table.find(header.index) else { continue };
            if let Some(session) = self.table.peek(id).filter(|_| last != Some(id)) {
                (*found, last) = (Some(id), Some(id));
                lines(&session.created, &mut fetch);
                lines(&session.rotator, &mut fetch);
                lines(session.opener.key(), &mut fetch);
                lines(session.opener.window_word(header.counter), &mut fetch);
            }
        }
        let sessions = || found.iter().flatten().filter_map(|&id| self.table.peek(id));
        for session in sessions() {
            lines(session.opener.key().schedule(), &mut fetch);
            if let Some(peer) = self.peers.get(session.peer.index()) {
                lines(peer, &mut fetch);
            }
        }
        for peer in sessions().filter_map(|session| self.peers.get(session.peer.index())) {
            lines(&peer.counters.rx_packets, &mut fetch);
        }
    }

    /// Names to `fetch` the addresses that sealing for these peers, at most [`AHEAD`], will read.
    pub fn look_ahead_outbound(&self, peers: impl Iterator<Item = PeerId>, mut fetch: impl FnMut(*const u8)) {
        let (mut found, mut last) = ([None; AHEAD], None);
        for (found, id) in found.iter_mut().zip(peers) {
            if let Some(peer) = self.peers.get(id.index()).filter(|_| last != Some(id)) {
                (*found, last) = (Some(peer), Some(id));
                lines(peer, &mut fetch);
            }
        }
        let peers = || found.iter().flatten();
        let current = |peer: &Peer| peer.slots.current().and_then(|id: SessionId| self.table.peek(id));
        for peer in peers() {
            lines(&peer.counters.tx_packets, &mut fetch);
            if let Some(session) = current(peer) {
                lines(&session.created, &mut fetch);
                lines(&session.sealer, &mut fetch);
            }
        }
        for session in peers().filter_map(|peer| current(peer)) {
            lines(session.sealer.key().schedule(), &mut fetch);
            lines(session.sealer.header_key().schedule(), &mut fetch);
        }
    }
}

/// The addresses of every cache line that `value` lies on.
#[inline(always)]
fn lines<T>(value: &T, fetch: &mut impl FnMut(*const u8)) {
    let start = (&raw const *value).cast::<u8>();
    let before = start.addr() % LINE;
    for offset in (0..before + size_of::<T>()).step_by(LINE) {
        fetch(start.wrapping_sub(before).wrapping_add(offset));
    }
}
