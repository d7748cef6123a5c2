//! Peers that a package registry has: how they are found, and how `--install-peers` gets them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::elevate::as_root;

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
    /// A Debian package.
    Debian(&'static str),
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
        from: From::Debian("wireguard-go"),
    },
    Peer {
        name: OPENVPN,
        program: "openvpn",
        cure: "`apt-get install openvpn openssl`",
        from: From::Debian("openvpn"),
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
    for peer in PEERS.iter().filter(|peer| peer.find().is_none()) {
        let mut command = match peer.from {
            From::Crate(name) => {
                let mut cargo = crate::cargo();
                cargo.args(["install", "--locked", "--root"]).arg(root()).arg(name);
                cargo
            }
            From::Debian(package) => {
                if !veil_lab::has_program("apt-get") {
                    eprintln!("no apt-get here: {} stays missing", peer.name);
                    continue;
                }
                let mut apt = as_root("apt-get")?;
                apt.args(["install", "--yes", "--no-install-recommends", package]);
                apt
            }
        };
        eprintln!("-- installing {}", peer.name);
        // stdout is for the table.
        let status = command.stdout(std::io::stderr()).status();
        let status = status.with_context(|| format!("starting the installation of {}", peer.name))?;
        ensure!(status.success(), "installing {} failed ({status})", peer.name);
    }
    Ok(())
}
