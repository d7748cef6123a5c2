//! Who the other ends are: identity, secrets and settings of each peer, as the configuration gives them.

use crate::allowed_ips::IpNet;
use crate::crypto::{Psk, PublicKey, Suites};

/// A peer's place in the configuration; stable while the tunnel lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

impl PeerId {
    /// The place as an index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One peer entry.
pub struct PeerSettings {
    /// The peer's static public key.
    pub public_key: PublicKey,
    /// Pre-shared key; zeros when there is none.
    pub psk: Psk,
    /// The suites this peer may use.
    pub suites: Suites,
    /// Inner addresses the peer may send from and is reached at.
    pub allowed_ips: Vec<IpNet>,
    /// Persistent keepalive interval in nanoseconds.
    pub keepalive: Option<u64>,
    /// Whether the peer has an endpoint of its own, so that we can start a handshake before hearing from it.
    pub has_endpoint: bool,
    /// Whether the peer may give us addresses, routes and the like, within its allowed IPs.
    pub lease: bool,
}
