//! What is owed to a peer and finds no room goes out later.

use std::sync::atomic::Ordering::Relaxed;

use veil_proto::crypto::NetworkSecret;
use veil_proto::mux::Config;
use veil_proto::time::SECOND;
use veil_proto::tunnel::Sessions;
use veil_userspace::event_loop::process::Process;
use veil_userspace::frame::{Bounded, Inbox, Sealed};

use crate::end::keys;
use crate::sim::World;

#[test]
fn what_found_no_room_is_still_owed() {
    let mut world = World::pair(990);
    world.send(0, 1);
    world.run(SECOND);
    let (peer, now) = (world.peer(0, 1), world.now());
    let nobody = Sessions::new(&keys(0).public, &NetworkSecret::default(), &[], None);
    let mut sessions = std::mem::replace(&mut world.ends[0].sessions, nobody);
    for mtu in [1300, 1301] {
        sessions.offer(peer, Config { mtu: Some(mtu), ..Config::default() });
    }
    let counters = sessions.counters();
    let mut process = Process::new(sessions, 1416);
    // Room for one run beside the eight that a packet may need, then for all.
    for (room, sent) in [(9, 1), (64, 2)] {
        let mut to_link: Bounded<Sealed> = Bounded::new(room);
        process.settle(&mut to_link, now);
        while let Some(run) = to_link.pop() {
            run.frame.home(process.transmit_set());
        }
        assert_eq!(counters.control_sent.load(Relaxed), sent, "room for {room}");
    }
    // The world's sums are those of the end that was taken away.
    world.ends[0].received = 0;
}
