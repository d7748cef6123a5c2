//! The tunnel: everything of VEIL that is neither the protocol (`veil-proto`) nor AF_XDP's memory and rings (`veil-xdp`).
//!
//! [`daemon`] builds one tunnel out of a configuration and runs its [`event_loop`]. A packet's path is read downwards:
//! [`link`] and [`tun`] are the outer and inner ends, [`frame`] is what packets live in, [`event_loop::process`] seals and
//! opens. [`control`] answers `veil show`.

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
#[cfg(feature = "xdp")]
pub mod doctor;
pub mod event_loop;
pub mod frame;
pub mod heap;
pub mod histogram;
pub mod host;
pub mod keyfile;
pub mod link;
pub mod netlink;
mod page;
pub mod prefetch;
pub mod tun;
