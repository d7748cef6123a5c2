//! One end alone: what it does with its own sessions, without another.

mod control;

use super::*;
use crate::crypto::{AeadKey, Psk, Suite, Suites};
use crate::handshake::NewSession;
use crate::handshake::message::MAX_HANDSHAKE;
use crate::mux::Message;
use crate::mux::checksum::testing::{fix_header, v4, v6};
use crate::mux::ecn::{CE, ECT_0, NOT_ECT};
use crate::mux::inner::UDP;
use crate::session::limits::Limits;
use crate::session::reassembly::fragment_header;
use crate::session::retransmit_buffer::{MAX_OUTSTANDING, SEQUENCE_LEN};
use crate::session::{MIN_DATAGRAM, Opener, Role, Sealer, TransportSession};
use crate::time::SECOND;
use crate::tunnel::ToSessions;
use crate::{Now, Tai64n};
use std::sync::atomic::Ordering::Relaxed;

const PEER: PeerId = PeerId(0);
const INDEX: u32 = 5;
/// That of the other session of a crossed pair.
const OTHER: u32 = 8;
const RENEWED: u64 = 130 * SECOND;

fn at(mono: u64) -> Now {
    Now { mono, wall: Tai64n::default() }
}

fn path(remote: &str, local: &str) -> Path {
    Path::to(remote.parse().expect("an address and port")).from_local(local.parse().expect("an address"))
}

fn there() -> Path {
    path("192.0.2.1:4433", "198.51.100.1")
}

/// A session with the peer that both seals for this end and opens here: the keys of its two directions are one.
fn session(index: u32, role: Role, created: u64) -> Box<TransportSession> {
    let key = || AeadKey::new(Suite::Aes256Gcm, &[7; 32]);
    let header = HeaderKey::derive(&PublicKey([1; 32]), &NetworkSecret::default());
    let (sealer, opener) = (Sealer::new(key(), index, header), Opener::new(key()));
    Box::new(TransportSession::new(PEER, role, created, index, sealer, opener))
}

fn settings() -> PeerSettings {
    PeerSettings {
        public_key: PublicKey([2; 32]),
        psk: Psk::default(),
        suites: Suites::supported(),
        allowed_ips: Vec::new(),
        keepalive: None,
        has_endpoint: true,
        lease: false,
    }
}

fn end(peers: &[PeerSettings], rekey_after: Option<u64>) -> Sessions {
    Sessions::new(&PublicKey([1; 32]), &NetworkSecret::default(), peers, rekey_after)
}

/// An end that hears what it seals, in a session made at 0 under its first request.
fn hearing_itself(role: Role, rekey_after: Option<u64>) -> Sessions {
    in_session(end(&[settings()], rekey_after), role)
}

fn in_session(mut sessions: Sessions, role: Role) -> Sessions {
    assert_eq!(sessions.begin(PEER, at(0)), Outbound::Wait);
    assert_eq!(asked(&mut sessions), 1);
    let session = session(INDEX, role, 0);
    sessions.handle(ToSessions::Ready(NewSession { session, path: there(), number: Some(1) }));
    asked(&mut sessions);
    sessions
}

/// Replaces its session, 130 s old, by another of its making.
fn renew(sessions: &mut Sessions, path: Path) {
    sessions.begin(PEER, at(RENEWED));
    assert_eq!(asked(sessions), 1);
    let session = session(INDEX + 1, Role::Initiator, RENEWED);
    sessions.handle(ToSessions::Ready(NewSession { session, path, number: Some(2) }));
    asked(sessions);
}

/// How many handshakes were asked for since this was last asked.
fn asked(sessions: &mut Sessions) -> usize {
    let messages = std::iter::from_fn(|| sessions.next_message());
    messages.filter(|message| matches!(message, ToHandshakes::Initiate { .. })).count()
}

fn current(sessions: &mut Sessions) -> &mut TransportSession {
    let id = sessions.peers[PEER.index()].slots.current().expect("a session");
    sessions.table.get(id).expect("it is there")
}

