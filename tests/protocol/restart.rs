//! An end that forgets everything is talking again within two seconds of its first packet.

use veil_proto::time::SECOND;

use crate::sim::{World, assert_recovers};

#[test]
fn either_end_restarted_talks_again_at_once() {
    for restarted in [0, 1] {
        let mut world = World::pair(61);
        world.send(0, 1);
        world.send(1, 0);
        world.run(5 * SECOND);
        world.restart(restarted);
        let first = world.send(restarted, 1 - restarted);
        world.run(2 * SECOND);
        assert!(world.delivered(first));
        let answer = world.send(1 - restarted, restarted);
        world.run(SECOND);
        assert!(world.delivered(answer));
        assert_recovers(&mut world, 0, 1);
    }
}
