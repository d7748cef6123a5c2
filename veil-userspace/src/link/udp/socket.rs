//! The outer UDP sockets: opened, bound and set up in one place, in the network namespace of the calling thread.
#![allow(unsafe_code)]
//! Unsafe: `setsockopt`, `getsockopt` and `ioctl` of one `int`. What it guarantees: the pointer handed over is that of a
//! local `int`, with its size, alive until the call returns.
//!
//! One IPv4 and one IPv6-only socket share a port, so that each family's errors, TOS and source addresses speak their
//! own language. Both refuse to fragment (`IP_PMTUDISC_DO`) and report ICMP errors with the destination they concern
//! (`IP_RECVERR`).

use super::error_queue::PathError;
use super::port_holder::port_holder;
use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use veil_proto::Path;

/// A burst of 64 KiB runs must fit while the reader sleeps; more on the way out would be bufferbloat on slow links.
const RECEIVE_BUFFER: i32 = 8 << 20;
const SEND_BUFFER: i32 = 1 << 20;

/// Entries kept for whoever asks; more than that many at once say nothing new.
const PATH_ERRORS_KEPT: usize = 64;

/// How often port 0 is tried again when the port that IPv4 got is taken in IPv6.
const PORT_TRIES: usize = 16;

/// The sockets both ends of a link share.
pub struct Sockets {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
    path_errors: Mutex<VecDeque<PathError>>,
    waiting_errors: AtomicUsize,
}

impl Sockets {
    /// Opens what `listen` asks for: `[::]` means both families, any other address its own alone. Port 0 means any.
    pub fn open(listen: SocketAddr) -> Result<(Self, u16)> {
        let (v4, v6, port) = match listen.ip() {
            IpAddr::V6(ip) if ip.is_unspecified() => both(listen.port())?,
            IpAddr::V4(_) => {
                let (socket, port) = bind(listen).map_err(|e| bind_error(listen, e))?;
                (Some(socket), None, port)
            }
            IpAddr::V6(_) => {
                let (socket, port) = bind(listen).map_err(|e| bind_error(listen, e))?;
                (None, Some(socket), port)
            }
        };
        for socket in [&v4, &v6].into_iter().flatten() {
            set_up(socket).with_context(|| format!("setting up the UDP socket on port {port}"))?;
        }
        let path_errors = Mutex::new(VecDeque::with_capacity(PATH_ERRORS_KEPT));
        let [v4, v6] = [v4, v6].map(|socket| socket.map(OwnedFd::from));
        Ok((Sockets { v4, v6, path_errors, waiting_errors: AtomicUsize::new(0) }, port))
    }

    /// The sockets there are, IPv4 first.
    pub fn all(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [self.v4.as_ref().map(AsFd::as_fd), self.v6.as_ref().map(AsFd::as_fd)]
    }

    /// The socket that reaches `path`'s remote side.
    pub fn of(&self, path: &Path) -> Option<BorrowedFd<'_>> {
        if path.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }.map(AsFd::as_fd)
    }

    /// Keeps an error for `take_path_error`; beyond a bound, the oldest is forgotten.
    pub fn report(&self, error: PathError) {
        let mut errors = self.path_errors();
        if errors.len() == PATH_ERRORS_KEPT {
            errors.pop_front();
        }
        errors.push_back(error);
        self.waiting_errors.store(errors.len(), Relaxed);
    }

    /// The oldest error not taken yet; costs one load when there is none.
    pub fn take_path_error(&self) -> Option<PathError> {
        if self.waiting_errors.load(Relaxed) == 0 {
            return None;
        }
        let mut errors = self.path_errors();
        let error = errors.pop_front();
        self.waiting_errors.store(errors.len(), Relaxed);
        error
    }

    fn path_errors(&self) -> MutexGuard<'_, VecDeque<PathError>> {
        self.path_errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Pair = (Option<Socket>, Option<Socket>, u16);

fn both(port: u16) -> Result<Pair> {
    let v4_any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    for attempt in 1.. {
        let (v4, got) = bind(v4_any).map_err(|e| bind_error(v4_any, e))?;
        let v6_any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, got));
        match bind(v6_any) {
            Ok((v6, _)) => return Ok((Some(v4), Some(v6), got)),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                tracing::info!("no IPv6 here ({e}): listening on IPv4 only, UDP port {got}");
                return Ok((Some(v4), None, got));
            }
            Err(e) if port == 0 && e.kind() == io::ErrorKind::AddrInUse && attempt < PORT_TRIES => {}
            Err(e) => return Err(bind_error(v6_any, e)),
        }
    }
    unreachable!("the last attempt returns")
}

fn bind(address: SocketAddr) -> io::Result<(Socket, u16)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    let port = socket.local_addr()?.as_socket().map_or(address.port(), |bound| bound.port());
    Ok((socket, port))
}

fn bind_error(address: SocketAddr, error: io::Error) -> anyhow::Error {
    let port = address.port();
    let cure = match error.kind() {
        io::ErrorKind::AddrInUse => match port_holder(port) {
            Some(holder) => format!(
                "UDP port {port} is already in use by {holder}; stop that or choose another listen port"
            ),
            None => format!(
                "UDP port {port} is already in use; stop what holds it (`ss -ulpn 'sport = :{port}'` names it) \
                 or choose another listen port"
            ),
        },
        io::ErrorKind::PermissionDenied => {
            format!("UDP port {port} needs CAP_NET_BIND_SERVICE; grant it or choose a port of 1024 or above")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "no interface here has the address {}; listen on [::] or on an address of this host",
                address.ip()
            )
        }
        _ => return anyhow!(error).context(format!("binding a UDP socket to {address}")),
    };
    anyhow!(error).context(cure)
}

fn set_up(socket: &Socket) -> io::Result<()> {
    let set = |level, name, value| set_option(socket.as_fd(), level, name, value);
    if socket.domain()? == Domain::IPV4 {
        set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        set(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set(libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
    } else {
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
    }
    set(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    set_buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER)?;
    set_buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER)
}

/// The size forced past the system's limit where we may, else as much as the limit allows.
fn set_buffer(socket: &Socket, force: i32, polite: i32, size: i32) -> io::Result<()> {
    set_option(socket.as_fd(), libc::SOL_SOCKET, force, size)
        .or_else(|_| set_option(socket.as_fd(), libc::SOL_SOCKET, polite, size))
}

/// Sets one option that is an `int`.
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes of `value`, a local that lives until the call returns.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads one option that is an `int`.
pub fn option(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `value`, and the length to `size`, both locals that live
    // until the call returns.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that the kernel was given to send and has not passed on (`SIOCOUTQ`, which has the number of `TIOCOUTQ`).
#[cfg(feature = "xdp")]
pub fn unsent(fd: BorrowedFd<'_>) -> i32 {
    let mut bytes = 0i32;
    // SAFETY: the kernel writes one `int` to `bytes`, which outlives the call.
    match unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        0 => bytes,
        _ => 0,
    }
}
