//! Our Noise against snow's, byte for byte, in both roles; and what a damaged message does: nothing.

use snow::{Builder, HandshakeState};
use veil_proto::crypto::{KeyPair, PrivateKey, Psk, PublicKey};
use veil_proto::handshake::noise::{Finished, Initiator, Responder};
use veil_proto::{DropReason, Entropy};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_SHA256";
const PSK: [u8; 32] = [0x33; 32];
const INITIATOR_EPHEMERAL: [u8; 32] = [0x44; 32];
const RESPONDER_EPHEMERAL: [u8; 32] = [0x55; 32];
const PAYLOAD_1: &[u8] = b"a timestamp, an index";
const PAYLOAD_2: &[u8] = b"a suite";

/// The one ephemeral key a handshake asks for.
struct Fixed([u8; 32]);

impl Entropy for Fixed {
    fn fill(&mut self, out: &mut [u8]) {
        out.copy_from_slice(&self.0);
    }
}

fn initiator_keys() -> KeyPair {
    KeyPair::from_private(PrivateKey::from_bytes([0x11; 32]))
}

fn responder_keys() -> KeyPair {
    KeyPair::from_private(PrivateKey::from_bytes([0x22; 32]))
}

fn psk() -> Psk {
    Psk::from_bytes(PSK)
}

fn start(payload: &[u8]) -> (Initiator, Vec<u8>) {
    let (local, remote) = (initiator_keys(), responder_keys().public);
    Initiator::start(&local, &remote, &psk(), payload, &mut Fixed(INITIATOR_EPHEMERAL)).unwrap()
}

fn respond(message: &[u8], payload: &[u8]) -> (Vec<u8>, Finished) {
    let received = Responder::read(&responder_keys(), message).unwrap();
    received.respond(&psk(), payload, &mut Fixed(RESPONDER_EPHEMERAL)).unwrap()
}

fn snow(private: &[u8], ephemeral: &[u8], remote: Option<&[u8]>, psk: &[u8; 32]) -> HandshakeState {
    let builder = Builder::new(PATTERN.parse().unwrap())
        .local_private_key(private)
        .unwrap()
        .prologue(b"VEIL/1")
        .unwrap()
        .psk(2, psk)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(ephemeral);
    match remote {
        Some(remote) => builder.remote_public_key(remote).unwrap().build_initiator().unwrap(),
        None => builder.build_responder().unwrap(),
    }
}

fn snow_initiator(psk: &[u8; 32]) -> HandshakeState {
    snow(&[0x11; 32], &INITIATOR_EPHEMERAL, Some(responder_keys().public.as_bytes()), psk)
}

fn snow_responder(psk: &[u8; 32]) -> HandshakeState {
    snow(&[0x22; 32], &RESPONDER_EPHEMERAL, None, psk)
}

fn written(state: &mut HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 65535];
    let len = state.write_message(payload, &mut out).unwrap();
    out.truncate(len);
    out
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 65535];
    let len = state.read_message(message, &mut out).unwrap();
    out.truncate(len);
    out
}

fn assert_same_end(ours: &Finished, theirs: &mut HandshakeState) {
    assert!(theirs.is_handshake_finished());
    assert_eq!(ours.h[..], *theirs.get_handshake_hash());
    assert_eq!((*ours.k1, *ours.k2), theirs.dangerously_get_raw_split());
}

#[test]
fn both_roles_send_the_very_bytes_that_snow_sends() {
    let long = vec![0xee; 900];
    for (payload_1, payload_2) in [(PAYLOAD_1, PAYLOAD_2), (&[], &[]), (&long, &long)] {
        let (mut their_initiator, mut their_responder) = (snow_initiator(&PSK), snow_responder(&PSK));
        let (initiator, message_1) = start(payload_1);
        assert_eq!(message_1, written(&mut their_initiator, payload_1));
        assert_eq!(read(&mut their_responder, &message_1), payload_1);

        let (message_2, responder_end) = respond(&message_1, payload_2);
        assert_eq!(message_2, written(&mut their_responder, payload_2));
        assert_eq!(read(&mut their_initiator, &message_2), payload_2);

        let initiator_end = initiator.finish(&initiator_keys(), &psk(), &message_2).unwrap();
        assert_eq!((&initiator_end.payload[..], &responder_end.payload[..]), (payload_2, payload_1));
        assert_same_end(&initiator_end, &mut their_initiator);
        assert_same_end(&responder_end, &mut their_responder);
        assert_same_end(&initiator_end, &mut their_responder);
    }
}

