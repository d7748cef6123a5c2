//! What a machine needs, for what, how to tell whether it is there, and what to do if not.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// When something is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    Building,
    /// Building with AF_XDP; without these `veil` is built all the same, for UDP alone.
    AfXdp,
    Running,
    Testing,
    Ci,
    /// Looking for races and undefined behaviour, in CI where a nightly compiler can be had.
    Nightly,
    /// Building the eBPF program anew: only who changes it, and CI.
    Ebpf,
}

impl For {
    pub fn word(self) -> &'static str {
        match self {
            For::Building => "build",
            For::AfXdp => "af_xdp",
            For::Running => "run",
            For::Testing => "test",
            For::Ci => "ci",
            For::Nightly => "nightly",
            For::Ebpf => "ebpf",
        }
    }
}

/// How a missing thing is got.
pub enum Cure {
    /// A package, by its name on Debian and Ubuntu and on Fedora.
    Package { debian: &'static str, fedora: &'static str },
    /// A program from crates, by `cargo install`.
    Crate(&'static str),
    /// bpf-linker, with the LLVM of this folder.
    BpfLinker { llvm: &'static str },
    /// A component of the Rust toolchain.
    Component(&'static str),
    /// A nightly Rust toolchain beside the one in use.
    Nightly,
    /// Components of that.
    NightlyComponents(&'static [&'static str]),
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
            Cure::BpfLinker { llvm } => {
                format!("LLVM_PREFIX={llvm} cargo install --locked {}", BPF_LINKER.join(" "))
            }
            Cure::Component(_) | Cure::Nightly | Cure::NightlyComponents(_) => {
                format!("rustup {}", self.rustup().join(" "))
            }
            Cure::Module(name) => format!("modprobe {name}"),
            Cure::Advice(text) => (*text).to_owned(),
        }
    }

    /// What rustup is told; nothing, where the cure is not rustup's.
    pub fn rustup(&self) -> Vec<&'static str> {
        match self {
            Cure::Component(name) => vec!["component", "add", name],
            Cure::Nightly => vec!["toolchain", "install", "nightly", "--profile", "minimal"],
            Cure::NightlyComponents(names) => {
                [&["component", "add", "--toolchain", "nightly"], *names].concat()
            }
            _ => Vec::new(),
        }
    }
}

/// What `cargo install` is told for bpf-linker: another LLVM than its default, which no distribution has yet.
pub const BPF_LINKER: &[&str] = &["bpf-linker", "--no-default-features", "--features", "llvm-22"];

pub struct Need {
    pub what: &'static str,
    pub purpose: For,
    pub cure: Cure,
    pub present: fn() -> bool,
}

/// Where Debian puts LLVM 22.
const LLVM: &str = "/usr/lib/llvm-22";

