//! The TUN device itself: attached with `IFF_VNET_HDR`, never blocking.
#![allow(unsafe_code)]
//! Unsafe: two `ioctl`s and the taking over of one descriptor. What it guarantees: an ioctl's argument is a plain
//! number, or the pointer to a local `int` that lives until the call returns; the descriptor comes from
//! `into_raw_fd`, so that it has no other owner.
//!
//! The crate `tun` creates or attaches the device; we set what it does not: the length of the packet header, and the
//! offloads, at every attach, since a persistent device keeps those of its last owner. Addresses, MTU, routes and the
//! up flag are set by netlink elsewhere, so attaching needs no more privilege than the device demands.

use super::offload::Coalescer;
use super::{TunCounters, TunRead, TunReceived, TunWrite};
use crate::frame::{Frame, Home, Inbox, Inner, Opened, Outbox, VNET_HDR_LEN, VnetHdr, WideSet};
use anyhow::{Context, Result, anyhow};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use veil_proto::DropReason;

/// `TUNSETOFFLOAD` flags (include/uapi/linux/if_tun.h): what the host may leave undone in packets it gives us.
pub const TUN_F_CSUM: u32 = 0x01;
pub const TUN_F_TSO4: u32 = 0x02;
pub const TUN_F_TSO6: u32 = 0x04;
pub const TUN_F_USO4: u32 = 0x20;
pub const TUN_F_USO6: u32 = 0x40;

/// An attached TUN device, before it is two ends.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    mtu: u16,
    offloads: Offloads,
}

/// What the host leaves to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums may be unfinished, and TCP comes in super-packets.
    pub tso: bool,
    /// UDP comes in super-packets, and may be written so.
    pub uso: bool,
}

impl Tun {
    /// Creates the device `name`, or attaches to a persistent one, in the network namespace of the calling thread.
    /// All offloads are off afterwards.
    ///
    /// `mtu` is remembered for whoever configures the interface; it is not set here.
    ///
    /// # Errors
    /// No TUN driver, no permission, or the name is taken; the message names the cure.
    pub fn open(name: &str, mtu: u16) -> Result<Self> {
        let mut configuration = tun::Configuration::default();
        configuration.tun_name(name).mtu(mtu).platform_config(|platform| {
            platform.vnet_hdr(true);
            // The crate would set addresses and flags by ioctls that know IPv4 only.
            platform.ensure_root_privileges(false);
        });
        let device = tun::create(&configuration).map_err(|error| attach_error(name, error))?;
        device.set_nonblock().with_context(|| format!("setting TUN device {name} non-blocking"))?;
        let name = tun::AbstractDevice::tun_name(&device).unwrap_or_else(|_| name.to_owned());
        // SAFETY: `into_raw_fd` gives up the only ownership of an open descriptor.
        let descriptor = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
        let tun = Tun { file: File::from(descriptor), name, mtu, offloads: Offloads::default() };
        tun.set_header_len()
            .with_context(|| format!("setting the header length of TUN device {}", tun.name))?;
        tun.set_offload(0)
            .with_context(|| format!("switching off the offloads of TUN device {}", tun.name))?;
        Ok(tun)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The MTU asked for at `open`.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Says what the host may leave undone: `TUN_F_*` flags, 0 for nothing.
    ///
    /// # Errors
    /// `EINVAL`: this kernel does not know one of the flags (USO: 6.2).
    pub fn set_offload(&self, flags: u32) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its flags by value.
        let result = unsafe {
            libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags))
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Has the host leave checksums and the cutting of super-packets to us, as far as this kernel can.
    ///
    /// # Errors
    /// It can do none of it; nothing has changed then.
    pub fn enable_offloads(&mut self) -> io::Result<Offloads> {
        let tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        self.set_offload(tso)?;
        // The kernel takes both USO flags or, before 6.2, none.
        let uso = self.set_offload(tso | TUN_F_USO4 | TUN_F_USO6);
        if let Err(error) = &uso {
            tracing::info!("{}: no UDP super-packets on this kernel: {error}", self.name);
        }
        self.offloads = Offloads { tso: true, uso: uso.is_ok() };
        Ok(self.offloads)
    }

