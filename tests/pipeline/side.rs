//! One side of a tunnel in memory: a whole event loop, in either threading mode, on threads of its own.

use std::fmt::{self, Write as _};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use veil_proto::DropCounters;
use veil_proto::crypto::{KeyPair, NetworkSecret, Psk, PublicKey, Suites, generate_x25519_keypair};
use veil_proto::handshake::Identity;
use veil_proto::peer::PeerSettings;
use veil_proto::tunnel::{HandshakeCounters, Handshakes, SessionCounters, Sessions};
use veil_userspace::config::{Config, Endpoint, PeerConfig};
use veil_userspace::control::lease::Leases;
use veil_userspace::control::show::Snapshot;
use veil_userspace::control::socket::ControlSocket;
use veil_userspace::control::state::StateFile;
use veil_userspace::control::status::{Facts, Gauges};
use veil_userspace::event_loop::pipeline::{Joints, Settings, ThreadedEventLoop};
use veil_userspace::event_loop::poll::Waker;
use veil_userspace::event_loop::process::{Process, ProcessCounters};
use veil_userspace::event_loop::single::EventLoop;
use veil_userspace::event_loop::{Parts, ThreadingMode};
use veil_userspace::host::{SystemEntropy, now};
use veil_userspace::link::LinkCounters;
use veil_userspace::link::mem::{MemLink, MemRx, MemTx};
use veil_userspace::tun::TunCounters;
use veil_userspace::tun::mem::{MemHost, MemTunRx, MemTunTx, tun};

pub const MTU: u16 = 1416;
/// Packets that a host's TUN holds.
pub const TUN_QUEUE: usize = 256;

/// Another side, as one knows it.
pub struct Other {
    pub public_key: PublicKey,
    /// The host behind it.
    pub host: Ipv4Addr,
    pub endpoint: Option<String>,
}

/// How a side works.
#[derive(Clone, Copy)]
pub struct Setup {
    pub mode: ThreadingMode,
    pub settings: Settings,
    pub timers: Timers,
    /// TCP and UDP packets are joined for the host.
    pub joins: bool,
}

impl From<ThreadingMode> for Setup {
    fn from(mode: ThreadingMode) -> Setup {
        Setup { mode, settings: Settings::default(), timers: Timers::default(), joins: false }
    }
}

/// Nanoseconds until a session, and until its receiver index, is replaced; none: as the protocol says.
#[derive(Clone, Copy, Default)]
pub struct Timers {
    pub rekey_after: Option<u64>,
    pub rotate_after: Option<u64>,
}

/// What a side counts, readable while it works.
#[derive(Clone)]
pub struct Counters {
    pub link: Arc<LinkCounters>,
    pub tun: Arc<TunCounters>,
    pub process: Arc<ProcessCounters>,
    pub sessions: Arc<SessionCounters>,
    pub handshakes: Arc<HandshakeCounters>,
    pub handshake_drops: Arc<DropCounters>,
    pub handshakes_out: Arc<AtomicU64>,
}

impl Counters {
    /// Packets taken from the host and sealed or refused.
    pub fn packets_taken(&self) -> u64 {
        sum(&[&self.process.sealed]) + self.process.drops.total()
    }

    pub fn datagrams_made(&self) -> u64 {
        sum(&[&self.sessions.sealed, &self.handshakes_out])
    }

    /// Datagrams that the link has taken or refused.
    pub fn datagrams_handed_on(&self) -> u64 {
        let link = &self.link;
        sum(&[&link.datagrams_sent]) + link.send_drops.total() + link.datagram_drops.total()
    }

    /// Datagrams received and opened or refused.
    pub fn datagrams_opened(&self) -> u64 {
        sum(&[&self.sessions.opened, &self.sessions.handshake]) + self.sessions.drops.total()
    }

    pub fn packets_accepted(&self) -> u64 {
        sum(&[&self.process.ip, &self.process.reassembled])
    }

    /// Packets that the host has taken or had no room for.
    pub fn packets_handed_on(&self) -> u64 {
        sum(&[&self.tun.packets_written]) + self.tun.write_drops.total()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (packets, datagrams) = (self.packets_taken(), self.datagrams_made());
        write!(to, "{packets} packets in {datagrams} datagrams, {} handed on; ", self.datagrams_handed_on())?;
        let (datagrams, packets) = (self.datagrams_opened(), self.packets_accepted());
        write!(to, "{packets} packets from {datagrams} datagrams, {} handed on", self.packets_handed_on())
    }
}

