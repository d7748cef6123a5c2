//! The VEIL protocol, and nothing else.
//!
//! Design principles, kept by every module here:
//!
//! 1. **No I/O.** Bytes, time ([`Now`]) and randomness ([`Entropy`]) are arguments; what to do is the result.
//! 2. **No state changes before authentication.** Until an AEAD has opened, only drop counters move.
//! 3. **Network bytes never panic.** They are parsed by bounds-checked reads into types; a failure is a [`DropReason`].
//! 4. **Secrets die on time.** Every intermediate lives in wiping memory, AEAD key schedules included.
//! 5. **No unsafe, no threads, no clock.**

pub mod allowed_ips;
pub mod counter;
pub mod crypto;
pub mod drop_reason;
pub mod entropy;
pub mod handshake;
pub mod mux;
pub mod path;
pub mod peer;
pub mod session;
pub mod thread_checker;
pub mod time;
pub mod timers;
pub mod tunnel;

pub use counter::SingleWriter;
pub use drop_reason::{DropCounters, DropReason};
pub use entropy::Entropy;
pub use path::Path;
pub use peer::PeerId;
pub use time::{Now, Tai64n};
