//! Sessions: what a finished handshake leaves behind, and what data packets run through.
//!
//! A [`TransportSession`] is a [`Sealer`] and an [`Opener`], the two halves of its control stream, and what waits for
//! more pieces, with one owner. It moves only by value; the process stage
//! holds it in a [`SessionTable`] and decides by [`slots`] which session of a peer seals.

mod control_receiver;
pub mod limits;
pub mod reassembly;
pub mod replay_window;
pub mod retransmit_buffer;
pub mod rotator;
mod rtt;
pub mod slots;
pub mod table;
mod transport;

pub use control_receiver::ControlReceiver;
pub use reassembly::FragmentReassembly;
pub use replay_window::ReplayWindow;
pub use retransmit_buffer::RetransmitBuffer;
pub use rotator::SessionRotator;
pub use rtt::RttEstimator;
pub use slots::Slots;
pub use table::{SessionId, SessionTable};
pub use transport::{Exhausted, Opener, Role, Sealer, TransportSession};

/// Bytes that a datagram has in front of its plaintext.
pub const HEADER_LEN: usize = 16;
/// Bytes that a datagram has after its plaintext.
pub const TAG_LEN: usize = 16;
/// The shortest datagram: a keepalive.
pub const MIN_DATAGRAM: usize = HEADER_LEN + TAG_LEN;
