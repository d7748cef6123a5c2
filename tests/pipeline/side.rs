//! One side of a tunnel in memory: a whole event loop, in either threading mode, on threads of its own.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use veil_proto::crypto::{KeyPair, NetworkSecret, Psk, PublicKey, Suites, generate_x25519_keypair};
use veil_proto::handshake::Identity;
use veil_proto::peer::PeerSettings;
use veil_proto::tunnel::{Handshakes, Sessions};
use veil_userspace::config::{Config, Endpoint, PeerConfig};
use veil_userspace::control::lease::Leases;
use veil_userspace::control::show::Snapshot;
use veil_userspace::control::socket::ControlSocket;
use veil_userspace::control::state::StateFile;
use veil_userspace::control::status::{Facts, Gauges};
use veil_userspace::event_loop::pipeline::{Joints, Settings, ThreadedEventLoop};
use veil_userspace::event_loop::poll::Waker;
use veil_userspace::event_loop::process::Process;
use veil_userspace::event_loop::single::EventLoop;
use veil_userspace::event_loop::{Parts, ThreadingMode};
use veil_userspace::host::{SystemEntropy, now};
use veil_userspace::link::mem::MemLink;
use veil_userspace::tun::mem::{MemHost, MemTunRx, MemTunTx, tun};

pub const MTU: u16 = 1416;
/// Packets that a host's TUN holds.
const TUN_QUEUE: usize = 256;

/// Another side, as one knows it.
pub struct Other {
    pub public_key: PublicKey,
    /// The host behind it.
    pub host: Ipv4Addr,
    pub endpoint: Option<String>,
}

/// A side at work.
pub struct Side {
    pub host: MemHost,
    stop: Arc<Waker>,
    thread: JoinHandle<Ended>,
}

/// How a side ended.
pub struct Ended {
    pub incomplete_set: Option<&'static str>,
    pub shown: Snapshot,
}

/// The host behind side `number` of a pair.
fn host(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 8, 0, number as u8 + 1)
}

/// Where side `number` of a pair is.
fn outside(number: usize) -> String {
    format!("192.0.2.{}:4433", number + 1)
}

/// Both ends of a link in memory that holds `limit` runs each way.
fn link(limit: usize) -> [MemLink; 2] {
    let address = |n| outside(n).parse().expect("an address");
    veil_userspace::link::mem::pair(address(0), address(1), limit).expect("descriptors").into()
}

/// Two sides joined by a link in memory that holds `limit` runs each way.
pub fn pair(modes: [ThreadingMode; 2], settings: Settings, limit: usize) -> [Side; 2] {
    let mut entropy = SystemEntropy::new();
    let keys = [(); 2].map(|()| generate_x25519_keypair(&mut entropy));
    let public = [keys[0].public, keys[1].public];
    let other = |n: usize| Other { public_key: public[n], host: host(n), endpoint: Some(outside(n)) };
    let ([a, b], [first, second]) = (link(limit), keys);
    [
        Side::start(0, first, &[other(1)], a, modes[0], settings),
        Side::start(1, second, &[other(0)], b, modes[1], settings),
    ]
}

/// One side that knows `others`, and the far end of its link, which somebody else works.
pub fn alone(keys: KeyPair, others: &[Other], mode: ThreadingMode, limit: usize) -> (Side, MemLink) {
    let [near, far] = link(limit);
    (Side::start(0, keys, others, near, mode, Settings::default()), far)
}

impl Side {
    fn start(
        number: usize,
        keys: KeyPair,
        others: &[Other],
        link: MemLink,
        mode: ThreadingMode,
        settings: Settings,
    ) -> Side {
        let (tun_rx, tun_tx, host) = tun(TUN_QUEUE).expect("descriptors");
        let stop = Arc::new(Waker::new().expect("descriptors"));
        let folder = tempfile::tempdir().expect("a scratch folder");
        let config = configuration(folder.path(), number, others);
        let waker = stop.clone();
        let (up, wait) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let ends = (link, tun_rx, tun_tx);
            let (parts, joints) = parts(&config, folder.path(), keys, ends, mode);
            let entropy = Box::new(SystemEntropy::new());
            match mode {
                ThreadingMode::SingleThreaded => {
                    let mut event_loop =
                        EventLoop::new(parts, settings.busy_poll, entropy).expect("descriptors");
                    let _ = up.send(());
                    event_loop.run(&*waker).expect("a loop that runs");
                    Ended { incomplete_set: event_loop.incomplete_set(), shown: event_loop.snapshot() }
                }
                ThreadingMode::Pipeline => {
                    let event_loop = ThreadedEventLoop::new(parts, joints, settings, entropy);
                    let mut event_loop = event_loop.expect("descriptors");
                    let _ = up.send(());
                    event_loop.run(&*waker).expect("a loop that runs");
                    Ended { incomplete_set: event_loop.incomplete_set(), shown: event_loop.snapshot() }
                }
            }
        });
        let _ = wait.recv();
        Side { host, stop, thread }
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
    mode: ThreadingMode,
) -> (Parts<veil_userspace::link::mem::MemRx, veil_userspace::link::mem::MemTx, MemTunRx, MemTunTx>, Joints) {
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
    let sessions = Sessions::new(&keys.public, &secret, &settings, None);
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
    let joints =
        Joints { path_errors: Box::new(|| None), send_datagram: Box::new(link.tx.datagram_sender()) };
    let parts = Parts {
        link_rx: link.rx,
        link_tx: link.tx,
        tun_rx,
        tun_tx,
        process: Process::new(sessions, MTU),
        handshakes,
        endpoints,
        leases: Leases::new(&config.name, MTU),
        state,
        control: ControlSocket::bind(&folder.join("veil.sock")).expect("a socket in a scratch folder"),
        facts: Facts::new(config, Vec::new(), String::new(), (mode, String::new()), now()),
        gauges,
    };
    (parts, joints)
}
