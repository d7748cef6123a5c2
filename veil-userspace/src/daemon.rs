//! `veil run`: builds one tunnel out of its configuration, runs it, and leaves nothing behind.
//!
//! Everything that can fail for a reason the operator can mend is done before the host is changed: names resolved, port
//! bound, control socket taken. The TUN comes last; its addresses and routes go with it when it closes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use veil_proto::crypto::{KeyPair, NetworkSecret, Psk, Suites};
use veil_proto::handshake::Identity;
use veil_proto::peer::PeerSettings;
use veil_proto::tunnel::{HandshakeOutput, Handshakes, Sessions, ToHandshakes};
use veil_proto::{Entropy, Path, PeerId};

use crate::config::{Config, LinkMode, PeerConfig, ThreadsChoice};
use crate::control::lease::Leases;
use crate::control::socket::{ControlSocket, default_path};
use crate::control::state::{self, StateFile};
use crate::control::status::{Facts, Gauges};
use crate::event_loop::pipeline::{self, Joints, ThreadedEventLoop};
use crate::event_loop::poll::Signals;
use crate::event_loop::process::Process;
use crate::event_loop::single::EventLoop;
use crate::event_loop::{Parts, ThreadingMode, cores};
use crate::host::{SystemEntropy, now};
use crate::link::udp::UdpLink;
use crate::netlink::Netlink;
use crate::tun::Tun;

/// What the command line says beside the configuration.
pub struct RunOptions {
    /// The NIC for AF_XDP; the UDP link uses every interface.
    pub iface: Option<String>,
    /// Which link to use.
    pub link: LinkMode,
    /// Which threads step the stages.
    pub threads: ThreadsChoice,
    /// The control socket's path, if not the default.
    pub control: Option<PathBuf>,
    /// The state file's path, if not the default.
    pub state: Option<PathBuf>,
}

/// Runs a tunnel until SIGINT or SIGTERM.
///
/// # Errors
/// One line that says what could not be set up, where, and the cure; nothing is left half set up then.
pub fn run(config: Config, options: RunOptions) -> Result<()> {
    run_with(config, options, Box::new(SystemEntropy::new()))
}

/// The same with another source of randomness, for a test that must know every key the tunnel makes. No command reaches
/// this: a daemon that users start always draws from the system.
///
/// # Errors
/// As [`run`].
pub fn run_with(config: Config, options: RunOptions, mut entropy: Box<dyn Entropy>) -> Result<()> {
    options.link.check_built_in("--link xdp")?;
    let usable = cores::usable();
    let (mode, reason) = ThreadingMode::choose(options.threads, usable.len());
    let stage_cores = cores::of_stages(config.threads.cores.as_deref(), &usable)?;
    let resolved = resolve_endpoints(&config.peers)?;
    // Only now: a resolver that hangs can be interrupted, and from here on there is something to undo.
    let signals = Signals::new().context("cannot take over SIGINT and SIGTERM")?;
    let control_path = options.control.unwrap_or_else(|| default_path(&config.name));
    let control = ControlSocket::bind(&control_path)?;
    let (mut link_rx, mut link_tx, _) = UdpLink::open(config.listen, config.link.dscp)?;
    if !config.link.gso {
        link_tx.set_max_segments(1);
    }
    if !config.link.gro {
        link_rx.set_gro(false);
    }
    let mut tun = Tun::open(&config.name, config.mtu)?;
    if config.offload
        && let Err(error) = tun.enable_offloads()
    {
        tracing::warn!("{}: this kernel's TUN has no offloads ({error}): packets go one by one", config.name);
    }
    configure_host(&config)?;

    let started = now();
    let facts = Facts::new(&config, vec![config.listen.to_string()], (mode, reason.clone()), started);
    let (name, listen, endpoints) = (config.name.clone(), config.listen, endpoints(&config));
    let keys: Vec<_> = config.peers.iter().map(|peer| peer.public_key).collect();
    let state_path = options.state.unwrap_or_else(|| state::default_path(&name));
    let state = StateFile::open(state_path, &keys);
    let (mut handshakes, mut sessions) =
        protocol(config.peers, config.private_key, config.network_secret, config.rekey_after, &mut *entropy);
    if let Some(rotate_after) = config.rotate_after {
        sessions = sessions.with_rotation(nanos(rotate_after));
    }
    let mut out = HandshakeOutput::default();
    for (peer, addresses) in resolved {
        let message = ToHandshakes::Resolved { peer, addresses };
        handshakes.handle(message, started, &mut *entropy, &mut out);
    }
    restore(&state, keys.len(), &mut handshakes, &mut sessions);
    let (tun_rx, mut tun_tx) = tun.split();
    let gauges = Gauges {
        link: link_rx.shared_counters(),
        tun: tun_rx.shared_counters(),
        handshake_drops: handshakes.drops(),
        handshakes: handshakes.counters(),
        handshakes_out: Arc::new(AtomicU64::new(0)),
        state: state.counters(),
        added: Default::default(),
    };
    let mut process = Process::new(sessions, config.mtu);
    if config.finish_checksums {
        process.finish_checksums();
        tun_tx.finish_checksums();
    }
    let parts = Parts {
        link_rx,
        link_tx,
        tun_rx,
        tun_tx,
        process,
        handshakes,
        endpoints,
        leases: Leases::new(&name, config.mtu),
        state,
        control,
        facts,
        gauges,
    };
    let ready = format!("{name}: ready on {listen}; link udp; threads {} ({reason})", mode.name());
    let incomplete = match mode {
        ThreadingMode::SingleThreaded => {
            let mut event_loop = EventLoop::new(parts, entropy)?;
            cores::pin(config.threads.cores.as_ref().and(stage_cores).map(|[first, ..]| first));
            tracing::info!("{ready}");
            event_loop.run(&signals)?;
            event_loop.incomplete_set()
        }
        ThreadingMode::Pipeline => {
            let (path_errors, mut sender) = (parts.link_rx.path_errors(), parts.link_tx.datagram_sender());
            let joints = Joints {
                path_errors: Box::new(path_errors),
                send_datagram: Box::new(move |path, bytes| sender.send(path, bytes, 0)),
            };
            let (busy_poll, spin) = (config.threads.busy_poll, usable.len() >= cores::ENOUGH);
            let settings = pipeline::Settings { cores: stage_cores, busy_poll, spin };
            let mut event_loop = ThreadedEventLoop::new(parts, joints, settings, entropy)?;
            tracing::info!("{ready}");
            event_loop.run(&signals)?;
            event_loop.incomplete_set()
        }
    };
    match incomplete {
        None => tracing::info!("{name}: stopped"),
        Some(set) => tracing::error!("{name}: stopped with frames missing from the set {set}"),
    }
    Ok(())
}

