//! The two tables on a packet's way: sessions by receiver index, owners by inner address.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkId, Criterion, Throughput};
use veil_bench::{Seeded, indices};
use veil_proto::allowed_ips::{AllowedIps, IpNet};
use veil_proto::crypto::{HeaderKey, NetworkSecret, PublicKey};
use veil_proto::session::SessionTable;
use veil_proto::{Entropy, PeerId};

const SIZES: [usize; 3] = [1, 1_000, 10_000];
/// Lookups before their order repeats: too many for the branch predictor to learn.
const ORDER: usize = 1 << 14;

/// Finds the session and asks it one thing, as opening does first: a session out of the cache costs what it costs.
pub fn session(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            let header = HeaderKey::derive(&PublicKey([1; 32]), &NetworkSecret::default());
            let (indices, mut table) = (indices(size), SessionTable::default());
            for (n, &index) in indices.iter().enumerate() {
                table.insert(veil_bench::session(PeerId(n as u32), index, header.clone()));
            }
            let mut order = order(&indices);
            b.iter(|| {
                let id = table.find(order()).expect("an index in use");
                table.get(id).map(|session| session.expires())
            });
        });
    }
    group.finish();
}

pub fn allowed_ips(c: &mut Criterion) {
    let mut group = c.benchmark_group("allowed-ips");
    group.throughput(Throughput::Elements(1));
    for (family, host) in [("v4", host_v4 as fn(&mut Seeded) -> IpNet), ("v6", host_v6)] {
        for size in SIZES {
            group.bench_function(BenchmarkId::new(family, size), |b| {
                let mut entropy = Seeded(4);
                let nets: Vec<_> = std::iter::repeat_with(|| host(&mut entropy)).take(size).collect();
                let mut table = AllowedIps::new();
                for (n, &net) in nets.iter().enumerate() {
                    table.insert(net, PeerId(n as u32));
                }
                let addresses: Vec<_> = nets.iter().map(|net| net.addr).collect();
                let mut order = order(&addresses);
                b.iter(|| table.lookup(order()).expect("an address in one of the networks"));
            });
        }
    }
    group.finish();
}

/// Gives items of `from` at random, quickly.
fn order<T: Copy>(from: &[T]) -> impl FnMut() -> T + use<T> {
    let mut entropy = Seeded(5);
    let order: Vec<T> = (0..ORDER).map(|_| from[entropy.below(from.len())]).collect();
    let mut at = 0;
    move || {
        at = (at + 1) % ORDER;
        black_box(order[at])
    }
}

/// An address under 10.0.0.0/8 in a network of /16 to /32.
fn host_v4(entropy: &mut Seeded) -> IpNet {
    let addr = Ipv4Addr::from_bits(10 << 24 | entropy.next_u32() >> 8);
    IpNet { addr: IpAddr::V4(addr), prefix: 16 + entropy.below(17) as u8 }
}

/// An address under fd00::/8 in a network of /48 to /128.
fn host_v6(entropy: &mut Seeded) -> IpNet {
    let mut octets = [0xfd; 16];
    entropy.fill(&mut octets[1..]);
    IpNet { addr: IpAddr::V6(Ipv6Addr::from(octets)), prefix: 48 + entropy.below(81) as u8 }
}
