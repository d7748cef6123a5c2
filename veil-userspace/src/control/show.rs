//! `veil show`: the snapshot a daemon answers with, and the client that asks for it.
//!
//! The event loop fills a [`Snapshot`]; the command line fetches and prints it. Invariant: the JSON here is the
//! program-facing interface, so fields are added, never renamed; maps are sorted, so that two snapshots can be compared.

mod lease;
mod render;

pub use lease::LeaseSnapshot;
pub use render::render;

use super::socket::{RUN_DIR, Refusal, Request, default_path, probe};
use crate::histogram::Summary;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A daemon that answers nothing for this long is reported as hanging.
const PATIENCE: Duration = Duration::from_secs(5);
/// Tens of thousands of peers.
const ANSWER_MAX: u64 = 64 << 20;

// What the histograms are called.
/// Nanoseconds from the receive call that brought a run to the end of the TUN write that took it; one value per run.
pub const ADDED_INBOUND: &str = "added_inbound_ns";
/// Nanoseconds from the TUN read of a packet or super-packet until all its datagrams are sent; one value each.
pub const ADDED_OUTBOUND: &str = "added_outbound_ns";
/// Datagrams in each run received.
pub const RUNS_RECEIVED: &str = "run_datagrams_received";
/// Datagrams in each run sealed and handed to the link.
pub const RUNS_SEALED: &str = "run_datagrams_sealed";
/// Inner packets in a datagram: of each run the rounded mean, once per datagram.
pub const PACKETS_PER_DATAGRAM: &str = "packets_per_datagram_sealed";

/// Everything about a running tunnel, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The TUN interface.
    pub interface: String,
    /// This end's public key, base64.
    pub public_key: String,
    /// Outer addresses and ports the sockets are bound to.
    pub listen: Vec<String>,
    /// The link in use: "udp", or "xdp" where AF_XDP is beside the sockets.
    pub link: String,
    /// The rung it stands on now: "zero-copy", "native copy", "generic copy" or "udp".
    #[serde(default)]
    pub rung: String,
    /// What it has there, and why it stands no higher.
    #[serde(default)]
    pub rung_reason: String,
    /// The threading mode in use: "single" or "pipeline".
    pub threads: String,
    /// Why that mode.
    pub threads_reason: String,
    /// Microseconds in which the daemon has asked for every core of the machine to wake; null where it has not.
    #[serde(default)]
    pub cpu_latency_us: Option<u64>,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Largest inner packet, bytes: as configured, or as leases have it.
    pub mtu: u64,
    /// In the order of the configuration.
    pub peers: Vec<PeerSnapshot>,
    /// Drops that belong to no peer, by name; names that never occurred may be left out.
    pub drops: BTreeMap<String, u64>,
    /// What else is counted, by name.
    pub counters: BTreeMap<String, u64>,
    /// Which offloads are in use, by name.
    #[serde(default)]
    pub offloads: BTreeMap<String, bool>,
    /// What AF_XDP counts, by name: the steering program's verdicts, the kernel's statistics, the ways of datagrams. Empty
    /// without AF_XDP.
    #[serde(default)]
    pub xdp: BTreeMap<String, u64>,
    /// How values are spread, by name.
    #[serde(default)]
    pub histograms: BTreeMap<String, Summary>,
    /// The frame sets by name.
    pub frames: BTreeMap<String, FrameSet>,
    /// The sums that are equal at rest, by name.
    pub conservation: BTreeMap<String, Balance>,
}

/// One peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSnapshot {
    /// As configured.
    pub name: String,
    /// Base64.
    pub public_key: String,
    /// Where its datagrams go now, if anywhere.
    pub endpoint: Option<String>,
    /// Where the configuration says it is, if it does.
    pub configured_endpoint: Option<String>,
    /// The largest datagram (UDP payload, bytes) that the way to it is known to take; nothing known is null.
    pub path_mtu_datagram: Option<u64>,
    /// Networks behind it.
    pub allowed_ips: Vec<String>,
    /// Seconds since a handshake with it was finished; none yet is null.
    pub last_handshake_s_ago: Option<u64>,
    /// Outer bytes received from it.
    pub rx_bytes: u64,
    /// Outer bytes sent to it.
    pub tx_bytes: u64,
    /// Inner packets received from it.
    pub rx_packets: u64,
    /// Inner packets sent to it.
    pub tx_packets: u64,
    /// Drops that belong to it, by name.
    pub drops: BTreeMap<String, u64>,
    /// It may give this host a lease.
    #[serde(default)]
    pub lease_wanted: bool,
    /// What this host takes of what the peer has given it, of which all outside the peer's allowed IPs is gone already; null
    /// is nothing yet, and given nothing is empty.
    #[serde(default)]
    pub lease: Option<LeaseSnapshot>,
    /// The interface has it, and has had everything else that peers have given.
    #[serde(default)]
    pub lease_in_force: bool,
    /// Addresses and routes that it has given, within its allowed IPs, and this host does not take; not those beyond the
    /// first 16 of each.
    #[serde(default)]
    pub lease_left_out: Vec<String>,
    /// What this host gives the peer.
    #[serde(default)]
    pub offer: Option<LeaseSnapshot>,
}