/// Hands over what the state file knows: peers that were reached before are asked for a handshake where they were.
fn restore(state: &StateFile, peers: usize, handshakes: &mut Handshakes, sessions: &mut Sessions) {
    for peer in (0..peers as u32).map(PeerId) {
        let Some(known) = state.known(peer) else { continue };
        if let Some(timestamp) = known.timestamp {
            handshakes.restore(peer, timestamp);
        }
        if let Some(endpoint) = known.endpoint {
            sessions.restore(peer, Path::to(endpoint));
        }
    }
}

fn endpoints(config: &Config) -> Vec<Option<crate::config::Endpoint>> {
    config.peers.iter().map(|peer| peer.endpoint.clone()).collect()
}

/// Resolves every endpoint once: a name that is wrong is found here, not after minutes of silence.
fn resolve_endpoints(peers: &[PeerConfig]) -> Result<Vec<(PeerId, Vec<std::net::SocketAddr>)>> {
    let mut all = Vec::new();
    for (n, peer) in peers.iter().enumerate() {
        let Some(endpoint) = &peer.endpoint else { continue };
        let addresses = endpoint.resolve().with_context(|| {
            format!(
                "peer `{}`: cannot resolve its endpoint {endpoint} (check the name and the resolver)",
                peer.name
            )
        })?;
        all.push((PeerId(n as u32), addresses));
    }
    Ok(all)
}

/// Addresses, MTU and the routes to every peer's networks but the default route.
fn configure_host(config: &Config) -> Result<()> {
    let mut netlink = Netlink::open()?;
    let index = netlink.link_index(&config.name)?;
    netlink.set_link_up_mtu(index, config.mtu.into())?;
    for &address in &config.addresses {
        netlink.add_address(index, address)?;
    }
    let on_link = |net: &veil_proto::allowed_ips::IpNet| {
        config.addresses.iter().any(|own| own.network() == net.network())
    };
    let nets = config.peers.iter().flat_map(|peer| &peer.allowed_ips);
    for &net in nets.filter(|net| net.prefix > 0 && !on_link(net)) {
        netlink.add_route(index, net)?;
    }
    Ok(())
}

fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn protocol(
    peers: Vec<PeerConfig>,
    private_key: veil_proto::crypto::PrivateKey,
    network_secret: NetworkSecret,
    rekey_after: Option<std::time::Duration>,
    entropy: &mut dyn Entropy,
) -> (Handshakes, Sessions) {
    let settings: Vec<PeerSettings> = peers
        .into_iter()
        .map(|peer| PeerSettings {
            public_key: peer.public_key,
            psk: Psk::from_bytes(*peer.psk.as_bytes()),
            suites: peer.cipher.map_or_else(Suites::supported, Suites::only),
            allowed_ips: peer.allowed_ips,
            keepalive: peer.keepalive.map(nanos),
            has_endpoint: peer.endpoint.is_some(),
            lease: peer.lease,
        })
        .collect();
    let keys = KeyPair::from_private(private_key);
    let sessions = Sessions::new(&keys.public, &network_secret, &settings, rekey_after.map(nanos));
    let identity = Identity::new(keys, network_secret);
    (Handshakes::new(identity, &settings, entropy), sessions)
}
