//! Handshake datagrams byte by byte: what is sealed opens, and what is not whole is refused by its name.

use super::*;
use crate::crypto::{NetworkSecret, PublicKey};
use crate::entropy::testing::Counting;
use crate::handshake::noise::{MESSAGE_1_OVERHEAD, MESSAGE_2_OVERHEAD};
use std::collections::HashSet;

const NOISE_1: [u8; MESSAGE_1_OVERHEAD + InitiationPayload::LEN] = [0xa1; _];
const NOISE_2: [u8; MESSAGE_2_OVERHEAD + ResponsePayload::LEN] = [0xa2; _];

fn keys() -> (EnvelopeKey, CookieKey, HeaderKey) {
    let (public, network) = (PublicKey([1; 32]), NetworkSecret::default());
    (
        EnvelopeKey::derive(&public, &network),
        CookieKey::derive(&public, &network),
        HeaderKey::derive(&public, &network),
    )
}

#[test]
fn a_header_survives_writing_and_reading() {
    for kind in TYPE_INITIATION..=TYPE_DATA {
        let header = Header { kind, index: 0x0403_0201, counter: 0x0807_0605_0403_0201 };
        let mut bytes = [0xff; 20];
        header.write(&mut bytes);
        assert_eq!(bytes, [kind, 0, 0, 0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 255, 255, 255, 255]);
        assert_eq!(Header::parse(&bytes), Ok(header));
    }
}

