//! The process stage: opens what came from the link, seals what came from the host. The only owner of sessions.
//!
//! Inbound, a run is opened in place and handed on with an [`InnerMark`](crate::frame::InnerMark) before each inner packet.
//! Outbound, packets are gathered into runs, one open run per peer and batch, and sealed where they will be sent from.

mod inbound;
mod outbound;
mod owed;
mod waiting;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use veil_proto::mux::Config;
use veil_proto::tunnel::{AHEAD, Outbound, PeerEvent, Sessions, ToHandshakes, ToSessions};
use veil_proto::{DropCounters, DropReason, Now, PeerId};

use crate::frame::{Outbox, Sealed, SetName, WideSet};
use crate::histogram::Histogram;
use inbound::Whole;
use outbound::Runs;
pub use outbound::gso_max_sizes;
use waiting::Waiting;

/// Frames to seal into: one for each peer that a batch may address, and those on their way out.
const TRANSMIT_FRAMES: usize = 96;

/// Frames for packets put together from pieces, and for what must not overtake them.
const INJECTED_FRAMES: usize = 64;

/// What the process stage counts; one writer, readable from any thread.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    /// Mux frames found in opened datagrams, and what they were.
    pub frames: AtomicU64,
    /// Inner packets accepted.
    pub ip: AtomicU64,
    /// Pieces of inner packets.
    pub fragment: AtomicU64,
    /// Inner packets put together from pieces and accepted.
    pub reassembled: AtomicU64,
    /// Inner packets put together and then refused, by reason.
    pub reassembly_drops: DropCounters,
    /// Packets from the host that were sent in pieces.
    pub fragmented: AtomicU64,
    /// Control frames.
    pub control: AtomicU64,
    /// Acknowledgements of control messages.
    pub ack: AtomicU64,
    /// Path MTU probes.
    pub probe: AtomicU64,
    /// Frames of unknown kind.
    pub skipped: AtomicU64,
    /// Frames refused, by reason.
    pub frame_drops: DropCounters,
    /// Datagrams refused before they were opened, or for want of room at the handshakes.
    pub inbound_drops: DropCounters,
    /// Packets taken from the host, super-packets counted by their segments.
    pub tun_packets: AtomicU64,
    /// Super-packets taken from the host, and the segments they were split into.
    pub super_packets: AtomicU64,
    pub super_segments: AtomicU64,
    /// Those sealed.
    pub sealed: AtomicU64,
    /// Those refused, by reason.
    pub drops: DropCounters,
    /// Those that wait for a handshake now.
    pub waiting: AtomicU64,
    /// Runs made of the sealed datagrams.
    pub runs: AtomicU64,
    /// Datagrams in each of these runs.
    pub run_lengths: Histogram,
    /// Inner packets per datagram, rounded: of each run the mean, entered once per datagram.
    pub packets_per_datagram: Histogram,
    /// Sealed datagrams that found no room in front of the link.
    pub dropped_datagrams: AtomicU64,
}

/// What a peer has said that concerns more than the data path.
pub enum Notice {
    /// It has ended its session in order.
    Closed(PeerId),
    /// It gives this host addresses, routes and the like.
    Leased(PeerId, Config),
    /// Some peer is elsewhere than it was.
    Moved,
}

/// The process stage.
pub struct Process {
    sessions: Sessions,
    transmit: WideSet,
    injected: WideSet,
    /// Runs being opened.
    batch: Vec<Sealed>,
    /// Packets that follow the run being opened to the host.
    whole: Vec<Whole>,
    runs: Runs,
    waiting: Waiting,
    /// Peers with a session now, for whom packets may have waited.
    usable: VecDeque<PeerId>,
    /// Room for the payload of one control frame.
    control: Vec<u8>,
    notices: VecDeque<Notice>,
    finish_checksums: bool,
    counters: Arc<ProcessCounters>,
}

impl Process {
    /// A stage that owns `sessions`, for inner packets of at most `mtu` bytes.
    pub fn new(sessions: Sessions, mtu: u16) -> Self {
        Process {
            sessions,
            transmit: WideSet::new(SetName::LinkTransmit, TRANSMIT_FRAMES),
            injected: WideSet::new(SetName::Injected, INJECTED_FRAMES),
            batch: Vec::with_capacity(AHEAD),
            whole: Vec::new(),
            runs: Runs::new(mtu),
            waiting: Waiting::default(),
            usable: VecDeque::new(),
            control: Vec::with_capacity(owed::CONTROL_FRAME),
            notices: VecDeque::new(),
            finish_checksums: false,
            counters: Default::default(),
        }
    }

