//! Which rung of the ladder VEIL can stand on: zero-copy, native copy, generic copy, UDP.
//!
//! [`rungs`] is pure: facts in, verdicts out, so that `veil doctor` says just what `veil run` will do. A rung it allows
//! may still be refused when it is tried (a driver says it has zero-copy and its queue has not); then it is the next
//! one's turn. A rung it forbids need not be tried.

use crate::FrameSize;
use crate::nic::{Facts, HookMode, Probe};
use serde::Serialize;
use std::fmt;

/// How datagrams go, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Rung {
    /// The NIC reads and writes the UMEM.
    #[serde(rename = "zero-copy")]
    ZeroCopy,
    /// The program runs in the driver; the kernel copies each packet once.
    #[serde(rename = "native copy")]
    NativeCopy,
    /// The program runs in the kernel's stack. Slower than UDP with its offloads, so it must be asked for.
    #[serde(rename = "generic copy")]
    GenericCopy,
    /// UDP sockets.
    #[serde(rename = "udp")]
    Udp,
}

impl Rung {
    pub const ALL: [Rung; 4] = [Rung::ZeroCopy, Rung::NativeCopy, Rung::GenericCopy, Rung::Udp];

    /// The name in logs, in `veil show` and in `veil doctor`.
    pub const fn name(self) -> &'static str {
        match self {
            Rung::ZeroCopy => "zero-copy",
            Rung::NativeCopy => "native copy",
            Rung::GenericCopy => "generic copy",
            Rung::Udp => "udp",
        }
    }

    /// How large the UMEM's frames are for an interface with this MTU; `None` if no frame is large enough.
    pub const fn frame_size(self, mtu: usize) -> Option<FrameSize> {
        match (self, FrameSize::for_mtu(mtu)) {
            // Some drivers round what a frame holds down to whole KiB, and drop or cut what is longer (igb, igc, ixgbe).
            (Rung::ZeroCopy, Some(_)) => Some(FrameSize::Page),
            (_, size) => size,
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the user wants, and what is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// AF_XDP may be used.
    pub xdp: bool,
    /// Generic mode may be used.
    pub generic: bool,
    /// Frames of UMEM there will be.
    pub frames: u32,
    /// A program on the hook that is our own, and in nobody's way.
    pub own_program: Option<u32>,
}

/// Why a rung cannot be had: what is missing, and the cure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WhyNot {
    pub what: String,
    pub cure: String,
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cure)
    }
}

impl std::error::Error for WhyNot {}

fn no<T>(what: impl Into<String>, cure: impl Into<String>) -> Result<T, WhyNot> {
    Err(WhyNot { what: what.into(), cure: cure.into() })
}

/// Every rung, best first, and whether it can be had. Of several reasons the one that is hardest to cure is given: what
/// the interface is, what the kernel is, how both are set up, and last what this process may do.
pub fn rungs(facts: &Facts, asked: Asked) -> [(Rung, Result<(), WhyNot>); 4] {
    Rung::ALL.map(|rung| {
        let verdict = match rung {
            Rung::Udp => Ok(()),
            _ => asked_for(rung, asked)
                .and_then(|()| interface(rung, facts))
                .and_then(|()| kernel(facts))
                .and_then(|()| set_up(rung, facts, asked))
                .and_then(|()| privileges(rung, facts, asked)),
        };
        (rung, verdict)
    })
}

/// The best rung that can be had.
pub fn best(rungs: &[(Rung, Result<(), WhyNot>)]) -> Rung {
    rungs.iter().find(|(_, verdict)| verdict.is_ok()).map_or(Rung::Udp, |(rung, _)| *rung)
}

fn asked_for(rung: Rung, asked: Asked) -> Result<(), WhyNot> {
    if !asked.xdp {
        return no("only UDP was asked for", "ask for `auto` or `xdp`");
    }
    if rung == Rung::GenericCopy && !asked.generic {
        return no("generic mode is slower than UDP and was not asked for", "nothing to cure");
    }
    Ok(())
}

/// Drivers that hand a program on to the interfaces below them. It runs there then, and the kernel drops what it redirects to
/// a socket of the upper one (net/xdp/xsk.c, `xsk_rcv_check`).
const STACKED: [&str; 2] = ["bonding", "hv_netvsc"];

