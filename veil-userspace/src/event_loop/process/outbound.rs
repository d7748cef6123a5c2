//! Outbound: packets from the host are gathered into runs and sealed in the frame they are sent from.
//!
//! One open run per (peer, path, outer ECN) while a batch lasts. Packets keep their order. A packet of at most half a
//! datagram shares the open datagram if it fits, so sharing happens only between packets that already waited. All
//! datagrams of a run are of one size: one slightly shorter is padded up, a shorter one ends the run, a longer one begins
//! the next. Super-packets are [`split`] while they are sealed.

mod gso_max_size;
mod split;

pub use gso_max_size::gso_max_sizes;

use veil_proto::SingleWriter;
use veil_proto::mux::checksum::{finish, sender_partial};
use veil_proto::mux::ecn;
use veil_proto::mux::frame::{FLAG_PARTIAL, FRAGMENT, HEADER_LEN as MUX_HEADER, IP, write_header};
use veil_proto::session::reassembly::{FRAGMENT_HEADER, fragment_header};
use veil_proto::session::{HEADER_LEN, MIN_DATAGRAM, TAG_LEN};
use veil_proto::tunnel::{AHEAD, Outbound, OutboundAhead, Sessions};
use veil_proto::{DropReason, Now, Path, PeerId};

use super::Process;
use crate::frame::{GSO_NONE, Home, Inbox, Inner, NEEDS_CSUM, Outbox, Sealed, WideFrame};
use crate::prefetch::prefetch;

/// Datagrams in a run: what `UDP_SEGMENT` takes on every kernel that has it.
const MAX_DATAGRAMS: usize = 64;
/// Bytes in a run: the largest UDP payload over IPv4.
const MAX_RUN: usize = 65_507;
/// Runs that one packet may begin: its own; a super-packet of small segments with long headers a few more.
const RUNS_PER_PACKET: usize = 8;
/// A datagram this much shorter than the run's is padded up rather than ending the run.
const PAD_UP: usize = 64;

/// The runs being filled, in the order of their first packet.
pub struct Runs {
    open: Vec<OpenRun>,
    max_plaintext: usize,
    /// Where a segment is put together that cannot be written to its place at once.
    scratch: Vec<u8>,
}

impl Runs {
    pub fn new(mtu: u16) -> Self {
        let max_plaintext = MUX_HEADER + usize::from(mtu);
        Runs { open: Vec::with_capacity(64), max_plaintext, scratch: Vec::with_capacity(mtu.into()) }
    }
}

/// A mux frame to be written: an IP packet, or a piece of one.
pub(super) struct MuxFrame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub head: &'a [u8],
    pub body: &'a [u8],
    /// It holds the end of a packet: that is what is counted as a packet sealed.
    pub ends_packet: bool,
}

impl MuxFrame<'_> {
    fn len(&self) -> usize {
        MUX_HEADER + self.head.len() + self.body.len()
    }
}

/// A run being filled. Its last datagram is still plaintext.
pub(super) struct OpenRun {
    peer: PeerId,
    path: Path,
    tos: u8,
    frame: WideFrame,
    /// Size of the run's datagrams; 0 while the first is open.
    segment: usize,
    /// Where the open datagram begins.
    start: usize,
    /// Plaintext bytes in the open datagram, and the packets they are.
    filled: usize,
    packets: u64,
    sealed_packets: u64,
    sealed_datagrams: usize,
    /// A datagram shorter than the others has been sealed: nothing may follow.
    ended: bool,
}

impl OpenRun {
    pub(super) fn new(peer: PeerId, path: Path, tos: u8, frame: WideFrame) -> Self {
        OpenRun {
            peer,
            path,
            tos,
            frame,
            segment: 0,
            start: 0,
            filled: 0,
            packets: 0,
            sealed_packets: 0,
            sealed_datagrams: 0,
            ended: false,
        }
    }

