//! `veil run`: builds one tunnel out of its configuration, runs it, and leaves nothing behind.
//!
//! Everything that can fail for a reason the operator can mend is done before the host is changed: names looked up, port
//! bound, control socket taken. The TUN comes last; its addresses and routes go with it when it closes.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use veil_proto::crypto::{KeyPair, NetworkSecret, Psk, Suites};
use veil_proto::handshake::Identity;
use veil_proto::peer::PeerSettings;
use veil_proto::tunnel::{HandshakeOutput, Handshakes, Sessions, ToHandshakes};
use veil_proto::{Entropy, Path, PeerId};

use crate::config::{Config, LinkMode, PeerConfig, ThreadsChoice, XdpMode};
use crate::control::lease::Leases;
use crate::control::socket::{ControlSocket, default_path};
use crate::control::state::{self, StateFile};
use crate::control::status::{Facts, Gauges};
use crate::event_loop::cpu_latency::CpuLatency;
use crate::event_loop::pipeline::{self, Joints, PathErrors, ThreadedEventLoop};
use crate::event_loop::poll::Signals;
use crate::event_loop::process::{Process, gso_max_sizes};
use crate::event_loop::single::EventLoop;
use crate::event_loop::{Parts, ThreadingMode, cores, priority};
use crate::heap;
use crate::host::{SystemEntropy, now};
use crate::link::udp::{DatagramSender, UdpLink, UdpRx, UdpTx};
#[cfg(feature = "xdp")]
use crate::link::xdp;
use crate::link::{LinkCounters, LinkRx, LinkTx};
use crate::netlink::Netlink;
use crate::tun::Tun;

/// What the command line says beside the configuration.
pub struct RunOptions {
    /// The NIC for AF_XDP; the UDP link uses every interface.
    pub iface: Option<String>,
    /// Which link to use.
    pub link: LinkMode,
    /// Where AF_XDP's program runs, if the configuration is not to say.
    pub xdp_mode: Option<XdpMode>,
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
pub fn run_with(config: Config, options: RunOptions, entropy: Box<dyn Entropy>) -> Result<()> {
    options.link.check_built_in("--link xdp")?;
    let usable = cores::usable();
    let threads = Threads {
        mode: ThreadingMode::choose(options.threads, usable.len()),
        cores: cores::of_stages(config.threads.cores.as_deref(), &usable)?,
        spin: usable.len() >= cores::ENOUGH,
    };
    let resolved = resolve_endpoints(&config.peers)?;
    // Only now: a resolver that hangs can be interrupted, and from here on there is something to undo.
    let signals = Signals::new().context("cannot take over SIGINT and SIGTERM")?;
    let control_path = options.control.unwrap_or_else(|| default_path(&config.name));
    let control = ControlSocket::bind(&control_path)?;
    let (mut udp_rx, mut udp_tx, port) = UdpLink::open(config.listen, config.link.dscp)?;
    if !config.link.gso {
        udp_tx.set_max_segments(1);
    }
    if !config.link.gro {
        udp_rx.set_gro(false);
    }
    let busy_poll = config.threads.busy_poll.then(|| udp_rx.busy_poll());
    #[cfg(not(feature = "xdp"))]
    let _ = (port, busy_poll);
    let run = Run { config, threads, state: options.state, resolved, signals, control };
    let mut aside = Aside::of(&udp_rx, &udp_tx);
    match choose_link(&run.config, options.link, options.iface)? {
        Chosen::Udp(reason) => {
            aside.reason = reason;
            run.start((udp_rx, udp_tx), aside, entropy)
        }
        #[cfg(feature = "xdp")]
        Chosen::Xdp { interface, required } => {
            let settings = xdp::Settings {
                interface,
                listen: run.config.listen.ip(),
                port,
                dscp: run.config.link.dscp,
                mode: options.xdp_mode.unwrap_or(run.config.link.xdp_mode),
                udp_checksum: run.config.link.udp_checksum,
                busy_poll,
                required,
            };
            let (rx, tx, status) = xdp::open(settings, udp_rx, udp_tx)?;
            aside.xdp = Some(status);
            run.start((rx, tx), aside, entropy)
        }
    }
}

/// Which link to open.
enum Chosen {
    /// Sockets only, and why.
    Udp(String),
    #[cfg(feature = "xdp")]
    Xdp { interface: String, required: bool },
}

/// AF_XDP needs an interface to be named; without one, `auto` means sockets.
fn choose_link(config: &Config, mode: LinkMode, iface: Option<String>) -> Result<Chosen> {
    let interface = iface.or_else(|| config.link.interface.clone());
    match (mode, interface) {
        (LinkMode::Udp, _) => Ok(Chosen::Udp("as asked".into())),
        #[cfg(feature = "xdp")]
        (LinkMode::Auto | LinkMode::Xdp, Some(interface)) => {
            Ok(Chosen::Xdp { interface, required: mode == LinkMode::Xdp })
        }
        #[cfg(not(feature = "xdp"))]
        (LinkMode::Auto, Some(_)) => Ok(Chosen::Udp("this program was built without AF_XDP".into())),
        (LinkMode::Auto, None) => Ok(Chosen::Udp("no --iface says where AF_XDP could be".into())),
        (LinkMode::Xdp, _) => {
            anyhow::bail!("--link xdp needs a NIC: name it by --iface, or by `interface` in [link]")
        }
    }
}

/// What is used of a link beside its two ends.
struct Aside {
    counters: Arc<LinkCounters>,
    path_errors: PathErrors,
    sender: DatagramSender,
    reason: String,
    #[cfg(feature = "xdp")]
    xdp: Option<Arc<xdp::XdpStatus>>,
}

impl Aside {
    fn of(rx: &UdpRx, tx: &UdpTx) -> Self {
        Aside {
            counters: rx.shared_counters(),
            path_errors: Box::new(rx.path_errors()),
            sender: tx.datagram_sender(),
            reason: String::new(),
            #[cfg(feature = "xdp")]
            xdp: None,
        }
    }