    fn set_header_len(&self) -> io::Result<()> {
        let length = VNET_HDR_LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one `int` at the pointer, a local that lives until the call returns.
        let result =
            unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const length) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The two ends. They share the descriptor; the device lives until both are gone.
    pub fn split(self) -> (TunRx, TunTx) {
        let (file, counters) = (Arc::new(self.file), Arc::new(TunCounters::default()));
        let Offloads { tso, uso } = self.offloads;
        for (shown, on) in [
            (&counters.tso, tso),
            (&counters.joins_tcp, tso),
            (&counters.uso, uso),
            (&counters.joins_udp, uso),
        ] {
            shown.store(on, Relaxed);
        }
        let mut coalescer = Coalescer::new();
        coalescer.join(tso, uso);
        (TunRx { file: file.clone(), counters: counters.clone() }, TunTx { file, counters, coalescer })
    }
}

fn attach_error(name: &str, error: tun::Error) -> anyhow::Error {
    let errno = match &error {
        tun::Error::Io(io) => io.raw_os_error(),
        _ => None,
    };
    let cause = match (errno, &error) {
        (Some(libc::ENOENT | libc::ENODEV | libc::ENXIO), _) => {
            "no /dev/net/tun: load the driver (`modprobe tun`), or give the container that device".to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            format!("no permission to attach TUN device {name}: run as root or with CAP_NET_ADMIN")
        }
        (Some(libc::EBUSY), _) => format!(
            "TUN device {name} is held by another program: stop that one, or choose another interface name"
        ),
        (Some(libc::EINVAL), _) => format!(
            "{name} is no name for a TUN device, or an interface of another kind has it: choose another name"
        ),
        (_, tun::Error::NameTooLong) => {
            format!("the interface name {name} is too long: at most 15 bytes")
        }
        _ => format!("attaching TUN device {name}"),
    };
    anyhow!(error).context(cause)
}

/// The reading end of a TUN device.
pub struct TunRx {
    file: Arc<File>,
    counters: Arc<TunCounters>,
}

impl TunRx {
    /// What this TUN counts, to be kept and read elsewhere.
    pub fn shared_counters(&self) -> Arc<TunCounters> {
        self.counters.clone()
    }
}

impl TunRead for TunRx {
    fn receive(
        &mut self,
        set: &mut WideSet,
        out: &mut impl Outbox<Inner>,
        budget: usize,
    ) -> io::Result<TunReceived> {
        let mut got = TunReceived::default();
        let limit = budget.min(out.room());
        while got.goes_on(limit) {
            let Some(mut frame) = set.take() else { break };
            let mut header = [0; VNET_HDR_LEN];
            let mut room = [IoSliceMut::new(&mut header), IoSliceMut::new(frame.buffer_mut())];
            self.counters.read_calls.fetch_add(1, Relaxed);
            let read = match (&*self.file).read_vectored(&mut room) {
                Ok(read) => read,
                Err(error) => {
                    set.give(frame);
                    match error.kind() {
                        io::ErrorKind::WouldBlock => return Ok(got),
                        io::ErrorKind::Interrupted => continue,
                        _ => return Err(error),
                    }
                }
            };
            let (length, header) = (read.saturating_sub(VNET_HDR_LEN), VnetHdr::decode(header));
            self.counters.read(header, length);
            if length == 0 || length > frame.capacity() {
                self.counters.read_drops.count(DropReason::NotIp);
                set.give(frame);
                continue;
            }
            frame.set_len(length);
            let item = Inner { frame: Frame::Wide(frame), vnet_hdr: header };
            if let Err(item) = out.push(item) {
                self.counters.read_drops.count(DropReason::NoFrame);
                item.frame.home(set);
                break;
            }
            got.add(length);
        }
        got.more = true;
        Ok(got)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn counters(&self) -> &TunCounters {
        &self.counters
    }
}

/// The writing end of a TUN device.
pub struct TunTx {
    file: Arc<File>,
    counters: Arc<TunCounters>,
    coalescer: Coalescer,
}

impl TunTx {
    /// Finishes every checksum before a packet is written, and joins no packets: what packet sockets see is whole.
    pub fn finish_checksums(&mut self) {
        self.coalescer.finish_checksums(true);
        self.counters.joins_tcp.store(false, Relaxed);
        self.counters.joins_udp.store(false, Relaxed);
    }
}

/// Writes one packet. The host's receive path runs inside the call, so it hardly ever waits; whatever it refuses
/// (EAGAIN, ENOBUFS, ENOMEM; EIO: the interface is down) is dropped and counted.
#[inline]
fn write(mut file: &File, parts: &[IoSlice<'_>], counters: &TunCounters) -> io::Result<()> {
    loop {
        counters.write_calls.fetch_add(1, Relaxed);
        match file.write_vectored(parts) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(|_| ()),
        }
    }
}

impl TunWrite for TunTx {
    fn write(&mut self, runs: &mut impl Inbox<Opened>, home: &mut impl Home) {
        let TunTx { file, counters, coalescer } = self;
        coalescer.write(runs, home, counters, |parts| write(file, parts, counters));
    }

