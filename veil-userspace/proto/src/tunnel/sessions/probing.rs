//! How wide each peer's path is: what the host says, and the probes that find out (`protocol.md`, PROBE).

use super::{Opened, Sessions};
use crate::SingleWriter;
use crate::session::MIN_DATAGRAM;
use crate::{DropReason, Now, PeerId};
use std::net::IpAddr;

/// Replies owed to one peer at most; probes above that are lost as on any path.
const MAX_REPLIES: usize = 8;
/// Bytes of a PROBE frame's payload: token 4, reply 1.
const PROBE_LEN: usize = 5;

/// A PROBE frame to be sent, alone in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The frame's payload.
    pub payload: [u8; PROBE_LEN],
    /// The size, in bytes, to pad the datagram to; 0 for as short as it is.
    pub size: usize,
}

impl Probe {
    fn new(token: u32, reply: bool, size: usize) -> Self {
        let [a, b, c, d] = token.to_le_bytes();
        Probe { payload: [a, b, c, d, u8::from(reply)], size }
    }
}

impl Sessions {
    /// The largest datagram (UDP payload, bytes) that the way to `peer` is known to take, if that limits it.
    #[inline]
    pub fn path_limit(&self, peer: PeerId) -> Option<usize> {
        self.peers.get(peer.index())?.path_mtu.limit()
    }

    /// A packet would have filled a datagram of `len` bytes to `peer`, were it not for the path's limit.
    pub fn squeezed(&mut self, peer_id: PeerId, len: usize) {
        if let Some(peer) = self.peers.get_mut(peer_id.index())
            && peer.path_mtu.squeezed(len)
        {
            self.deadlines.no_later_than(peer_id.0, peer.path_mtu.deadline());
        }
    }

    /// This host has said that the way to `remote` takes no IP packet larger than `mtu` bytes (RFC 1191, RFC 8201).
    pub fn path_mtu(&mut self, remote: IpAddr, mtu: u32, now: Now) {
        let remote = remote.to_canonical();
        for (n, peer) in (0..).zip(&mut self.peers) {
            if peer.path.is_some_and(|path| path.remote().ip() == remote) {
                peer.path_mtu.told(mtu, remote.is_ipv4(), now.mono);
                self.deadlines.no_later_than(n, peer.path_mtu.deadline());
            }
        }
    }

    /// Takes a PROBE frame's payload in: a request is owed a reply, a reply tells what the path takes.
    ///
    /// # Errors
    /// [`DropReason::FrameMalformed`]; [`DropReason::ControlStray`] for a reply to nothing outstanding.
    pub fn accept_probe(&mut self, from: Opened, payload: &[u8], now: Now) -> Result<(), DropReason> {
        let &[a, b, c, d, reply] = payload else { return Err(DropReason::FrameMalformed) };
        let token = u32::from_le_bytes([a, b, c, d]);
        let peer = self.peers.get_mut(from.peer.index()).ok_or(DropReason::UnknownPeer)?;
        match reply {
            0 => {
                if peer.probed.len() < MAX_REPLIES {
                    peer.probed.push_back(token);
                }
                self.owe(from.peer);
            }
            1 => {
                if !peer.path_mtu.reply(token, now.mono) {
                    return Err(DropReason::ControlStray);
                }
                self.counters.probes_answered.bump(1);
                self.deadlines.no_later_than(from.peer.0, peer.path_mtu.deadline());
            }
            _ => return Err(DropReason::FrameMalformed),
        }
        Ok(())
    }

    pub(super) fn probe_timer(&mut self, peer_id: PeerId, now: Now) {
        let Some(peer) = self.peers.get_mut(peer_id.index()) else { return };
        if peer.path_mtu.deadline() > now.mono {
            return;
        }
        let before = peer.path_mtu.black_holes();
        peer.path_mtu.on_timer(now.mono);
        self.counters.black_holes.bump(peer.path_mtu.black_holes() - before);
        self.owe(peer_id);
    }

    /// The next probe, or reply to one, that is to be sent to `peer` now.
    pub fn next_probe(&mut self, peer_id: PeerId, now: Now) -> Option<Probe> {
        let peer = self.peers.get_mut(peer_id.index())?;
        if let Some(token) = peer.probed.pop_front() {
            self.counters.probe_replies_sent.bump(1);
            return Some(Probe::new(token, true, 0));
        }
        let request = peer.path_mtu.next_request(now.mono)?;
        self.counters.probes_sent.bump(1);
        self.deadlines.no_later_than(peer_id.0, peer.path_mtu.deadline());
        Some(Probe::new(request.token, false, request.size.max(MIN_DATAGRAM)))
    }
}
