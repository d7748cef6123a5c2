//! What one end says on its control streams, and the leases that are given there.

use super::*;
use crate::mux::control::CloseReason;
use crate::time::MILLISECOND;

/// An end with a crossed pair of sessions, both made at 0. The one that it asked for is current, until its peer, whose key
/// is the smaller one, speaks in the other.
fn crossed() -> Sessions {
    let allowed_ips = vec![IpNet::parse("10.0.0.1/32").expect("a network")];
    let public_key = PublicKey([0; 32]);
    let peer = PeerSettings { public_key, lease: true, allowed_ips, ..settings() };
    let mut sessions = end(&[peer], None);
    sessions.begin(PEER, at(0));
    for (index, role, number) in [(OTHER, Role::Responder, None), (INDEX, Role::Initiator, Some(1))] {
        let session = session(index, role, 0);
        sessions.handle(ToSessions::Ready(NewSession { session, path: there(), number }));
    }
    assert_eq!(current(&mut sessions).rotator.index(), INDEX);
    sessions
}

/// The peer speaks, once, in the session of a crossed pair that is not current: from here on it is.
fn is_spoken_to(sessions: &mut Sessions, index: u32, now: u64) {
    let mut keepalive = [0; MIN_DATAGRAM];
    session(index, Role::Responder, 0).sealer.seal(&mut keepalive).expect("a fresh key");
    assert!(matches!(sessions.open(&mut keepalive, &there(), at(now)), Inbound::Data(_)));
    assert_eq!(current(sessions).rotator.index(), index);
}

/// The peer gives a lease of this MTU in the session of this index; what is in force from here on, if that is news.
fn is_given(sessions: &mut Sessions, index: u32, sequence: u32, mtu: u16) -> Option<u16> {
    let slots = sessions.peers[PEER.index()].slots.all().collect::<Vec<_>>();
    let has = |id: &SessionId| sessions.table.get(*id).is_some_and(|s| s.rotator.index() == index);
    let session = slots.into_iter().find(has).expect("a session of that index");
    let mut payload = sequence.to_le_bytes().to_vec();
    Message::Config(Config { mtu: Some(mtu), ..Config::default() }).write(&mut payload).expect("it is short");
    assert_eq!(sessions.accept_control(Opened { peer: PEER, session, len: 1 }, &payload, at(0)), Ok(()));
    in_force(sessions)
}

/// The MTU of the lease that has come into force since this was last asked.
fn in_force(sessions: &mut Sessions) -> Option<u16> {
    sessions.take_lease(PEER).and_then(|config| config.mtu)
}

/// Sends the control frames that are owed, and says how many they were.
fn said(sessions: &mut Sessions, now: u64) -> usize {
    let (mut said, mut payload) = (0, Vec::new());
    while let Some(peer) = sessions.next_owing() {
        while sessions.next_control_frame(peer, at(now), &mut payload).is_some() {
            said += 1;
        }
    }
    said
}

#[test]
fn a_lease_may_set_the_keepalive_interval_and_without_one_that_of_the_configuration_counts() {
    for own in [None, Some(25)] {
        let allowed_ips = vec![IpNet::parse("10.0.0.1/32").expect("a network")];
        let keepalive = own.map(|seconds| seconds * SECOND);
        let peer = PeerSettings { lease: true, allowed_ips, keepalive, ..settings() };
        let mut sessions = in_session(end(&[peer], None), Role::Initiator);
        let session = sessions.peers[PEER.index()].slots.current().expect("a session");
        let opened = Opened { peer: PEER, session, len: 1 };
        let give = |sessions: &mut Sessions, sequence: u32, keepalive: Option<u16>, now: u64| {
            let mut payload = sequence.to_le_bytes().to_vec();
            let config = Config { keepalive, ..Config::default() };
            Message::Config(config).write(&mut payload).expect("it is short");
            assert_eq!(sessions.accept_control(opened, &payload, at(now * SECOND)), Ok(()));
        };
        // How long after `now`, in seconds, a datagram is owed next; it is looked at every second.
        let owed = |sessions: &mut Sessions, now: u64| {
            (0..=30).find(|seconds| {
                sessions.on_timer(at((now + seconds) * SECOND));
                sessions.next_flagged().is_some()
            })
        };
        owed(&mut sessions, 0);
        for (n, (given, now)) in [(5, 35), (0, 70), (5, 105)].into_iter().enumerate() {
            give(&mut sessions, n as u32, Some(given), now);
            let every = if given == 0 { own } else { Some(given.into()) };
            assert_eq!(owed(&mut sessions, now), every.map(|_| 0), "{own:?}: {given} s, the first at once");
            assert_eq!(owed(&mut sessions, now + 1), every.map(|every| every - 1), "{own:?}: {given} s");
        }
        give(&mut sessions, 3, None, 140);
        owed(&mut sessions, 140);
        assert_eq!(owed(&mut sessions, 141), own.map(|every| every - 1), "{own:?}: none given any more");
    }
}

