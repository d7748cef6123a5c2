//! The protocol alone, in virtual time: ends made of `Handshakes` and `Sessions` on a wire that loses, delays and
//! doubles datagrams as a seed or a script says.
//!
//! Nothing here waits, opens a socket or needs a privilege. Every datagram that reaches an end goes through
//! [`end::End::receive`] and every packet through [`sim::World::settle`], which asserts that each comes at most once,
//! whole and to the right end; no world is dropped without [`sim::World::check_conservation`].

mod agreement;
mod checks;
mod control_stream;
mod crossing;
mod end;
mod handshake_and_data;
mod hostile;
mod hostile_peer;
mod inner_addresses;
mod lifetime;
mod low_order_keys;
mod owed;
mod page;
mod path_mtu;
mod random_operations;
mod replayed_initiations;
mod restart;
mod roaming;
mod rotation;
mod secrets;
mod sim;
mod timers;
