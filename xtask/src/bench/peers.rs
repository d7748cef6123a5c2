//! Peers that a package registry has: how they are found, and how `--install-peers` gets them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::setup;

pub struct Peer {
    pub name: &'static str,
    /// What its program is called.
    pub program: &'static str,
    pub cure: &'static str,
    from: From,
}

/// How a peer wants to be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    WireGuard,
    OpenVpn,
}

enum From {
    /// A crate, installed below the target folder.
    Crate(&'static str),
    /// Debian packages.
    Debian(&'static [&'static str]),
}

const OPENVPN: &str = "openvpn";

pub const PEERS: &[Peer] = &[
    Peer {
        name: "gotatun",
        program: "gotatun",
        cure: "`cargo xtask bench --install-peers` builds it from crates",
        from: From::Crate("gotatun-cli"),
    },
    Peer {
        name: "boringtun",
        program: "boringtun-cli",
        cure: "`cargo xtask bench --install-peers` builds it from crates",
        from: From::Crate("boringtun-cli"),
    },
    Peer {
        name: "wireguard-go",
        program: "wireguard-go",
        cure: "`apt-get install wireguard-go`, or `--peer wireguard-go=PATH` for a newer one",
        from: From::Debian(&["wireguard-go"]),
    },
    Peer {
        name: OPENVPN,
        program: "openvpn",
        cure: "`apt-get install openvpn openssl`",
        from: From::Debian(&["openvpn", "openssl"]),
    },
];

pub fn known(name: &str) -> Option<&'static Peer> {
    PEERS.iter().find(|peer| peer.name == name)
}

/// All but OpenVPN speak WireGuard, those given by path too.
pub fn speaks(name: &str) -> Speaks {
    if name == OPENVPN { Speaks::OpenVpn } else { Speaks::WireGuard }
}

impl Peer {
    /// Whether there is all that its measurement takes: OpenVPN's certificates are made by openssl.
    fn is_there(&self) -> bool {
        self.find().is_some() && (self.name != OPENVPN || veil_lab::has_program("openssl"))
    }

    /// Installed for these measurements, or for everybody.
    pub fn find(&self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
        let mut places =
            [root().join("bin")].into_iter().chain(folders).map(|folder| folder.join(self.program));
        places.find(|place| place.is_file())
    }
}

fn root() -> PathBuf {
    crate::workspace().join("target/bench-peers")
}

/// Gets all that are missing. Building takes minutes.
pub fn install() -> Result<()> {
    let missing: Vec<&Peer> = PEERS.iter().filter(|peer| !peer.is_there()).collect();
    if missing.iter().any(|peer| matches!(peer.from, From::Debian(_))) {
        setup::refresh_packages();
    }
    for peer in missing {
        eprintln!("-- installing {}", peer.name);
        let installed = match peer.from {
            From::Crate(name) => install_crate(name),
            From::Debian(_) if !veil_lab::has_program("apt-get") => {
                eprintln!("no apt-get here: {} stays missing", peer.name);
                Ok(())
            }
            From::Debian(packages) => setup::apt_get_install(packages),
        };
        installed.with_context(|| format!("installing {}", peer.name))?;
    }
    Ok(())
}

fn install_crate(name: &str) -> Result<()> {
    let mut cargo = crate::cargo();
    cargo.args(["install", "--locked", "--root"]).arg(root()).arg(name);
    // stdout is for the table.
    let status = cargo.stdout(std::io::stderr()).status().context("starting cargo")?;
    ensure!(status.success(), "cargo install failed ({status})");
    Ok(())
}
