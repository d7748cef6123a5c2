//! What each thread on the way of one stream costs: VEIL's by their names, iperf3's two ends, the kernel's own.
//!
//! A thread is charged with all that the kernel does while it runs, interrupts and the receiving side of a veth pair
//! included; what is left over for threads of the kernel is counted for the whole machine.

use std::collections::BTreeMap;

use anyhow::Result;

use super::cpu;
use super::figures::{KERNEL, stage_key};
use super::iperf::Moved;
use super::measure::Samples;
use super::topology::Tunnel;

/// CPU seconds used so far, by stage.
pub struct Stages(BTreeMap<String, f64>);

impl Stages {
    /// Now; `None` where no VEIL runs.
    pub fn look(tunnel: &Tunnel) -> Result<Option<Stages>> {
        let Some(daemons) = tunnel.veil() else { return Ok(None) };
        let mut used = BTreeMap::from([(KERNEL.to_owned(), cpu::kernel_threads()?)]);
        for (end, pid) in ["sender", "receiver"].into_iter().zip(daemons) {
            for (thread, seconds) in cpu::threads(pid)? {
                *used.entry(format!("{end}-{}", stage_of(&thread))).or_default() += seconds;
            }
        }
        Ok(Some(Stages(used)))
    }

    /// Enters what a transfer from left to right that began then has cost, for each gigabit.
    pub fn enter(self, tunnel: &Tunnel, moved: &Moved, samples: &mut Samples) -> Result<()> {
        let now = Stages::look(tunnel)?.map_or_else(BTreeMap::new, |now| now.0);
        let since = |stage: &str, seconds: f64| seconds - self.0.get(stage).copied().unwrap_or(0.0);
        let own = now.iter().map(|(stage, seconds)| (stage.as_str(), since(stage, *seconds)));
        let [client, server] = moved.cpu;
        for (stage, seconds) in own.chain([("client", client), ("server", server)]) {
            samples.add(&stage_key(stage), seconds / moved.gigabits.max(1e-9));
        }
        Ok(())
    }
}

/// Control and whatever else has a thread do little beside a transfer; in single mode all is done by the main thread.
fn stage_of(thread: &str) -> &str {
    match thread.strip_prefix("veil-") {
        Some(stage @ ("rx" | "process" | "tx")) => stage,
        _ => "main",
    }
}
