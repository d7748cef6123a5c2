//! Keeps the link as high on the ladder as the interface allows while the tunnel runs.
//!
//! rtnetlink tells of every change. When the interface goes down its sockets are kept and paths go by UDP until it is up
//! again; when it is gone, everything of AF_XDP is given up until there is one of that name; so it is, to begin with larger
//! frames, when the MTU outgrows them, or with more sockets, when the NIC has more queues. When somebody has detached the
//! program, AF_XDP is given up until the interface next changes: whoever did it meant it.
//! Each transition is logged with its reason and counted.
//!
//! Of the program and the queues rtnetlink does not tell, so they are asked for every second. The kernel may be long in
//! answering, so that is done by [`Watch`], and packets do not wait for it.
//!
//! A queue takes new sockets only when both ends have let go of the old ones, so the sending end is woken when the
//! receiving end has, and a queue that the kernel has not freed yet is tried again. A hook that somebody else holds is looked
//! at until it is free.

use super::Settings;
use super::ladder::{Leave, Reached, RxLane, TxLane, climb};
use super::ready::Waker;
use super::status::XdpStatus;
use super::watch::{News, Question, Watch};
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Weak};
use std::time::Duration;
use veil_ebpf::SteeringConfig;
use veil_xdp::FrameSize;
use veil_xdp::ladder::Rung;
use veil_xdp::next_hop::{Hop, Link, NextHops};

/// How often a queue is tried again that was not free, before it counts as somebody else's.
const TRIES: u32 = 5;
/// The same at start, where it may be waited for; and how long between two attempts.
const TRIES_AT_START: u32 = 100;
const PAUSE_AT_START: Duration = Duration::from_millis(10);

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
    receiver: Waker,
    sender: Waker,
    status: Arc<XdpStatus>,
    watch: Watch,
    /// While there is a lane.
    standing: Option<Standing>,
    paused: bool,
    /// The interface as it was when the ladder was last tried in vain.
    tried: Option<(u32, Link)>,
    /// Attempts left to find a queue free.
    tries: u32,
    /// It was in vain because another program is on the hook.
    held: bool,
    /// The receiving lane, as long as there is one.
    receiving: Weak<()>,
}

/// The rung reached, and how.
struct Standing {
    rung: Rung,
    reason: String,
    interface: u32,
    mac: [u8; 6],
    /// The kernel's number for the program.
    program: u32,
    /// Of the interface, whether or not each has a socket.
    queues: u32,
    frame_size: FrameSize,
}

impl Supervisor {
    /// # Errors
    /// The system gives no thread for its questions.
    pub fn new(
        settings: Settings,
        mirror: NextHops,
        give: SyncSender<Option<RxLane>>,
        [receiver, sender]: [Waker; 2],
        status: Arc<XdpStatus>,
    ) -> io::Result<Self> {
        let watch = Watch::start(settings.interface.clone(), sender.clone())?;
        Ok(Supervisor {
            settings,
            mirror,
            give,
            receiver,
            sender,
            status,
            watch,
            standing: None,
            paused: false,
            tried: None,
            tries: TRIES,
            held: false,
            receiving: Weak::new(),
        })
    }

    /// The interface whose ring is used; 0 for none.
    pub fn interface(&self) -> u32 {
        self.standing.as_ref().filter(|_| !self.paused).map_or(0, |standing| standing.interface)
    }

    /// Climbs the ladder for the first time.
    pub fn start(&mut self) -> Option<TxLane> {
        let index = self.mirror.interface(&self.settings.interface)?;
        let link = self.mirror.link(index)?.clone();
        let mut lane = self.climb(index, link.clone());
        // A daemon that was killed a moment ago may have left a queue that the kernel has not freed yet.
        for _ in 0..TRIES_AT_START {
            if lane.is_some() || self.tries == 0 {
                break;
            }
            std::thread::sleep(PAUSE_AT_START);
            lane = self.climb(index, link.clone());
        }
        lane
    }