/// Seals a keepalive.
fn sealed(sessions: &mut Sessions, now: u64) -> [u8; MIN_DATAGRAM] {
    let mut datagram = [0; MIN_DATAGRAM];
    sessions.seal(PEER, &mut datagram, at(now)).expect("a key to seal under");
    datagram
}

/// Seals a keepalive and opens it, as it came this way.
fn hears_itself(sessions: &mut Sessions, from: &Path, now: u64) {
    let mut datagram = sealed(sessions, now);
    assert!(matches!(sessions.open(&mut datagram, from, at(now)), Inbound::Data(_)));
}

#[test]
fn whichever_end_has_a_key_at_its_limit_asks_for_another_session() {
    let limit = Limits::of(true).rekey_after;
    for role in [Role::Initiator, Role::Responder] {
        let mut sessions = hearing_itself(role, None);
        current(&mut sessions).wear(limit - 1, 0);
        sessions.begin(PEER, at(SECOND));
        assert_eq!(asked(&mut sessions), 0, "{role:?}");
        sealed(&mut sessions, SECOND);
        assert_eq!(sessions.begin(PEER, at(SECOND)), Outbound::Ready(there()));
        assert_eq!(asked(&mut sessions), 1, "{role:?}: it has sealed so much");

        let mut sessions = hearing_itself(role, None);
        current(&mut sessions).wear(0, limit - 2);
        hears_itself(&mut sessions, &there(), SECOND);
        assert_eq!(asked(&mut sessions), 0, "{role:?}");
        hears_itself(&mut sessions, &there(), SECOND);
        assert_eq!(asked(&mut sessions), 1, "{role:?}: it has opened so much");
    }
}

#[test]
fn it_is_told_that_a_peer_has_moved_which_needs_no_handshake() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    assert!(sessions.take_moved(), "it was nowhere");
    for (remote, moves) in [("192.0.2.1:4433", false), ("192.0.2.7:4433", true), ("192.0.2.7:4433", false)] {
        hears_itself(&mut sessions, &path(remote, "198.51.100.1"), SECOND);
        assert_eq!(sessions.take_moved(), moves, "{remote}");
    }
}

#[test]
fn only_what_comes_in_the_current_session_answers_what_went_in_it() {
    // The peer of the larger key answers in the session it has asked for, and may know of no other.
    for (index, asks) in [(INDEX, 0), (OTHER, 1)] {
        let mut sessions = end(&[settings()], None);
        sessions.begin(PEER, at(0));
        for (index, role, number) in [(OTHER, Role::Responder, None), (INDEX, Role::Initiator, Some(1))] {
            let session = session(index, role, 0);
            sessions.handle(ToSessions::Ready(NewSession { session, path: there(), number }));
        }
        let mut data = [0; MIN_DATAGRAM + 16];
        sessions.seal(PEER, &mut data, at(SECOND)).expect("a key to seal under");
        let mut keepalive = [0; MIN_DATAGRAM];
        session(index, Role::Responder, 0).sealer.seal(&mut keepalive).expect("a fresh key");
        assert!(matches!(sessions.open(&mut keepalive, &there(), at(2 * SECOND)), Inbound::Data(_)));
        assert_eq!(current(&mut sessions).rotator.index(), INDEX);
        asked(&mut sessions);
        sessions.on_timer(at(16 * SECOND));
        assert_eq!(asked(&mut sessions), asks, "answered in {index}");
    }
}

#[test]
fn a_peer_whose_session_has_no_key_left_cannot_be_sent_to_and_what_comes_in_it_is_refused() {
    let limit = Limits::of(true).reject_after;
    let mut sessions = hearing_itself(Role::Responder, None);
    let mut datagram = sealed(&mut sessions, SECOND);
    current(&mut sessions).wear(limit, limit);
    assert_eq!(sessions.begin(PEER, at(SECOND)), Outbound::Wait);
    assert_eq!(asked(&mut sessions), 1);
    assert_eq!(sessions.way_to(PEER, at(SECOND)), None);
    assert!(sessions.seal(PEER, &mut [0; MIN_DATAGRAM], at(SECOND)).is_err());
    let inbound = sessions.open(&mut datagram, &there(), at(SECOND));
    assert!(matches!(inbound, Inbound::Dropped(DropReason::SessionExpired)), "{inbound:?}");
}

