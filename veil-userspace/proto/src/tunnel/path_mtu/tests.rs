//! A path in virtual time: probes go out and come back, or do not.

use super::*;

const V4_FLOOR: usize = FLOOR - 28;

/// A path that takes datagrams of up to `mtu` bytes and answers `rtt` later.
struct Wire {
    path: PathMtu,
    now: u64,
    mtu: usize,
    rtt: u64,
    /// Sizes probed, the least possible as 0.
    probed: Vec<usize>,
    /// Replies under way: when they come, and to which token.
    replies: Vec<(u64, u32)>,
}

impl Wire {
    fn new(mtu: usize) -> Self {
        Wire {
            path: PathMtu::new(true),
            now: SECOND,
            mtu,
            rtt: 20 * MILLISECOND,
            probed: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Lets time pass; probes go out and are answered when the wire takes them.
    fn run(&mut self, nanos: u64) {
        let until = self.now + nanos;
        loop {
            while let Some(request) = self.path.next_request(self.now) {
                self.probed.push(request.size);
                // It is sealed as every datagram is.
                self.path.sent(request.size);
                if request.size <= self.mtu {
                    self.replies.push((self.now + self.rtt, request.token));
                }
            }
            let reply = self.replies.iter().map(|reply| reply.0).min().unwrap_or(NEVER);
            self.now = self.now.max(self.path.deadline().min(reply).min(until));
            if self.now == until {
                return;
            }
            let (come, under_way) = self.replies.iter().partition(|reply| reply.0 <= self.now);
            self.replies = under_way;
            let come: Vec<_> = come;
            for (_, token) in come {
                self.path.reply(token, self.now);
            }
            self.path.on_timer(self.now);
        }
    }

    /// Sends datagrams of `len` bytes for so long, 10 ms apart; returns how long the last gap was in which none that was
    /// sent would have arrived.
    fn send(&mut self, len: usize, nanos: u64) -> u64 {
        let (until, mut arrived, mut gap) = (self.now + nanos, self.now, 0);
        while self.now < until {
            let limit = self.path.limit().unwrap_or(len);
            if len > limit {
                self.path.squeezed(len);
            }
            let size = len.min(limit);
            self.path.sent(size);
            if size <= self.mtu {
                gap = gap.max(self.now - arrived);
                arrived = self.now;
            }
            self.run(10 * MILLISECOND);
        }
        gap.max(self.now - arrived)
    }
}

#[test]
fn an_idle_path_and_one_of_small_datagrams_are_never_probed() {
    let mut wire = Wire::new(1452);
    wire.run(1000 * SECOND);
    assert_eq!(wire.path.deadline(), NEVER);
    wire.send(V4_FLOOR, 10 * SECOND);
    assert_eq!((wire.probed.len(), wire.path.deadline()), (0, NEVER));
}

#[test]
fn a_size_in_use_is_confirmed_twice_a_second_and_no_more() {
    let mut wire = Wire::new(1452);
    wire.send(1452, 10 * SECOND);
    let large = wire.probed.iter().filter(|&&size| size == 1452).count();
    assert!((18..=22).contains(&large), "{large}");
    assert_eq!(wire.path.limit(), None);
}

#[test]
fn a_path_that_shrinks_silently_stalls_for_less_than_two_seconds() {
    for start in 0..60 {
        let mut wire = Wire::new(1452);
        wire.send(1452, 5 * SECOND + start * 10 * MILLISECOND);
        wire.mtu = 1352;
        let gap = wire.send(1452, 20 * SECOND);
        // An inner TCP tries again 1.4 s after the loss and not before 3 s.
        assert!(gap < 1400 * MILLISECOND, "{} ms", gap / MILLISECOND);
        let limit = wire.path.limit().unwrap();
        assert!((1352 - GAIN..=1352).contains(&limit), "{limit}");
    }
}

#[test]
fn a_narrow_path_is_found_narrow_from_the_start() {
    let mut wire = Wire::new(V4_FLOOR + 3);
    let gap = wire.send(1452, 20 * SECOND);
    assert!(gap < 2 * SECOND, "{} ms", gap / MILLISECOND);
    assert!(wire.path.limit().unwrap() <= V4_FLOOR + 3);
    let probes = wire.probed.len();
    wire.send(1452, 60 * SECOND);
    assert_eq!(wire.probed.len(), probes, "the search is over, the floor needs no confirmation");
}

#[test]
fn a_path_that_has_grown_is_found_when_the_old_limit_is_forgotten() {
    let mut wire = Wire::new(1352);
    wire.send(1452, 20 * SECOND);
    wire.mtu = 1452;
    wire.send(1452, 500 * SECOND);
    assert!(wire.path.limit().is_some_and(|limit| limit <= 1352));
    wire.send(1452, 200 * SECOND);
    assert_eq!(wire.path.limit(), None);
}

#[test]
fn a_path_that_is_idle_again_is_not_probed_any_more() {
    for mtu in [1452, 1352] {
        let mut wire = Wire::new(mtu);
        wire.send(1452, 30 * SECOND);
        wire.run(SECOND);
        let probes = wire.probed.len();
        wire.run(3600 * SECOND);
        assert!(wire.probed.len() <= probes + 1, "{} more", wire.probed.len() - probes);
        assert_eq!(wire.path.deadline(), NEVER);
    }
}

#[test]
fn round_trips_that_grow_hide_no_black_hole() {
    let mut wire = Wire::new(1452);
    wire.send(1452, 5 * SECOND);
    wire.rtt = 250 * MILLISECOND;
    wire.send(1452, 5 * SECOND);
    assert_eq!(wire.path.black_holes(), 0);
    wire.mtu = 1352;
    let gap = wire.send(1452, 60 * SECOND);
    assert!(gap < 3 * SECOND, "{} ms", gap / MILLISECOND);
    assert_eq!(wire.path.black_holes(), 1);
}

#[test]
fn a_dead_path_says_nothing_about_sizes() {
    let mut wire = Wire::new(1452);
    wire.send(1452, 2 * SECOND);
    wire.mtu = 0;
    // Not even the small ones come through: size 0 stands for them.
    let drop_all = |wire: &mut Wire| {
        for _ in 0..500 {
            wire.path.sent(1452);
            while wire.path.next_request(wire.now).is_some() {}
            wire.now = wire.now.max(wire.path.deadline().min(wire.now + 50 * MILLISECOND));
            wire.path.on_timer(wire.now);
        }
    };
    drop_all(&mut wire);
    assert_eq!(wire.path.limit(), None);
}

#[test]
fn what_the_kernel_says_holds_at_once_and_is_not_probed_above() {
    let mut path = PathMtu::new(true);
    path.told(1400, true, 0);
    assert_eq!(path.limit(), Some(1372));
    path.squeezed(1452);
    path.on_timer(SECOND);
    assert_eq!(path.next_request(SECOND), None);
    path.told(68, true, 0);
    assert_eq!(path.limit(), Some(V4_FLOOR), "no lower than the floor");
    path.told(1400, true, SECOND);
    assert_eq!(path.limit(), Some(V4_FLOOR), "and not up again by being told a higher one");
    path.on_timer(SECOND + BELIEVED);
    path.squeezed(1452);
    path.on_timer(SECOND + BELIEVED);
    assert_eq!(path.next_request(SECOND + BELIEVED).map(|r| r.size), Some(1452), "until it is forgotten");
}

#[test]
fn a_probe_above_what_the_kernel_says_is_given_up_and_finds_no_black_hole() {
    let mut path = PathMtu::new(true);
    path.sent(1452);
    path.on_timer(0);
    let probes = [path.next_request(0), path.next_request(0)].map(|request| request.expect("a probe"));
    assert_eq!(probes.map(|probe| probe.size), [1452, 0]);
    path.told(1300, true, 1);
    // The small one came through; the large one never will.
    path.reply(probes[1].token, 2);
    for now in (0..10).map(|n| n * SECOND) {
        path.on_timer(now);
        assert_eq!(path.next_request(now), None, "at {now}");
    }
    assert_eq!((path.limit(), path.black_holes()), (Some(1272), 0));
}

#[test]
fn what_probes_have_found_is_not_unlearned_from_a_larger_size_of_the_kernels() {
    let mut wire = Wire::new(1352);
    wire.send(1452, 20 * SECOND);
    let found = wire.path.limit();
    assert!(found.is_some_and(|limit| (1336..=1352).contains(&limit)), "{found:?}");
    let lost = wire.probed.drain(..).filter(|&size| size > 1352).min().expect("some were too large");
    wire.path.told(1472, true, wire.now);
    wire.send(1452, 5 * SECOND);
    assert_eq!(wire.path.limit(), found);
    assert!(wire.probed.iter().all(|&size| size < lost), "{lost}: {:?}", wire.probed);
}

#[test]
fn a_reply_to_a_probe_that_was_not_sent_yet_says_nothing() {
    for ahead in 0..4 {
        let mut path = PathMtu::new(true);
        let first = path.next_token;
        path.sent(1452);
        path.on_timer(0);
        path.reply(first.wrapping_add(ahead), 0);
        assert_eq!(path.next_request(0).map(|request| request.size), Some(1452), "token {ahead}");
        assert!(!path.reply(first.wrapping_add(2 + ahead), 0), "of the next try");
        assert!(path.probe.is_some());
    }
}

#[test]
fn a_reply_to_nothing_outstanding_changes_nothing() {
    let mut path = PathMtu::new(false);
    assert!(!path.reply(0, 0));
    path.sent(1452);
    path.on_timer(0);
    let token = path.next_request(0).unwrap().token;
    assert!(!path.reply(token.wrapping_add(7), 1) && !path.reply(token.wrapping_sub(200), 1));
    assert!(path.probe.is_some());
    assert!(path.reply(token, 2) && path.probe.is_none());
    let deadline = path.deadline();
    assert!(path.reply(token, 3), "late, which happens");
    assert_eq!((path.deadline(), path.limit()), (deadline, None));
}

#[test]
fn another_path_begins_anew_but_its_tokens_go_on() {
    let mut path = PathMtu::new(true);
    path.told(1300, true, 0);
    path.squeezed(1452);
    path.sent(1270);
    path.on_timer(0);
    let token = path.next_request(0).unwrap().token;
    path.restart(false);
    path.sent(1452);
    path.on_timer(1);
    assert_ne!(path.next_request(1).unwrap().token, token);
    assert!(path.reply(token, 2) && path.probe.is_some(), "of the former path");
}
