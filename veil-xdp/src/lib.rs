//! VEIL's AF_XDP side: memory and rings shared with the kernel, and the program that steers packets into them. It knows
//! nothing of tunnels, and its public API is safe.
//!
//! In the order of use:
//!
//! 1. [`Program::attach`] puts the steering program on an interface, where it stays while the value lives.
//! 2. [`Umem::new`] makes the memory and hands out all its frames, once. Some are for receiving, some for sending; that
//!    is the caller's choice.
//! 3. [`Umem::bind`] makes one socket per receive queue, as two halves that may live on two threads.
//! 4. [`XskRx::fill`] gives the kernel frames; then [`Program::register`] lets packets come:
//!    [`XskRx::receive`].
//! 5. A frame to send has its packet from [`HEADROOM`] on: [`XskTx::send`], [`XskTx::kick`], and later
//!    [`XskTx::complete`] for getting it back.
//!
//! A [`UmemFrame`] is never dropped. It ends on a ring (`fill`, `send`) or, when the UMEM is no longer used, by
//! [`UmemFrame::retire`]. To end a UMEM: [`Program::unregister`] its sockets, drop both halves of each (what is on their
//! rings goes home by itself), retire the frames in hand as they come, drop the [`Umem`]. The memory goes with the last
//! frame, and only then is the first socket's queue free for another generation.
//!
//! ```no_run
//! # use veil_xdp::*; use std::os::fd::AsFd;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut program = Program::attach("veth0", AttachMode::Native)?;
//! let (umem, mut frames) = Umem::new(UmemSettings::default())?;
//! let XskSocket { mut rx, mut tx, mode } = umem.bind("veth0", 0, BindMode::Copy)?;
//! rx.fill(&mut frames)?;
//! program.register(0, rx.as_fd())?;
//! let mut packets = Vec::new();
//! rx.receive(&mut packets, 64);
//! tx.send(&mut packets.into());
//! tx.kick()?;
//! tx.complete(&mut frames);
//! # Ok(()) }
//! ```

mod counters;
mod frame;
mod holder;
pub mod ladder;
pub mod next_hop;
pub mod nic;
pub mod outer;
mod program;
pub mod rings;
mod rx;
mod settings;
mod socket;
mod sys;
mod tx;
mod umem;

pub use counters::{RefusedCounters, RxCounters, SocketCounters, TxCounters};
pub use frame::{HEADROOM, UmemFrame, lost_frames};
pub use holder::{Holder, holder, program_on};
pub use program::{AttachError, AttachMode, Program, SteeringError};
pub use rx::XskRx;
pub use settings::{FrameSize, UmemError, UmemSettings};
pub use socket::{BindError, BindMode, XdpStatistics, XskSocket, statistics};
pub use tx::{Kicked, XskTx};
pub use umem::Umem;
