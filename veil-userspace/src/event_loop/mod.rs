//! The event loop: which thread steps which stage, and how it waits.
//!
//! The stages are the same in every threading mode: [`LinkRx`](crate::link::LinkRx) and [`TunRead`](crate::tun::TunRead)
//! fill frames, [`process`] seals and opens, [`LinkTx`](crate::link::LinkTx) and [`TunWrite`](crate::tun::TunWrite) empty
//! them. So far there is one mode: [`single`].

pub mod added;
pub mod asleep;
pub mod poll;
pub mod process;
pub mod single;
pub mod waker;

/// What [`asleep`] is made of.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering, fence};
}