#[test]
fn without_a_configured_psk_it_is_32_zero_bytes() {
    let mut their_responder = snow_responder(&[0; 32]);
    let (initiator, message_1) = start(PAYLOAD_1);
    read(&mut their_responder, &message_1);
    let message_2 = written(&mut their_responder, PAYLOAD_2);
    let end = initiator.finish(&initiator_keys(), &Psk::default(), &message_2).unwrap();
    assert_same_end(&end, &mut their_responder);
}

#[test]
fn the_responder_learns_who_speaks_and_what_is_said() {
    let received = Responder::read(&responder_keys(), &start(PAYLOAD_1).1).unwrap();
    assert_eq!(received.remote, initiator_keys().public);
    assert_eq!(received.payload[..], *PAYLOAD_1);
}

#[test]
fn every_flipped_bit_in_message_1_is_refused_and_the_true_message_still_works() {
    let (initiator, message_1) = start(PAYLOAD_1);
    for at in 0..message_1.len() {
        for bit in [0x01, 0x80] {
            let mut flipped = message_1.clone();
            flipped[at] ^= bit;
            // X25519 ignores the top bit of a public key, but the handshake hash does not.
            assert!(
                matches!(Responder::read(&responder_keys(), &flipped), Err(DropReason::BadNoise)),
                "byte {at}"
            );
        }
    }
    let (message_2, theirs) = respond(&message_1, PAYLOAD_2);
    let ours = initiator.finish(&initiator_keys(), &psk(), &message_2).unwrap();
    assert_eq!((ours.k1, ours.k2, ours.h), (theirs.k1, theirs.k2, theirs.h));
}

#[test]
fn every_flipped_bit_in_message_2_is_refused_and_leaves_the_pending_state_usable() {
    let (initiator, message_1) = start(PAYLOAD_1);
    let (message_2, theirs) = respond(&message_1, PAYLOAD_2);
    let local = initiator_keys();
    for at in 0..message_2.len() {
        for bit in [0x01, 0x80] {
            let mut flipped = message_2.clone();
            flipped[at] ^= bit;
            let end = initiator.finish(&local, &psk(), &flipped);
            assert!(matches!(end, Err(DropReason::BadNoise)), "byte {at}");
        }
    }
    let ours = initiator.finish(&local, &psk(), &message_2).unwrap();
    assert_eq!((ours.k1, ours.k2, ours.h), (theirs.k1, theirs.k2, theirs.h));
}

#[test]
fn a_shorter_or_longer_message_is_refused() {
    let (initiator, message_1) = start(PAYLOAD_1);
    let (message_2, _) = respond(&message_1, PAYLOAD_2);
    for len in 0..message_1.len() {
        assert!(matches!(Responder::read(&responder_keys(), &message_1[..len]), Err(DropReason::BadNoise)));
    }
    for len in 0..message_2.len() {
        let end = initiator.finish(&initiator_keys(), &psk(), &message_2[..len]);
        assert!(matches!(end, Err(DropReason::BadNoise)));
    }
    assert!(Responder::read(&responder_keys(), &[&message_1[..], &[0]].concat()).is_err());
    assert!(initiator.finish(&initiator_keys(), &psk(), &[&message_2[..], &[0]].concat()).is_err());
}

#[test]
fn another_psk_or_another_static_key_does_not_finish() {
    let (initiator, message_1) = start(PAYLOAD_1);
    let (message_2, _) = respond(&message_1, PAYLOAD_2);
    assert!(initiator.finish(&initiator_keys(), &Psk::default(), &message_2).is_err());
    assert!(initiator.finish(&responder_keys(), &psk(), &message_2).is_err());
    assert!(Responder::read(&initiator_keys(), &message_1).is_err());
}

#[test]
fn low_order_keys_are_errors_in_every_place_they_can_stand() {
    let zero = PublicKey([0; 32]);
    let mut one = [0; 32];
    one[0] = 1;
    for low in [zero, PublicKey(one)] {
        let local = initiator_keys();
        assert!(Initiator::start(&local, &low, &psk(), PAYLOAD_1, &mut Fixed(INITIATOR_EPHEMERAL)).is_err());

        let (initiator, mut message_1) = start(PAYLOAD_1);
        let (mut message_2, _) = respond(&message_1, PAYLOAD_2);
        message_1[..32].copy_from_slice(low.as_bytes());
        message_2[..32].copy_from_slice(low.as_bytes());
        assert_eq!(Responder::read(&responder_keys(), &message_1).err(), Some(DropReason::LowOrderKey));
        assert_eq!(initiator.finish(&local, &psk(), &message_2).err(), Some(DropReason::LowOrderKey));
    }
}
