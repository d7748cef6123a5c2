//! What a scenario asks the world: who got what, who agrees with whom, and whether everything is accounted for.

use std::sync::atomic::Ordering::Relaxed;

use veil_proto::crypto::{HeaderKey, NetworkSecret};
use veil_proto::handshake::message::Header;
use veil_proto::time::{MILLISECOND, SECOND};

use crate::end::keys;
use crate::sim::{Datagram, Link, World};

impl World {
    pub fn delivered(&self, id: u64) -> bool {
        self.packets[id as usize].2
    }

    pub fn undelivered(&self) -> usize {
        self.packets.iter().filter(|packet| !packet.2).count()
    }

    /// Whether both ends seal under the same session.
    pub fn agree(&mut self, a: usize, b: usize) -> bool {
        let one = self.current(a, b);
        one.is_some() && one == self.current(b, a).map(|(local, remote)| (remote, local))
    }

    /// The name of the session that `end` seals under to `other`.
    pub fn current(&mut self, end: usize, other: usize) -> Option<(u32, u32)> {
        let peer = self.peer(end, other);
        self.ends[end].sessions.current_session(peer)
    }

    /// The header of a datagram under way, as the end it goes to unmasks it.
    pub fn header(&self, datagram: &Datagram) -> Header {
        let key = HeaderKey::derive(&keys(self.routes[&datagram.to]).public, &NetworkSecret::default());
        let mut bytes = datagram.bytes.clone();
        key.mask(&mut bytes);
        Header::parse(&bytes).expect("a datagram of ours")
    }

    /// The tapped datagrams of this kind, in order; none of them if the tap is closed.
    pub fn tapped(&self, kind: u8) -> Vec<&Datagram> {
        self.tap.iter().flatten().filter(|datagram| self.header(datagram).kind == kind).collect()
    }

    /// What each gives the other now, the other has.
    pub fn assert_leases_agree(&self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            if let Some(offered) = &self.ends[from].offered {
                assert_eq!(self.ends[to].leased.as_ref(), Some(offered), "from {from} to {to}");
            }
        }
    }

    /// From now on datagrams arrive, all of them, in order.
    pub fn whole_again(&mut self) {
        self.hold = false;
        self.message_delay = 0;
        self.set_links(Link { delay: 10 * MILLISECOND, ..Link::default() });
    }

    /// Datagrams received = opened + handshake + dropped, at every end.
    pub fn check_conservation(&self) {
        for end in &self.ends {
            let counters = end.sessions.counters();
            let (opened, handshake) = (counters.opened.load(Relaxed), counters.handshake.load(Relaxed));
            let counted = opened + handshake + counters.drops.total();
            assert_eq!(end.received, counted, "end {}", end.spec.number);
        }
    }
}

impl Drop for World {
    /// No scenario ends without the sums.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_conservation();
        }
    }
}

/// Both ends talk and stay in agreement; for the end of a scenario, once the wire is whole again.
pub fn assert_recovers(world: &mut World, a: usize, b: usize) {
    for _ in 0..6 {
        world.send(a, b);
        world.send(b, a);
        world.run(6 * SECOND);
    }
    let last = [world.send(a, b), world.send(b, a)];
    world.run(SECOND);
    assert!(last.iter().all(|&id| world.delivered(id)), "packets still get lost");
    assert!(world.agree(a, b), "the ends seal under different sessions");
    world.check_conservation();
}
