//! The configuration: what `veil.toml` may say, checked so that the rest of the program need not ask again.
//!
//! `raw` is the file as TOML, every value with its position; `check` turns it into the types here. Called by
//! `veil run` and `veil check`. Invariant: a [`Config`] that exists can be honoured in full; a key that is not known is
//! an error, and every error is one line that says where, what and the cure.

mod check;
mod endpoint;
mod offer;
mod raw;
#[cfg(test)]
mod tests;
mod values;

pub use endpoint::Endpoint;

use crate::keyfile;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use veil_proto::allowed_ips::IpNet;
use veil_proto::crypto::{NetworkSecret, PrivateKey, Psk, PublicKey, Suite};
use veil_proto::mux::Config as Lease;

/// Some ten thousand peers.
const CONFIG_MAX: usize = 4 << 20;

/// One tunnel interface and its peers.
pub struct Config {
    /// Name of the TUN interface, 1 to 15 bytes.
    pub name: String,
    /// This end's static key.
    pub private_key: PrivateKey,
    /// Outer address and port; `[::]` means IPv4 and IPv6, `0.0.0.0` only IPv4. The port is never 0.
    pub listen: SocketAddr,
    /// Inner addresses with their prefix length; host bits are kept.
    pub addresses: Vec<IpNet>,
    /// Largest inner packet, 1280 to 9000 bytes.
    pub mtu: u16,
    /// The host leaves checksums and the cutting of large packets to us, and takes them joined.
    pub offload: bool,
    /// Checksums are finished before a packet enters the tunnel and before the host gets it.
    pub finish_checksums: bool,
    /// The network's secret; the default when the file names none.
    pub network_secret: NetworkSecret,
    /// How the outer side sends and receives.
    pub link: LinkConfig,
    /// How the work is spread over threads.
    pub threads: ThreadsConfig,
    /// Sessions are renewed after this time instead of 120 s; never longer than that.
    pub rekey_after: Option<Duration>,
    /// Receiver indices are changed after about this time instead of 30 s; never longer than that.
    pub rotate_after: Option<Duration>,
    /// In the order of the file; names and public keys are unique.
    pub peers: Vec<PeerConfig>,
}

/// The outer side.
pub struct LinkConfig {
    /// Which link carries the datagrams.
    pub mode: LinkMode,
    /// The NIC that AF_XDP attaches to; the UDP link does not need it.
    pub interface: Option<String>,
    /// Outer DSCP, 0 to 63.
    pub dscp: u8,
    /// Whether the UDP sockets may send several datagrams as one (`UDP_SEGMENT`) and receive them so (`UDP_GRO`).
    pub gso: bool,
    pub gro: bool,
    /// Where AF_XDP's program runs.
    pub xdp_mode: XdpMode,
    /// Whether AF_XDP's datagrams over IPv4 have a UDP checksum; over IPv6 they always do.
    pub udp_checksum: bool,
}

/// The threads.
pub struct ThreadsConfig {
    /// Which threads step the stages.
    pub mode: ThreadsChoice,
    /// The cores of the stages that receive, process and transmit; empty: wherever the system likes; absent: chosen here.
    pub cores: Option<Vec<usize>>,
    /// Who moves packets never sleeps, and the kernel polls the NIC for their sockets where it can.
    pub busy_poll: bool,
    /// Microseconds in which every core of the machine must be able to wake; absent: as the system has it.
    pub cpu_latency: Option<u32>,
    /// The nice value of the threads that move packets, -20 to 19; absent: what the daemon was started with.
    pub nice: Option<i8>,
}

/// One peer.
pub struct PeerConfig {
    /// Shown by `veil show`; the first eight characters of the public key when the file gives none.
    pub name: String,
    /// Who the peer is.
    pub public_key: PublicKey,
    /// The default (none) when the file names none.
    pub psk: Psk,
    /// Networks behind the peer, host bits cleared; no network belongs to two peers.
    pub allowed_ips: Vec<IpNet>,
    /// Where to reach the peer first; it may roam later.
    pub endpoint: Option<Endpoint>,
    /// Send something at least this often.
    pub keepalive: Option<Duration>,
    /// The only cipher used with this peer, when pinned.
    pub cipher: Option<Suite>,
    /// The peer may give this end addresses, routes and the like, within its allowed IPs.
    pub lease: bool,
    /// What this end gives the peer, if it asks for a lease.
    pub offer: Option<Lease>,
}

/// Which link carries the datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LinkMode {
    /// The fastest this machine can do
    #[default]
    Auto,
    /// UDP sockets, which work everywhere
    Udp,
    /// AF_XDP, past the kernel's network stack
    Xdp,
}

/// Where on the receive path AF_XDP's program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// In the NIC's driver, with zero-copy if it can
    #[default]
    Native,
    /// In the kernel's stack, on any interface: slower than UDP sockets, for trying things out
    Generic,
}

impl LinkMode {
    /// Refuses what this build cannot do; `wish` says where it was asked for ("--link xdp").
    pub fn check_built_in(self, wish: &str) -> Result<()> {
        if self == LinkMode::Xdp && cfg!(not(feature = "xdp")) {
            bail!(
                "{wish}: this program was built without AF_XDP: use `udp` or `auto`, or build it with the feature `xdp`"
            );
        }
        Ok(())
    }
}

/// Which threads step the stages of the data path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ThreadsChoice {
    /// What suits this machine
    #[default]
    Auto,
    /// One thread does everything: lowest latency
    Single,
    /// Threads for receive, process and transmit: highest throughput
    Pipeline,
}

impl Config {
    /// Reads and checks the file at `path` and the key files it names (relative to it).
    pub fn load(path: &Path) -> Result<Config> {
        let shown = path.display();
        let failed = || format!("{shown}: cannot read the configuration: check the path given with --config");
        let mut file = File::open(path).with_context(failed)?;
        let metadata = file.metadata().with_context(failed)?;
        let bytes = keyfile::read_bounded(&mut file, CONFIG_MAX).with_context(failed)?;
        let Ok(text) = std::str::from_utf8(&bytes) else {
            bail!("{shown}: not a text file: a configuration is TOML in UTF-8");
        };
        let source = raw::Source { path, text };
        let raw = raw::parse(&source)?;
        if raw.interface.private_key.is_some() {
            keyfile::check_permissions(path, &metadata, "private key")?;
        }
        check::config(raw, &source)
    }
}