    fn climb(&mut self, index: u32, link: Link) -> Option<TxLane> {
        if self.receiving.strong_count() > 0 {
            // It wakes us when it is gone.
            return None;
        }
        let addresses = self.addresses(index);
        match climb(&self.settings, &link, &addresses) {
            Ok(Reached { rung, frame_size, queues, reason, mut rx, tx, program, sockets }) => {
                let (mac, id) = (link.mac, program.id());
                self.status.keep(program, sockets);
                self.status.stands_on(rung, reason.clone());
                self.standing =
                    Some(Standing { rung, reason, interface: index, mac, program: id, queues, frame_size });
                (self.paused, self.tried) = (false, None);
                let (leave, receiving) = Leave::new(self.sender.clone());
                (rx.leave, self.receiving) = (Some(leave), receiving);
                rx.interface = index;
                self.hand_over(Some(rx));
                Some(tx)
            }
            Err(refusal) => {
                self.status.stands_on(Rung::Udp, refusal.why);
                self.tried = Some((index, link));
                self.held = refusal.held;
                if !refusal.busy {
                    self.tries = 0;
                }
                None
            }
        }
    }

    /// The addresses that datagrams to the port are taken for: those the UDP socket beside is bound to. What is for others
    /// is for whoever listens there.
    fn addresses(&self, interface: u32) -> Vec<IpAddr> {
        let mut addresses = self.mirror.local_addresses(interface);
        addresses.retain(|address| hears(self.settings.listen, *address));
        addresses
    }

    fn hand_over(&self, lane: Option<RxLane>) {
        // The receiving end is gone only when everything is being torn down.
        let _ = self.give.send(lane);
        self.receiver.wake();
    }

    /// Takes in what has changed; to be called when the mirror is readable, when woken, and, with `tick`, every second.
    ///
    /// # Errors
    /// When netlink has broken off.
    pub fn update(&mut self, tick: bool) -> io::Result<Verdict> {
        // In this order: an interface that goes away loses the program, too, and that it went down is then known.
        let news = self.watch.news(self.question());
        let changes = self.mirror.update()?;
        if changes.addresses
            && let Some(standing) = &self.standing
        {
            let addresses = self.addresses(standing.interface);
            let set = self.status.with_program(|program| program.set_local(&addresses));
            if let Some(Err(error)) = set {
                tracing::warn!("{}: {error}", self.settings.interface);
            }
        }
        if news == Some(News::Free) {
            // Its sockets may hold the queues a little longer.
            (self.held, self.tries) = (false, TRIES);
        }
        if tick || news == Some(News::Free) {
            self.see_if_free();
        }
        let verdict = self.decide(changes.links || tick || news.is_some(), news);
        if (changes.links || tick)
            && let Some(question) = self.question()
        {
            self.watch.ask(question);
        }
        Ok(verdict)
    }

    /// Has the neighbours among these hops confirmed that the kernel has not heard of lately.
    pub fn refresh<'a>(&mut self, hops: impl Iterator<Item = &'a Hop>, now: u64) {
        for hop in hops {
            if self.mirror.is_due(hop, now) {
                self.watch.refresh(hop.interface, hop.neighbour);
            }
        }
    }

    /// What is to be known beside what rtnetlink tells, as things stand.
    fn question(&self) -> Option<Question> {
        match (&self.standing, &self.tried) {
            (Some(standing), _) => {
                let Standing { interface, program, queues, .. } = *standing;
                Some(Question::Ours { interface, program, queues })
            }
            (None, Some((interface, _))) if self.held => Some(Question::Theirs { interface: *interface }),
            _ => None,
        }
    }

    /// Forgets that it was tried in vain when what was in the way may be gone.
    fn see_if_free(&mut self) {
        let Some((index, _)) = self.tried else { return };
        // Without a carrier it is in vain, and when that is back again is heard of.
        if !self.mirror.link(index).is_some_and(|link| link.running) {
            return;
        }
        if self.tries > 0 {
            self.tries -= 1;
            self.tried = None;
        }
    }

    fn decide(&mut self, changed: bool, news: Option<News>) -> Verdict {
        let index = self.mirror.interface(&self.settings.interface);
        let now = index.and_then(|index| Some((index, self.mirror.link(index)?.clone())));
        match (&self.standing, now) {
            (None, now) => self.try_again(now),
            (Some(_), _) if !changed => Verdict::Same,
            (Some(_), None) => self.give_up("the interface is gone", None),
            (Some(standing), Some((index, _))) if standing.interface != index => {
                self.give_up("the interface was replaced", None)
            }
            (Some(_), Some((_, link))) if !link.running => {
                if std::mem::replace(&mut self.paused, true) {
                    return Verdict::Same;
                }
                self.status.stands_on(Rung::Udp, "the interface is down".into());
                Verdict::Pause
            }
            (Some(_), Some((index, link))) if news == Some(News::Detached) => {
                self.give_up("somebody has detached the steering program", Some((index, link)))
            }
            (Some(standing), Some((_, link))) if outgrows(&link, standing.frame_size) => {
                self.give_up("the MTU has outgrown the frames", None)
            }
            (Some(_), Some(_)) if news == Some(News::OtherQueues) => {
                self.give_up("the number of its queues has changed", None)
            }
            (Some(_), Some((_, link))) => self.keep(link),
        }
    }

    /// The interface is as it should be.
    fn keep(&mut self, link: Link) -> Verdict {
        let Some(standing) = &mut self.standing else { return Verdict::Same };
        if standing.mac != link.mac {
            standing.mac = link.mac;
            let longest = standing.frame_size.longest();
            let config = SteeringConfig { mac: link.mac, port: self.settings.port, longest };
            if let Some(Err(error)) = self.status.with_program(|program| program.set_config(config)) {
                tracing::warn!("{}: {error}", self.settings.interface);
            }
        }
        if std::mem::take(&mut self.paused) {
            self.status.stands_on(standing.rung, standing.reason.clone());
            return Verdict::Resume;
        }
        Verdict::Same
    }

    /// Climbs, unless nothing has changed that could make another attempt succeed.
    fn try_again(&mut self, now: Option<(u32, Link)>) -> Verdict {
        let Some((index, link)) = now else { return Verdict::Same };
        if let Some((before, as_it_was)) = &self.tried {
            if *before == index && !is_worth_another_try(as_it_was, &link) {
                return Verdict::Same;
            }
            self.tries = TRIES;
        }
        self.climb(index, link).map_or(Verdict::Same, |lane| Verdict::New(Box::new(lane)))
    }

    /// Lets go of everything of AF_XDP. `tried` keeps it from being tried again before the interface changes.
    fn give_up(&mut self, why: &str, tried: Option<(u32, Link)>) -> Verdict {
        self.status.release();
        self.hand_over(None);
        self.tries = if tried.is_none() { TRIES } else { 0 };
        self.held = false;
        (self.standing, self.paused, self.tried) = (None, false, tried);
        self.status.stands_on(Rung::Udp, why.into());
        Verdict::Gone
    }
}