#[test]
fn a_configuration_shortens_both_times_of_a_renewal_and_lengthens_neither() {
    let cases = [(None, 120, 165), (Some(10), 10, 20), (Some(100), 100, 165), (Some(500), 120, 165)];
    for (configured, sends, receives) in cases {
        let rekey_after = configured.map(|seconds: u64| seconds * SECOND);
        for (now, times) in [(sends * SECOND - 1, 0), (sends * SECOND, 1)] {
            let mut sessions = hearing_itself(Role::Initiator, rekey_after);
            sessions.begin(PEER, at(now));
            assert_eq!(asked(&mut sessions), times, "{configured:?}: sends at {now}");
        }
        for (now, times) in [(receives * SECOND - 1, 0), (receives * SECOND, 1)] {
            let mut sessions = hearing_itself(Role::Initiator, rekey_after);
            hears_itself(&mut sessions, &there(), now);
            assert_eq!(asked(&mut sessions), times, "{configured:?}: receives at {now}");
        }
    }
}

#[test]
fn a_configuration_shortens_the_life_of_an_index_and_does_not_lengthen_it() {
    for (configured, latest) in [(5, 6), (30, 36), (1000, 36)] {
        let sessions = end(&[settings()], None).with_rotation(configured * SECOND);
        let mut sessions = in_session(sessions, Role::Initiator);
        assert!(current(&mut sessions).rotator.is_due(latest * SECOND), "{configured}");
        assert!(!current(&mut sessions).rotator.is_due(latest * SECOND / 2), "{configured}");
    }
}

#[test]
fn a_peer_is_answered_from_where_it_was_reached_last() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    sessions.path_mtu(there().remote().ip(), 1300, at(0));
    let elsewhere = path("192.0.2.1:4433", "198.51.100.2");
    hears_itself(&mut sessions, &elsewhere, SECOND);
    assert_eq!(sessions.begin(PEER, at(SECOND)), Outbound::Ready(elsewhere));
    assert_eq!(sessions.path_limit(PEER), Some(1300 - 28), "on the way to the same address and port");

    // A response is no news of that: the initiation went to where the peer is known to be.
    renew(&mut sessions, Path::to(there().remote()));
    assert_eq!(sessions.begin(PEER, at(RENEWED)), Outbound::Ready(elsewhere));
}

#[test]
fn pieces_of_packets_that_never_became_whole_are_counted_when_they_go() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    let id = sessions.peers[PEER.index()].slots.current().expect("a session");
    let piece = |n: u32| [&fragment_header(n, 0, 2000)[..], &[0; 1000]].concat();
    for (n, now) in [(1, 0), (2, 0), (3, 5)] {
        assert_eq!(sessions.accept_fragment(id, 0, 0, &piece(n), at(now * SECOND)), Ok(None));
    }
    let incomplete =
        |sessions: &Sessions| sessions.counters.reassembly_drops.of(DropReason::FragmentIncomplete);
    assert_eq!(incomplete(&sessions), 2, "after 5 s");
    sessions.on_timer(at(180 * SECOND));
    assert_eq!((incomplete(&sessions), sessions.session_count()), (3, 0), "with its session");
}

#[test]
fn a_session_that_is_not_current_is_not_renewed_for_its_age() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    let mut late = sealed(&mut sessions, RENEWED);
    renew(&mut sessions, there());
    let inbound = sessions.open(&mut late, &there(), at(170 * SECOND));
    assert!(matches!(inbound, Inbound::Data(_)), "it opens: {inbound:?}");
    assert_eq!(asked(&mut sessions), 0);
}

