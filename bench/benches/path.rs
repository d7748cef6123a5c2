//! Each step of a packet's path through the protocol, in nanoseconds per packet.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use veil_bench::{Direction, Seeded, datagram, direction, inner_packet};
use veil_proto::PeerId;
use veil_proto::allowed_ips::{AllowedIps, IpNet};
use veil_proto::crypto::{KeyPair, Psk, Suite, generate_x25519_keypair};
use veil_proto::handshake::message::Header;
use veil_proto::handshake::noise::{Initiator, Responder};
use veil_proto::mux::checksum::sum;
use veil_proto::mux::{Frames, InnerPacket};
use veil_proto::session::ReplayWindow;

const SIZES: [usize; 2] = [64, 1420];
const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    for suite in SUITES {
        for size in SIZES {
            let (mut ends, mut bytes) = (direction(suite), datagram(size));
            group.bench_function(BenchmarkId::new(suite.name(), size), |b| {
                b.iter(|| ends.sealer.seal(black_box(&mut bytes)));
            });
        }
    }
    group.finish();
}

/// Opening includes the replay check, as on the path; the datagrams are sealed outside the measurement.
fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    for suite in SUITES {
        for size in SIZES {
            let Direction { mut sealer, mut opener, header_key } = direction(suite);
            let mut sealed = || {
                let mut bytes = datagram(size);
                sealer.seal(&mut bytes).expect("far from any limit");
                header_key.mask(&mut bytes);
                bytes
            };
            group.bench_function(BenchmarkId::new(suite.name(), size), |b| {
                b.iter_batched_ref(
                    &mut sealed,
                    |bytes| {
                        let header = Header::parse(bytes).expect("a header");
                        opener.open(header.counter, bytes).expect("it opens")
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

fn steps(c: &mut Criterion) {
    let (ends, mut bytes) = (direction(Suite::Aes256Gcm), datagram(1420));
    c.bench_function("unmask", |b| b.iter(|| ends.header_key.mask(black_box(&mut bytes))));

    let (mut window, mut counter) = (ReplayWindow::default(), 0);
    c.bench_function("replay check", |b| {
        b.iter(|| {
            counter += 1;
            window.check_and_mark(black_box(counter))
        });
    });

    let packet = inner_packet(PeerId(1), 1400);
    c.bench_function("inner parse", |b| b.iter(|| InnerPacket::parse(black_box(&packet))));
    c.bench_function("checksum 1400 B", |b| b.iter(|| sum(black_box(&packet), 0)));
    let plaintext = [&[1, 0][..], &1400u16.to_le_bytes(), &packet].concat();
    c.bench_function("mux walk", |b| b.iter(|| Frames::new(black_box(&plaintext)).count()));
}

fn allowed_ips(c: &mut Criterion) {
    let mut group = c.benchmark_group("allowed IPs");
    for entries in [1u32, 1_000, 10_000] {
        let mut table = AllowedIps::default();
        for n in 0..entries {
            table.insert(IpNet::host(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | n))), PeerId(n));
        }
        let mut n = 0;
        group.bench_function(BenchmarkId::new("v4", entries), |b| {
            b.iter(|| {
                n = (n + 7919) % entries;
                table.lookup_v4(black_box((0x0a00_0000 | n).to_be_bytes()))
            });
        });
    }
    group.finish();
}

/// Both ends' curve work and hashing of one handshake.
fn handshake(c: &mut Criterion) {
    let mut entropy = Seeded(5);
    let (ours, theirs): (KeyPair, KeyPair) =
        (generate_x25519_keypair(&mut entropy), generate_x25519_keypair(&mut entropy));
    let psk = Psk::from_bytes([1; 32]);
    c.bench_function("handshake, both ends", |b| {
        b.iter(|| {
            let (pending, first) =
                Initiator::start(&ours, &theirs.public, &psk, b"", &mut entropy).expect("no low-order key");
            let received = Responder::read(&theirs, &first).expect("authentic");
            let (second, _) = received.respond(&psk, b"", &mut entropy).expect("no low-order key");
            pending.finish(&ours, &psk, &second).expect("authentic").h
        });
    });
}

criterion_group! {
    name = path;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = seal, open, steps, allowed_ips, handshake
}
criterion_main!(path);