/// Everything VEIL uses on a machine, in the order in which it is missed.
pub const NEEDS: &[Need] = &[
    Need {
        what: "C compiler",
        purpose: For::Building,
        cure: Cure::Package { debian: "gcc libc6-dev", fedora: "gcc" },
        present: || veil_lab::has_program("cc"),
    },
    // xsk-rs builds libxdp and libbpf and asks libclang about their headers.
    Need {
        what: "clang",
        purpose: For::AfXdp,
        cure: Cure::Package { debian: "clang", fedora: "clang" },
        present: || veil_lab::has_program("clang"),
    },
    Need {
        what: "libclang",
        purpose: For::AfXdp,
        cure: Cure::Package { debian: "libclang-dev", fedora: "clang-devel" },
        present: has_libclang,
    },
    Need {
        what: "make",
        purpose: For::AfXdp,
        cure: Cure::Package { debian: "make", fedora: "make" },
        present: || veil_lab::has_program("make"),
    },
    Need {
        what: "m4",
        purpose: For::AfXdp,
        cure: Cure::Package { debian: "m4", fedora: "m4" },
        present: || veil_lab::has_program("m4"),
    },
    Need {
        what: "pkg-config",
        purpose: For::AfXdp,
        cure: Cure::Package { debian: "pkg-config", fedora: "pkgconf-pkg-config" },
        present: || veil_lab::has_program("pkg-config"),
    },
    Need {
        what: "libelf headers",
        purpose: For::AfXdp,
        cure: Cure::Package { debian: "libelf-dev", fedora: "elfutils-libelf-devel" },
        present: || has_header("libelf.h"),
    },
    Need {
        what: "zlib headers",
        purpose: For::AfXdp,
        cure: Cure::Package { debian: "zlib1g-dev", fedora: "zlib-devel" },
        present: || has_header("zlib.h"),
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
        what: "sysctl",
        purpose: For::Testing,
        cure: Cure::Package { debian: "procps", fedora: "procps-ng" },
        present: || veil_lab::has_program("sysctl"),
    },
    Need {
        what: "iperf3",
        purpose: For::Testing,
        cure: Cure::Package { debian: "iperf3", fedora: "iperf3" },
        present: || veil_lab::has_program("iperf3"),
    },
    Need {
        what: "ethtool",
        purpose: For::Testing,
        cure: Cure::Package { debian: "ethtool", fedora: "ethtool" },
        present: || veil_lab::has_program("ethtool"),
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
    Need {
        what: "nightly Rust",
        purpose: For::Nightly,
        cure: Cure::Nightly,
        present: || nightly_has("rustc"),
    },
    Need {
        what: "Miri",
        purpose: For::Nightly,
        cure: Cure::NightlyComponents(&["miri", "rust-src"]),
        present: || nightly_has("miri") && nightly_has("rust-src"),
    },
    Need {
        what: "eBPF compiler",
        purpose: For::Ebpf,
        cure: Cure::Package { debian: "rustc-web rust-web-src", fedora: "rust rust-src" },
        present: crate::build_ebpf::has_compiler,
    },
    Need {
        what: "LLVM 22",
        purpose: For::Ebpf,
        cure: Cure::Package { debian: "llvm-22-dev", fedora: "llvm-devel llvm" },
        present: || Path::new(LLVM).join("bin/llvm-config").exists(),
    },
    Need {
        what: "bpf-linker",
        purpose: For::Ebpf,
        cure: Cure::BpfLinker { llvm: LLVM },
        present: || veil_lab::has_program("bpf-linker"),
    },
];

/// What is missing of it.
pub fn lacking(purpose: For) -> Vec<&'static str> {
    let missing = NEEDS.iter().filter(|need| need.purpose == purpose && !(need.present)());
    missing.map(|need| need.what).collect()
}

/// Whether the C compiler finds a header.
fn has_header(name: &str) -> bool {
    let mut compiler = Command::new("cc");
    compiler.args(["-fsyntax-only", "-include", name, "-x", "c", "/dev/null"]);
    compiler.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    compiler.status().is_ok_and(|status| status.success())
}

/// Whether the shared library that bindgen loads is where distributions put it.
fn has_libclang() -> bool {
    let names = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let roots = [Path::new("/usr/lib"), Path::new("/usr/lib64"), Path::new("/usr/local/lib")];
    let below: Vec<PathBuf> = roots.iter().flat_map(|root| names(root)).collect();
    let folders = roots.iter().map(|root| root.to_path_buf());
    let folders = folders.chain(below.iter().cloned()).chain(below.iter().map(|folder| folder.join("lib")));
    std::env::var_os("LIBCLANG_PATH").is_some()
        || folders
            .filter(|folder| folder.is_dir())
            .any(|folder| names(&folder).iter().any(|file| is_libclang(file)))
}

/// `libclang.so`, `libclang-14.so.1` and the like; not `libclang-cpp.so`, which is something else.
fn is_libclang(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(rest) = name.strip_prefix("libclang") else { return false };
    let versioned = rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    rest.starts_with(".so") || versioned && rest.contains(".so")
}

/// Whether rustup has a nightly toolchain with this component.
pub fn nightly_has(component: &str) -> bool {
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "list", "--toolchain", "nightly", "--installed"]).stderr(Stdio::null());
    let listed = rustup.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    listed.is_ok_and(|listed| listed.lines().any(|line| line.starts_with(component)))
}

/// Whether `cargo NAME` works.
pub fn cargo_has(subcommand: &str) -> bool {
    let mut probe: Command = crate::cargo();
    probe.args([subcommand, "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        for name in ["libclang.so", "libclang.so.1", "libclang-14.so", "libclang-14.so.13"] {
            assert!(is_libclang(Path::new("/usr/lib").join(name).as_path()), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclangAST.a", "libclang_rt.so", "libclang-14.a", "clang"] {
            assert!(!is_libclang(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn a_header_that_nobody_has_is_not_found() {
        assert!(!has_header("no-such-header-of-veil.h"));
    }
}
