//! What this process may do, and what this kernel can.

use aya::programs::ProgramType;
use serde::{Serialize, Serializer};
use socket2::{Domain, Socket, Type};
use std::fs;
use std::path::Path;

/// A capability (capabilities(7)), by its bit (linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    SysAdmin = 21,
    Bpf = 39,
}

impl Capability {
    pub const ALL: [Capability; 5] = [
        Capability::NetAdmin,
        Capability::NetRaw,
        Capability::Bpf,
        Capability::IpcLock,
        Capability::SysAdmin,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Capability::NetAdmin => "CAP_NET_ADMIN",
            Capability::NetRaw => "CAP_NET_RAW",
            Capability::IpcLock => "CAP_IPC_LOCK",
            Capability::SysAdmin => "CAP_SYS_ADMIN",
            Capability::Bpf => "CAP_BPF",
        }
    }
}

/// What this process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// The effective capabilities, a bit each.
    pub effective: u64,
    /// How much memory it may lock (RLIMIT_MEMLOCK), bytes; `None` is no limit.
    pub lockable: Option<u64>,
}

impl Privileges {
    /// As `/proc` has it. What cannot be read is not had.
    pub fn of_this_process() -> Privileges {
        let read = |name| fs::read_to_string(Path::new("/proc/self").join(name)).unwrap_or_default();
        Privileges { effective: effective(&read("status")).unwrap_or(0), lockable: lockable(&read("limits")) }
    }

    /// Whether `capability` is had, or CAP_SYS_ADMIN where that is as good.
    pub fn has(self, capability: Capability) -> bool {
        let bit = |capability: Capability| self.effective & 1 << capability as u8 != 0;
        bit(capability) || matches!(capability, Capability::Bpf) && bit(Capability::SysAdmin)
    }

    /// What AF_XDP needs and this process lacks: to load the program, to attach it, to make the sockets.
    pub fn missing(self) -> Vec<Capability> {
        let needed = [Capability::Bpf, Capability::NetAdmin, Capability::NetRaw];
        needed.into_iter().filter(|capability| !self.has(*capability)).collect()
    }

    /// Whether that many bytes of UMEM may be locked (net/xdp/xdp_umem.c, xdp_umem_account_pages).
    pub fn may_lock(self, bytes: u64) -> bool {
        self.has(Capability::IpcLock) || self.lockable.is_none_or(|limit| limit >= bytes)
    }
}

impl Serialize for Privileges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let held: Vec<_> =
            Capability::ALL.into_iter().filter(|it| self.has(*it)).map(Capability::name).collect();
        let mut object = serializer.serialize_struct("Privileges", 2)?;
        object.serialize_field("capabilities", &held)?;
        object.serialize_field("lockable_bytes", &self.lockable)?;
        object.end()
    }
}

fn effective(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

fn lockable(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    // No such line is no leave to lock anything.
    line.map_or(Some(0), |line| line.split_whitespace().next()?.parse().ok())
}

/// Whether something works; if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    Works,
    /// The kernel's refusal: its number if it has one, its words.
    Fails(Option<i32>, String),
}

impl Probe {
    fn from_error(errno: Option<i32>, error: impl ToString) -> Probe {
        Probe::Fails(errno, error.to_string())
    }

    /// Why not.
    pub fn why_not(&self) -> Option<&str> {
        match self {
            Probe::Works => None,
            Probe::Fails(_, why) => Some(why),
        }
    }
}

impl Serialize for Probe {
    /// "works", or why not.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.why_not().unwrap_or("works"))
    }
}

/// What this kernel can do, for this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// "6.12.1".
    pub release: String,
    /// AF_XDP sockets can be made.
    pub af_xdp: Probe,
    /// XDP programs can be loaded.
    pub bpf: Probe,
    /// The kernel describes its own types, which makes verifier messages readable; VEIL does without.
    pub btf: bool,
}

impl Kernel {
    /// By trying: a socket that is closed at once, a program of two instructions that is attached nowhere.
    pub fn ask() -> Kernel {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Kernel {
            release: release.trim_end().to_owned(),
            af_xdp: match Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None) {
                Ok(_) => Probe::Works,
                Err(error) => Probe::from_error(error.raw_os_error(), &error),
            },
            bpf: match aya::sys::is_program_supported(ProgramType::Xdp) {
                Ok(true) => Probe::Works,
                Ok(false) => Probe::from_error(None, "this kernel knows no XDP programs"),
                Err(error) => {
                    let error = crate::settings::errno(&error);
                    Probe::from_error(
                        error,
                        error.map_or("bpf() fails".to_owned(), |errno| {
                            std::io::Error::from_raw_os_error(errno).to_string()
                        }),
                    )
                }
            },
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        }
    }

    /// Major and minor version, 0.0 if the release is written in another way.
    pub fn version(&self) -> (u32, u32) {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_as_the_kernel_writes_it() {
        assert_eq!(effective("Name:\tveil\nCapEff:\t0000008000003000\n"), Some(1 << 39 | 1 << 13 | 1 << 12));
        assert_eq!(effective("Name:\tveil\n"), None);
        let limits = "Limit    Soft Limit  Hard Limit  Units\nMax locked memory         8388608              unlimited            bytes\n";
        assert_eq!(lockable(limits), Some(8_388_608));
        assert_eq!(lockable("Max locked memory         unlimited  unlimited  bytes\n"), None);
        assert_eq!(lockable(""), Some(0));
    }

    #[test]
    fn the_administrators_capability_stands_for_bpfs_alone() {
        let with =
            |bits: &[u8]| Privileges { effective: bits.iter().map(|bit| 1 << bit).sum(), lockable: Some(0) };
        assert_eq!(with(&[]).missing(), [Capability::Bpf, Capability::NetAdmin, Capability::NetRaw]);
        assert_eq!(with(&[21]).missing(), [Capability::NetAdmin, Capability::NetRaw]);
        assert!(with(&[12, 13, 39]).missing().is_empty());
        assert!(with(&[14]).may_lock(u64::MAX) && !with(&[21]).may_lock(1));
    }

    #[test]
    fn this_kernel_has_a_version() {
        assert!(Kernel::ask().version() > (2, 6));
        let kernel = |release: &str| Kernel {
            release: release.into(),
            af_xdp: Probe::Works,
            bpf: Probe::Works,
            btf: false,
        };
        assert_eq!(kernel("6.12.1-cloud-amd64").version(), (6, 12));
        assert_eq!(kernel("unknown").version(), (0, 0));
    }
}
