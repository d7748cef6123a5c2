//! `veil doctor`: what an interface and this machine offer, which rung VEIL would stand on, and why not a higher one.
//!
//! The facts and the choice are `veil-xdp`'s, the same as a starting tunnel's. Invariant: nothing is changed on the
//! interface; to learn what TUN devices can do, one is made and removed at once.

mod render;

pub use render::render;

use crate::link::xdp::{frames, used_queues};
use crate::tun::Tun;
use anyhow::Result;
use serde::Serialize;
use veil_xdp::ladder::{Asked, Rung, WhyNot, best, rungs};
use veil_xdp::nic::{Capability, Facts, Privileges};

/// Everything there is to say about an interface. The JSON of this is for programs: fields are added, never renamed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where VEIL would stand.
    pub rung: Rung,
    /// Every rung, best first.
    pub rungs: Vec<Verdict>,
    /// What attaching to this interface costs the host.
    pub costs: Vec<&'static str>,
    pub tun: TunOffloads,
    #[serde(flatten)]
    pub facts: Facts,
}

/// Whether a rung can be had.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub rung: Rung,
    /// Absent if it can be had.
    pub why_not: Option<WhyNot>,
}

/// What a TUN device of this kernel leaves to VEIL.
#[derive(Clone, Debug, Serialize)]
pub struct TunOffloads {
    /// TCP comes in super-packets.
    pub tso: bool,
    /// UDP comes in super-packets.
    pub uso: bool,
    /// Why it is not known.
    pub unknown: Option<String>,
}

/// The report about the interface called `iface`; `generic` as if generic mode had been asked for.
///
/// # Errors
/// There is no such interface; the error names those there are.
pub fn examine(iface: &str, generic: bool) -> Result<Report> {
    let facts = Facts::gather(iface)?;
    let tun = tun_offloads(facts.privileges);
    Ok(Report::of(facts, generic, tun))
}

impl Report {
    fn of(facts: Facts, generic: bool, tun: TunOffloads) -> Report {
        let frames = frames(used_queues(&facts));
        // A tunnel that runs here already is no reason why none can.
        let own_program = facts.nic.hook.iter().find(|hook| hook.is_veil()).map(|hook| hook.program);
        let rungs = rungs(&facts, Asked { xdp: true, generic, frames, own_program });
        Report {
            rung: best(&rungs),
            rungs: rungs.map(|(rung, verdict)| Verdict { rung, why_not: verdict.err() }).into(),
            costs: facts.nic.costs(),
            tun,
            facts,
        }
    }
}

fn tun_offloads(privileges: Privileges) -> TunOffloads {
    if !privileges.has(Capability::NetAdmin) {
        return TunOffloads { tso: false, uso: false, unknown: Some("needs CAP_NET_ADMIN".to_owned()) };
    }
    let name = format!("veil-dr{}", std::process::id());
    let offloads = Tun::open(&name, 1280).and_then(|mut tun| Ok(tun.enable_offloads()?));
    match offloads {
        Ok(offloads) => TunOffloads { tso: offloads.tso, uso: offloads.uso, unknown: None },
        Err(error) => TunOffloads { tso: false, uso: false, unknown: Some(format!("{error:#}")) },
    }
}
