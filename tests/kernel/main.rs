//! Whole daemons in network namespaces: the real program, the real kernel, real traffic.
//!
//! Every scenario ends with the conservation check on every daemon. Without privileges they skip, loudly;
//! `VEIL_PRIVILEGED=1` turns a skip into a failure. Times are printed, not asserted, beyond a generous deadline.

#[path = "../shared/attached.rs"]
mod attached;
mod bad_input;
mod carries;
mod cleanup;
mod cpu_latency;
mod farewell;
mod flood;
mod hub;
mod idle;
mod lease;
mod narrow_path;
mod offload;
mod peer_by_hand;
mod rekey;
mod restart;
mod roaming;
mod rotation;
mod silent_path;
mod stop;
mod tunnel;
mod xdp;
