//! Super-packets from the host: split while they are sealed, each segment copied once, straight to its place in a run.
//!
//! Segments longer than half a datagram have a datagram each and fill the peer's open run; a super-packet that one run
//! does not hold is shared out evenly, so that no run is left with a few datagrams. Shorter segments are placed as
//! packets that come one by one are, several to a datagram. Where the path is narrower than the segments, TCP's are cut
//! shorter and UDP's go in pieces.

use veil_proto::SingleWriter;
use veil_proto::mux::checksum::finish;
use veil_proto::mux::ecn;
use veil_proto::mux::frame::{FLAG_PARTIAL, HEADER_LEN as MUX_HEADER, IP, write_header};
use veil_proto::session::{HEADER_LEN, MIN_DATAGRAM};
use veil_proto::tunnel::Outbound;
use veil_proto::{DropReason, Now, Path, PeerId};

use super::{MAX_DATAGRAMS, MAX_RUN, OpenRun, PAD_UP, Process};
use crate::frame::{Inner, Outbox, Sealed};
use crate::tun::offload::Segments;

/// Whose run segments go to.
struct Target {
    peer: PeerId,
    path: Path,
    tos: u8,
    /// Bytes of plaintext in its datagrams.
    room: usize,
}

impl Target {
    /// Whether plaintext of this length has a datagram to itself: it fits, and nothing of its size fits beside it.
    fn takes_alone(&self, plaintext: usize) -> bool {
        plaintext <= self.room && 2 * plaintext > self.room
    }
}

impl OpenRun {
    /// How many more datagrams of `datagram` bytes this run takes, none being open.
    fn space(&self, datagram: usize) -> usize {
        let bytes = MAX_RUN.saturating_sub(self.start) / datagram.max(self.segment);
        bytes.min(MAX_DATAGRAMS.saturating_sub(self.sealed_datagrams))
    }

    /// Whether datagrams of `datagram` bytes, none being open, are of the size of those before.
    fn suits(&self, datagram: usize) -> bool {
        let near = datagram <= self.segment && self.segment - datagram <= PAD_UP;
        !self.ended && (self.segment == 0 || near) && self.space(datagram) > 0
    }

    /// Writes a segment as the open datagram's only frame.
    fn append_segment(&mut self, segments: &Segments<'_>, index: usize, partial: bool) {
        let (at, len) = (self.start + HEADER_LEN, segments.len(index));
        if let Some(room) = self.frame.buffer_mut().get_mut(at..at + MUX_HEADER + len)
            && let Some((header, body)) = room.split_first_chunk_mut::<MUX_HEADER>()
        {
            let flags = write_segment(segments, index, body, partial);
            write_header(header, IP, flags, len as u16);
            self.filled = MUX_HEADER + len;
            self.packets = 1;
        }
    }
}

impl Process {
    /// Seals a super-packet segment by segment; every segment is counted as taken, and as sealed, waiting or dropped.
    pub(super) fn seal_super(&mut self, inner: &Inner, to_link: &mut impl Outbox<Sealed>, now: Now) {
        let parsed = Segments::parse(inner.vnet_hdr, inner.frame.bytes());
        let aimed = match parsed {
            Ok(segments) => self.aim(segments, now),
            Err(reason) => Err(reason),
        };
        let count = match (&aimed, &parsed) {
            (Ok((.., segments)), _) | (Err(_), Ok(segments)) => segments.count(),
            (Err(_), Err(_)) => 1,
        };
        self.counters.super_packets.bump(1);
        self.counters.super_segments.bump(count as u64);
        self.counters.tun_packets.bump(count as u64);
        match aimed {
            Ok((_, Some(target), segments)) if target.takes_alone(MUX_HEADER + segments.longest()) => {
                self.fill(&target, &segments, to_link, now);
            }
            Ok((peer, target, segments)) => {
                self.place_each(peer, target.is_none(), &segments, to_link, now);
            }
            Err(reason) => self.counters.drops.add(reason, count as u64),
        }
    }

