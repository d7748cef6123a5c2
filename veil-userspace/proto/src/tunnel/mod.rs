//! The tunnel: [`Handshakes`], which agrees on sessions, and [`Sessions`], which uses them.
//!
//! The two never touch each other. They are joined by the value messages below, so that one loop can call them in turn
//! or two threads can own one each, and tests can delay and reorder what passes between them.

mod handshakes;
mod path_mtu;
mod pending;
mod sessions;

pub use handshakes::{AcceptedInitiation, HandshakeCounters, HandshakeOutput, Handshakes, Transmit};
pub use sessions::{
    AHEAD, Accepted, Inbound, InboundAhead, Opened, Outbound, OutboundAhead, PeerCounters, PeerEvent,
    PeerStatus, Probe, SessionCounters, Sessions,
};

use std::net::SocketAddr;

use crate::handshake::NewSession;
use crate::{Path, PeerId};

/// What goes to [`Handshakes`].
pub enum ToHandshakes {
    /// A handshake datagram, unmasked; or one that makes no sense, from where an initiation is pending.
    Datagram {
        /// Where it came from.
        path: Path,
        /// The whole datagram with its header unmasked.
        bytes: Vec<u8>,
    },
    /// A session with this peer is wanted.
    Initiate {
        /// The peer.
        peer: PeerId,
        /// The request's number; the session that answers it carries the same.
        number: u64,
        /// Where the peer was last heard, if it was.
        path: Option<Path>,
    },
    /// A session that the peer started is in use: a pending initiation of ours is moot.
    Confirmed(PeerId),
    /// A session is gone: its receiver index may be given out again.
    Retired(u32),
    /// So many receiver indices are wanted, for sessions to change to.
    WantIndices(usize),
    /// The addresses that the peer's configured endpoint resolves to now.
    Resolved {
        /// The peer.
        peer: PeerId,
        /// Its addresses, in the order to try; empty when the name did not resolve.
        addresses: Vec<SocketAddr>,
    },
}

/// What comes to [`Sessions`].
pub enum ToSessions {
    /// A handshake has finished.
    Ready(NewSession),
    /// An initiation is pending to this remote address: what makes no sense from there may be a cookie reply.
    Pending(Path),
    /// None is pending to it any more.
    NotPending(Path),
    /// Receiver indices that nobody else has.
    Indices(Vec<u32>),
    /// Nobody answered for so long that request `number` was given up.
    GaveUp {
        /// The peer.
        peer: PeerId,
        /// The request.
        number: u64,
    },
}
