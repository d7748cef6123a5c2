//! What the host and we leave undone on inner packets, and take up again: super-packets and unfinished checksums.
//!
//! [`Segments`] cuts a TCP or UDP super-packet that the host gave us (TSO, USO), while it is sealed. [`Coalescer`] joins
//! the packets of a flow that came out of the tunnel into super-packets for the host. Both are pure: bytes and
//! [`VnetHdr`](crate::frame::VnetHdr)s in, bytes and headers out; neither knows a session.
//!
//! The invariant: what is joined and cut again is what it was, byte for byte, but for the IPv4 id of packets that
//! forbid fragments (RFC 6864: it says nothing there).

mod coalesce;
mod headers;
mod rules;
mod split;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use coalesce::{Coalescer, MAX_REFUSALS, Sink};
pub use headers::{Headers, IPV4_LEN, IPV6_LEN, Transport};
pub use split::Segments;