fn sum(counters: &[&AtomicU64]) -> u64 {
    counters.iter().map(|counter| counter.load(Relaxed)).sum()
}

/// A side at work.
pub struct Side {
    pub host: MemHost,
    pub counters: Counters,
    stop: Arc<Waker>,
    thread: JoinHandle<Ended>,
}

/// How a side ended.
pub struct Ended {
    pub incomplete_set: Option<&'static str>,
    pub shown: Snapshot,
}

/// The host behind side `number` of a pair.
pub fn host(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 8, 0, number as u8 + 1)
}

/// Where side `number` of a pair is.
pub fn outside(number: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number as u8 + 1], 4433))
}

/// Both ends of a link in memory that holds `limit` runs each way.
pub fn link(limit: usize) -> [MemLink; 2] {
    veil_userspace::link::mem::pair(outside(0), outside(1), limit).expect("descriptors").into()
}

/// Two sides joined by a link in memory that holds `limit` runs each way.
pub fn pair(setups: [Setup; 2], limit: usize) -> [Side; 2] {
    pair_over(setups, link(limit))
}

/// Two sides joined by this link.
pub fn pair_over(setups: [Setup; 2], [a, b]: [MemLink; 2]) -> [Side; 2] {
    let mut entropy = SystemEntropy::new();
    let keys = [(); 2].map(|()| generate_x25519_keypair(&mut entropy));
    let public = [keys[0].public, keys[1].public];
    let other =
        |n: usize| Other { public_key: public[n], host: host(n), endpoint: Some(outside(n).to_string()) };
    let [first, second] = keys;
    [Side::start(0, first, &[other(1)], a, setups[0]), Side::start(1, second, &[other(0)], b, setups[1])]
}

/// One side that knows `others`, and the far end of its link, which somebody else works.
pub fn alone(keys: KeyPair, others: &[Other], mode: ThreadingMode, limit: usize) -> (Side, MemLink) {
    let [near, far] = link(limit);
    (Side::start(0, keys, others, near, mode.into()), far)
}

impl Side {
    /// A side with the name of `number` that knows `others`.
    pub fn start(number: usize, keys: KeyPair, others: &[Other], link: MemLink, setup: Setup) -> Side {
        let (tun_rx, mut tun_tx, host) = tun(TUN_QUEUE).expect("descriptors");
        tun_tx.join(setup.joins, setup.joins);
        let stop = Arc::new(Waker::new().expect("descriptors"));
        let folder = tempfile::tempdir().expect("a scratch folder");
        let config = configuration(folder.path(), number, others);
        let waker = stop.clone();
        let (up, wait) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let ends = (link, tun_rx, tun_tx);
            let (parts, joints, counters) = parts(&config, folder.path(), keys, ends, setup);
            let (settings, entropy) = (setup.settings, Box::new(SystemEntropy::new()));
            match setup.mode {
                ThreadingMode::SingleThreaded => {
                    let mut event_loop =
                        EventLoop::new(parts, settings.busy_poll, entropy).expect("descriptors");
                    let _ = up.send(counters);
                    event_loop.run(&*waker).expect("a loop that runs");
                    Ended { incomplete_set: event_loop.incomplete_set(), shown: event_loop.snapshot() }
                }
                ThreadingMode::Pipeline => {
                    let event_loop = ThreadedEventLoop::new(parts, joints, settings, entropy);
                    let mut event_loop = event_loop.expect("descriptors");
                    let _ = up.send(counters);
                    event_loop.run(&*waker).expect("a loop that runs");
                    Ended { incomplete_set: event_loop.incomplete_set(), shown: event_loop.snapshot() }
                }
            }
        });
        let counters = wait.recv().expect("a side that has come up");
        Side { host, counters, stop, thread }
    }

    /// Stops it and waits for its end.
    pub fn stop(self) -> Ended {
        self.stop.wake();
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Ended {
    /// Every frame is home, and what came in is what went out and was dropped with a reason.
    pub fn assert_at_rest(&self) {
        assert_eq!(self.incomplete_set, None);
        for (name, frames) in &self.shown.frames {
            assert_eq!(frames.home, frames.total, "frames of {name}: {:#?}", self.shown);
        }
        for (name, balance) in &self.shown.conservation {
            assert_eq!(balance.left, balance.right, "{name}: {:#?}", self.shown);
        }
        assert_eq!(self.shown.counters["frames_lost"], 0);
    }
}

/// What `veil.toml` would say.
fn configuration(folder: &Path, number: usize, others: &[Other]) -> Config {
    let key = generate_x25519_keypair(&mut SystemEntropy::new()).private.to_base64();
    let path = folder.join("veil.key");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    writeln!(file.expect("a new file"), "{}", *key).expect("room on the disk");
    let mut text = format!(
        "[interface]\nname = \"mem{number}\"\nprivate-key-file = \"veil.key\"\naddresses = []\nmtu = {MTU}\n"
    );
    for (n, Other { public_key, host, endpoint }) in others.iter().enumerate() {
        let endpoint =
            endpoint.iter().map(|endpoint| format!("endpoint = \"{endpoint}\"\n")).collect::<String>();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[peer]]\nname = \"other{n}\"\npublic-key = \"{public_key}\"\nallowed-ips = [\"{host}/32\"]\n{endpoint}"
        );
    }
    let path = folder.join("veil.toml");
    fs::write(&path, &text).expect("room on the disk");
    Config::load(&path).expect("a right configuration")
}

