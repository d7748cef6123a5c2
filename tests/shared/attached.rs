//! Which programs are on an interface's XDP hook, asked through libbpf: it shares no code with what attaches them.

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use libbpf_rs::{Xdp, XdpFlags};

/// The kernel's numbers of the programs on the interface numbered `ifindex`, in the network namespace of the calling
/// thread, whatever their mode.
pub fn attached_programs(ifindex: u32) -> Result<Vec<u32>> {
    // libbpf's type wants a program to attach; asking needs none.
    let no_program = File::open("/dev/null")?;
    let answer = Xdp::new(no_program.as_fd())
        .query(ifindex.try_into()?, XdpFlags::NONE)
        .with_context(|| format!("bpf_xdp_query of interface {ifindex}"))?;
    let all = [answer.drv_prog_id, answer.skb_prog_id, answer.hw_prog_id];
    Ok(all.into_iter().filter(|id| *id != 0).collect())
}
