//! The whole daemon: a real TUN, real sockets, its log at its most talkative. Two peers: one starts handshakes, the other
//! lets the daemon start them.

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use veil_lab::{Lab, Node, require_privileges, signal};
use veil_proto::crypto::{PublicKey, Suite, Suites, hkdf_sha256};

use crate::child::{Child, PATIENCE, program};
use crate::other_end::{OtherEnd, Pairing, Session, StaticKey, Wire, draw};
use crate::scanner::{check, spelled_in};
use crate::secrets::{Secret, private_key};

/// Of all keys in files, of the daemon's entropy, and of its peers'.
const SEEDS: [u64; 4] = [0x4444, 0x5555, 0x6666, 0x7777];
const DAEMON: &str = "127.0.0.1:4433";
/// Where the peers are: outside, and inside the tunnel.
const CALLER: (&str, &str) = ("127.0.0.1:5001", "10.8.0.2");
const CALLED: (&str, &str) = ("127.0.0.1:5002", "10.8.0.3");

#[test]
fn a_daemon_keeps_no_chacha20_poly1305_key_longer_than_its_use() -> Result<()> {
    let test = "a_daemon_keeps_no_chacha20_poly1305_key_longer_than_its_use";
    if require_privileges(test) { scenario(Suite::ChaCha20Poly1305) } else { Ok(()) }
}

#[test]
fn a_daemon_keeps_no_aes_256_gcm_key_longer_than_its_use() -> Result<()> {
    let test = "a_daemon_keeps_no_aes_256_gcm_key_longer_than_its_use";
    if !Suites::supported().contains(Suite::Aes256Gcm) {
        println!("no AES in this hardware: nothing to test");
        return Ok(());
    }
    if require_privileges(test) { scenario(Suite::Aes256Gcm) } else { Ok(()) }
}

struct Udp(UdpSocket);

impl Wire for Udp {
    fn send(&mut self, datagram: &[u8]) -> Result<()> {
        self.0.send(datagram).context("sending to the daemon")?;
        Ok(())
    }

    fn receive(&mut self) -> Result<Vec<u8>> {
        let mut datagram = vec![0; 65536];
        let len = self.0.recv(&mut datagram).context("waiting for the daemon")?;
        datagram.truncate(len);
        Ok(datagram)
    }
}

fn scenario(suite: Suite) -> Result<()> {
    let keys = [0, 1, 2].map(|n| StaticKey::draw(SEEDS[0], n));
    let [own, caller_key, called_key] = &keys;
    let [caller_psk, called_psk, network_secret] = [3, 4, 5].map(|n| draw(SEEDS[0], n));
    let [fixed, clamped] = private_key("static key", &own.bytes);
    let kept = vec![
        fixed,
        Secret::new("the caller's pre-shared key", &caller_psk),
        Secret::new("the called peer's pre-shared key", &called_psk),
        Secret::new("network secret", &network_secret),
        receiver_key("envelope", &network_secret, &own.pair.public),
        receiver_key("cookie", &network_secret, &own.pair.public),
    ];

    let lab = Lab::new("memory")?;
    let node = lab.node("l", &["10.8.0.1/24"])?;
    let peers = [(CALLER, caller_key, "caller.psk"), (CALLED, called_key, "called.psk")];
    for (file, secret) in ["veil.key", "caller.psk", "called.psk", "network.secret"].iter().zip(&kept) {
        write_secret(&node.folder().join(file), secret)?;
    }
    let config = configuration(&node, peers, suite)?;
    let sockets = {
        let _inside = node.namespace.enter()?;
        peers.map(|((outside, _), ..)| UdpSocket::bind(outside))
    };
    let [caller, called] = sockets.map(|socket| -> Result<Udp> {
        let socket = socket?;
        socket.connect(DAEMON)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Udp(socket))
    });
    let pairing = |n: usize, psk| Pairing {
        child: (own, SEEDS[1]),
        own: (&keys[n], SEEDS[1 + n]),
        psk,
        network_secret: Some(network_secret),
        suite,
    };
    let mut caller = OtherEnd::new(pairing(1, caller_psk), caller?);
    let mut called = OtherEnd::new(pairing(2, called_psk), called?);

    let child = start(&node, &config)?;
    let pid = child.pid();
    // What a key file spells has been read, and what is clamped is clamped for one use.
    let mut gone: Vec<Secret> = kept.iter().flat_map(Secret::spelled).collect();
    gone.push(clamped);
    check(pid, "the daemon runs", &kept, &gone)?;

    let there = answered(&mut caller, pid, &node, &kept, &mut gone)?;
    let there = [there, asked(&mut called, pid, &node, &kept, &mut gone)?].concat();

    signal(pid, libc::SIGTERM)?;
    child.expect("over")?;
    gone.extend(there);
    gone.extend(kept);
    gone.extend(keys.iter().map(|key| receiver_key("header", &network_secret, &key.pair.public)));
    check(pid, "the daemon is done", &[], &gone)?;
    let log = child.log_bytes()?;
    let spelled: Vec<Secret> = gone.iter().flat_map(Secret::spelled).collect();
    for secrets in [gone, spelled] {
        let found = spelled_in(&log, &secrets);
        ensure!(found.is_empty(), "in the log: {found:#?}\n{}", String::from_utf8_lossy(&log));
    }
    child.end()
}