#[test]
fn a_session_that_is_over_is_unknown_even_if_it_was_the_last_to_be_heard() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    let mut late = [SECOND, SECOND].map(|now| sealed(&mut sessions, now));
    hears_itself(&mut sessions, &there(), SECOND);
    sessions.on_timer(at(180 * SECOND));
    assert_eq!(sessions.session_count(), 0);
    let mut unknown = |sessions: &mut Sessions, n: usize| {
        let inbound = sessions.open(&mut late[n], &there(), at(180 * SECOND));
        matches!(inbound, Inbound::Dropped(DropReason::UnknownIndex))
    };
    assert!(unknown(&mut sessions, 0));
    // Another session takes its place.
    sessions.begin(PEER, at(180 * SECOND));
    let session = session(INDEX + 1, Role::Initiator, 180 * SECOND);
    sessions.handle(ToSessions::Ready(NewSession { session, path: there(), number: Some(2) }));
    assert!(unknown(&mut sessions, 1));
}

#[test]
fn an_index_is_released_ten_seconds_after_the_first_datagram_under_the_next_with_nothing_else_going_on() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    sessions.handle(ToSessions::Indices(vec![6]));
    assert!(sessions.rotate_session(PEER, at(SECOND)));
    let [mut late, mut later] = [SECOND, SECOND].map(|now| sealed(&mut sessions, now));
    assert!(current(&mut sessions).sealer.redirect(INDEX, 6));
    hears_itself(&mut sessions, &there(), 20 * SECOND);
    assert!(matches!(sessions.open(&mut late, &there(), at(29 * SECOND)), Inbound::Data(_)));
    asked(&mut sessions);
    assert!(sessions.next_deadline().is_some_and(|at| at <= 30 * SECOND));
    sessions.on_timer(at(30 * SECOND));
    let retired = std::iter::from_fn(|| sessions.next_message());
    assert_eq!(retired.filter(|message| matches!(message, ToHandshakes::Retired(INDEX))).count(), 1);
    // Though it was the last to be heard.
    let inbound = sessions.open(&mut later, &there(), at(30 * SECOND));
    assert!(matches!(inbound, Inbound::Dropped(DropReason::UnknownIndex)), "{inbound:?}");
}

#[test]
fn a_persistent_keepalive_counts_from_the_last_datagram_sent() {
    let peer = PeerSettings { keepalive: Some(25 * SECOND), ..settings() };
    let mut sessions = in_session(end(&[peer], None), Role::Initiator);
    assert_eq!(sessions.next_flagged(), Some(PEER), "the first at once");
    sealed(&mut sessions, 0);
    sealed(&mut sessions, 10 * SECOND);
    for (now, owed) in [(25 * SECOND, None), (35 * SECOND - 1, None), (35 * SECOND, Some(PEER))] {
        sessions.on_timer(at(now));
        assert_eq!(sessions.next_flagged(), owed, "at {now}");
    }
}

#[test]
fn a_peer_that_has_closed_its_session_is_owed_nothing_and_not_called_again() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    let mut datagram = [0; MIN_DATAGRAM + 1];
    sessions.seal(PEER, &mut datagram, at(0)).expect("a key to seal under");
    let Inbound::Data(opened) = sessions.open(&mut datagram, &there(), at(0)) else { panic!("it opens") };
    sessions.flag(PEER);
    let mut close = vec![0; SEQUENCE_LEN];
    Message::Close(CloseReason::SHUTDOWN).write(&mut close).expect("it is short");
    assert_eq!(sessions.accept_control(opened, &close, at(0)), Ok(()));
    for now in 0..200 {
        sessions.on_timer(at(now * SECOND));
        assert_eq!((sessions.next_flagged(), asked(&mut sessions)), (None, 0), "after {now} s");
    }
    assert_eq!(sessions.session_count(), 0);
}

