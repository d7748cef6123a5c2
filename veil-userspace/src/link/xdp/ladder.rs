//! The ladder: zero-copy, native copy, generic copy (only when asked), UDP. Tried from the top, each step down with its
//! reason.

use super::Settings;
use super::ready::Waker;
use crate::config::XdpMode;
use std::collections::VecDeque;
use std::fmt::Display;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use veil_ebpf::SteeringConfig;
use veil_ebpf::maps::MAX_QUEUES;
use veil_xdp::ladder::{Asked, Rung, rungs};
use veil_xdp::next_hop::Link;
use veil_xdp::nic::Facts;
use veil_xdp::{
    AttachError, AttachMode, BindMode, FrameSize, Program, SocketCounters, Umem, UmemFrame, UmemSettings,
    XskRx, XskTx,
};

/// Frames to receive into and to send from, all queues together, and how many of them a queue has.
const RECEIVE: (u32, [u32; 2]) = (16_384, [1024, 4096]);
const SEND: (u32, [u32; 2]) = (8_192, [512, 2048]);

/// A queue's share: as many packets as a socket's receive buffer would hold while the daemon does not run, but of many
/// queues not so many each that the memory becomes large. A power of two, as ring sizes are.
fn share((all, [least, most]): (u32, [u32; 2]), queues: u32) -> u32 {
    let even = (all / queues.max(1)).clamp(least, most);
    1 << even.ilog2()
}

/// The receiving side of all queues.
pub struct RxLane {
    pub sockets: Vec<XskRx>,
    /// The interface they receive from.
    pub interface: u32,
    /// The program runs in the kernel's stack, behind its receive offloads.
    pub generic: bool,
    /// Frames that wait to be filled, and those just received.
    pub spare: Vec<UmemFrame>,
    /// Last, so that it is told when everything else is gone.
    pub leave: Option<Leave>,
}

/// Says that its owner is gone.
pub struct Leave {
    // In this order: who is woken finds nobody.
    _alive: Arc<()>,
    _tell: WakeOnDrop,
}

struct WakeOnDrop(Waker);

impl Leave {
    /// One that wakes by `waker`, and what can tell whether it is there.
    pub fn new(waker: Waker) -> (Leave, Weak<()>) {
        let alive = Arc::new(());
        let weak = Arc::downgrade(&alive);
        (Leave { _alive: alive, _tell: WakeOnDrop(waker) }, weak)
    }
}

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// The sending side of all queues.
pub struct TxLane {
    pub queues: Vec<TxQueue>,
    /// So many of them, from the first on, send.
    pub senders: usize,
    pub spare: Vec<UmemFrame>,
    /// Bytes of the longest Ethernet frame that a frame holds.
    pub longest: usize,
    /// The kernel makes a packet of its own of each frame, natively. (In generic mode a run would reach a peer of that mode by
    /// another way than what is none, and each be overtaken by the other.)
    pub copies: bool,
    /// Kept: it is what the sockets are over.
    umem: Umem,
}

/// One sending socket, and what is on its way into the ring.
pub struct TxQueue {
    pub socket: XskTx,
    pub pending: VecDeque<UmemFrame>,
}

impl Drop for RxLane {
    fn drop(&mut self) {
        self.spare.drain(..).for_each(UmemFrame::retire);
    }
}

impl Drop for TxLane {
    fn drop(&mut self) {
        for queue in &mut self.queues {
            queue.pending.drain(..).for_each(UmemFrame::retire);
        }
        self.spare.drain(..).for_each(UmemFrame::retire);
    }
}

/// A rung that was reached.
pub struct Reached {
    pub rung: Rung,
    pub frame_size: FrameSize,
    /// Queues of the interface.
    pub queues: u32,
    /// How, in a few words, and why not higher.
    pub reason: String,
    pub rx: RxLane,
    pub tx: TxLane,
    pub program: Program,
    pub sockets: Vec<(OwnedFd, Arc<SocketCounters>)>,
}

/// Why no AF_XDP rung can be had.
pub struct Refusal {
    pub why: String,
    /// A queue has a socket still. The kernel lets go of a closed one's queue only a moment later, so it is worth trying
    /// again soon.
    pub busy: bool,
    /// Another program is on the hook.
    pub held: bool,
}

impl<T: Display> From<T> for Refusal {
    fn from(why: T) -> Self {
        Refusal { why: why.to_string(), busy: false, held: false }
    }
}

