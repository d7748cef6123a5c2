//! The steering program in the kernel: loaded by aya, attached by a bpf_link, told whose packets to take.
//!
//! The link is a descriptor: when [`Program`] is dropped or the process dies, however it dies, the program is off the
//! interface. Another program on the hook is never replaced.

use crate::holder::{Holder, holder};
use crate::settings::errno;
use crate::sys;
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::Xdp;
use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use veil_ebpf::{OBJECT, PROGRAM, SteeringConfig, Verdict, local_key, maps};

/// Where on the receive path the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel makes a packet buffer.
    Native,
    /// In the kernel's stack, on any interface; slower than a UDP socket, so for tests and for those who ask for it.
    Generic,
}

impl AttachMode {
    /// The name in logs and in `veil show`.
    pub const fn name(self) -> &'static str {
        match self {
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
        }
    }

    /// `XDP_FLAGS_DRV_MODE`, `XDP_FLAGS_SKB_MODE`, include/uapi/linux/if_link.h.
    const fn flags(self) -> u32 {
        match self {
            AttachMode::Native => 1 << 2,
            AttachMode::Generic => 1 << 1,
        }
    }
}

/// Why the program is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("there is no interface {interface}: {error}; see `ip link`")]
    NoInterface { interface: String, error: io::Error },
    #[error("cannot load the steering program for {interface}: {}; {}", chain(error.as_ref()), load_cure(error.as_ref()))]
    Load { interface: String, error: Box<dyn Error + Send + Sync> },
    #[error(
        "cannot attach the steering program to {interface} ({} mode): {} is there; \
         detach it (`ip link set dev {interface} xdp off`, or stop who owns it), or use UDP",
        mode.name(), holder.as_ref().map_or("another program".to_owned(), Holder::to_string)
    )]
    Busy { interface: String, mode: AttachMode, holder: Option<Holder> },
    #[error("cannot attach the steering program to {interface} ({} mode) by bpf_link: {error}; {}", mode.name(), attach_cure(error))]
    Attach { interface: String, mode: AttachMode, error: io::Error },
}

/// An error and its causes, in a line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (**error).source());
    let mut words: Vec<String> = causes.map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}

fn load_cure(error: &(dyn Error + 'static)) -> &'static str {
    match errno(error) {
        Some(libc::EPERM | libc::EACCES) => "needs CAP_BPF and CAP_NET_ADMIN",
        Some(libc::ENOSYS) => "the kernel is built without BPF (CONFIG_BPF_SYSCALL)",
        _ => "needs Linux 5.9 or later, with BTF",
    }
}

fn attach_cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "needs CAP_BPF and CAP_NET_ADMIN",
        Some(libc::EOPNOTSUPP) => "its driver has no native XDP; generic mode may do",
        Some(libc::EINVAL | libc::ERANGE | libc::E2BIG) => {
            "the driver refuses: the MTU may be too large for XDP, an offload in the way (see `ethtool -k`), or the \
             kernel older than 5.9"
        }
        Some(libc::ENOMEM | libc::ENOSPC) => {
            "the driver wants more memory or queues for XDP; see `ethtool -l`"
        }
        _ => "see the kernel's words",
    }
}

/// Why one of the program's maps could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} of the steering program on {interface}: {}", chain(error))]
pub struct SteeringError {
    what: &'static str,
    interface: String,
    #[source]
    error: MapError,
}

/// The steering program, loaded and attached to one interface. It takes nothing until [`set_config`](Self::set_config),
/// [`set_local`](Self::set_local) and [`register`](Self::register) have been called.
pub struct Program {
    interface: String,
    mode: AttachMode,
    id: u32,
    /// The program is attached as long as this is open: it must have no duplicate.
    _link: OwnedFd,
    sockets: XskMap<MapData>,
    config: Array<MapData, [u8; size_of::<SteeringConfig>()]>,
    local: HashMap<MapData, [u8; 16], u8>,
    counters: PerCpuArray<MapData, u64>,
    /// What is in `local`.
    known: BTreeSet<[u8; 16]>,
}

impl Program {
    /// Loads the program and attaches it to an interface of this thread's namespace.
    ///
    /// # Errors
    /// With the interface, what was attempted, what the kernel said, and the cure. Needs CAP_BPF and CAP_NET_ADMIN.
    pub fn attach(interface: &str, mode: AttachMode) -> Result<Program, AttachError> {
        let name = || interface.to_owned();
        let index = sys::interface_index(interface)
            .map_err(|error| AttachError::NoInterface { interface: name(), error })?;
        let mut ebpf = load().map_err(|error| AttachError::Load { interface: name(), error })?;
        let fail = |error: Box<dyn Error + Send + Sync>| AttachError::Load { interface: name(), error };
        let (program, id) = loaded(&mut ebpf).map_err(fail)?;
        let link =
            sys::link_xdp(program, index, mode.flags()).map_err(|error| match error.raw_os_error() {
                // EEXIST: there is one in another mode.
                Some(libc::EBUSY | libc::EEXIST) => {
                    AttachError::Busy { interface: name(), mode, holder: holder(index).ok().flatten() }
                }
                _ => AttachError::Attach { interface: name(), mode, error },
            })?;
        let maps = Maps::of(&mut ebpf).map_err(fail)?;
        let Maps { sockets, config, local, counters } = maps;
        Ok(Program {
            interface: name(),
            mode,
            id,
            _link: link,
            sockets,
            config,
            local,
            counters,
            known: BTreeSet::new(),
        })
    }

