//! What an event loop is made of, whatever its threads.

use super::process::Process;
use crate::config::Endpoint;
use crate::control::lease::Leases;
use crate::control::socket::ControlSocket;
use crate::control::state::StateFile;
use crate::control::status::{Facts, Gauges};
use veil_proto::tunnel::Handshakes;

/// The ends of the data path and what happens beside it.
pub struct Parts<R, S, T, W> {
    /// Receives from the link.
    pub link_rx: R,
    /// Sends to the link.
    pub link_tx: S,
    /// Reads from the host.
    pub tun_rx: T,
    /// Writes to the host.
    pub tun_tx: W,
    /// Seals and opens.
    pub process: Process,
    /// Agrees on sessions.
    pub handshakes: Handshakes,
    /// Each peer's configured endpoint.
    pub endpoints: Vec<Option<Endpoint>>,
    /// What peers have given this host.
    pub leases: Leases,
    /// Keeps what must outlive the daemon.
    pub state: StateFile,
    /// Answers `veil show`.
    pub control: ControlSocket,
    /// What `veil show` says beside the counters.
    pub facts: Facts,
    /// The counters that `veil show` reads.
    pub gauges: Gauges,
}