    fn counters(&self) -> &TunCounters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Bounded, SetName};
    use crate::tun::testing::opened;
    use std::sync::atomic::Ordering::Relaxed;

    /// A device of this process's own, or `None`, loudly, where the machine does not let us; `VEIL_PRIVILEGED=1`
    /// makes that a failure.
    fn device(name: &str) -> Option<Tun> {
        match Tun::open(name, 1416) {
            Ok(tun) => Some(tun),
            Err(error) if std::env::var_os("VEIL_PRIVILEGED").is_none_or(|v| v != "1") => {
                eprintln!("SKIPPED: {error:#}");
                None
            }
            Err(error) => panic!("{error:#}"),
        }
    }

    #[test]
    fn a_device_that_is_down_takes_nothing_and_every_drop_is_counted() {
        let Some(mut tun) = device("veiltest%d") else { return };
        assert!(tun.name().starts_with("veiltest") && tun.name() != "veiltest%d");
        let offloads = tun.enable_offloads().unwrap();
        assert!(offloads.tso);
        assert_eq!(tun.offloads, offloads);
        tun.set_offload(0).unwrap();
        let (mut rx, mut tx) = tun.split();
        let mut set = WideSet::new(SetName::TunReceive, 2);
        let got = rx.receive(&mut set, &mut Bounded::new(4), 4).unwrap();
        assert_eq!(got, TunReceived::default());
        assert_eq!(rx.counters().read_calls.load(Relaxed), 1);
        assert!(set.is_whole());
        let mut set = WideSet::new(SetName::LinkReceive, 1);
        let mut runs = opened(&mut set, &[&[0x45; 40]]);
        tx.write(&mut runs, &mut set);
        assert!(set.is_whole());
        assert_eq!(tx.counters().write_calls.load(Relaxed), 1);
        assert_eq!(tx.counters().write_drops.of(DropReason::TunWrite), 1);
        assert_eq!(tx.counters().packets_written.load(Relaxed), 0);
    }

    #[test]
    fn a_name_that_is_taken_is_named_with_the_cure() {
        let Some(tun) = device("veilbusy%d") else { return };
        let text = format!("{:#}", Tun::open(tun.name(), 1416).unwrap_err());
        assert!(text.contains(tun.name()) && text.contains("another"), "{text}");
        let text = format!("{:#}", Tun::open("a-name-of-sixteen", 1416).unwrap_err());
        assert!(text.contains("too long"), "{text}");
        let text = format!("{:#}", Tun::open("lo", 1416).unwrap_err());
        assert!(text.contains("another kind"), "{text}");
    }
}