    /// The interface's name when the program was attached.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Where on the receive path the program runs.
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// The kernel's number for the program, by which [`program_on`](crate::program_on) tells whether it is attached still.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Says whose packets to take.
    pub fn set_config(&mut self, config: SteeringConfig) -> Result<(), SteeringError> {
        let result = self.config.set(0, config.to_bytes(), 0);
        result.map_err(self.fail("write the configuration"))
    }

    /// Makes the addresses this host answers to exactly these; only what changed is written. New ones first.
    ///
    /// # Errors
    /// When there are more than [`maps::MAX_LOCAL`], or the kernel refuses. What was written stays.
    pub fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), SteeringError> {
        let wanted: BTreeSet<[u8; 16]> = addresses.iter().map(|address| key(*address)).collect();
        let gone: Vec<_> = self.known.difference(&wanted).copied().collect();
        let new: Vec<_> = wanted.difference(&self.known).copied().collect();
        // What goes must make room when the map would overflow; else what comes is there first.
        let removal_first = self.known.len() + new.len() > maps::MAX_LOCAL;
        if removal_first {
            self.remove_local(&gone)?;
        }
        for key in new {
            let result = self.local.insert(key, 1, 0);
            result.map_err(self.fail("add a local address"))?;
            self.known.insert(key);
        }
        if removal_first { Ok(()) } else { self.remove_local(&gone) }
    }

    fn remove_local(&mut self, keys: &[[u8; 16]]) -> Result<(), SteeringError> {
        for key in keys {
            match self.local.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(self.fail("remove a local address")(error)),
            }
            self.known.remove(key);
        }
        Ok(())
    }

    /// Redirects what comes by a queue to this socket, which must be bound to the queue; fill its ring first.
    pub fn register(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), SteeringError> {
        let result = self.sockets.set(queue, socket.as_raw_fd(), 0);
        result.map_err(self.fail("register a socket"))
    }

    /// Lets what comes by a queue pass to the kernel again. A queue without a socket is fine.
    pub fn unregister(&mut self, queue: u32) -> Result<(), SteeringError> {
        match self.sockets.unset(queue) {
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
            Err(MapError::KeyNotFound) => Ok(()),
            result => result.map_err(self.fail("unregister a socket")),
        }
    }

    /// Packets by verdict, in the order of [`Verdict::ALL`], since the program was loaded.
    pub fn counters(&self) -> Result<[u64; Verdict::ALL.len()], SteeringError> {
        let mut counts = [0; Verdict::ALL.len()];
        for (at, count) in (0..).zip(&mut counts) {
            let values = self.counters.get(&at, 0).map_err(self.fail("read the counters"))?;
            *count = values.iter().sum();
        }
        Ok(counts)
    }

    fn fail(&self, what: &'static str) -> impl Fn(MapError) -> SteeringError + use<> {
        let interface = self.interface.clone();
        move |error| SteeringError { what, interface: interface.clone(), error }
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Program({} on {}, {})", self.mode.name(), self.interface, self.id)
    }
}

/// The key of an address; an IPv4-mapped one is IPv4's.
fn key(address: IpAddr) -> [u8; 16] {
    match address.to_canonical() {
        IpAddr::V4(v4) => local_key(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn load() -> Result<Ebpf, Box<dyn Error + Send + Sync>> {
    let mut ebpf = Ebpf::load(OBJECT)?;
    program(&mut ebpf)?.load()?;
    Ok(ebpf)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, Box<dyn Error + Send + Sync>> {
    Ok(ebpf.program_mut(PROGRAM).ok_or("the object has no such program")?.try_into()?)
}

/// The loaded program's descriptor and number.
fn loaded(ebpf: &mut Ebpf) -> Result<(BorrowedFd<'_>, u32), Box<dyn Error + Send + Sync>> {
    let program = program(ebpf)?;
    let id = program.info()?.id();
    Ok((program.fd()?.as_fd(), id))
}

struct Maps {
    sockets: XskMap<MapData>,
    config: Array<MapData, [u8; size_of::<SteeringConfig>()]>,
    local: HashMap<MapData, [u8; 16], u8>,
    counters: PerCpuArray<MapData, u64>,
}

impl Maps {
    fn of(ebpf: &mut Ebpf) -> Result<Maps, Box<dyn Error + Send + Sync>> {
        let mut take = |name| ebpf.take_map(name).ok_or_else(|| format!("the object has no map {name}"));
        Ok(Maps {
            sockets: take(maps::XSKS)?.try_into()?,
            config: take(maps::CONFIG)?.try_into()?,
            local: take(maps::LOCAL)?.try_into()?,
            counters: take(maps::COUNTERS)?.try_into()?,
        })
    }
}