#[test]
fn a_lease_that_is_wanted_is_asked_for_until_one_has_come_if_it_be_of_nothing() {
    let allowed_ips = vec![IpNet::parse("10.0.0.1/32").expect("a network")];
    let wanting = || PeerSettings { lease: true, allowed_ips: allowed_ips.clone(), ..settings() };
    for peer in [settings(), PeerSettings { has_endpoint: false, ..wanting() }] {
        let mut sessions = end(&[peer], None);
        sessions.seek_lease(PEER);
        sessions.on_timer(at(0));
        assert_eq!(asked(&mut sessions), 0, "not to be had, or nobody knows where");
    }

    let mut sessions = end(&[wanting()], None);
    let asked_at = |sessions: &mut Sessions, now: u64| {
        sessions.on_timer(at(now * SECOND));
        asked(sessions)
    };
    sessions.seek_lease(PEER);
    assert_eq!([0, 90, 120].map(|now| asked_at(&mut sessions, now)), [1, 0, 0], "it is asked already");
    sessions.handle(ToSessions::GaveUp { peer: PEER, number: 1 });
    assert_eq!([239, 240].map(|now| asked_at(&mut sessions, now)), [0, 1]);

    let session = session(INDEX, Role::Initiator, 250 * SECOND);
    sessions.handle(ToSessions::Ready(NewSession { session, path: there(), number: Some(2) }));
    assert_eq!(sessions.next_flagged(), Some(PEER), "the peer is to know of the session");
    let said = [254, 255, 259, 260, 265, 270, 280].map(|now| {
        assert_eq!(asked_at(&mut sessions, now), 0);
        sessions.next_flagged().is_some()
    });
    assert_eq!(said, [false, true, false, true, true, false, false], "that may have been lost");
    assert_eq!([390, 509].map(|now| asked_at(&mut sessions, now)), [0; 2], "there is a session, or was");
    assert_eq!((sessions.session_count(), asked_at(&mut sessions, 510)), (0, 1), "none has come in it");

    let session = self::session(INDEX, Role::Initiator, 515 * SECOND);
    sessions.handle(ToSessions::Ready(NewSession { session, path: there(), number: Some(3) }));
    let opened =
        Opened { peer: PEER, session: sessions.peers[0].slots.current().expect("a session"), len: 1 };
    let mut payload = 0u32.to_le_bytes().to_vec();
    Message::Config(Config::default()).write(&mut payload).expect("it is short");
    assert_eq!(sessions.accept_control(opened, &payload, at(520 * SECOND)), Ok(()));
    let later = (520..2000).map(|now| asked_at(&mut sessions, now)).sum::<usize>();
    assert_eq!((sessions.session_count(), later), (0, 0));
}

#[test]
fn an_offer_that_finds_no_place_on_its_stream_is_counted_and_said_when_there_is_one() {
    let mut sessions = hearing_itself(Role::Initiator, None);
    (0..MAX_OUTSTANDING + 3).for_each(|_| sessions.offer(PEER, Config::default()));
    let lost =
        |sessions: &Sessions| sessions.peer_counters(PEER).expect("a peer").drops.of(DropReason::ControlLost);
    assert_eq!((said(&mut sessions, 0), lost(&sessions)), (MAX_OUTSTANDING, 3));
    let session = sessions.peers[PEER.index()].slots.current().expect("a session");
    let opened = Opened { peer: PEER, session, len: 1 };
    for (next, more) in [(MAX_OUTSTANDING - 1, 0), (MAX_OUTSTANDING, 1), (MAX_OUTSTANDING + 1, 0)] {
        let mut payload = (next as u32).to_le_bytes().to_vec();
        payload.extend(0u64.to_le_bytes());
        assert_eq!(sessions.accept_ack(opened, &payload, at(0)), Ok(()));
        assert_eq!((said(&mut sessions, 0), lost(&sessions)), (more, 3), "{next} have arrived");
    }
}

#[test]
fn what_still_matters_is_said_in_the_other_session_of_a_crossed_pair_when_it_becomes_current() {
    let mut sessions = crossed();
    sessions.offer(PEER, Config::default());
    assert_eq!(sessions.unacknowledged(PEER), Some(1));
    is_spoken_to(&mut sessions, OTHER, 0);
    assert_eq!(sessions.unacknowledged(PEER), Some(1));
}

