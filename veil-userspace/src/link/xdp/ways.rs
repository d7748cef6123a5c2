//! Which way each path goes: by the ring, with its headers ready, or by its socket.
//!
//! An answer holds until the mirror's version changes. A path's way is sticky, since alternating would reorder: to the
//! ring only when the socket has nothing left of it to send, to the socket at once. A long run may go by the socket all
//! the same, where that is cheaper: a detour, after which the same holds.

use super::Settings;
use super::status::XdpCounters;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use veil_proto::Path;
use veil_xdp::next_hop::{Hop, NextHops};
use veil_xdp::outer::OuterTemplate;

/// Paths remembered; more begin anew.
const MOST: usize = 65_536;

/// How a path is reached by the ring.
pub struct RingWay {
    pub template: OuterTemplate,
    /// Bytes of payload that one datagram may have.
    pub most: usize,
    /// Spreads paths over queues.
    pub spread: usize,
    hop: Hop,
}

/// Why a run goes by the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BySocket {
    /// Its path goes there.
    Way,
    /// It is cheaper there.
    Detour,
}

struct Way {
    version: u64,
    ring: Option<RingWay>,
    /// It goes by the ring now.
    on_ring: bool,
    /// But its last run went by the socket.
    detour: bool,
}

/// All paths' ways.
pub struct Ways {
    ways: HashMap<Path, Way>,
    interface: u32,
    port: u16,
    dscp: u8,
    udp_checksum: bool,
}

impl Ways {
    pub fn new(settings: &Settings) -> Self {
        let Settings { port, dscp, udp_checksum, .. } = *settings;
        Ways { ways: HashMap::new(), interface: 0, port, dscp, udp_checksum }
    }

    /// The ring is that of another interface; 0 for none.
    pub fn change_interface(&mut self, interface: u32, counters: &XdpCounters) {
        if interface == 0 {
            let on_ring = self.ways.values().filter(|way| way.on_ring).count();
            counters.moves_to_socket.fetch_add(on_ring as u64, Relaxed);
        }
        self.interface = interface;
        self.ways.clear();
    }

    /// The way of `path` by the ring, if that is the way it goes. `detour` has a run go by the socket that could go by the
    /// ring; `socket_idle` says whether its socket has sent everything.
    ///
    /// # Errors
    /// It goes by its socket.
    #[inline]
    pub fn ring(
        &mut self,
        path: &Path,
        mirror: &mut NextHops,
        counters: &XdpCounters,
        detour: bool,
        socket_idle: impl FnOnce() -> bool,
    ) -> Result<&RingWay, BySocket> {
        if self.interface == 0 {
            return Err(BySocket::Way);
        }
        if self.ways.len() >= MOST && !self.ways.contains_key(path) {
            self.ways.clear();
        }
        let version = mirror.version();
        let way =
            self.ways.entry(*path).or_insert(Way { version: 0, ring: None, on_ring: false, detour: false });
        if way.version != version {
            way.version = version;
            way.ring = resolve(path, mirror, self.interface, (self.port, self.dscp), self.udp_checksum);
            if way.ring.is_none() && way.on_ring {
                way.on_ring = false;
                counters.moves_to_socket.fetch_add(1, Relaxed);
            }
        }
        let ring = way.ring.as_ref().ok_or(BySocket::Way)?;
        if detour {
            way.detour = true;
            return Err(BySocket::Detour);
        }
        if (!way.on_ring || way.detour) && !socket_idle() {
            return Err(BySocket::Way);
        }
        way.detour = false;
        if !way.on_ring {
            way.on_ring = true;
            counters.moves_to_ring.fetch_add(1, Relaxed);
        }
        Ok(ring)
    }

    /// The next hops in use that the kernel is not told of by what is sent.
    pub fn hops(&self) -> impl Iterator<Item = &Hop> {
        let on_ring = self.ways.values().filter(|way| way.on_ring);
        on_ring.filter_map(|way| way.ring.as_ref()).map(|ring| &ring.hop)
    }
}

#[cold]
fn resolve(
    path: &Path,
    mirror: &mut NextHops,
    interface: u32,
    (port, dscp): (u16, u8),
    udp_checksum: bool,
) -> Option<RingWay> {
    let remote = path.remote();
    let hop = match mirror.resolve(remote, path.local(), port, dscp) {
        Ok(hop) if hop.interface == interface => hop,
        Ok(_) => return None,
        Err(why) => {
            tracing::debug!("{remote} goes by its socket: {why}");
            return None;
        }
    };
    let source = SocketAddr::new(hop.source, port);
    let macs = (hop.source_mac, hop.neighbour_mac);
    let template = OuterTemplate::new(macs, source, remote, udp_checksum)?;
    // The Ethernet header does not count towards the MTU.
    let most = (hop.mtu as usize + 14).checked_sub(template.len())?;
    let spread = usize::from(remote.port()) ^ usize::from(path.remote_bytes()[15]);
    Some(RingWay { template, most, spread, hop })
}