    /// Room for plaintext in the open datagram.
    fn room(&self, max_plaintext: usize) -> usize {
        let size = if self.segment == 0 { max_plaintext } else { self.segment - MIN_DATAGRAM };
        size.saturating_sub(self.filled)
    }

    /// Whether another datagram of `plaintext` bytes may follow those sealed so far.
    fn takes_another(&self, plaintext: usize) -> bool {
        !self.ended
            && self.sealed_datagrams < MAX_DATAGRAMS
            && (self.segment == 0 || plaintext + MIN_DATAGRAM <= self.segment)
            && self.start + plaintext.max(self.segment) + MIN_DATAGRAM <= MAX_RUN
    }

    /// Appends a mux frame to the open datagram; the caller has looked for room.
    pub(super) fn append(&mut self, frame: &MuxFrame<'_>) {
        let at = self.start + HEADER_LEN + self.filled;
        if let Some(room) = self.frame.buffer_mut().get_mut(at..at + frame.len())
            && let Some((header, body)) = room.split_first_chunk_mut::<MUX_HEADER>()
        {
            write_header(header, frame.kind, frame.flags, body.len() as u16);
            body[..frame.head.len()].copy_from_slice(frame.head);
            body[frame.head.len()..].copy_from_slice(frame.body);
            self.filled += frame.len();
            self.packets += u64::from(frame.ends_packet);
        }
    }

    /// Pads the open datagram, so that it is `size` bytes long when sealed.
    pub(super) fn pad_to(&mut self, size: usize) {
        let (from, to) = (self.start + HEADER_LEN + self.filled, self.start + size.saturating_sub(TAG_LEN));
        if let Some(padding) = self.frame.buffer_mut().get_mut(from..to) {
            padding.fill(0);
            self.filled += to - from;
        }
    }

    /// Seals the open datagram. Gives the packets back that could not be sealed because the session has no key any more.
    pub(super) fn seal(&mut self, sessions: &mut Sessions, now: Now) -> Result<u64, u64> {
        let packets = std::mem::take(&mut self.packets);
        let mut len = self.filled + MIN_DATAGRAM;
        self.filled = 0;
        let buffer = self.frame.buffer_mut();
        if self.segment != 0 && len < self.segment {
            if self.segment - len <= PAD_UP {
                let end_of_plaintext = self.start + len - TAG_LEN;
                buffer[end_of_plaintext..self.start + self.segment - TAG_LEN].fill(0);
                len = self.segment;
            } else {
                self.ended = true;
            }
        }
        let datagram = &mut buffer[self.start..self.start + len];
        if sessions.seal_unmasked(self.peer, datagram, now).is_err() {
            self.ended = true;
            return Err(packets);
        }
        if self.segment == 0 {
            self.segment = len;
        }
        self.start += len;
        self.sealed_datagrams += 1;
        self.sealed_packets += packets;
        Ok(packets)
    }
}

impl Process {
    /// Seals what waits in `from_tun`, as far as frames and `to_link` have room, and flushes the runs.
    pub fn outbound(
        &mut self,
        from_tun: &mut impl Inbox<Inner>,
        home: &mut impl Home,
        to_link: &mut impl Outbox<Sealed>,
        now: Now,
    ) {
        self.take_events(to_link, now);
        let (mut foreseen, mut ahead) = (0, None);
        while self.has_room(to_link) {
            if foreseen == 0 {
                ahead = self.look_ahead(from_tun);
                foreseen = AHEAD;
            }
            let Some(mut inner) = from_tun.pop() else { break };
            foreseen -= 1;
            if let Some(ahead) = &mut ahead {
                self.sessions.fetch_outbound(ahead, prefetch);
            }
            if inner.vnet_hdr.gso_type != GSO_NONE {
                self.seal_super(&inner, to_link, now);
            } else {
                self.counters.tun_packets.bump(1);
                if let Err(reason) = self.seal_inner(&mut inner, to_link, now) {
                    self.counters.drops.count(reason);
                }
            }
            inner.frame.home(home);
        }
        self.settle(to_link, now);
    }