/// What the interface is.
fn interface(rung: Rung, facts: &Facts) -> Result<(), WhyNot> {
    let nic = &facts.nic;
    if nic.mac.is_none() {
        return no(format!("{} is no Ethernet interface", nic.name), "name the one its packets leave by");
    }
    if rung == Rung::GenericCopy {
        return Ok(());
    }
    let driver = match nic.driver_name() {
        "" => "its driver".to_owned(),
        name => format!("the driver {name}"),
    };
    let other = "use another interface, or be content with the next rung";
    if STACKED.contains(&nic.driver_name()) {
        return no(
            format!(
                "{} receives by interfaces below it, whose packets its sockets are never given",
                nic.name
            ),
            "name one of those, or be content with UDP",
        );
    }
    if let Some(xdp) = nic.xdp
        && !(xdp.basic && xdp.redirect)
    {
        if nic.driver_name() == "veth" {
            return no(
                format!("the other end of {} has more TX queues than this end has RX queues", nic.name),
                "set as many here, or fewer there, with `ethtool -L`",
            );
        }
        return no(format!("{driver} runs no XDP programs"), other);
    }
    if nic.virtio.is_some_and(|virtio| !virtio.takes_programs()) {
        return no(
            "the virtual machine's host joins packets or leaves checksums open, and cannot be told to stop",
            "have the host offer VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, or no guest offloads",
        );
    }
    if rung == Rung::ZeroCopy {
        if nic.xdp.is_some_and(|xdp| !xdp.xsk_zerocopy) {
            return no(format!("{driver} has no zero-copy in this kernel"), other);
        }
        if nic.virtio.is_some_and(|virtio| !virtio.maps_memory()) {
            return no(
                "the virtual machine's host does not let virtio_net map memory (VIRTIO_F_ACCESS_PLATFORM, \
                 VIRTIO_F_RING_RESET)",
                "start QEMU's virtio-net-pci with iommu_platform=on",
            );
        }
    }
    Ok(())
}

/// What the kernel is. A refusal for want of privileges is not the kernel's fault; see [`privileges`].
fn kernel(facts: &Facts) -> Result<(), WhyNot> {
    let kernel = &facts.kernel;
    if kernel.version() < (5, 9) {
        return no(
            format!("Linux {} cannot attach a program by bpf_link", kernel.release),
            "use Linux 5.9 or later",
        );
    }
    if let Probe::Fails(errno, why) = &kernel.af_xdp
        && !is_refusal(*errno)
    {
        return no(
            format!("this kernel makes no AF_XDP sockets ({why})"),
            "use one built with CONFIG_XDP_SOCKETS",
        );
    }
    if let Probe::Fails(errno, why) = &kernel.bpf
        && !is_refusal(*errno)
    {
        return no(
            format!("this kernel loads no XDP programs ({why})"),
            "use one built with CONFIG_BPF_SYSCALL",
        );
    }
    Ok(())
}

fn is_refusal(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EPERM | libc::EACCES))
}

/// How the interface is set up.
fn set_up(rung: Rung, facts: &Facts, asked: Asked) -> Result<(), WhyNot> {
    let nic = &facts.nic;
    let name = &nic.name;
    let in_the_way =
        |hook: &&crate::nic::Hook| hook.mode != HookMode::Hardware && Some(hook.program) != asked.own_program;
    if let Some(hook) = nic.hook.iter().find(in_the_way) {
        let called = hook.name.as_ref().map_or(String::new(), |name| format!(" `{name}`"));
        let what =
            format!("{name}'s XDP hook has program {}{called} ({} mode)", hook.program, hook.mode.name());
        return match hook.processes.as_slice() {
            [] => no(what, format!("take it off with `ip link set dev {name} xdp off`")),
            several => no(format!("{what} of {}", several.join(", ")), "stop that, or take the program off"),
        };
    }
    let limit = match rung {
        Rung::GenericCopy => None,
        _ => Some(nic.mtu_limit.bytes).filter(|limit| nic.mtu > *limit),
    };
    if let Some(limit) = limit {
        return no(
            format!("{name}'s MTU of {} is above {limit}, the most for XDP in single buffers", nic.mtu),
            format!("`ip link set dev {name} mtu {limit}`"),
        );
    }
    if FrameSize::for_mtu(nic.mtu as usize).is_none() {
        return no(
            format!("{name}'s MTU of {} is more than a UMEM frame holds", nic.mtu),
            format!("`ip link set dev {name} mtu 3822` or less"),
        );
    }
    if !nic.up {
        return no(format!("{name} is switched off"), format!("`ip link set dev {name} up`"));
    }
    Ok(())
}

/// What this process may do.
fn privileges(rung: Rung, facts: &Facts, asked: Asked) -> Result<(), WhyNot> {
    let missing = facts.privileges.missing();
    if !missing.is_empty() {
        let names: Vec<_> = missing.into_iter().map(|capability| capability.name()).collect();
        return no(format!("{} missing", names.join(", ")), "run as root (sudo), or give the program these");
    }
    for (what, probe) in [("making AF_XDP sockets", &facts.kernel.af_xdp), ("bpf()", &facts.kernel.bpf)] {
        if let Some(why) = probe.why_not() {
            return no(
                format!("{what} is refused ({why}) though the capabilities are there"),
                "a container's or user namespace's rule: run outside of it",
            );
        }
    }
    let size = rung.frame_size(facts.nic.mtu as usize).unwrap_or(FrameSize::Page);
    let umem = u64::from(asked.frames) * size.bytes() as u64;
    if !facts.privileges.may_lock(umem) {
        let limit = facts.privileges.lockable.unwrap_or_default();
        return no(
            format!("{} KiB of memory must be locked, and {} KiB may be", umem >> 10, limit >> 10),
            "CAP_IPC_LOCK, or a higher `ulimit -l`",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