    /// Whose a super-packet is, where it goes, and how it is cut for that way. No target: it waits for a session.
    fn aim<'a>(
        &mut self,
        segments: Segments<'a>,
        now: Now,
    ) -> Result<(PeerId, Option<Target>, Segments<'a>), DropReason> {
        let peer = self.sessions.route(segments.packet())?;
        let path = match self.sessions.begin(peer, now) {
            Outbound::Ready(path) => Some(path),
            Outbound::Wait => None,
            Outbound::NoEndpoint => return Err(DropReason::NoEndpoint),
        };
        let (most, room) = (self.runs.max_plaintext, self.room(peer));
        let wanted = (MUX_HEADER + segments.longest()).min(most);
        if wanted > room {
            self.sessions.squeezed(peer, wanted + MIN_DATAGRAM);
        }
        let segments = match segments.shortened(room - MUX_HEADER) {
            Some(shortened) => shortened,
            None if MUX_HEADER + segments.longest() > most => return Err(DropReason::TooBig),
            None => segments,
        };
        let tos = ecn::of(segments.packet());
        Ok((peer, path.map(|path| Target { peer, path, tos, room }), segments))
    }

    /// Fills runs with segments that have a datagram each.
    fn fill(&mut self, to: &Target, segments: &Segments<'_>, to_link: &mut impl Outbox<Sealed>, now: Now) {
        let datagram = MUX_HEADER + segments.longest() + MIN_DATAGRAM;
        let (count, partial) = (segments.count(), self.leaves_partial(segments));
        let mut next = 0;
        while next < count {
            let Some(at) = self.run_for(to, datagram, next == 0, to_link, now) else {
                return self.counters.drops.add(DropReason::NoFrame, (count - next) as u64);
            };
            let run = &mut self.runs.open[at];
            let share = share(count - next, run.space(datagram), MAX_DATAGRAMS.min(MAX_RUN / datagram));
            let mut sealed = 0;
            for index in next..next + share {
                if run.filled > 0 {
                    match run.seal(&mut self.sessions, now) {
                        Ok(packets) => sealed += packets,
                        Err(packets) => {
                            // The session's key is used up: the rest has none either.
                            self.counters.sealed.bump(sealed);
                            let rest = packets + (count - index) as u64;
                            return self.counters.drops.add(DropReason::NoSession, rest);
                        }
                    }
                }
                run.append_segment(segments, index, partial);
            }
            self.counters.sealed.bump(sealed);
            next += share;
        }
    }

    /// The peer's open run, if it is to be gone on with and takes a datagram of `datagram` bytes, or a new one; no
    /// datagram is open in it.
    fn run_for(
        &mut self,
        to: &Target,
        datagram: usize,
        go_on: bool,
        to_link: &mut impl Outbox<Sealed>,
        now: Now,
    ) -> Option<usize> {
        if let Some(at) = self.runs.open.iter().position(|run| run.peer == to.peer) {
            let run = &mut self.runs.open[at];
            if run.filled > 0 {
                Self::account(&self.counters, run.seal(&mut self.sessions, now));
            }
            let same = run.path == to.path && run.tos == to.tos && run.segment <= to.room + MIN_DATAGRAM;
            if go_on && same && run.suits(datagram) {
                return Some(at);
            }
            let run = self.runs.open.remove(at);
            self.send_run(run, to_link);
        }
        let frame = self.transmit.take()?;
        self.runs.open.push(OpenRun::new(to.peer, to.path, to.tos, frame));
        Some(self.runs.open.len() - 1)
    }

    /// Hands every segment on as a packet of its own: small ones, those wider than the path, those that wait.
    fn place_each(
        &mut self,
        peer: PeerId,
        waits: bool,
        segments: &Segments<'_>,
        to_link: &mut impl Outbox<Sealed>,
        now: Now,
    ) {
        let partial = self.leaves_partial(segments);
        let mut scratch = std::mem::take(&mut self.runs.scratch);
        for index in 0..segments.count() {
            scratch.resize(segments.len(index), 0);
            let flags = write_segment(segments, index, &mut scratch, partial);
            if !waits {
                self.seal_packet(peer, &scratch, flags, to_link, now);
            } else if self.waiting.push(peer, &scratch, flags) {
                self.counters.drops.count(DropReason::NoSession);
            }
        }
        self.runs.scratch = scratch;
    }

    /// Whether the receiver may finish the segments' checksums (`protocol.md`, 'Checksum partial'): it wants no header
    /// between IP and transport. Whole and unfragmented they are by the parse, with right lengths and IPv4 sums by the
    /// split.
    fn leaves_partial(&self, segments: &Segments<'_>) -> bool {
        !self.finish_checksums && segments.headers().plain
    }
}

/// Writes a segment, its checksum partial or finished. Returns its mux flags.
fn write_segment(segments: &Segments<'_>, index: usize, out: &mut [u8], partial: bool) -> u8 {
    segments.write(index, out);
    if partial {
        return FLAG_PARTIAL;
    }
    let place = segments.headers().needs_csum();
    finish(out, place.csum_start, place.csum_offset);
    0
}

/// How many of `left` datagrams to put where `space` fit, when a new run takes `most`: all if they fit, or as many as
/// each of the runs they need.
fn share(left: usize, space: usize, most: usize) -> usize {
    if left <= space {
        return left;
    }
    let runs = 1 + (left - space).div_ceil(most.max(1));
    left.div_ceil(runs).min(space).max(1)
}

#[cfg(test)]
mod tests;