    /// Finishes every checksum that the host left partial, instead of leaving it so across the tunnel.
    pub fn finish_checksums(&mut self) {
        self.finish_checksums = true;
    }

    /// Takes in what the handshakes say.
    pub fn handle(&mut self, message: ToSessions) {
        self.sessions.handle(message);
    }

    /// The next message for the handshakes.
    pub fn next_message(&mut self) -> Option<ToHandshakes> {
        self.sessions.next_message()
    }

    /// Does what is due.
    pub fn on_timer(&mut self, now: Now) {
        self.sessions.on_timer(now);
    }

    /// When [`on_timer`](Self::on_timer) must be called next.
    pub fn next_deadline(&self) -> Option<u64> {
        self.sessions.next_deadline()
    }

    /// Sends what is owed after a batch: packets that waited for a session, control frames, probes, and keepalives to whom
    /// nothing else went.
    pub fn settle(&mut self, to_link: &mut impl Outbox<Sealed>, now: Now) {
        self.take_events(to_link, now);
        self.send_owed(to_link, now);
        self.flush(to_link, now);
        self.keepalives(to_link, now);
        self.counters.waiting.store(self.waiting.len() as u64, Relaxed);
    }

    /// Takes in what has happened to peers. Packets that waited for a session are sealed, as far as there is room: before any
    /// that came after them.
    fn take_events(&mut self, to_link: &mut impl Outbox<Sealed>, now: Now) {
        while let Some(event) = self.sessions.next_event() {
            match event {
                PeerEvent::Usable(peer) => self.usable.push_back(peer),
                PeerEvent::GaveUp(peer) => {
                    self.counters.drops.add(DropReason::NoSession, self.waiting.take(peer).count() as u64);
                }
                PeerEvent::Closed(peer, _) => self.notices.push_back(Notice::Closed(peer)),
                PeerEvent::Leased(peer) => {
                    self.notices
                        .extend(self.sessions.take_lease(peer).map(|lease| Notice::Leased(peer, lease)));
                }
            }
        }
        if self.sessions.take_moved() && !matches!(self.notices.back(), Some(Notice::Moved)) {
            self.notices.push_back(Notice::Moved);
        }
        while self.has_room(to_link)
            && let Some(&peer) = self.usable.front()
        {
            // Its session may be gone again: then they wait for the next.
            let ready =
                self.waiting.has(peer) && matches!(self.sessions.begin(peer, now), Outbound::Ready(_));
            match ready.then(|| self.waiting.pop(peer)).flatten() {
                Some(packet) => self.seal_packet(peer, &packet.bytes, packet.flags, to_link, now),
                None => drop(self.usable.pop_front()),
            }
        }
    }

    /// Whether there are frames and room to seal one more packet into; without, what is owed waits for the next
    /// [`settle`](Self::settle).
    pub fn can_seal(&self, to_link: &impl Outbox<Sealed>) -> bool {
        self.has_room(to_link)
    }

    /// Whether there is a frame for the packets that a run may complete.
    pub fn can_follow(&self) -> bool {
        self.injected.home_count() > 0
    }

    /// What a peer has said lately that concerns more than the data path.
    pub fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Tells every peer, at the next [`settle`](Self::settle), that its session ends.
    pub fn close_sessions(&mut self) {
        self.sessions.close_all();
    }

    /// The frames sealed into; they come home here from the TX stage.
    pub fn transmit_set(&mut self) -> &mut WideSet {
        &mut self.transmit
    }

    /// The frames of packets that follow a run; they come home here from the TX stage.
    pub fn injected_set(&mut self) -> &mut WideSet {
        &mut self.injected
    }

    /// The sets owned here, to be counted.
    pub fn sets(&self) -> [&WideSet; 2] {
        [&self.transmit, &self.injected]
    }

    /// This host has said that the way to `remote` takes no IP packet larger than `mtu` bytes.
    pub fn path_mtu(&mut self, remote: IpAddr, mtu: u32, now: Now) {
        self.sessions.path_mtu(remote, mtu, now);
    }

    /// The sessions, to look into.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Takes all sessions over on this thread: whoever had them must not touch them any more.
    pub fn hand_over(&mut self) {
        self.sessions.hand_over();
    }

    /// What is counted here.
    pub fn counters(&self) -> &Arc<ProcessCounters> {
        &self.counters
    }
}