/// A frame set: at rest all its frames are home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameSet {
    /// Frames in the set.
    pub total: u64,
    /// Of these, frames at home.
    pub home: u64,
}

/// Two sums that are equal at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// What came in.
    pub left: u64,
    /// What went out or was dropped.
    pub right: u64,
}

/// Where to ask about interface `name`; without a name, about the only one that is running.
pub fn locate(name: Option<&str>) -> Result<PathBuf> {
    match name {
        Some(name) if name.contains('/') => {
            bail!("`{name}` is no interface name: for a socket's path use --control")
        }
        Some(name) => Ok(default_path(name)),
        None => the_only_one(Path::new(RUN_DIR)),
    }
}

fn the_only_one(dir: &Path) -> Result<PathBuf> {
    let sockets = running(dir).with_context(|| format!("cannot list {}: run as root", dir.display()))?;
    match sockets.as_slice() {
        [] => {
            bail!("no tunnel is running here: start one with `veil run`, or name its socket with --control")
        }
        [only] => Ok(only.clone()),
        several => {
            let names: Vec<_> =
                several.iter().map(|path| path.file_stem().unwrap_or_default().to_string_lossy()).collect();
            bail!(
                "several tunnels are running ({}): name one, for example `veil show {}`",
                names.join(", "),
                names[0]
            )
        }
    }
}

/// The sockets in `dir` that somebody may answer on, sorted; what a crashed daemon left behind is not counted.
fn running(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let alive = || !probe(&path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
        if path.extension().is_some_and(|extension| extension == "sock") && alive() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Asks the daemon behind the socket at `path`.
pub fn fetch(path: &Path) -> Result<Snapshot> {
    let shown = path.display();
    let silent = || {
        format!(
            "the tunnel at {shown} does not answer within {} s: it hangs, or is very busy",
            PATIENCE.as_secs()
        )
    };
    let connected = connect(path, PATIENCE);
    if connected.as_ref().is_err_and(timed_out) {
        bail!(silent());
    }
    let mut stream = connected.with_context(|| {
        let nobody = format!("no tunnel answers at {shown}: is it running? start it with `veil run`");
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                format!("may not look at {shown}: run as root (sudo)")
            }
            Err(_) => nobody,
            Ok(_) => match probe(path) {
                Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                    format!("may not ask at {shown}: run as root (sudo)")
                }
                _ => nobody,
            },
        }
    })?;
    let talk = |stream: &mut UnixStream| -> std::io::Result<String> {
        let mut request = serde_json::to_vec(&Request::Show)?;
        request.push(b'\n');
        stream.write_all(&request)?;
        read_line(stream)
    };
    let line = match talk(&mut stream) {
        Ok(line) => line,
        Err(e) if timed_out(&e) => bail!(silent()),
        Err(e) => return Err(e).with_context(|| format!("the tunnel at {shown} broke off: ask again")),
    };
    if line.is_empty() {
        bail!("the tunnel at {shown} hung up: it is stopping, or too many are asking at once, ask again");
    }
    if let Ok(refusal) = serde_json::from_str::<Refusal>(&line) {
        bail!("the tunnel at {shown} refused: {}", refusal.error);
    }
    serde_json::from_str(&line).with_context(|| {
        format!("cannot understand the tunnel at {shown}: is it another version of veil? restart it")
    })
}

/// A connection that waits for nothing longer than `patience`, nor for a place among those who want to be accepted
/// (socket(7): SO_SNDTIMEO limits that, too).
fn connect(path: &Path, patience: Duration) -> std::io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(UnixStream::from(OwnedFd::from(socket)))
}

