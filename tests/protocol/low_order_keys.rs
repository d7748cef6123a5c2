//! Public keys of low order, as a peer's and inside messages: an error that is counted, never a panic, never a session.

use veil_proto::DropReason;
use veil_proto::crypto::{HeaderKey, NetworkSecret, PublicKey};
use veil_proto::handshake::envelope::EnvelopeKey;
use veil_proto::handshake::message::{
    MAX_HANDSHAKE, TYPE_INITIATION, TYPE_RESPONSE, open_initiation, seal_initiation, seal_response,
};
use veil_proto::time::SECOND;

use crate::checks::assert_recovers;
use crate::end::{End, Rng, Spec, keys};
use crate::sim::{Datagram, World, address};

/// Points of low order on Curve25519, as bytes: 0, 1, both of order 8, p - 1, p, p + 1.
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

/// Lengths of the Noise messages: what the message needs, keys and tags included.
const NOISE_1: usize = 96 + 17;
const NOISE_2: usize = 48 + 5;

fn points() -> impl Iterator<Item = [u8; 32]> {
    LOW_ORDER.iter().map(|hex| {
        std::array::from_fn(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).expect("two hex digits"))
    })
}

/// The keys that anyone who knows end `n`'s public key can derive.
fn outer_keys(n: usize) -> (EnvelopeKey, HeaderKey) {
    let (public, secret) = (keys(n).public, NetworkSecret::default());
    (EnvelopeKey::derive(&public, &secret), HeaderKey::derive(&public, &secret))
}

#[test]
fn a_peer_whose_key_is_of_low_order_is_never_sent_to_and_is_given_up() {
    for point in points() {
        let mut world = World::pair(81);
        let mut spec: Spec = world.ends[0].spec.clone();
        spec.peers[0].public_key = PublicKey(point);
        world.ends[0] = End::new(spec, 81, 0);
        world.tap = Some(Vec::new());
        world.send(0, 1);
        world.run(100 * SECOND);
        assert_eq!(world.tap.take().map(|sent| sent.len()), Some(0), "nothing was sent");
        assert!(world.ends[0].handshakes.drops().of(DropReason::LowOrderKey) >= 17);
        assert_eq!((world.ends[0].gave_up(), world.ends[0].unsent), (1, 1));
    }
}

#[test]
fn an_initiation_with_an_ephemeral_of_low_order_is_counted_and_not_answered() {
    let mut world = World::pair(82);
    world.hold = true;
    let (envelope, header) = outer_keys(1);
    for (n, point) in points().enumerate() {
        let mut noise = vec![0x5a; NOISE_1];
        noise[..32].copy_from_slice(&point);
        let bytes = seal_initiation(&envelope, &header, 77, &noise, None, &mut Rng(n as u64));
        world.arrive(Datagram { from: address(9), to: address(1), bytes });
        world.run(SECOND);
        assert_eq!(world.ends[1].handshakes.drops().of(DropReason::LowOrderKey), n as u64 + 1);
    }
    assert!(world.held.is_empty());
    assert_eq!(world.ends[1].sessions.session_count(), 0);
    world.whole_again();
    assert_recovers(&mut world, 0, 1);
}

#[test]
fn a_response_with_an_ephemeral_of_low_order_leaves_the_initiation_pending() {
    let mut world = World::pair(83);
    world.hold = true;
    let id = world.send(0, 1);
    world.run(0);
    let initiation = world.held.remove(0);
    assert_eq!(world.header(&initiation).kind, TYPE_INITIATION);
    let (envelope, header) = outer_keys(1);
    let mut opened = initiation.bytes.clone();
    header.mask(&mut opened);
    let sender = open_initiation(&envelope, &mut opened).expect("its envelope opens").sender;

    let (envelope, header) = outer_keys(0);
    for (n, point) in points().enumerate() {
        let mut noise = vec![0x5a; NOISE_2];
        noise[..32].copy_from_slice(&point);
        let bytes = seal_response(&envelope, &header, sender, &noise, MAX_HANDSHAKE, &mut Rng(n as u64));
        let response = Datagram { from: address(1), to: address(0), bytes };
        assert_eq!(world.header(&response).kind, TYPE_RESPONSE);
        world.arrive(response);
        world.run(0);
        assert_eq!(world.ends[0].handshakes.drops().of(DropReason::LowOrderKey), n as u64 + 1);
    }
    assert!(world.held.is_empty() && world.current(0, 1).is_none());
    // The true answer to the same initiation still counts.
    world.whole_again();
    world.arrive(initiation);
    world.run(SECOND);
    assert!(world.delivered(id) && world.agree(0, 1));
}
