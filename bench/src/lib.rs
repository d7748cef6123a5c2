//! What each step of a packet's path costs, in nanoseconds per packet: the `path` row of VEIL's figures.
//!
//! ```text
//! cargo bench -p veil-bench                            # everything, about a minute
//! cargo bench -p veil-bench -- open                    # what has `open` in its name
//! cargo bench -p veil-bench -- --save-baseline before  # then change something, and
//! cargo bench -p veil-bench -- --baseline before
//! RUSTFLAGS="--cfg veil_null_cipher" CARGO_TARGET_DIR=target/null cargo bench -p veil-bench    # all but the AEAD
//! ```
//!
//! | group | one element is |
//! |---|---|
//! | `mask`, `classify` | a datagram's header unmasked; parsed |
//! | `session` | a session found by its receiver index, among so many, in random order |
//! | `open`, `seal` | a datagram through an `Opener` (AEAD, replay window, key budget) or a `Sealer` (the same, and the mask) |
//! | `replay` | a counter looked up and marked |
//! | `accept` | an inner packet: its mux frame found, its header, source, partial checksum and ECN bits checked |
//! | `allowed-ips` | an inner address looked up among so many networks, in random order |
//! | `checksum` | 1400 bytes summed |
//! | `tunnel` | a 64-byte datagram through `Sessions`: all of the way in, all of the way out after routing |
//! | `split`, `coalesce` | a segment of a 64 KiB super-packet cut off; joined to one again |
//! | `super-packet` | a segment of one through the process stage: split and sealed into runs; opened, checked and marked |
//! | `queue-hop` | a run over the pipeline's queue to another core, in batches of so many, and its frame home by another |
//! | `handshake` | a handshake of both ends; the responder's part of one |
//! | `refuse` | an initiation refused, at each gate: all of its way from the link to there |
//!
//! Read `time` as nanoseconds per element, or `thrpt` as elements per second; where one iteration is many elements
//! (super-packets, shared datagrams), `time` is that of all of them. Steps follow each other without waiting,
//! so a figure is what a packet adds to a busy core, not how long a lone packet takes; and a figure says something only
//! on an idle machine, beside others of the same run. What two daemons carry is measured by other means.
//!
//! `cargo bench -p veil-bench --bench memory` tells what a peer and a session cost in memory.
//!
//! This library holds what the benchmarks share: a real handshake ([`Handshaking`]), one end with many peers ([`Hub`]),
//! one that has yet to agree with them ([`Server`]) and inner packets ([`packet`]). All of it is seeded: the same bytes in every run.

mod handshaking;
mod hub;
mod input;
pub mod packet;
mod server;

pub use handshaking::{Handshaking, Pair};
pub use hub::{Hub, indices, session};
pub use input::watch_input;
pub use server::{Client, Server};

use veil_proto::Entropy;

/// A splitmix64 generator (<https://prng.di.unimi.it/splitmix64.c>), not secret at all.
pub struct Seeded(pub u64);

impl Seeded {
    /// A number below `n`, which is small against 2^64.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}
