//! One end of a tunnel to be: its namespace, its keys, its inner addresses and its configuration file.
//!
//! Interface names are unique per node although namespaces would not demand it, because daemons share the file
//! system, where the state file and the default control socket are named after the interface.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::binary::veil_binary;
use crate::daemon::Daemon;
use crate::namespace::Namespace;
use crate::program::run;

/// A key pair in base64, made by the program itself.
#[derive(Clone, Debug)]
pub struct Keys {
    pub private: String,
    pub public: String,
}

impl Keys {
    /// A fresh pair, by `veil genkey` and `veil pubkey`.
    pub fn generate() -> Result<Keys> {
        let veil = veil_binary()?;
        let private = run(Command::new(veil).arg("genkey"))?.trim().to_owned();
        let mut pubkey =
            Command::new(veil).arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        writeln!(pubkey.stdin.take().context("veil pubkey has no stdin")?, "{private}")?;
        let output = pubkey.wait_with_output()?;
        ensure!(output.status.success(), "veil pubkey failed ({})", output.status);
        Ok(Keys { private, public: String::from_utf8(output.stdout)?.trim().to_owned() })
    }
}

/// A host that can run a daemon. `config` is plain text: tests that want it wrong edit it.
#[derive(Debug)]
pub struct Node {
    pub namespace: Namespace,
    pub interface: String,
    pub keys: Keys,
    pub config: String,
    folder: PathBuf,
    addresses: Vec<String>,
}

impl Node {
    pub(crate) fn create(
        namespace: Namespace,
        interface: String,
        folder: PathBuf,
        addresses: &[&str],
    ) -> Result<Node> {
        let keys = Keys::generate()?;
        write_private(&folder.join("veil.key"), &keys.private)?;
        let config = format!(
            "[interface]\nname = \"{interface}\"\nprivate-key-file = \"veil.key\"\nlisten = \"[::]:4433\"\n\
             addresses = {addresses:?}\n"
        );
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        Ok(Node { namespace, interface, keys, config, folder, addresses })
    }

    /// Adds `other` as a peer that owns all its inner addresses; `endpoint` as the configuration spells it.
    pub fn add_peer(&mut self, other: &Node, endpoint: Option<&str>) {
        let allowed: Vec<String> = other.hosts().map(|host| format!("{host}/{}", width(host))).collect();
        let public = &other.keys.public;
        // Writing to a String cannot fail.
        let _ = write!(
            self.config,
            "\n[[peer]]\nname = \"{}\"\npublic-key = \"{public}\"\nallowed-ips = {allowed:?}\n",
            other.interface
        );
        if let Some(endpoint) = endpoint {
            let _ = writeln!(self.config, "endpoint = \"{endpoint}\"");
        }
    }

    /// The inner addresses without their prefix lengths.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.addresses.iter().map(|address| address.split('/').next().unwrap_or(address))
    }

    /// Where the configuration, the key, the control socket and the log are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the configuration and returns its path.
    pub fn write_config(&self) -> Result<PathBuf> {
        let path = self.folder.join("veil.toml");
        fs::write(&path, &self.config).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Starts `veil run` here and waits until it is ready.
    pub fn start(&self) -> Result<Daemon> {
        self.start_with(&[])
    }

    /// The same, with further arguments.
    pub fn start_with(&self, arguments: &[&str]) -> Result<Daemon> {
        self.start_program(veil_binary()?, arguments)
    }

    /// The first interface towards other hosts.
    fn wire(&self) -> &'static str {
        let has_eth0 = self.namespace.exec(["ip", "link", "show", "eth0"]).is_ok();
        if has_eth0 { "eth0" } else { "eth1" }
    }

    /// The same, by another build of `veil`. `VEIL_LINK` (xdp, xdp-generic) has every daemon carry its datagrams that way over
    /// its first wire, unless the arguments say otherwise.
    pub fn start_program(&self, veil: &Path, arguments: &[&str]) -> Result<Daemon> {
        let link: &[&str] = match std::env::var("VEIL_LINK").as_deref() {
            _ if arguments.contains(&"--link") => &[],
            Ok("xdp") => &["--link", "xdp", "--iface", self.wire()],
            Ok("xdp-generic") => &["--link", "xdp", "--iface", self.wire(), "--xdp-mode", "generic"],
            _ => &[],
        };
        let arguments = [arguments, link].concat();
        Daemon::start(veil, &self.namespace, &self.interface, &self.write_config()?, &self.folder, &arguments)
    }
}

/// Writes a secret so that only its owner can read it, as `veil` demands.
fn write_private(path: &Path, secret: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{secret}").with_context(|| format!("writing {}", path.display()))
}

fn width(host: &str) -> u8 {
    if host.contains(':') { 128 } else { 32 }
}
