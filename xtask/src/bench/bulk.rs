//! Bulk: how much TCP goes through, and what it costs the two daemons in CPU time and system calls.

use anyhow::Result;

use super::added::Added;
use super::figures::{Direction, Group, STREAMS, bulk_key};
use super::iperf::Iperf;
use super::measure::Samples;
use super::plan::Settings;
use super::topology::Tunnel;
use crate::interrupt;

/// All figures of `group`, which names the wire the tunnel is on.
pub fn measure(tunnel: &Tunnel, group: Group, settings: &Settings, samples: &mut Samples) -> Result<()> {
    let iperf = Iperf::serve(tunnel)?;
    for streams in STREAMS {
        for direction in Direction::BOTH {
            interrupt::check()?;
            // On the plain wire one transfer tells what time the daemons add.
            let tells = group == Group::Bulk && streams == 1 && direction == Direction::Forward;
            let added = if tells { Added::look(tunnel)? } else { None };
            // To ask for the calls costs CPU time, so that is done around what is timed.
            let calls = tunnel.calls()?;
            let before = tunnel.cpu()?;
            let moved = iperf.transfer(streams, direction, settings.bulk_seconds)?;
            let key = bulk_key(group, streams, direction);
            samples.add(&key, moved.gigabits_per_second);
            samples.add_cpu(&key, tunnel, before, direction, moved.gigabits)?;
            if tells {
                Added::bulk_forward(tunnel, added, samples)?;
            }
            samples.add_calls(&key, tunnel, calls, moved.gigabits / 8.0)?;
        }
    }
    Ok(())
}
