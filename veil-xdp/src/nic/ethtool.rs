//! What only ethtool's ioctl tells: the driver's name and its channels (linux/ethtool.h).
#![allow(unsafe_code)]
//! Unsafe: one `ioctl`. What it guarantees: the request and the structure behind it are locals that live until the call
//! returns; the structure is as large as its command says, and any bytes are a value of it.

use super::Queues;
use serde::Serialize;
use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd;

/// Who drives an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Driver {
    pub name: String,
    /// The driver's own, or the kernel's; may be empty.
    pub version: String,
}

/// Its driver.
pub fn driver(interface: &str) -> io::Result<Driver> {
    let mut info = DriverInfo([0; 196]);
    info.0[..4].copy_from_slice(&GET_DRIVER_INFO.to_ne_bytes());
    ethtool(interface, &mut info)?;
    let text = |at: usize| match CStr::from_bytes_until_nul(&info.0[at..at + 32]) {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => String::new(),
    };
    Ok(Driver { name: text(4), version: text(36) })
}

/// Its queues. A combined channel is one queue of each kind.
///
/// # Errors
/// `EOPNOTSUPP`: the driver has no channels to tell of.
pub fn queues(interface: &str) -> io::Result<Queues> {
    let mut channels = Channels { command: GET_CHANNELS, ..Channels::default() };
    ethtool(interface, &mut channels)?;
    let Channels { combined, max_combined, .. } = channels;
    Ok(Queues {
        rx: channels.rx.saturating_add(combined),
        tx: channels.tx.saturating_add(combined),
        rx_max: channels.max_rx.saturating_add(max_combined),
        tx_max: channels.max_tx.saturating_add(max_combined),
    })
}

const GET_DRIVER_INFO: u32 = 3;
const GET_CHANNELS: u32 = 0x3c;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// A structure of ethtool's, starting with its command: any bytes are a value, and it is as large as the kernel's.
///
/// # Safety
/// Both must be so.
unsafe trait Exchange {}

/// struct ethtool_drvinfo: command, driver and version of 32 bytes each, and more.
#[repr(C, align(4))]
struct DriverInfo([u8; 196]);

// SAFETY: 196 bytes as in linux/ethtool.h: 4 + 5 * 32 + 12 + 5 * 4.
unsafe impl Exchange for DriverInfo {}

/// struct ethtool_channels.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

// SAFETY: nine numbers of 32 bits as in linux/ethtool.h.
unsafe impl Exchange for Channels {}

fn ethtool<E: Exchange>(interface: &str, exchange: &mut E) -> io::Result<()> {
    // SAFETY: all zero is a value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut *exchange).cast();
    // Any socket will do; this one needs neither IPv4 nor a privilege.
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    // SAFETY: the request and what it points to live until the call returns, and `Exchange` is as large as its
    // command says.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_large_as_the_kernels() {
        assert_eq!((size_of::<DriverInfo>(), size_of::<Channels>()), (196, 36));
    }

    #[test]
    fn a_name_too_long_is_no_interface() {
        assert_eq!(driver("sixteen-letters-").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(queues("veil-gone0").is_err());
    }
}
