//! AF_XDP alone: packets per second between two processes over the same veth pair, native mode, copying. A tunnel over
//! AF_XDP can carry no more, so this is what it is compared with.
//!
//! The ends are the program `veil-raw-xdp`, built beforehand: this one links nothing of AF_XDP.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::figures::{RAW_XDP_BYTES, raw_xdp_key};
use super::helper::Helper;
use super::measure::Samples;
use super::plan::Settings;
use super::topology::{OUTER, Tunnel, WIRE};
use crate::interrupt;

const PORT: u16 = 4433;
/// For what is still in queues when the sender stops.
const DRAIN: Duration = Duration::from_millis(100);

/// The rate at which packets of each size arrive from a sender that never waits.
pub fn measure(tunnel: &Tunnel, program: &Path, settings: &Settings, samples: &mut Samples) -> Result<()> {
    let mac = tunnel.right.exec(["cat", &format!("/sys/class/net/{WIRE}/address")])?;
    for bytes in RAW_XDP_BYTES {
        interrupt::check()?;
        let length = Duration::from_secs(settings.bulk_seconds.into());
        let rate = rate(tunnel, program, mac.trim(), bytes, length)?;
        samples.add(&raw_xdp_key(bytes), rate / 1e3);
    }
    Ok(())
}

fn rate(tunnel: &Tunnel, program: &Path, mac: &str, bytes: u32, length: Duration) -> Result<f64> {
    let [from, to] = OUTER.map(|address| format!("{address}:{PORT}"));
    let mut command = tunnel.right.command(program);
    command.args(["receive", WIRE, &to]);
    let receiver = Helper::start(command)?;
    let (bytes, seconds) = (bytes.to_string(), length.as_secs_f64().to_string());
    let program = program.to_str().context("a path that is no text")?;
    tunnel.left.exec([program, "send", WIRE, &from, &to, mac, &bytes, &seconds])?;
    thread::sleep(DRAIN);
    receiver.finish()
}