#[test]
fn what_answers_or_gives_up_another_request_changes_nothing_and_its_index_comes_back() {
    let mut sessions = end(&[settings()], None);
    sessions.begin(PEER, at(0));
    assert_eq!(asked(&mut sessions), 1);
    sessions.handle(ToSessions::GaveUp { peer: PEER, number: 0 });
    let session = session(INDEX, Role::Initiator, 0);
    sessions.handle(ToSessions::Ready(NewSession { session, path: there(), number: Some(2) }));
    let drops = &sessions.peer_counters(PEER).expect("a peer").drops;
    assert_eq!((drops.of(DropReason::Overtaken), sessions.session_count()), (1, 0));
    assert!(matches!(sessions.next_message(), Some(ToHandshakes::Retired(INDEX))));
    assert_eq!(
        (sessions.begin(PEER, at(0)), asked(&mut sessions)),
        (Outbound::Wait, 0),
        "it is still asked for"
    );
    assert_eq!(sessions.next_event(), None);
}

#[test]
fn a_session_that_has_just_come_is_not_asked_anew_for_what_went_unanswered_before_it() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    sessions.seal(PEER, &mut [0; MIN_DATAGRAM + 1], at(RENEWED - SECOND)).expect("a key to seal under");
    renew(&mut sessions, there());
    sessions.on_timer(at(RENEWED + 20 * SECOND));
    assert_eq!(asked(&mut sessions), 0);
}

#[test]
fn indices_are_asked_for_again_when_they_run_short_and_not_before_the_last_have_come() {
    let mut sessions = in_session(end(&[settings()], None), Role::Initiator);
    let wanted = |sessions: &mut Sessions| {
        let messages = std::iter::from_fn(|| sessions.next_message());
        messages.filter(|message| matches!(message, ToHandshakes::WantIndices(_))).count()
    };
    assert!(!sessions.rotate_session(PEER, at(0)));
    assert_eq!(wanted(&mut sessions), 0, "they are on their way since there is a session");
    sessions.handle(ToSessions::Indices(vec![6]));
    assert!(sessions.rotate_session(PEER, at(0)));
    assert_eq!(wanted(&mut sessions), 1);
}

#[test]
fn traffic_changes_the_index_of_its_own_session_only_and_without_a_spare_one_after_another_second() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    let former = sessions.peers[PEER.index()].slots.current().expect("a session");
    renew(&mut sessions, there());
    sessions.handle(ToSessions::Indices(vec![7]));
    sessions.carried(Opened { peer: PEER, session: former, len: 1 }, at(RENEWED + SECOND));
    assert_eq!(current(&mut sessions).rotator.index(), INDEX + 1, "its own time has not come");

    let mut sessions = hearing_itself(Role::Initiator, None);
    let session = sessions.peers[PEER.index()].slots.current().expect("a session");
    let opened = Opened { peer: PEER, session, len: 1 };
    sessions.carried(opened, at(40 * SECOND));
    sessions.handle(ToSessions::Indices(vec![7]));
    for (now, index) in [(41 * SECOND - 1, INDEX), (41 * SECOND, 7)] {
        sessions.carried(opened, at(now));
        assert_eq!(current(&mut sessions).rotator.index(), index, "at {now}");
    }
}

#[test]
fn a_peer_is_owed_eight_probe_replies_at_most() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    let session = sessions.peers[PEER.index()].slots.current().expect("a session");
    let opened = Opened { peer: PEER, session, len: 1 };
    for token in 0..20 {
        assert_eq!(sessions.accept_probe(opened, &[token, 0, 0, 0, 0], at(0)), Ok(()));
    }
    let replies = std::iter::from_fn(|| sessions.next_probe(PEER, at(0)));
    let tokens: Vec<u8> = replies.map(|probe| probe.payload[0]).collect();
    assert_eq!(tokens, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(sessions.accept_probe(opened, &[9, 0, 0, 0, 0], at(0)), Ok(()));
    assert!(sessions.next_probe(PEER, at(0)).is_some(), "once they are sent there is room again");
}