fn parts(
    config: &Config,
    folder: &Path,
    keys: KeyPair,
    (link, tun_rx, tun_tx): (MemLink, MemTunRx, MemTunTx),
    setup: Setup,
) -> (Parts<MemRx, MemTx, MemTunRx, MemTunTx>, Joints, Counters) {
    let (secret, mut entropy) = (NetworkSecret::default(), SystemEntropy::new());
    let settings = |peer: &PeerConfig| PeerSettings {
        public_key: peer.public_key,
        psk: Psk::default(),
        suites: Suites::supported(),
        allowed_ips: peer.allowed_ips.clone(),
        keepalive: None,
        has_endpoint: peer.endpoint.is_some(),
        lease: false,
    };
    let settings: Vec<PeerSettings> = config.peers.iter().map(settings).collect();
    let others: Vec<PublicKey> = config.peers.iter().map(|peer| peer.public_key).collect();
    let Timers { rekey_after, rotate_after } = setup.timers;
    let mut sessions = Sessions::new(&keys.public, &secret, &settings, rekey_after);
    if let Some(rotate_after) = rotate_after {
        sessions = sessions.with_rotation(rotate_after);
    }
    let handshakes = Handshakes::new(Identity::new(keys, secret), &settings, &mut entropy);
    let state = StateFile::open(folder.join("veil.state"), &others);
    let gauges = Gauges {
        link: link.tx.shared_counters(),
        tun: tun_rx.shared_counters(),
        handshake_drops: handshakes.drops(),
        handshakes: handshakes.counters(),
        state: state.counters(),
        ..Gauges::default()
    };
    let endpoints: Vec<Option<Endpoint>> = config.peers.iter().map(|peer| peer.endpoint.clone()).collect();
    let joints = Joints {
        path_errors: Box::new(link.rx.path_errors()),
        send_datagram: Box::new(link.tx.datagram_sender()),
    };
    let process = Process::new(sessions, MTU);
    let counters = Counters {
        link: gauges.link.clone(),
        tun: gauges.tun.clone(),
        process: process.counters().clone(),
        sessions: process.sessions().counters(),
        handshakes: gauges.handshakes.clone(),
        handshake_drops: gauges.handshake_drops.clone(),
        handshakes_out: gauges.handshakes_out.clone(),
    };
    let parts = Parts {
        link_rx: link.rx,
        link_tx: link.tx,
        tun_rx,
        tun_tx,
        process,
        handshakes,
        endpoints,
        leases: Leases::new(&config.name, MTU),
        state,
        control: ControlSocket::bind(&folder.join("veil.sock")).expect("a socket in a scratch folder"),
        facts: Facts::new(config, Vec::new(), String::new(), (setup.mode, String::new()), now()),
        gauges,
    };
    (parts, joints, counters)
}
