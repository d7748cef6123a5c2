//! Inside an opened datagram: mux frames, the checks on the packets in them, and checksums.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use veil_bench::{Hub, packet};
use veil_proto::PeerId;
use veil_proto::mux::{Frames, Item, checksum as sums};
use veil_proto::tunnel::Sessions;

pub fn accept(c: &mut Criterion) {
    let peer = PeerId(0);
    // 20 packets of 64 bytes and their frame headers make 1360 bytes: a datagram shared by small packets.
    let plaintexts = [
        ("v4 of 1416 alone", packet::ipv4(peer, 1416), 1),
        ("v6 of 1416 alone", packet::ipv6(peer, 1416), 1),
        ("v4 of 64, 20 together", packet::ipv4(peer, 64), 20),
        ("v6 of 64, 20 together", packet::ipv6(peer, 64), 20),
    ];
    let hub = Hub::new(1);
    let mut group = c.benchmark_group("accept");
    for (name, packet, count) in plaintexts {
        let mut plaintext = packet::plaintext(&packet, count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(name, |b| {
            b.iter(|| assert_eq!(accepted(&hub.sessions, peer, black_box(&mut plaintext)), count));
        });
    }
    group.finish();
}

/// Walks the frames as the process stage does and counts the packets that may go to the host.
fn accepted(sessions: &Sessions, peer: PeerId, plaintext: &mut [u8]) -> usize {
    let (mut at, mut accepted) = (0, 0);
    loop {
        let mut frames = Frames::resume(plaintext, at);
        let Some(item) = frames.next() else { return accepted };
        at = frames.position();
        let Item::Frame(frame) = item else { continue };
        let Some(packet) = plaintext.get_mut(frame.payload) else { continue };
        accepted += usize::from(sessions.accept_ip(peer, frame.flags, packet, 0).is_ok());
    }
}

pub fn checksum(c: &mut Criterion) {
    let bytes: Vec<u8> = (0..1400).map(|n| (n * 7 % 251) as u8).collect();
    let mut group = c.benchmark_group("checksum");
    group.throughput(Throughput::Elements(1));
    group.bench_function("1400 bytes", |b| b.iter(|| sums::sum(black_box(&bytes), 0)));
    group.finish();
}