#[test]
fn what_was_not_sent_yet_in_a_session_is_owed_once_it_is_current_again() {
    let mut sessions = crossed();
    sessions.offer(PEER, Config::default());
    for index in [OTHER, INDEX] {
        is_spoken_to(&mut sessions, index, 0);
        assert_eq!(said(&mut sessions, 0), 1, "in {index}");
    }
}

#[test]
fn what_was_sent_in_a_session_is_sent_again_once_it_is_current_again_and_its_time_is_up() {
    let mut sessions = crossed();
    sessions.offer(PEER, Config::default());
    assert_eq!(said(&mut sessions, 0), 1);
    is_spoken_to(&mut sessions, OTHER, 0);
    assert_eq!(said(&mut sessions, 0), 1);
    // The time of both is up, but only under the current one is anything sent again.
    sessions.on_timer(at(SECOND));
    assert_eq!(said(&mut sessions, SECOND), 1);
    is_spoken_to(&mut sessions, INDEX, 2 * SECOND);
    sessions.on_timer(at(2 * SECOND));
    assert_eq!(said(&mut sessions, 2 * SECOND), 1);
}

#[test]
fn what_has_changed_since_is_said_anew_in_a_session_that_is_current_again() {
    let mut sessions = crossed();
    sessions.offer(PEER, Config::default());
    assert_eq!(said(&mut sessions, 0), 1);
    is_spoken_to(&mut sessions, OTHER, 0);
    sessions.offer(PEER, Config { mtu: Some(1300), ..Config::default() });
    assert_eq!(said(&mut sessions, 0), 2);
    is_spoken_to(&mut sessions, INDEX, 0);
    assert_eq!(said(&mut sessions, 0), 1);
}

#[test]
fn a_lease_counts_in_the_current_session_of_a_crossed_pair_whichever_spoke_last() {
    let mut sessions = crossed();
    assert_eq!(is_given(&mut sessions, OTHER, 0, 1300), None);
    assert_eq!(is_given(&mut sessions, INDEX, 0, 1301), Some(1301));
    assert_eq!(is_given(&mut sessions, OTHER, 1, 1302), None);
    is_spoken_to(&mut sessions, OTHER, 0);
    assert_eq!(in_force(&mut sessions), Some(1302));
    assert_eq!(is_given(&mut sessions, OTHER, 2, 1303), Some(1303));
    is_spoken_to(&mut sessions, INDEX, 0);
    assert_eq!(in_force(&mut sessions), Some(1301), "that was said last in it");
}

#[test]
fn who_keeps_beginning_and_ending_sessions_is_heard_once_until_it_pauses() {
    let mut sessions = end(&[settings()], None);
    let told = [(10_000, 1), (10_500, 0), (11_400, 0), (12_400, 1)].map(|(milliseconds, told)| {
        let (now, index) = (milliseconds * MILLISECOND, milliseconds as u32);
        let session = session(index, Role::Responder, now);
        sessions.handle(ToSessions::Ready(NewSession { session, path: there(), number: None }));
        let mut keepalive = [0; MIN_DATAGRAM];
        self::session(index, Role::Responder, now).sealer.seal(&mut keepalive).expect("a fresh key");
        let Inbound::Data(opened) = sessions.open(&mut keepalive, &there(), at(now)) else {
            panic!("no data")
        };
        while sessions.next_event().is_some() {}
        let mut payload = 0u32.to_le_bytes().to_vec();
        Message::Close(CloseReason::SHUTDOWN).write(&mut payload).expect("it is short");
        assert_eq!(sessions.accept_control(opened, &payload, at(now)), Ok(()));
        assert_eq!(sessions.session_count(), 0);
        (std::iter::from_fn(|| sessions.next_event()).count(), told)
    });
    assert!(told.iter().all(|(told, expected)| told == expected), "{told:?}");
}

#[test]
fn a_close_of_the_session_in_which_both_speak_ends_its_other_half() {
    let mut sessions = crossed();
    is_spoken_to(&mut sessions, INDEX, 0);
    let session = sessions.peers[PEER.index()].slots.current().expect("a session");
    let mut payload = 0u32.to_le_bytes().to_vec();
    Message::Close(CloseReason::SHUTDOWN).write(&mut payload).expect("it is short");
    assert_eq!((sessions.session_count(), asked(&mut sessions)), (2, 1));
    assert_eq!(sessions.accept_control(Opened { peer: PEER, session, len: 1 }, &payload, at(0)), Ok(()));
    assert_eq!(sessions.session_count(), 0);
    let retired = |message: &ToHandshakes| matches!(message, ToHandshakes::Retired(INDEX | OTHER));
    assert_eq!(std::iter::from_fn(|| sessions.next_message()).filter(retired).count(), 2);
}