/// The peer starts one handshake after the other: sessions move from `next` to `current` to `previous` and away, unconfirmed ones
/// are replaced. Returns what must still be there.
fn answered(
    peer: &mut OtherEnd<Udp>,
    pid: u32,
    node: &Node,
    kept: &[Secret],
    gone: &mut Vec<Secret>,
) -> Result<Vec<Secret>> {
    let mut sessions: Vec<Session> = Vec::new();
    for n in 1..=4 {
        let mut session = peer.shake_hands(&format!("caller's session {n}"))?;
        gone.extend_from_slice(&session.agreed.passing);
        // Both keys are used, so that what use leaves behind is there to be found.
        for _ in 0..3 {
            peer.send_data(&mut session)?;
        }
        // The host's packets are carried in the session before until the daemon has opened what was sent in this one.
        let deadline = Instant::now() + PATIENCE;
        loop {
            send_packet(node, CALLER.1)?;
            if peer.await_data(&mut session)? {
                break;
            }
            ensure!(Instant::now() < deadline, "the caller's session {n} is not used");
        }
        sessions.push(session);
        if sessions.len() > 2 {
            gone.extend(sessions.remove(0).agreed.session);
        }
        let there = [kept, &keys(&sessions)].concat();
        check(pid, &format!("caller's session {n} is in use"), &there, gone)?;
    }
    let unconfirmed = peer.shake_hands("an unconfirmed session")?;
    gone.extend_from_slice(&unconfirmed.agreed.passing);
    check(
        pid,
        "a session waits in next",
        &[keys(&sessions), unconfirmed.agreed.session.clone()].concat(),
        gone,
    )?;
    let other = peer.shake_hands("another unconfirmed session")?;
    gone.extend(unconfirmed.agreed.all());
    gone.extend_from_slice(&other.agreed.passing);
    let there = [keys(&sessions), other.agreed.session].concat();
    check(pid, "another took its place", &there, gone)?;
    Ok(there)
}

/// The daemon starts a handshake, has to try again, and is answered. Returns what must still be there.
fn asked(
    peer: &mut OtherEnd<Udp>,
    pid: u32,
    node: &Node,
    kept: &[Secret],
    gone: &mut Vec<Secret>,
) -> Result<Vec<Secret>> {
    send_packet(node, CALLED.1)?;
    let (first, _) = peer.await_initiation("first attempt")?;
    // However long the scan takes, the retry waits for its end.
    signal(pid, libc::SIGSTOP)?;
    gone.extend_from_slice(&first.passing);
    check(pid, "an initiation is pending", &[kept, &first.pending].concat(), gone)?;
    signal(pid, libc::SIGCONT)?;

    let (second, initiation) = peer.await_initiation("second attempt")?;
    let mut session = peer.answer(&second, initiation)?;
    ensure!(peer.await_data(&mut session)?, "data in another session");
    gone.extend(first.all());
    gone.extend_from_slice(&session.agreed.passing);
    check(pid, "the daemon's session is in use", &session.agreed.session, gone)?;
    Ok(session.agreed.session)
}

fn keys(sessions: &[Session]) -> Vec<Secret> {
    sessions.iter().flat_map(|session| session.agreed.session.clone()).collect()
}

/// What the network secret makes of whoever receives under that key (`protocol.md`, Keys). Header keys are half as long.
fn receiver_key(label: &str, network_secret: &[u8; 32], receiver: &PublicKey) -> Secret {
    let mut key = [0; 32];
    let len = if label == "header" { 16 } else { 32 };
    let info = format!("VEIL/1 {label}");
    hkdf_sha256(network_secret, receiver.as_bytes(), &[info.as_bytes()], &mut key[..len]);
    Secret::new(format!("{label} key of {receiver}"), &key[..len])
}

type PeerEntry<'a> = ((&'a str, &'a str), &'a StaticKey, &'a str);

/// Writes the daemon's configuration and returns its path.
fn configuration(node: &Node, peers: [PeerEntry; 2], suite: Suite) -> Result<String> {
    let mut text = format!(
        "[interface]\nname = \"{}\"\nprivate-key-file = \"veil.key\"\nnetwork-secret-file = \"network.secret\"\n\
         addresses = [\"10.8.0.1/24\"]\n",
        node.interface
    );
    for ((outside, inside), key, psk) in peers {
        text += &format!(
            "[[peer]]\npublic-key = \"{}\"\npreshared-key-file = \"{psk}\"\nallowed-ips = [\"{inside}/32\"]\n\
             endpoint = \"{outside}\"\ncipher = \"{}\"\n",
            key.pair.public,
            suite.name()
        );
    }
    let path = node.folder().join("veil.toml");
    fs::write(&path, text)?;
    Ok(path.to_str().context("no UTF-8")?.to_owned())
}

fn start(node: &Node, config: &str) -> Result<Child> {
    let mut command = node.namespace.command(program()?);
    command.args(["daemon", &SEEDS[1].to_string(), config]);
    command.args([node.folder().join("veil.sock"), node.folder().join("veil.state")]);
    let child = Child::spawn(command)?;
    child.wait_for_log(": ready on ")?;
    Ok(child)
}

/// Has the host send a packet to that inner address.
fn send_packet(node: &Node, inside: &str) -> Result<()> {
    let _inside = node.namespace.enter()?;
    UdpSocket::bind("10.8.0.1:0")?.send_to(&[7; 1000], (inside, 9))?;
    Ok(())
}

fn write_secret(path: &Path, secret: &Secret) -> Result<()> {
    fs::write(path, secret.base64())?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o600))?)
}