    fn rung(&self) -> String {
        #[cfg(feature = "xdp")]
        if let Some(xdp) = &self.xdp {
            return format!("xdp, {}", xdp.rung().name());
        }
        "udp".into()
    }
}

/// Which threads step the stages, why so, and where they run.
struct Threads {
    mode: (ThreadingMode, String),
    cores: Option<[usize; cores::PINNED]>,
    /// There is a core for every stage.
    spin: bool,
}

/// Everything but the link that could be set up without changing the host.
struct Run {
    config: Config,
    threads: Threads,
    state: Option<PathBuf>,
    resolved: Vec<(PeerId, Vec<std::net::SocketAddr>)>,
    signals: Signals,
    control: ControlSocket,
}

impl Run {
    /// Runs the tunnel over a link until a signal says stop.
    fn start<R: LinkRx + Send, S: LinkTx + Send>(
        self,
        link: (R, S),
        aside: Aside,
        mut entropy: Box<dyn Entropy>,
    ) -> Result<()> {
        let Run { config, threads, state, resolved, signals, control } = self;
        let (link_rx, link_tx) = link;
        let mut sender = aside.sender.clone();
        let mut tun = Tun::open(&config.name, config.mtu)?;
        if config.offload
            && let Err(error) = tun.enable_offloads()
        {
            tracing::warn!(
                "{}: this kernel's TUN has no offloads ({error}): packets go one by one",
                config.name
            );
        }
        configure_host(&config)?;

        let started = now();
        let (mode, reason) = threads.mode;
        let (listening, rung) = (vec![config.listen.to_string()], aside.rung());
        // In force until the daemon ends.
        let cpu_latency = CpuLatency::hold(config.threads.cpu_latency);
        let facts = Facts::new(&config, listening, aside.reason, (mode, reason.clone()), started)
            .with_cpu_latency(cpu_latency.as_ref());
        let (name, listen, endpoints) = (config.name.clone(), config.listen, endpoints(&config));
        let keys: Vec<_> = config.peers.iter().map(|peer| peer.public_key).collect();
        let state_path = state.unwrap_or_else(|| state::default_path(&name));
        let state = StateFile::open(state_path, &keys);
        let (mut handshakes, mut sessions) = protocol(
            config.peers,
            config.private_key,
            config.network_secret,
            config.rekey_after,
            &mut *entropy,
        );
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
            link: aside.counters,
            tun: tun_rx.shared_counters(),
            handshake_drops: handshakes.drops(),
            handshakes: handshakes.counters(),
            handshakes_out: Arc::new(AtomicU64::new(0)),
            state: state.counters(),
            added: Default::default(),
            #[cfg(feature = "xdp")]
            xdp: aside.xdp,
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
        let ready = format!("{name}: ready on {listen}; link {rung}; threads {} ({reason})", mode.name());
        let (busy_poll, nice) = (config.threads.busy_poll, config.threads.nice);
        let incomplete = match mode {
            ThreadingMode::SingleThreaded => {
                let mut event_loop = EventLoop::new(parts, busy_poll, entropy)?;
                priority::set(nice);
                cores::pin(config.threads.cores.as_ref().and(threads.cores).map(|[first, ..]| first));
                tracing::info!("{ready}");
                event_loop.run(&signals)?;
                event_loop.incomplete_set()
            }
            ThreadingMode::Pipeline => {
                let joints = Joints {
                    path_errors: aside.path_errors,
                    send_datagram: Box::new(move |path, bytes| sender.send(path, bytes, 0)),
                };
                let Threads { cores, spin, .. } = threads;
                let settings = pipeline::Settings { cores, busy_poll, spin, nice };
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

/// What is known of the endpoints at start: all that are addresses, and the name of an only peer, which if it is wrong is
/// found here, not after minutes of silence. Other names are looked up with the first attempt, and keep nobody waiting.
fn resolve_endpoints(peers: &[PeerConfig]) -> Result<Vec<(PeerId, Vec<std::net::SocketAddr>)>> {
    let mut all = Vec::new();
    for (n, peer) in peers.iter().enumerate() {
        let Some(endpoint) = &peer.endpoint else { continue };
        if endpoint.ip().is_some() || peers.len() == 1 {
            let addresses = endpoint.resolve().with_context(|| format!("peer `{}`", peer.name))?;
            all.push((PeerId(n as u32), addresses));
        }
    }
    Ok(all)
}

/// Addresses, MTU and the routes to every peer's networks but the default route.
fn configure_host(config: &Config) -> Result<()> {
    let mut netlink = Netlink::open()?;
    let index = netlink.link_index(&config.name)?;
    netlink.set_link_up_mtu(index, config.mtu.into())?;
    if config.offload
        && let Err(error) = netlink.set_gso_max_sizes(index, gso_max_sizes(config.mtu))
    {
        tracing::debug!("a super-packet takes two runs: {error:#}");
    }
    // With an address comes a route; whether one came with an address that was there before, nobody knows.
    let mut on_link = HashSet::new();
    for &address in &config.addresses {
        if netlink.add_address(index, address)? {
            on_link.insert(address.network());
        }
    }
    let nets = config.peers.iter().flat_map(|peer| &peer.allowed_ips);
    for &net in nets.filter(|net| net.prefix > 0 && !on_link.contains(&net.network())) {
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
    let leases: Vec<_> = peers.iter().map(|peer| (peer.offer.clone(), peer.lease)).collect();
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
    heap::for_peers(settings.len());
    let keys = KeyPair::from_private(private_key);
    let mut sessions = Sessions::new(&keys.public, &network_secret, &settings, rekey_after.map(nanos));
    for (peer, (offer, wanted)) in (0..).map(PeerId).zip(leases) {
        if let Some(offer) = offer {
            sessions.offer(peer, offer);
        }
        if wanted {
            sessions.seek_lease(peer);
        }
    }
    let identity = Identity::new(keys, network_secret);
    (Handshakes::new(identity, &settings, entropy), sessions)
}