#[test]
fn what_the_kernel_says_of_an_address_holds_for_the_peers_there_and_no_others() {
    let mut sessions = end(&[settings(), settings(), settings()], None);
    let paths =
        ["192.0.2.1:4433", "192.0.2.1:9", "192.0.2.2:4433"].map(|remote| path(remote, "198.51.100.1"));
    for (n, path) in (0..).zip(paths) {
        sessions.restore(PeerId(n), path);
    }
    let limits = |sessions: &Sessions| [0, 1, 2].map(|n| sessions.path_limit(PeerId(n)));
    sessions.path_mtu("::ffff:192.0.2.1".parse().expect("an address"), 1400, at(0));
    assert_eq!(limits(&sessions), [Some(1372), Some(1372), None]);
    sessions.path_mtu("192.0.2.2".parse().expect("an address"), 576, at(0));
    assert_eq!(limits(&sessions), [Some(1372), Some(1372), Some(1280 - 28)]);
    // A larger one is no news.
    sessions.path_mtu("192.0.2.1".parse().expect("an address"), 1500, at(0));
    assert_eq!(limits(&sessions), [Some(1372), Some(1372), Some(1280 - 28)]);
}

#[test]
fn a_search_whose_probe_the_kernel_rules_out_goes_on_at_once_with_what_it_says() {
    let mut sessions = end(&[settings()], None);
    sessions.restore(PEER, there());
    let (ip, later) = (there().remote().ip(), at(600 * SECOND));
    sessions.path_mtu(ip, 1280, at(0));
    // The first has the limit's time come up, the second begins the search.
    for _ in 0..2 {
        sessions.squeezed(PEER, 1452);
        sessions.on_timer(later);
    }
    // The probe has not been sent yet, so no answer to it is waited for.
    sessions.path_mtu(ip, 1350, later);
    sessions.on_timer(later);
    assert_eq!(sessions.next_probe(PEER, later).map(|probe| probe.size), Some(1350 - 28));
}

#[test]
fn each_family_of_addresses_has_its_own_least_width() {
    for (remote, floor) in [("192.0.2.1:4433", 1252), ("[2001:db8::1]:4433", 1232)] {
        for (len, probed) in [(floor, None), (floor + 1, Some(floor + 1))] {
            let mut sessions = hearing_itself(Role::Initiator, None);
            hears_itself(&mut sessions, &Path::to(remote.parse().expect("an address and port")), 0);
            sessions.seal(PEER, &mut vec![0; len], at(0)).expect("a key to seal under");
            sessions.on_timer(at(SECOND));
            assert_eq!(sessions.next_probe(PEER, at(SECOND)).map(|probe| probe.size), probed, "{remote}");
        }
    }
}

#[test]
fn what_passes_is_counted_to_its_peer() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    sealed(&mut sessions, 0);
    hears_itself(&mut sessions, &there(), 0);
    let counters = sessions.peer_counters(PEER).expect("a peer");
    let of = |counter: &AtomicU64| counter.load(Relaxed);
    assert_eq!((of(&counters.tx_packets), of(&counters.tx_bytes)), (2, 2 * MIN_DATAGRAM as u64));
    assert_eq!((of(&counters.rx_packets), of(&counters.rx_bytes)), (1, MIN_DATAGRAM as u64));
}

#[test]
fn packet_ids_count_up_for_each_peer() {
    let mut sessions = end(&[settings(), settings()], None);
    let [first, other] = [0, 1].map(|peer| sessions.next_fragment_id(PeerId(peer)));
    for n in 1..10 {
        assert_eq!(sessions.next_fragment_id(PeerId(0)), first + n);
    }
    assert_eq!(sessions.next_fragment_id(PeerId(1)), other + 1);
}