/// Whether an interface has changed since the ladder was tried in vain. That it has lost its carrier, or has it again, is no
/// change, unless it was what was missing: many a NIC does so by itself when a program comes or goes. Nor is that program,
/// which may be ours; somebody else's is asked for by [`Watch`].
fn is_worth_another_try(before: &Link, now: &Link) -> bool {
    let carrier_came = now.running && !before.running;
    carrier_came || Link { running: before.running, program: before.program, ..now.clone() } != *before
}

/// Whether a socket bound to `listen` hears what is sent to `address`; an unspecified IPv6 address means IPv4 as well.
fn hears(listen: IpAddr, address: IpAddr) -> bool {
    match listen {
        listen if !listen.is_unspecified() => listen == address,
        IpAddr::V4(_) => address.is_ipv4(),
        IpAddr::V6(_) => true,
    }
}

/// Whether the interface takes packets that its frames do not hold.
fn outgrows(link: &Link, frames: FrameSize) -> bool {
    FrameSize::for_mtu(link.mtu as usize).is_none_or(|size| size.bytes() > frames.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carrier_that_goes_and_comes_is_no_reason_to_try_again() {
        let link = Link {
            name: "eth0".into(),
            mac: [2; 6],
            mtu: 1500,
            up: true,
            running: true,
            ethernet: true,
            program: 0,
        };
        let without = Link { running: false, program: 7, ..link.clone() };
        let off = Link { up: false, ..without.clone() };
        assert!(!is_worth_another_try(&link, &link));
        assert!(!is_worth_another_try(&link, &without));
        assert!(is_worth_another_try(&without, &link), "the carrier was what was missing");
        assert!(is_worth_another_try(&link, &off) && is_worth_another_try(&off, &link), "somebody means it");
        assert!(is_worth_another_try(&link, &Link { mtu: 9000, ..link.clone() }));
    }

    #[test]
    fn only_what_the_socket_would_hear_is_taken() {
        let heard = |listen: &str| {
            let here = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
            here.map(|address| hears(listen.parse().unwrap(), address))
        };
        assert_eq!(heard("::"), [true, true, true]);
        assert_eq!(heard("0.0.0.0"), [true, true, false]);
        assert_eq!(heard("192.0.2.2"), [false, true, false]);
        assert_eq!(heard("2001:db8::1"), [false, false, true]);
    }
}
