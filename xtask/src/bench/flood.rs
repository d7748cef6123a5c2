//! What a flood of handshakes costs a session that stands: one stream goes through the tunnel while the daemon at its far
//! end is sent initiations by keys it does not know, and while the same datagrams go to another port of its host.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::figures::{Direction, FLOODED, FLOODED_ELSEWHERE};
use super::helper::Helper;
use super::iperf::Iperf;
use super::measure::Samples;
use super::plan::Settings;
use super::topology::{OUTER, Tunnel};
use crate::interrupt;

/// Datagrams a second.
const RATE: f64 = 20_000.0;
/// Less, and it was no such flood.
const ENOUGH: f64 = 0.9;
/// What the flood claims to come from: the server must believe it reaches them, or its kernel drops them.
const SOURCES: &str = "198.18.0.0/15";
const PORT: u16 = 4433;
/// Nobody is there (RFC 863): the kernel drops what comes.
const OTHER_PORT: u16 = 9;

/// Both figures, in one tunnel and one after the other; `program` is `veil-flood`.
pub fn measure(tunnel: &Tunnel, program: &Path, settings: &Settings, samples: &mut Samples) -> Result<()> {
    let key = tunnel.server_key.as_deref().context("no VEIL here")?;
    let [left, right] = OUTER.map(|address| address.to_string());
    tunnel.right.exec(["ip", "route", "replace", SOURCES, "via", &left])?;
    let iperf = Iperf::serve(tunnel)?;
    for (figure, port) in [(FLOODED_ELSEWHERE, OTHER_PORT), (FLOODED, PORT)] {
        interrupt::check()?;
        let before = refused(tunnel)?;
        let mut command = tunnel.left.command(program);
        command.args([key, &format!("{right}:{port}"), &RATE.to_string()]);
        let flood = Helper::start(command)?;
        let moved = iperf.transfer(1, Direction::Forward, settings.bulk_seconds)?;
        let rate = flood.finish()?;
        ensure!(rate >= ENOUGH * RATE, "the flood was only {rate:.0} datagrams/s of {RATE}");
        let refused = refused(tunnel)? - before;
        ensure!((refused > 0) == (port == PORT), "the daemon refused {refused} datagrams to port {port}");
        samples.add(figure, moved.gigabits_per_second);
    }
    Ok(())
}

/// Initiations that the daemon on the right has answered with a cookie at most.
fn refused(tunnel: &Tunnel) -> Result<u64> {
    let [_, right] = tunnel.show()?.context("no VEIL here")?;
    right["counters"]["initiations_under_load"].as_u64().context("no count of initiations under load")
}