    /// Looks ahead to the next packets, where what they need is not likely to be in the cache.
    fn look_ahead(&self, from_tun: &impl Inbox<Inner>) -> Option<OutboundAhead> {
        (self.sessions.looks_ahead() && from_tun.peek(1).is_some()).then(|| {
            let packets = (0..AHEAD).map_while(|n| from_tun.peek(n));
            let peers = packets.filter_map(|inner| self.sessions.route(inner.frame.bytes()).ok());
            self.sessions.look_ahead_outbound(peers, prefetch)
        })
    }

    /// Whether one more packet surely finds frames, and its runs a place in the outbox.
    pub(super) fn has_room(&self, to_link: &impl Outbox<Sealed>) -> bool {
        self.transmit.home_count() >= RUNS_PER_PACKET
            && to_link.room() > self.runs.open.len() + RUNS_PER_PACKET
    }

    fn seal_inner(
        &mut self,
        inner: &mut Inner,
        to_link: &mut impl Outbox<Sealed>,
        now: Now,
    ) -> Result<(), DropReason> {
        let header = inner.vnet_hdr;
        let packet = inner.frame.bytes_mut();
        let peer = self.sessions.route(packet)?;
        if packet.len() + MUX_HEADER > self.runs.max_plaintext {
            return Err(DropReason::TooBig);
        }
        let mut flags = 0;
        if header.flags & NEEDS_CSUM != 0 {
            if !self.finish_checksums && sender_partial(packet, header.csum_start, header.csum_offset) {
                flags = FLAG_PARTIAL;
            } else if !finish(packet, header.csum_start, header.csum_offset) {
                return Err(DropReason::InnerMalformed);
            }
        }
        let packet = inner.frame.bytes();
        match self.sessions.begin(peer, now) {
            Outbound::Ready(_) => self.seal_packet(peer, packet, flags, to_link, now),
            Outbound::Wait => {
                if self.waiting.push(peer, packet, flags) {
                    self.counters.drops.count(DropReason::NoSession);
                }
            }
            Outbound::NoEndpoint => return Err(DropReason::NoEndpoint),
        }
        Ok(())
    }

    /// Puts one packet into the peer's open run, in pieces if its path is too narrow; every packet that comes here is counted as sealed or dropped.
    pub(super) fn seal_packet(
        &mut self,
        peer: PeerId,
        packet: &[u8],
        flags: u8,
        to_link: &mut impl Outbox<Sealed>,
        now: Now,
    ) {
        let Outbound::Ready(path) = self.sessions.begin(peer, now) else {
            return self.counters.drops.count(DropReason::NoSession);
        };
        let tos = ecn::of(packet);
        let room = self.room(peer);
        if MUX_HEADER + packet.len() <= room {
            let frame = MuxFrame { kind: IP, flags, head: &[], body: packet, ends_packet: true };
            return self.place(peer, path, tos, room, &frame, to_link, now);
        }
        self.sessions.squeezed(peer, MUX_HEADER + packet.len() + MIN_DATAGRAM);
        let id = self.sessions.next_fragment_id(peer);
        self.counters.fragmented.bump(1);
        // Pieces of one size: their datagrams follow each other in one run, where a short one would end it.
        let pieces = packet.len().div_ceil(room - MUX_HEADER - FRAGMENT_HEADER);
        let (mut offset, step) = (0, packet.len().div_ceil(pieces));
        for body in packet.chunks(step) {
            let head = fragment_header(id, offset, packet.len() as u16);
            offset += body.len() as u16;
            let ends_packet = usize::from(offset) == packet.len();
            let frame = MuxFrame { kind: FRAGMENT, flags, head: &head, body, ends_packet };
            self.place(peer, path, tos, room, &frame, to_link, now);
        }
    }

