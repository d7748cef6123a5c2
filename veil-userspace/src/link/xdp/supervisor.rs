//! Keeps the link as high on the ladder as the interface allows while the tunnel runs.
//!
//! rtnetlink tells of every change. When the interface goes down its sockets are kept and paths go by UDP until it is up
//! again; when it is gone, or somebody has detached the program, everything of AF_XDP is given up, and tried again when
//! the interface next changes. Each transition is logged with its reason and counted.

use super::Settings;
use super::ladder::{Reached, RxLane, TxLane, climb};
use super::ready::Waker;
use super::status::XdpStatus;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use veil_ebpf::SteeringConfig;
use veil_xdp::ladder::Rung;
use veil_xdp::next_hop::{Changes, Link, NextHops};

/// What has become of the sending lane.
pub enum Verdict {
    /// Nothing new.
    Same,
    /// Paths may go by this interface's ring again.
    Resume,
    /// The sockets are kept, but paths go by UDP.
    Pause,
    /// There is a new lane.
    New(Box<TxLane>),
    /// There is none any more; drop it.
    Gone,
}

/// The one who decides.
pub struct Supervisor {
    settings: Settings,
    pub mirror: NextHops,
    give: SyncSender<Option<RxLane>>,
    waker: Waker,
    status: Arc<XdpStatus>,
    /// The rung reached and why, while there is a lane; and the interface it is on.
    reached: Option<(Rung, String, u32)>,
    paused: bool,
    /// The interface as it was when the ladder was last tried in vain.
    tried: Option<(u32, Link)>,
}

impl Supervisor {
    pub fn new(
        settings: Settings,
        mirror: NextHops,
        give: SyncSender<Option<RxLane>>,
        waker: Waker,
        status: Arc<XdpStatus>,
    ) -> Self {
        Supervisor { settings, mirror, give, waker, status, reached: None, paused: false, tried: None }
    }

    /// The interface whose ring is used; 0 for none.
    pub fn interface(&self) -> u32 {
        self.reached.as_ref().filter(|_| !self.paused).map_or(0, |reached| reached.2)
    }

    /// Climbs the ladder for the first time.
    pub fn start(&mut self) -> Option<TxLane> {
        let index = self.mirror.interface(&self.settings.interface)?;
        let link = self.mirror.link(index)?.clone();
        self.climb(index, link)
    }

    fn climb(&mut self, index: u32, link: Link) -> Option<TxLane> {
        let addresses = self.mirror.local_addresses();
        match climb(&self.settings, &link, &addresses) {
            Ok(Reached { rung, reason, rx, tx, program, sockets }) => {
                self.status.keep(program, sockets);
                self.status.stands_on(rung, reason.clone());
                self.reached = Some((rung, reason, index));
                (self.paused, self.tried) = (false, None);
                self.hand_over(Some(rx));
                Some(tx)
            }
            Err(why) => {
                self.status.stands_on(Rung::Udp, why);
                self.tried = Some((index, link));
                None
            }
        }
    }

    fn hand_over(&self, lane: Option<RxLane>) {
        // The receiving end is gone only when everything is being torn down.
        let _ = self.give.send(lane);
        self.waker.wake();
    }

    /// Takes in what has changed; to be called when the mirror is readable.
    ///
    /// # Errors
    /// When netlink has broken off.
    pub fn update(&mut self) -> io::Result<Verdict> {
        let changes = self.mirror.update()?;
        if changes.addresses {
            let addresses = self.mirror.local_addresses();
            let set = self.status.with_program(|program| program.set_local(&addresses));
            if let Some(Err(error)) = set {
                tracing::warn!("{}: {error}", self.settings.interface);
            }
        }
        Ok(self.decide(changes))
    }

    fn decide(&mut self, changes: Changes) -> Verdict {
        if !changes.links {
            return Verdict::Same;
        }
        let index = self.mirror.interface(&self.settings.interface);
        let now = index.and_then(|index| Some((index, self.mirror.link(index)?.clone())));
        match (self.reached.clone(), now) {
            (None, None) => Verdict::Same,
            (None, Some((index, link))) => {
                if self.tried.as_ref().is_some_and(|(i, l)| *i == index && same(l, &link)) {
                    return Verdict::Same;
                }
                match self.climb(index, link) {
                    Some(lane) => Verdict::New(Box::new(lane)),
                    None => Verdict::Same,
                }
            }
            (Some((.., old)), Some((index, _))) if old != index => {
                self.give_up("the interface was replaced", None)
            }
            (Some(_), None) => self.give_up("the interface is gone", None),
            (Some((rung, reason, index)), Some((_, link))) => {
                if !link.running {
                    if std::mem::replace(&mut self.paused, true) {
                        return Verdict::Same;
                    }
                    self.status.stands_on(Rung::Udp, "the interface is down".into());
                    return Verdict::Pause;
                }
                if self.status.with_program(|program| program.is_attached()) != Some(true) {
                    return self.give_up("somebody has detached the steering program", Some((index, link)));
                }
                let config = SteeringConfig { mac: link.mac, port: self.settings.port };
                if let Some(Err(error)) = self.status.with_program(|program| program.set_config(config)) {
                    tracing::warn!("{}: {error}", self.settings.interface);
                }
                if std::mem::take(&mut self.paused) {
                    self.status.stands_on(rung, reason);
                    return Verdict::Resume;
                }
                Verdict::Same
            }
        }
    }

    /// Lets go of everything of AF_XDP. `tried` keeps it from being tried again before the interface changes.
    fn give_up(&mut self, why: &str, tried: Option<(u32, Link)>) -> Verdict {
        self.status.release();
        self.hand_over(None);
        (self.reached, self.paused, self.tried) = (None, false, tried);
        self.status.stands_on(Rung::Udp, why.into());
        Verdict::Gone
    }

    /// Looks once more, after the lane that was given up is gone.
    pub fn try_again(&mut self) -> Option<TxLane> {
        let index = self.mirror.interface(&self.settings.interface)?;
        let link = self.mirror.link(index)?.clone();
        let tried = self.tried.as_ref().is_some_and(|(i, l)| *i == index && same(l, &link));
        if self.reached.is_some() || tried { None } else { self.climb(index, link) }
    }
}

/// Whether nothing has changed that could make another attempt succeed; who is on the hook may.
fn same(a: &Link, b: &Link) -> bool {
    a == b
}