/// Climbs as high as the interface and the settings allow.
///
/// # Errors
/// Why none of the AF_XDP rungs can be had.
pub fn climb(settings: &Settings, link: &Link, addresses: &[IpAddr]) -> Result<Reached, Refusal> {
    if !link.running {
        return Err("the interface is down".into());
    }
    let facts = Facts::gather(&settings.interface)?;
    let generic = settings.mode == XdpMode::Generic;
    let queues = used_queues(&facts);
    // The kernel sends nothing by a queue that there is for receiving alone, and does not say so.
    let senders = facts.nic.queues.tx.clamp(1, queues);
    let asked = Asked { xdp: true, generic, frames: frames(queues), own_program: None };
    let (mut why, mut busy, mut held) = (Vec::new(), false, !facts.nic.hook.is_empty());
    for (rung, verdict) in rungs(&facts, asked) {
        let (attach, bind) = match rung {
            Rung::ZeroCopy if !generic => (AttachMode::Native, BindMode::ZeroCopy),
            Rung::NativeCopy if !generic => (AttachMode::Native, BindMode::Copy),
            Rung::GenericCopy if generic => (AttachMode::Generic, BindMode::Copy),
            _ => continue,
        };
        let size = rung.frame_size(link.mtu as usize);
        let size = size.ok_or_else(|| format!("its MTU of {} is more than a frame holds", link.mtu))?;
        // What is forbidden by what is known need not be tried; what is allowed may still be refused.
        let tried = verdict
            .map_err(Refusal::from)
            .and_then(|()| step(settings, link, addresses, size, [queues, senders], attach, bind));
        match tried {
            Ok((rx, tx, program, sockets)) => {
                let plural = if queues == 1 { "" } else { "s" };
                let memory = if tx.umem.has_huge_pages() { ", frames in huge pages" } else { "" };
                let not = why.iter().map(|why| format!("; {why}")).collect::<String>();
                let reason =
                    format!("AF_XDP on {queues} queue{plural} of {}{memory}{not}", settings.interface);
                return Ok(Reached {
                    rung,
                    frame_size: size,
                    queues: facts.nic.queues.rx,
                    reason,
                    rx,
                    tx,
                    program,
                    sockets,
                });
            }
            Err(refusal) => {
                why.push(format!("no {}: {}", rung.name(), refusal.why));
                busy |= refusal.busy;
                held |= refusal.held;
            }
        }
    }
    Err(Refusal { why: why.join("; "), busy, held })
}

/// How many of an interface's queues are used.
pub fn used_queues(facts: &Facts) -> u32 {
    facts.nic.queues.rx.clamp(1, MAX_QUEUES as u32)
}

/// How many frames so many queues take together.
pub fn frames(queues: u32) -> u32 {
    (share(RECEIVE, queues) + share(SEND, queues)) * queues
}

/// Frames and rings for so many queues.
fn umem_settings(queues: u32, frame_size: FrameSize) -> UmemSettings {
    let (receive, send) = (share(RECEIVE, queues), share(SEND, queues));
    UmemSettings {
        frames: frames(queues),
        frame_size,
        fill_ring: receive,
        rx_ring: receive,
        tx_ring: send,
        completion_ring: send,
        ..UmemSettings::default()
    }
}

type Parts = (RxLane, TxLane, Program, Vec<(OwnedFd, Arc<SocketCounters>)>);

/// One rung, in the order that loses nothing: attach, bind, fill, and only then the maps.
fn step(
    settings: &Settings,
    link: &Link,
    addresses: &[IpAddr],
    frame_size: FrameSize,
    [queues, senders]: [u32; 2],
    attach: AttachMode,
    bind: BindMode,
) -> Result<Parts, Refusal> {
    let interface = &settings.interface;
    let mut program = Program::attach(interface, attach).map_err(|error| Refusal {
        held: matches!(error, AttachError::Busy { .. }),
        ..Refusal::from(error)
    })?;
    let umem = umem_settings(queues, frame_size);
    let receive = umem.rx_ring;
    let (umem, mut frames) = Umem::new(umem)?;
    let to_send = frames.split_off((receive * queues) as usize);
    let mut tx = TxLane {
        queues: Vec::new(),
        senders: senders as usize,
        spare: to_send,
        longest: frame_size.longest().into(),
        copies: attach == AttachMode::Native && bind == BindMode::Copy,
        umem,
    };
    let generic = attach == AttachMode::Generic;
    let mut rx = RxLane { sockets: Vec::new(), interface: 0, generic, spare: frames, leave: None };
    let mut sockets = Vec::new();
    for queue in 0..queues {
        let bound = tx.umem.bind(interface, queue, bind).map_err(|error| Refusal {
            busy: error.error.raw_os_error() == Some(libc::EBUSY),
            ..Refusal::from(error)
        })?;
        if bound.mode != bind {
            return Err("the kernel bound the socket to copy mode after all".into());
        }
        if let Some(busy_poll) = &settings.busy_poll {
            busy_poll.ask(bound.rx.as_fd());
        }
        let duplicate = bound.rx.as_fd().try_clone_to_owned()?;
        sockets.push((duplicate, bound.rx.shared_counters().clone()));
        rx.sockets.push(bound.rx);
        tx.queues.push(TxQueue { socket: bound.tx, pending: VecDeque::with_capacity(64) });
    }
    for socket in &mut rx.sockets {
        let mut share = rx.spare.split_off(rx.spare.len() - receive as usize);
        let filled = socket.fill(&mut share);
        rx.spare.append(&mut share);
        filled?;
    }
    program.set_local(addresses)?;
    for (queue, socket) in rx.sockets.iter().enumerate() {
        program.register(queue as u32, socket.as_fd())?;
    }
    // Last: without a port the program redirects nothing.
    let longest = frame_size.longest();
    program.set_config(SteeringConfig { mac: link.mac, port: settings.port, longest })?;
    Ok((rx, tx, program, sockets))
}
