//! AF_XDP as the tunnel will use it, below the tunnel: the program on an interface, frames that cross to the kernel and
//! back with packets in them, and, on a simulated kernel that misbehaves, that no frame is lost or owned twice.

#[path = "../shared/attached.rs"]
mod attached;
mod conservation;
mod facts;
mod generations;
mod hook;
mod killed;
mod moves;
mod next_hop;
mod packet;
mod simulated;
mod station;
mod unharmed;
mod wire;