fn timed_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Everything up to the first newline or the end.
fn read_line(stream: &mut UnixStream) -> std::io::Result<String> {
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(stream.take(ANSWER_MAX));
    std::io::BufRead::read_line(&mut reader, &mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::super::socket::{ControlSocket, Outcome};
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Answers one request at `path` with `answer`, in a thread of its own, however many connect before that and ask
    /// nothing (as [`running`] does).
    fn daemon(path: &Path, answer: impl Serialize + Send + 'static) -> std::thread::JoinHandle<()> {
        let mut control = ControlSocket::bind(path).unwrap();
        std::thread::spawn(move || {
            let mut clients = Vec::new();
            let mut answered = false;
            while !answered || !clients.is_empty() {
                clients.extend(control.accept());
                clients.retain(|&fd| match control.ready(fd) {
                    Outcome::Request(id, Request::Show) => {
                        control.answer(id, &answer);
                        answered = true;
                        true
                    }
                    Outcome::Closed(_) => false,
                    Outcome::Pending => true,
                });
                std::thread::yield_now();
            }
        })
    }

    #[test]
    fn a_snapshot_arrives_as_it_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("veil0.sock");
        let sent = render::tests::example();
        let daemon = daemon(&path, sent.clone());
        assert_eq!(the_only_one(dir.path()).unwrap(), path);
        assert!(fetch(&path).unwrap() == sent);
        daemon.join().unwrap();
    }

    #[test]
    fn the_json_is_what_programs_rely_on() {
        let json = serde_json::to_value(render::tests::example()).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let wanted = "conservation counters cpu_latency_us drops frames histograms interface link listen mtu offloads peers public_key rung rung_reason threads threads_reason uptime_s xdp";
        assert_eq!(keys.join(" "), wanted);
        let keys: Vec<_> = json["peers"][0].as_object().unwrap().keys().map(String::as_str).collect();
        let wanted = "allowed_ips configured_endpoint drops endpoint last_handshake_s_ago lease lease_in_force lease_left_out lease_wanted name offer path_mtu_datagram public_key rx_bytes rx_packets tx_bytes tx_packets";
        assert_eq!(keys.join(" "), wanted);
        assert_eq!(json["frames"]["wide-link-rx"], serde_json::json!({"total": 64, "home": 61}));
        assert_eq!(json["conservation"]["opened"], serde_json::json!({"left": 7, "right": 4}));
        assert_eq!(json["offloads"], serde_json::json!({"gro": true, "gso": true, "tun_uso": false}));
        assert_eq!(
            json["histograms"]["run_datagrams_sealed"],
            serde_json::json!({"count": 9, "p50": 2, "p99": 44, "max": 44, "buckets": [[2, 8], [47, 1]]})
        );
        assert!(json["peers"][1]["endpoint"].is_null());
        assert!(json["peers"][2]["lease"].is_null());
        let lease = serde_json::json!({
            "addresses": ["10.8.0.1/24"], "routes": [], "dns": ["10.8.0.2"], "mtu": 1300, "keepalive_s": null
        });
        assert_eq!(json["peers"][0]["lease"], lease);
    }

    #[test]
    fn a_refusal_is_shown_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("veil0.sock");
        let daemon = daemon(&path, Refusal { error: "not now".into() });
        let error = fetch(&path).unwrap_err().to_string();
        assert_eq!(error, format!("the tunnel at {} refused: not now", path.display()));
        daemon.join().unwrap();
    }

    #[test]
    fn nobody_waits_for_ever_to_be_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("veil0.sock");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        // One waits at most.
        listener.listen(0).unwrap();
        let patience = Duration::from_millis(10);
        let _first = connect(&path, patience).unwrap();
        assert!(timed_out(&connect(&path, patience).unwrap_err()));
    }

    #[test]
    fn nobody_there_and_several_there_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: Option<&Path>| match path {
            Some(path) => fetch(path).unwrap_err().to_string(),
            None => the_only_one(dir.path()).unwrap_err().to_string(),
        };
        let none = "no tunnel is running here: start one with `veil run`, or name its socket with --control";
        assert_eq!(error(None), none);
        let stale = dir.path().join("veil0.sock");
        drop(UnixListener::bind(&stale).unwrap());
        assert_eq!(error(None), none);
        let nobody =
            format!("no tunnel answers at {}: is it running? start it with `veil run`", stale.display());
        assert_eq!(error(Some(&stale)), nobody);
        assert!(error(Some(&dir.path().join("veil9.sock"))).starts_with("no tunnel answers at "));
        let _one = UnixListener::bind(dir.path().join("b.sock")).unwrap();
        let _two = UnixListener::bind(dir.path().join("a.sock")).unwrap();
        assert_eq!(error(None), "several tunnels are running (a, b): name one, for example `veil show a`");
    }
}
