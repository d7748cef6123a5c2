//! The event loop: which thread steps which stage, and how it waits.
//!
//! The stages are the same in every threading mode: [`LinkRx`](crate::link::LinkRx) and [`TunRead`](crate::tun::TunRead)
//! fill frames, [`process`] seals and opens, [`LinkTx`](crate::link::LinkTx) and [`TunWrite`](crate::tun::TunWrite) empty
//! them. A mode only chooses which thread steps which stage: all of them one ([`single`]), or each its own ([`pipeline`]).

pub mod added;
pub mod asleep;
mod control;
pub mod cores;
pub mod cpu_latency;
mod futex;
pub mod mode;
mod parts;
pub mod pipeline;
pub mod poll;
mod portion;
pub mod priority;
pub mod process;
mod quota;
pub mod single;
#[cfg(test)]
mod testing;
pub mod waker;

pub use mode::ThreadingMode;
pub use parts::Parts;

/// What [`asleep`] is made of.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering, fence};
}
