//! The protocol's two halves as one event loop owns them, with a clock and a wire that the parent works by hand.
//!
//! `at SECONDS` lets the time come and runs what is due; `initiate` asks for a session with the only peer; `datagram HEX` arrives;
//! `end` drops everything. Each answer is the handshake datagrams that leave (`sent HEX`), then `done`.

use std::path::Path as FilePath;

use anyhow::{Context, Result, bail};
use veil_proto::crypto::{KeyPair, NetworkSecret, PrivateKey, Psk, PublicKey, Suite, Suites};
use veil_proto::handshake::Identity;
use veil_proto::peer::PeerSettings;
use veil_proto::time::SECOND;
use veil_proto::tunnel::{HandshakeOutput, Handshakes, Inbound, Sessions, ToHandshakes};
use veil_proto::{Now, Path, PeerId, Tai64n};
use veil_tests::seeded::Seeded;
use veil_userspace::keyfile::read_key;

use super::{hear, say};

struct End {
    handshakes: Handshakes,
    sessions: Sessions,
    entropy: Seeded,
    out: HandshakeOutput,
    now: Now,
    requests: u64,
}

/// Works until told to end, or until nobody speaks any more. Key files are read as the daemon reads them.
pub fn run(seed: u64, folder: &FilePath, peer: &str) -> Result<()> {
    let mut end = End::new(seed, folder, peer)?;
    say("done")?;
    while let Some(line) = hear()? {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("at", seconds) => end.at(seconds.parse()?),
            ("initiate", _) => end.initiate(),
            ("datagram", hex) => end.datagram(&mut unhex(hex)?),
            ("end", _) => break,
            _ => bail!("unknown command {line}"),
        }
        end.settle()?;
    }
    Ok(())
}

impl End {
    fn new(seed: u64, folder: &FilePath, peer: &str) -> Result<Self> {
        let private =
            read_key(&folder.join("veil.key"), "private key", "veil genkey", PrivateKey::from_base64)?;
        let psk = read_key(&folder.join("peer.psk"), "pre-shared key", "veil genpsk", Psk::from_base64)?;
        let settings = PeerSettings {
            public_key: PublicKey::from_base64(peer)?,
            psk,
            suites: Suites::only(Suite::ChaCha20Poly1305),
            allowed_ips: Vec::new(),
            keepalive: None,
            has_endpoint: false,
            lease: false,
        };
        let (keys, none, mut entropy) =
            (KeyPair::from_private(private), NetworkSecret::default(), Seeded::new(seed));
        let settings = [settings];
        let sessions = Sessions::new(&keys.public, &none, &settings, None);
        let handshakes = Handshakes::new(Identity::new(keys, none), &settings, &mut entropy);
        let mut end =
            End { handshakes, sessions, entropy, out: HandshakeOutput::default(), now: at(0), requests: 0 };
        end.at(1);
        Ok(end)
    }

    fn at(&mut self, seconds: u64) {
        self.now = at(seconds);
        self.sessions.on_timer(self.now);
        self.handshakes.on_timer(self.now, &mut self.out);
    }

    fn initiate(&mut self) {
        self.requests += 1;
        self.tell(ToHandshakes::Initiate { peer: PeerId(0), number: self.requests, path: Some(path()) });
    }

    fn datagram(&mut self, bytes: &mut [u8]) {
        if let Inbound::Handshake = self.sessions.open(bytes, &path(), self.now) {
            self.tell(ToHandshakes::Datagram { path: path(), bytes: bytes.to_vec() });
        }
    }

    fn tell(&mut self, message: ToHandshakes) {
        self.handshakes.handle(message, self.now, &mut self.entropy, &mut self.out);
    }

    /// Carries messages to and fro until there are none, then tells the parent what leaves.
    fn settle(&mut self) -> Result<()> {
        loop {
            if let Some(message) = self.out.to_sessions.pop_front() {
                self.sessions.handle(message);
            } else if let Some(message) = self.sessions.next_message() {
                self.tell(message);
            } else if self.handshakes.has_work() {
                self.handshakes.step(self.now, &mut self.entropy, &mut self.out);
            } else {
                break;
            }
        }
        self.out.accepted.clear();
        self.out.resolve.clear();
        while let Some(transmit) = self.out.transmits.pop_front() {
            let hex: String = transmit.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            say(&format!("sent {hex}"))?;
        }
        say("done")
    }
}

fn at(seconds: u64) -> Now {
    let nanos = seconds * SECOND;
    Now { mono: nanos, wall: Tai64n::from_unix_nanos(1_700_000_000 * SECOND + nanos) }
}

/// The only way there is.
fn path() -> Path {
    Path::to(([192, 0, 2, 2], 4433).into())
}

fn unhex(hex: &str) -> Result<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    });
    digits.collect::<Option<_>>().context("no hexadecimal digits")
}
