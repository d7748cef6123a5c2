//! Bulk: how much TCP goes through, and what it costs the two daemons in CPU time and system calls.

use anyhow::{Context, Result};

use super::added::Added;
use super::figures::{Direction, Group, STREAMS, bulk_key, datagrams_key};
use super::iperf::Iperf;
use super::measure::Samples;
use super::plan::Settings;
use super::stages::Stages;
use super::topology::Tunnel;
use crate::interrupt;

/// All figures of `group`, which names the wire the tunnel is on.
pub fn measure(tunnel: &Tunnel, group: Group, settings: &Settings, samples: &mut Samples) -> Result<()> {
    let iperf = Iperf::serve(tunnel)?;
    for streams in STREAMS {
        for direction in Direction::BOTH {
            interrupt::check()?;
            // On the plain wire one transfer tells what time the daemons add, and what each thread costs.
            let tells = group == Group::Bulk && streams == 1 && direction == Direction::Forward;
            let look = || {
                let added = if tells { Added::look(tunnel)? } else { None };
                // To ask for the calls costs CPU time, so that is done around what is timed.
                let (calls, sent) = (tunnel.calls()?, sent_by(tunnel, direction)?);
                let stages = if tells { Stages::look(tunnel)? } else { None };
                Ok((added, calls, sent, stages, tunnel.cpu()?))
            };
            let ((added, calls, sent, stages, cpu), moved) =
                iperf.transfer_after(look, streams, direction, settings.bulk_seconds)?;
            let key = bulk_key(group, streams, direction);
            samples.add(&key, moved.gigabits_per_second);
            samples.add_cpu(&key, tunnel, cpu, direction, moved.gigabits)?;
            if let Some(before) = stages {
                before.enter(tunnel, &moved, samples)?;
            }
            if let Some(sent) = sent_after(tunnel, direction, sent)? {
                // The transfer's own time, for the counters also see it begin and end.
                let seconds = moved.gigabits / moved.gigabits_per_second.max(1e-9);
                samples.add(&datagrams_key(&key), sent as f64 / seconds / 1e3);
            }
            if tells {
                Added::bulk_forward(tunnel, added, samples)?;
            }
            samples.add_calls(&key, tunnel, calls, moved.gigabits / 8.0)?;
        }
    }
    Ok(())
}

/// Datagrams sent so far by the daemon at the sending end; `None` where it is not VEIL's.
fn sent_by(tunnel: &Tunnel, direction: Direction) -> Result<Option<u64>> {
    let Some([left, right]) = tunnel.show()? else { return Ok(None) };
    let shown = if direction == Direction::Forward { left } else { right };
    let sent = shown["counters"]["datagrams_sent"].as_u64();
    Ok(Some(sent.context("`veil show --json` does not count datagrams_sent")?))
}

fn sent_after(tunnel: &Tunnel, direction: Direction, before: Option<u64>) -> Result<Option<u64>> {
    Ok(sent_by(tunnel, direction)?.zip(before).map(|(after, before)| after.saturating_sub(before)))
}
