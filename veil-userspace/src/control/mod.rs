//! Talking about a running tunnel: the socket that `veil show` asks, what it is told, names resolved beside
//! the loop, and the file that outlives it.

pub mod lease;
pub mod resolver;
pub mod show;
pub mod socket;
pub mod state;
pub mod status;
