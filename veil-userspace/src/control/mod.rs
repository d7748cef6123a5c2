//! Talking about a running tunnel: the socket that `veil show` asks, what it is told, and names resolved beside the loop.

pub mod resolver;
pub mod show;
pub mod socket;
pub mod status;