#[test]
fn a_header_of_unknown_type_or_with_reserved_bits_is_refused() {
    let mut bytes = [0; 16];
    for kind in [0, 5, 255] {
        bytes[0] = kind;
        assert_eq!(Header::parse(&bytes), Err(DropReason::BadHeader));
    }
    for reserved in 1..4 {
        let mut bytes = [TYPE_DATA, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
        assert!(Header::parse(&bytes).is_ok());
        bytes[reserved] = 0x80;
        assert_eq!(Header::parse(&bytes), Err(DropReason::BadHeader));
    }
    assert_eq!(Header::parse(&bytes[..15]), Err(DropReason::TooShort));
}

#[test]
fn payloads_survive_encoding_and_skip_tlvs_they_do_not_know() {
    let initiation = InitiationPayload {
        timestamp: Tai64n::from_unix_nanos(1_234_567_890_123),
        sender: 7,
        suites: Suites::from_bits(3),
    };
    let response = ResponsePayload { sender: 8, suite: Suite::ChaCha20Poly1305 };
    for tlvs in [&[][..], &[9, 0, 0], &[9, 2, 0, 1, 1, 200, 0, 0]] {
        assert_eq!(InitiationPayload::parse(&[&initiation.encode(), tlvs].concat()), Ok(initiation));
        assert_eq!(ResponsePayload::parse(&[&response.encode(), tlvs].concat()), Ok(response));
    }
    for tlvs in [&[9][..], &[9, 0], &[9, 1, 0], &[9, 0, 1, 1], &[9, 255, 255, 0]] {
        let parsed = InitiationPayload::parse(&[&initiation.encode(), tlvs].concat());
        assert_eq!(parsed, Err(DropReason::BadNoise));
    }
}

#[test]
fn malformed_payloads_are_refused() {
    let initiation = InitiationPayload { timestamp: Tai64n::default(), sender: 7, suites: Suites::default() };
    let response = ResponsePayload { sender: 8, suite: Suite::Aes256Gcm };
    for len in 0..InitiationPayload::LEN {
        assert_eq!(InitiationPayload::parse(&initiation.encode()[..len]), Err(DropReason::BadNoise));
    }
    for len in 0..ResponsePayload::LEN {
        assert_eq!(ResponsePayload::parse(&response.encode()[..len]), Err(DropReason::BadNoise));
    }
    assert_eq!(ResponsePayload::parse(&[8, 0, 0, 0, 3]), Err(DropReason::BadNoise));
    assert_eq!(ResponsePayload::parse(&[0, 0, 0, 0, 1]), Err(DropReason::BadNoise));
}

#[test]
fn an_initiation_opens_to_what_was_sealed_whatever_its_padding() {
    let ((env, _, hp), mut entropy) = (keys(), Counting(1));
    let (mut shortest, mut longest) = (usize::MAX, 0);
    for _ in 0..2000 {
        let mut datagram = seal_initiation(&env, &hp, 7, &NOISE_1, None, &mut entropy);
        (shortest, longest) = (shortest.min(datagram.len()), longest.max(datagram.len()));
        let tag = envelope_tag(&datagram).unwrap();
        hp.mask(&mut datagram);
        let opened = open_initiation(&env, &mut datagram).unwrap();
        assert_eq!((opened.sender, opened.noise, opened.tag), (7, &NOISE_1[..], tag));
    }
    assert!((MIN_INITIATION..MIN_INITIATION + 20).contains(&shortest), "{shortest}");
    assert!((MAX_HANDSHAKE - 20..=MAX_HANDSHAKE).contains(&longest), "{longest}");
}

#[test]
fn a_response_is_never_longer_than_the_initiation_it_answers() {
    let ((env, _, hp), mut entropy) = (keys(), Counting(2));
    for max_len in MIN_RESPONSE..1500 {
        let mut datagram = seal_response(&env, &hp, 7, &NOISE_2, max_len, &mut entropy);
        assert!((MIN_RESPONSE..=max_len.min(MAX_HANDSHAKE)).contains(&datagram.len()));
        hp.mask(&mut datagram);
        assert_eq!(Header::parse(&datagram).unwrap().index, 7);
        assert_eq!(open_response(&env, &mut datagram), Ok(&NOISE_2[..]));
    }
    assert!(seal_response(&env, &hp, 7, &NOISE_2, MIN_RESPONSE - 1, &mut entropy).is_empty());
}

#[test]
fn every_nonce_is_random_and_so_is_mac2_without_a_cookie() {
    let ((env, ck, hp), mut entropy) = (keys(), Counting(6));
    let (mut nonces, mut mac2s) = (HashSet::new(), HashSet::new());
    for _ in 0..100 {
        let initiation = seal_initiation(&env, &hp, 7, &NOISE_1, None, &mut entropy);
        let response = seal_response(&env, &hp, 7, &NOISE_2, MAX_HANDSHAKE, &mut entropy);
        let cookie = seal_cookie_reply(&ck, &hp, 7, &[1; 16], &[2; 16], MAX_HANDSHAKE, &mut entropy);
        for datagram in [&initiation, &response, &cookie] {
            assert!(nonces.insert(datagram[HEADER_LEN..HEADER_LEN + NONCE_LEN].to_vec()), "a nonce again");
        }
        assert!(mac2s.insert(initiation[initiation.len() - MAC2_LEN..].to_vec()), "the same bytes again");
    }
}

#[test]
fn every_flipped_byte_before_mac2_keeps_an_envelope_shut() {
    let ((env, _, hp), mut entropy) = (keys(), Counting(3));
    let mut sealed = seal_initiation(&env, &hp, 7, &NOISE_1, None, &mut entropy);
    hp.mask(&mut sealed);
    for at in 0..sealed.len() - MAC2_LEN {
        let mut datagram = sealed.clone();
        datagram[at] ^= 1;
        assert!(open_initiation(&env, &mut datagram).is_err(), "byte {at}");
    }
    let mut sealed = seal_response(&env, &hp, 7, &NOISE_2, MAX_HANDSHAKE, &mut entropy);
    hp.mask(&mut sealed);
    for at in 0..sealed.len() {
        let mut datagram = sealed.clone();
        datagram[at] ^= 1;
        assert!(open_response(&env, &mut datagram).is_err(), "byte {at}");
    }
}

#[test]
fn a_truncated_datagram_is_refused() {
    let ((env, ck, hp), mut entropy) = (keys(), Counting(4));
    let mut initiation = seal_initiation(&env, &hp, 7, &NOISE_1, None, &mut entropy);
    hp.mask(&mut initiation);
    for len in 0..initiation.len() {
        let mut datagram = initiation[..len].to_vec();
        assert!(open_initiation(&env, &mut datagram).is_err());
        assert!(open_response(&env, &mut datagram).is_err());
        assert!(open_cookie_reply(&ck, &[0; 16], &mut datagram).is_err());
        assert!(!verify_mac2(&datagram, &[0; 16]));
    }
}

#[test]
fn an_envelope_whose_length_field_lies_is_refused() {
    let (env, _, _) = keys();
    for length in [113, 1000, 1100] {
        let header = Header { kind: TYPE_INITIATION, index: 0, counter: 0 };
        let lie = (length as u16 + 1).to_le_bytes();
        let noise = vec![1; length];
        let content = [&[7, 0, 0, 0][..], &lie, &noise];
        let seal = |nonce, aad: &[u8], buf: &mut [u8]| env.seal(nonce, aad, buf);
        let mut datagram = seal_datagram(header, &content, 0, seal, &mut Counting(5));
        datagram.extend_from_slice(&[0; MAC2_LEN]);
        assert_eq!(open_initiation(&env, &mut datagram).unwrap_err(), DropReason::BadEnvelope);
    }
}

#[test]
fn a_cookie_reply_opens_only_for_the_initiation_it_answers() {
    let ((env, ck, hp), mut entropy) = (keys(), Counting(6));
    let initiation = seal_initiation(&env, &hp, 7, &NOISE_1, None, &mut entropy);
    let tag = envelope_tag(&initiation).unwrap();
    for max_len in MIN_INITIATION..1300 {
        let mut reply = seal_cookie_reply(&ck, &hp, 7, &tag, &[0xc0; 16], max_len, &mut entropy);
        assert!((MIN_COOKIE..=max_len).contains(&reply.len()));
        hp.mask(&mut reply);
        assert_eq!(open_cookie_reply(&ck, &[1; 16], &mut reply.clone()), Err(DropReason::BadEnvelope));
        assert_eq!(open_cookie_reply(&ck, &tag, &mut reply), Ok([0xc0; 16]));
    }
}

#[test]
fn mac2_proves_the_cookie_and_covers_the_whole_datagram() {
    let ((env, _, hp), mut entropy) = (keys(), Counting(7));
    let path = Path::to("192.0.2.1:4433".parse().unwrap());
    let cookie = cookie_value(&[1; 32], &path);
    let mut sealed = seal_initiation(&env, &hp, 7, &NOISE_1, Some(&cookie), &mut entropy);
    hp.mask(&mut sealed);
    assert!(verify_mac2(&sealed, &cookie));
    assert!(!verify_mac2(&sealed, &cookie_value(&[2; 32], &path)));
    assert!(!verify_mac2(&sealed, &cookie_value(&[1; 32], &Path::to("192.0.2.1:4434".parse().unwrap()))));
    assert!(!verify_mac2(&sealed, &cookie_value(&[1; 32], &Path::to("192.0.2.2:4433".parse().unwrap()))));
    for at in 0..sealed.len() {
        let mut datagram = sealed.clone();
        datagram[at] ^= 1;
        assert!(!verify_mac2(&datagram, &cookie), "byte {at}");
    }
    let mut without = seal_initiation(&env, &hp, 7, &NOISE_1, None, &mut entropy);
    hp.mask(&mut without);
    assert!(!verify_mac2(&without, &cookie));
}