#[test]
fn a_packet_goes_to_whom_its_destination_belongs() {
    let nets = [["10.0.0.1/32", "fd00::1/128"], ["10.0.0.2/32", "fd00::2/128"]];
    let peers = nets.map(|nets| {
        let allowed_ips = nets.map(|net| IpNet::parse(net).expect("a network")).to_vec();
        PeerSettings { allowed_ips, ..settings() }
    });
    let sessions = end(&peers, None);
    for (from, to) in [(0, 1), (1, 0)] {
        let mut v4 = v4(UDP, &[0; 8], &[]);
        (v4[15], v4[19]) = (1 + from, 1 + to);
        let mut v6 = v6(UDP, &[0; 8]);
        (v6[23], v6[39]) = (1 + from, 1 + to);
        for mut packet in [v4, v6] {
            let last = if packet[0] >> 4 == 4 { 19 } else { 39 };
            assert_eq!(sessions.route(&packet), Ok(PeerId(to.into())));
            for len in 1..=last {
                assert_eq!(sessions.route(&packet[..len]), Err(DropReason::NotIp), "{len} bytes");
            }
            packet[last] = 3;
            assert_eq!(sessions.route(&packet), Err(DropReason::NoRoute));
            packet[0] = 0x50;
            assert_eq!(sessions.route(&packet), Err(DropReason::NotIp));
        }
    }
    assert_eq!(sessions.route(&[]), Err(DropReason::NotIp));
}

#[test]
fn a_mark_that_a_datagram_met_is_its_packets_and_no_other_bit_of_its_tos() {
    let allowed_ips = vec![IpNet::parse("10.0.0.1/32").expect("a network")];
    let sessions = end(&[PeerSettings { allowed_ips, ..settings() }], None);
    for (inner, outer, expected) in [
        (ECT_0, 0xb8 | CE, Ok(CE)),
        (ECT_0, 0xb8, Ok(ECT_0)),
        (NOT_ECT, 0xb8 | ECT_0, Ok(NOT_ECT)),
        (NOT_ECT, CE, Err(DropReason::InnerEcn)),
    ] {
        let mut packet = v4(UDP, &[0; 8], &[]);
        packet[1] = inner;
        fix_header(&mut packet);
        let accepted = sessions.accept_ip(PEER, 0, &mut packet, outer);
        assert_eq!(accepted.map(|_| packet[1]), expected, "{inner} in {outer}");
    }
}

#[test]
fn what_makes_no_sense_may_be_a_cookie_reply_only_up_to_its_length_and_from_where_one_is_awaited() {
    let mut sessions = end(&[settings()], None);
    let is_taken = |sessions: &mut Sessions, from: &Path, len: usize| match sessions.open_unmasked(
        &mut vec![9; len],
        from,
        at(0),
    ) {
        Inbound::Handshake => true,
        Inbound::Dropped(DropReason::BadHeader) => false,
        other => panic!("{other:?}"),
    };
    assert!(!is_taken(&mut sessions, &there(), 100));
    sessions.handle(ToSessions::Pending(there()));
    assert!(is_taken(&mut sessions, &there(), 100) && is_taken(&mut sessions, &there(), MAX_HANDSHAKE));
    assert!(!is_taken(&mut sessions, &there(), MAX_HANDSHAKE + 1));
    assert!(!is_taken(&mut sessions, &path("192.0.2.1:4434", "198.51.100.1"), 100), "another port");
    assert!(!is_taken(&mut sessions, &path("192.0.2.2:4433", "198.51.100.1"), 100), "another address");
    sessions.handle(ToSessions::NotPending(there()));
    assert!(!is_taken(&mut sessions, &there(), 100));
}

#[test]
fn a_peer_owns_a_single_address_unless_another_has_it_too() {
    let net = |text: &str| IpNet::parse(text).expect("a network");
    let nets = [
        [net("10.0.0.1/32"), net("10.0.1.0/24"), net("fd00::1/128")],
        [net("10.0.0.2/32"), net("fd00::/64"), net("fd00::1/128")],
    ];
    let mut table = AllowedIps::new();
    for (n, nets) in nets.iter().enumerate() {
        nets.iter().for_each(|&net| _ = table.insert(net, PeerId(n as u32)));
    }
    let own = [0, 1].map(|n| Own::of(PeerId(n), &nets[n as usize], &table));
    let has = |n: usize, text: &str| own[n].has(net(text).addr);
    assert!(has(0, "10.0.0.1") && has(1, "10.0.0.2") && has(1, "fd00::1"));
    assert!(!has(0, "fd00::1"), "the second peer has taken it over");
    assert!(!has(0, "10.0.1.1") && !has(1, "fd00::2"), "networks are the table's business");
}