    /// The outer TOS of the peer's open run; what has none of its own joins it.
    pub(super) fn open_tos(&self, peer: PeerId) -> u8 {
        self.runs.open.iter().find(|run| run.peer == peer).map_or(0, |run| run.tos)
    }

    /// Bytes of plaintext that a datagram to `peer` holds at most.
    pub(super) fn room(&self, peer: PeerId) -> usize {
        let limit = self.sessions.path_limit(peer).map(|datagram| datagram - MIN_DATAGRAM);
        limit.unwrap_or(self.runs.max_plaintext).min(self.runs.max_plaintext)
    }

    /// Puts one mux frame into the peer's open run, whose datagrams hold at most `room` bytes of plaintext.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of them vary per packet, and a struct would be built per packet"
    )]
    pub(super) fn place(
        &mut self,
        peer: PeerId,
        path: Path,
        tos: u8,
        room: usize,
        frame: &MuxFrame<'_>,
        to_link: &mut impl Outbox<Sealed>,
        now: Now,
    ) {
        let shares = frame.len() <= room / 2;
        if let Some(at) = self.runs.open.iter().position(|run| run.peer == peer) {
            let run = &mut self.runs.open[at];
            let same = run.path == path && run.tos == tos && run.segment <= room + MIN_DATAGRAM && !run.ended;
            if same && shares && run.filled > 0 && run.room(room) >= frame.len() {
                return run.append(frame);
            }
            // The open datagram is complete; the frame begins another, in this run if it fits there.
            if run.filled > 0 {
                Self::account(&self.counters, run.seal(&mut self.sessions, now));
            }
            if same && run.takes_another(frame.len()) {
                return run.append(frame);
            }
            let run = self.runs.open.remove(at);
            self.send_run(run, to_link);
        }
        let Some(memory) = self.transmit.take() else {
            return self.counters.drops.add(DropReason::NoFrame, u64::from(frame.ends_packet));
        };
        let mut run = OpenRun::new(peer, path, tos, memory);
        run.append(frame);
        self.runs.open.push(run);
    }

    fn account(counters: &super::ProcessCounters, sealed: Result<u64, u64>) {
        match sealed {
            Ok(packets) => counters.sealed.bump(packets),
            Err(packets) => counters.drops.add(DropReason::NoSession, packets),
        }
    }

    /// Seals the last datagram of every run and sends them all, in the order of their first packet.
    pub(super) fn flush(&mut self, to_link: &mut impl Outbox<Sealed>, now: Now) {
        let mut open = std::mem::take(&mut self.runs.open);
        for mut run in open.drain(..) {
            if run.filled > 0 {
                Self::account(&self.counters, run.seal(&mut self.sessions, now));
            }
            self.send_run(run, to_link);
        }
        self.runs.open = open;
    }

    pub(super) fn send_run(&mut self, run: OpenRun, to_link: &mut impl Outbox<Sealed>) {
        let OpenRun { peer, mut frame, path, tos, segment, start, sealed_datagrams, sealed_packets, .. } =
            run;
        if sealed_datagrams == 0 {
            return self.transmit.give(frame);
        }
        frame.set_len(start);
        if self.sessions.mask_run(peer, frame.bytes_mut(), segment).is_err() {
            // They were sealed under a session that is there, in this very step.
            self.counters.dropped_datagrams.bump(sealed_datagrams as u64);
            return self.transmit.give(frame);
        }
        self.counters.runs.bump(1);
        let datagrams = sealed_datagrams as u64;
        self.counters.run_lengths.record(datagrams, 1);
        let mean = (sealed_packets + datagrams / 2) / datagrams;
        self.counters.packets_per_datagram.record(mean, datagrams);
        let sealed = Sealed { frame: frame.into(), segment: segment as u16, tos, path };
        if let Err(refused) = to_link.push(sealed) {
            self.counters.dropped_datagrams.bump(refused.datagrams() as u64);
            refused.frame.home(&mut self.transmit);
        }
    }
}
