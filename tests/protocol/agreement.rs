//! What two ends must agree on before there is a session: who they are, which suite, whose index. What does not agree is
//! counted and not answered.

use veil_proto::DropReason;
use veil_proto::crypto::{HeaderKey, KeyPair, NetworkSecret, Psk, Suite, Suites};
use veil_proto::handshake::envelope::EnvelopeKey;
use veil_proto::handshake::message::{
    InitiationPayload, MAX_HANDSHAKE, ResponsePayload, open_initiation, open_response, seal_initiation,
    seal_response,
};
use veil_proto::handshake::{Attempt, HandshakeInitiator, Identity, noise};
use veil_proto::time::SECOND;
use veil_proto::{Path, PeerId};

use crate::checks::assert_recovers;
use crate::end::{Rng, keys};
use crate::sim::{Datagram, World, address};

const BOTH: u8 = Suite::Aes256Gcm as u8 | Suite::ChaCha20Poly1305 as u8;

fn outer_keys(owner: &KeyPair) -> (EnvelopeKey, HeaderKey) {
    let secret = NetworkSecret::default();
    (EnvelopeKey::derive(&owner.public, &secret), HeaderKey::derive(&owner.public, &secret))
}

/// Has an initiation of `from`'s arrive at end 1; its envelope names `outside`, Noise inside names index 7.
fn initiate(world: &mut World, from: &KeyPair, suites: u8, outside: u32) -> noise::Initiator {
    let mut rng = Rng(u64::from(suites) << 32 | u64::from(outside));
    let payload =
        InitiationPayload { timestamp: world.now().wall, sender: 7, suites: Suites::from_bits(suites) };
    let to = keys(1);
    let (pending, message) =
        noise::Initiator::start(from, &to.public, &Psk::default(), &payload.encode(), &mut rng)
            .expect("no low-order key");
    let (envelope, header) = outer_keys(&to);
    let bytes = seal_initiation(&envelope, &header, outside, &message, None, &mut rng);
    world.arrive(Datagram { from: address(0), to: address(1), bytes });
    world.run(SECOND);
    pending
}

#[test]
fn the_suite_is_the_best_that_both_ends_may_use() {
    for offered in [BOTH, Suite::Aes256Gcm.bit(), Suite::ChaCha20Poly1305.bit(), BOTH | 0x80] {
        let Some(expected) = Suites::supported().choose(Suites::from_bits(offered)) else { continue };
        let mut world = World::pair(980);
        world.hold = true;
        let pending = initiate(&mut world, &keys(0), offered, 7);
        let mut response = world.held.pop().expect("an answer").bytes;
        let (envelope, header) = outer_keys(&keys(0));
        header.mask(&mut response);
        let message = open_response(&envelope, &mut response).expect("its envelope opens");
        let finished = pending.finish(&keys(0), &Psk::default(), message).expect("it answers");
        let said = ResponsePayload::parse(&finished.payload).expect("it parses");
        assert_eq!(said.suite, expected, "offered {offered:#x}");
    }
}

#[test]
fn no_common_suite_an_unknown_peer_and_a_false_index_are_counted_and_not_answered() {
    for (from, suites, outside, reason) in [
        (keys(0), 0, 7, DropReason::NoCommonSuite),
        (keys(0), 0x80, 7, DropReason::NoCommonSuite),
        (keys(5), BOTH, 7, DropReason::UnknownPeer),
        (keys(0), BOTH, 8, DropReason::BadNoise),
    ] {
        let mut world = World::pair(981);
        world.hold = true;
        initiate(&mut world, &from, suites, outside);
        assert_eq!(world.ends[1].handshakes.drops().of(reason), 1, "{}", reason.name());
        assert!(world.held.is_empty(), "{}: answered", reason.name());
        assert_eq!(world.ends[1].sessions.session_count(), 0);
        world.whole_again();
        assert_recovers(&mut world, 0, 1);
    }
}

#[test]
fn a_response_that_chose_what_was_not_offered_leaves_the_initiation_pending() {
    let (mut rng, now) = (Rng(982), World::pair(982).now());
    let (identity, responder) = (Identity::new(keys(0), NetworkSecret::default()), keys(1));
    let attempt = Attempt {
        peer: PeerId(0),
        remote: &responder.public,
        psk: &Psk::default(),
        suites: Suites::only(Suite::ChaCha20Poly1305),
        timestamp: now.wall,
        local_index: 7,
        path: Path::to(address(1)),
        number: 1,
        cookie: None,
    };
    let (mut pending, mut initiation) =
        HandshakeInitiator::start(&identity, attempt, &mut rng).expect("no low-order key");
    let (envelope, header) = outer_keys(&responder);
    header.mask(&mut initiation);
    let opened = open_initiation(&envelope, &mut initiation).expect("its envelope opens");
    let (envelope, header) = outer_keys(&identity.keys);
    let mut answer = |suite| {
        let received = noise::Responder::read(&responder, opened.noise).expect("it is authentic");
        let payload = ResponsePayload { sender: 9, suite }.encode();
        let (message, _) = received.respond(&Psk::default(), &payload, &mut rng).expect("it is answered");
        let mut response = seal_response(&envelope, &header, 7, &message, MAX_HANDSHAKE, &mut rng);
        header.mask(&mut response);
        response
    };
    let (remote, psk) = (&responder.public, Psk::default());
    let finished = pending.finish(&identity, remote, &psk, &mut answer(Suite::Aes256Gcm), now);
    let Err((unchanged, reason)) = finished else { panic!("a suite that was not offered") };
    assert_eq!(reason, DropReason::NoCommonSuite);
    pending = unchanged;
    assert!(pending.finish(&identity, remote, &psk, &mut answer(Suite::ChaCha20Poly1305), now).is_ok());
}
