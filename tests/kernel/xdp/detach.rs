//! An operator's `bpftool link detach`, by libbpf.
//!
//! Unsafe is two calls into libbpf with plain numbers; the descriptor the first returns gets its one owner at once.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use libbpf_rs::libbpf_sys;
use libbpf_rs::query::LinkInfoIter;

/// Takes the program with this number off its interface, over the head of who attached it.
pub fn detach(program: u32) -> Result<()> {
    let link = LinkInfoIter::default().find(|link| link.prog_id == program).context("no link has it")?;
    // SAFETY: a number in, a descriptor or an error out.
    let fd = unsafe { libbpf_sys::bpf_link_get_fd_by_id(link.id) };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd)).context("opening the link");
    }
    // SAFETY: a descriptor made just now, known to nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the descriptor is open.
    match unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)).context("detaching the link"),
    }
}
