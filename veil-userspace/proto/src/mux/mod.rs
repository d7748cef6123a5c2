//! What stands inside an opened datagram: mux frames, the IP packets in them, and the checksums those may
//! leave unfinished.
//!
//! The process stage walks a plaintext with [`Frames`], which only finds the frames. An IP frame's packet
//! goes through [`InnerPacket::parse`] (then allowed IPs, by its source), where [`frame::FLAG_PARTIAL`] is set
//! [`checksum::accept_partial`], and [`ecn::decapsulate`] with the outer header's ECN bits. On the
//! way out [`checksum::sender_partial`] says whether the flag may be set, and [`frame::write_header`] writes
//! the header. CONTROL frames hold [`Message`]s.
//!
//! Invariant: nothing here trusts a byte. Every length is compared with what is there, and no number that a
//! peer sent becomes an offset.

pub mod checksum;
pub mod config;
pub mod control;
pub mod ecn;
pub mod frame;
pub mod inner;
mod tlv;

pub use checksum::PartialChecksum;
pub use config::Config;
pub use control::Message;
pub use frame::{Frames, Item, RawFrame};
pub use inner::{Inner, InnerPacket};
