//! What a machine needs, for what, how to tell whether it is there, and what to do if not.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};

/// When something is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    Building,
    Running,
    Testing,
    Ci,
}

impl For {
    pub fn word(self) -> &'static str {
        match self {
            For::Building => "build",
            For::Running => "run",
            For::Testing => "test",
            For::Ci => "ci",
        }
    }
}

/// How a missing thing is got.
pub enum Cure {
    /// A package, by its name on Debian and Ubuntu and on Fedora.
    Package { debian: &'static str, fedora: &'static str },
    /// A program from crates, by `cargo install`.
    Crate(&'static str),
    /// A component of the Rust toolchain.
    Component(&'static str),
    /// A kernel module.
    Module(&'static str),
    /// Something only the machine's owner can do.
    Advice(&'static str),
}

impl Cure {
    /// The cure as a line to type or read.
    pub fn line(&self) -> String {
        match self {
            Cure::Package { debian, .. } if veil_lab::has_program("apt-get") => {
                format!("apt-get install {debian}")
            }
            Cure::Package { fedora, .. } if veil_lab::has_program("dnf") => format!("dnf install {fedora}"),
            Cure::Package { debian, .. } => format!("install {debian}"),
            Cure::Crate(name) => format!("cargo install --locked {name}"),
            Cure::Component(name) => format!("rustup component add {name}"),
            Cure::Module(name) => format!("modprobe {name}"),
            Cure::Advice(text) => (*text).to_owned(),
        }
    }
}

pub struct Need {
    pub what: &'static str,
    pub purpose: For,
    pub cure: Cure,
    pub present: fn() -> bool,
}

/// Everything VEIL uses on a machine, in the order in which it is missed.
pub const NEEDS: &[Need] = &[
    Need {
        what: "C compiler",
        purpose: For::Building,
        cure: Cure::Package { debian: "gcc libc6-dev", fedora: "gcc" },
        present: || veil_lab::has_program("cc"),
    },
    Need {
        what: "TUN device",
        purpose: For::Running,
        cure: Cure::Module("tun"),
        present: || Path::new("/dev/net/tun").exists(),
    },
    Need {
        what: "IPv6",
        purpose: For::Testing,
        cure: Cure::Advice("boot without ipv6.disable=1"),
        present: || UdpSocket::bind("[::1]:0").is_ok(),
    },
    Need {
        what: "ip",
        purpose: For::Testing,
        cure: Cure::Package { debian: "iproute2", fedora: "iproute" },
        present: || veil_lab::has_program("ip"),
    },
    Need {
        what: "iperf3",
        purpose: For::Testing,
        cure: Cure::Package { debian: "iperf3", fedora: "iperf3" },
        present: || veil_lab::has_program("iperf3"),
    },
    Need {
        what: "setpriv",
        purpose: For::Testing,
        cure: Cure::Package { debian: "util-linux", fedora: "util-linux" },
        present: || veil_lab::has_program("setpriv"),
    },
    Need {
        what: "root or sudo",
        purpose: For::Running,
        cure: Cure::Advice("become root, or install sudo"),
        present: || veil_lab::is_root() || veil_lab::has_program("sudo"),
    },
    Need {
        what: "rustfmt",
        purpose: For::Ci,
        cure: Cure::Component("rustfmt"),
        present: || cargo_has("fmt"),
    },
    Need {
        what: "clippy",
        purpose: For::Ci,
        cure: Cure::Component("clippy"),
        present: || cargo_has("clippy"),
    },
    Need {
        what: "cargo-deny",
        purpose: For::Ci,
        cure: Cure::Crate("cargo-deny"),
        present: || cargo_has("deny"),
    },
];

/// Whether `cargo NAME` works.
pub fn cargo_has(subcommand: &str) -> bool {
    let mut probe: Command = crate::cargo();
    probe.args([subcommand, "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}
