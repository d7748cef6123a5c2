//! Latency: round trip times of single pings, on an idle tunnel and beside a TCP transfer.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use veil_lab::Ping;

use super::added::Added;
use super::figures::Direction;
use super::iperf::{Iperf, Moved};
use super::measure::Samples;
use super::plan::Settings;
use super::stats::percentile;
use super::topology::Tunnel;
use crate::interrupt;

const PAYLOAD: usize = 56;
/// A ping that has not come back by then counts as having taken that long: a loss is no short round trip.
const PATIENCE: Duration = Duration::from_secs(2);
/// Long enough that each side has gone back to sleep.
const IDLE_GAP: Duration = Duration::from_millis(5);
const LOADED_GAP: Duration = Duration::from_millis(10);
/// How long a transfer is left alone at its start and at its end.
const MARGIN: Duration = Duration::from_millis(500);

pub fn measure(tunnel: &Tunnel, settings: &Settings, samples: &mut Samples) -> Result<()> {
    let before = Added::look(tunnel)?;
    let times = pings(tunnel, settings.idle(), IDLE_GAP)?;
    record("rtt-idle", times, samples)?;
    Added::idle(tunnel, before, samples)?;
    let (times, _) = under_load(tunnel, settings)?;
    record("rtt-bulk", times, samples)
}

/// The same beside a transfer on the shaped wire, whose rate is kept to tell whether the wire was full.
pub fn measure_shaped(tunnel: &Tunnel, settings: &Settings, samples: &mut Samples) -> Result<()> {
    let (times, moved) = under_load(tunnel, settings)?;
    samples.add("shaped-rate", moved.gigabits_per_second * 1e3);
    record("rtt-shaped", times, samples)
}

fn record(key: &str, mut milliseconds: Vec<f64>, samples: &mut Samples) -> Result<()> {
    for (name, percent) in [("p50", 50.0), ("p99", 99.0)] {
        let value = percentile(&mut milliseconds, percent).context("no ping was sent")?;
        samples.add(&format!("{key}-{name}"), value);
    }
    Ok(())
}

fn under_load(tunnel: &Tunnel, settings: &Settings) -> Result<(Vec<f64>, Moved)> {
    let iperf = Iperf::serve(tunnel)?;
    // Long enough for a p99 on the quick side too.
    let seconds = settings.bulk_seconds + 1;
    thread::scope(|scope| {
        let transfer = scope.spawn(|| iperf.transfer(1, Direction::Forward, seconds));
        thread::sleep(MARGIN);
        let length = Duration::from_secs(seconds.into()).saturating_sub(2 * MARGIN);
        let times = pings(tunnel, length, LOADED_GAP);
        let moved = transfer.join().map_err(|_| anyhow!("the thread of the transfer panicked"))??;
        Ok((times?, moved))
    })
}

/// Round trip times in milliseconds, for that long.
fn pings(tunnel: &Tunnel, length: Duration, gap: Duration) -> Result<Vec<f64>> {
    let _inside = tunnel.left.enter()?;
    let mut ping = Ping::new(tunnel.target.into())?;
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < length {
        interrupt::check()?;
        let time = ping.once(PAYLOAD, PATIENCE)?.unwrap_or(PATIENCE);
        times.push(time.as_secs_f64() * 1e3);
        thread::sleep(gap);
    }
    Ok(times)
}
