//! Inbound: every datagram of a run is opened in place, every mux frame checked, every accepted packet marked.

use veil_proto::SingleWriter;
use veil_proto::mux::ecn;
use veil_proto::mux::frame::{ACK, CONTROL, FRAGMENT, HEADER_LEN as MUX_HEADER, IP, PROBE};
use veil_proto::mux::{Frames, Item, RawFrame};
use veil_proto::session::HEADER_LEN;
use veil_proto::tunnel::{AHEAD, Accepted, Inbound, InboundAhead, Opened as OpenedDatagram, ToHandshakes};
use veil_proto::{DropReason, Now, PeerId};

use super::Process;
use crate::frame::{Home, Inbox, InnerMark, MAX_SEGMENTS, Opened, Outbox, Sealed};
use crate::prefetch::prefetch;

/// A checked inner packet that goes to the host behind its run: put together from pieces, or what came after such a packet
/// and must not overtake it.
pub struct Whole {
    bytes: Vec<u8>,
    partial: bool,
    reassembled: bool,
}

impl Process {
    /// Opens what waits in `from_link`, as far as `to_tun` has room. Frames with nothing for the host go to `home`;
    /// handshake datagrams are copied to `to_handshakes`.
    pub fn inbound(
        &mut self,
        from_link: &mut impl Inbox<Sealed>,
        to_tun: &mut impl Outbox<Opened>,
        to_handshakes: &mut impl Outbox<ToHandshakes>,
        home: &mut impl Home,
        now: Now,
    ) {
        let mut batch = std::mem::take(&mut self.batch);
        loop {
            batch.extend(std::iter::from_fn(|| from_link.pop()).take(AHEAD.min(to_tun.room())));
            if batch.is_empty() {
                break;
            }
            let mut ahead = self.unmask(&mut batch);
            let mut left = batch.len();
            for mut run in batch.drain(..) {
                if let Some(ahead) = &mut ahead {
                    self.sessions.fetch_inbound(ahead, prefetch);
                }
                let delivers = self.open_run(&mut run, to_handshakes, now);
                left -= 1;
                let Sealed { frame, segment, .. } = run;
                if !delivers {
                    frame.home(home);
                } else if let Err(opened) = to_tun.push(Opened { frame, segment }) {
                    // Room was looked for above, so this is never reached; if it were, the frame would still go home.
                    opened.frame.home(home);
                }
                self.send_whole(to_tun, left);
            }
        }
        self.batch = batch;
    }

    /// Unmasks the headers of all runs, and looks ahead to them where what they need is not likely to be in the cache.
    fn unmask(&self, batch: &mut [Sealed]) -> Option<InboundAhead> {
        for run in &mut *batch {
            let segment = usize::from(run.segment);
            self.sessions.unmask_run(run.frame.bytes_mut(), segment);
        }
        (batch.len() > 1 && self.sessions.looks_ahead())
            .then(|| self.sessions.look_ahead_inbound(batch.iter().map(|run| run.frame.bytes()), prefetch))
    }

    /// Sends the packets that go behind their run, as many in a frame as fit, while more runs than `left` have room.
    fn send_whole(&mut self, to_tun: &mut impl Outbox<Opened>, left: usize) {
        if self.whole.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.whole);
        let mut packets = all.drain(..).peekable();
        while packets.peek().is_some() {
            let frame = if to_tun.room() > left { self.injected.take() } else { None };
            let Some(mut frame) = frame else {
                packets.by_ref().for_each(|lost| {
                    let counters = &self.counters;
                    let drops =
                        if lost.reassembled { &counters.reassembly_drops } else { &counters.frame_drops };
                    drops.count(DropReason::NoFrame);
                });
                break;
            };
            // Laid out as one opened datagram, so that the TX stage needs no second way to read it.
            let mut end = HEADER_LEN;
            let (mut whole, mut injected) = (0, 0);
            while let Some(Whole { bytes, partial, reassembled }) =
                packets.next_if(|packet| end + MUX_HEADER + packet.bytes.len() <= usize::from(u16::MAX))
            {
                let mark = InnerMark { length: bytes.len() as u16, deliver: true, partial };
                if let Some(room) = frame.buffer_mut().get_mut(end..end + MUX_HEADER + bytes.len()) {
                    room[..MUX_HEADER].copy_from_slice(&mark.encode());
                    room[MUX_HEADER..].copy_from_slice(&bytes);
                }
                end += MUX_HEADER + bytes.len();
                if reassembled {
                    whole += 1
                } else {
                    injected += 1
                };
            }
            frame.set_len(end);
            frame.table_mut().push((end - HEADER_LEN) as u16);
            match to_tun.push(Opened { frame: frame.into(), segment: end as u16 }) {
                Ok(()) => {
                    self.counters.reassembled.bump(whole);
                    self.counters.ip.bump(injected);
                }
                // Room was looked for above, so this is never reached; if it were, the frame would still go home.
                Err(refused) => refused.frame.home(&mut self.injected),
            }
        }
        drop(packets);
        self.whole = all;
    }

    /// One piece of a packet: kept until the others are there, then checked as any packet is.
    fn take_fragment(
        &mut self,
        from: OpenedDatagram,
        tos: u8,
        flags: u8,
        payload: &[u8],
        now: Now,
    ) -> Result<(), DropReason> {
        let whole = self.sessions.accept_fragment(from.session, flags, tos, payload, now)?;
        let Some(mut whole) = whole else { return Ok(()) };
        let tos = if whole.congested { tos | ecn::CE } else { tos };
        match self.sessions.accept_ip(from.peer, whole.flags, &mut whole.bytes, tos) {
            Ok(Accepted { partial }) => {
                self.whole.push(Whole { bytes: whole.bytes, partial, reassembled: true });
            }
            Err(reason) => {
                self.counters.reassembly_drops.count(reason);
                self.count_peer_drop(from.peer, reason);
            }
        }
        Ok(())
    }

    /// Opens each datagram of a run, whose headers are unmasked, and enters its plaintext length in the frame's table. True if anything is for the host.
    fn open_run(
        &mut self,
        run: &mut Sealed,
        to_handshakes: &mut impl Outbox<ToHandshakes>,
        now: Now,
    ) -> bool {
        let (path, tos, ranges) = (run.path, run.tos, run.ranges());
        let (bytes, table) = run.frame.split_mut();
        let mut delivers = false;
        for range in ranges {
            let Some(datagram) = bytes.get_mut(range) else { continue };
            if table.lengths().len() == MAX_SEGMENTS {
                self.counters.inbound_drops.count(DropReason::RunTooLong);
                continue;
            }
            let mut len = 0;
            match self.sessions.open_unmasked(datagram, &path, now) {
                Inbound::Data(opened) => {
                    if let Some(plaintext) = datagram.get_mut(HEADER_LEN..HEADER_LEN + opened.len) {
                        len = self.mark_frames(opened, tos, plaintext, &mut delivers, now);
                    }
                }
                Inbound::Handshake => {
                    let message = ToHandshakes::Datagram { path, bytes: datagram.to_vec() };
                    if to_handshakes.push(message).is_err() {
                        self.counters.inbound_drops.count(DropReason::HandshakeQueueFull);
                    }
                }
                Inbound::Dropped(_) => {}
            }
            table.push(len as u16);
        }
        delivers
    }

    /// Checks every mux frame of a plaintext and puts a mark in the place of its header. Returns the length that the
    /// marks cover; what lies behind it is padding or refused.
    fn mark_frames(
        &mut self,
        from: OpenedDatagram,
        tos: u8,
        plaintext: &mut [u8],
        delivers: &mut bool,
        now: Now,
    ) -> usize {
        let mut at = 0;
        loop {
            let mut frames = Frames::resume(plaintext, at);
            let Some(item) = frames.next() else { return at };
            let next = frames.position();
            self.counters.frames.bump(1);
            let (offset, end, accepted) = match item {
                Item::Frame(frame) => {
                    let (offset, end) = (frame.offset, frame.payload.end);
                    (offset, end, self.take_frame(from, tos, frame, plaintext, now))
                }
                Item::Refused { reason, offset, len } => {
                    self.drop_frame(from.peer, reason);
                    if reason == DropReason::FrameTruncated {
                        return at;
                    }
                    (offset, offset + len, None)
                }
            };
            *delivers |= accepted.is_some();
            let mark = InnerMark {
                length: end.saturating_sub(offset + MUX_HEADER) as u16,
                deliver: accepted.is_some(),
                partial: accepted.unwrap_or(false),
            };
            if let Some(header) = plaintext.get_mut(offset..offset + MUX_HEADER) {
                header.copy_from_slice(&mark.encode());
            }
            at = next;
        }
    }

    /// One whole frame. `Some(partial)` if it is a packet for the host.
    fn take_frame(
        &mut self,
        from: OpenedDatagram,
        tos: u8,
        frame: RawFrame,
        plaintext: &mut [u8],
        now: Now,
    ) -> Option<bool> {
        let (taken, counter) = match frame.kind {
            IP => {
                let packet = plaintext.get_mut(frame.payload)?;
                return match self.sessions.accept_ip(from.peer, frame.flags, packet, tos) {
                    Ok(Accepted { partial }) => {
                        self.sessions.carried(from, now);
                        if !self.whole.is_empty() {
                            self.whole.push(Whole { bytes: packet.to_vec(), partial, reassembled: false });
                            return None;
                        }
                        self.counters.ip.bump(1);
                        Some(partial)
                    }
                    Err(reason) => {
                        self.drop_frame(from.peer, reason);
                        None
                    }
                };
            }
            FRAGMENT => {
                let payload = plaintext.get(frame.payload)?;
                let taken = self.take_fragment(from, tos, frame.flags, payload, now);
                self.sessions.carried(from, now);
                (taken, &self.counters.fragment)
            }
            CONTROL => {
                let payload = plaintext.get(frame.payload)?;
                (self.sessions.accept_control(from, payload, now), &self.counters.control)
            }
            ACK => {
                let payload = plaintext.get(frame.payload)?;
                (self.sessions.accept_ack(from, payload, now), &self.counters.ack)
            }
            PROBE => {
                let payload = plaintext.get(frame.payload)?;
                (self.sessions.accept_probe(from, payload, now), &self.counters.probe)
            }
            _ => (Ok(()), &self.counters.skipped),
        };
        match taken {
            Ok(()) => counter.bump(1),
            Err(reason) => self.drop_frame(from.peer, reason),
        }
        None
    }

    fn drop_frame(&self, peer: PeerId, reason: DropReason) {
        self.counters.frame_drops.count(reason);
        self.count_peer_drop(peer, reason);
    }

    fn count_peer_drop(&self, peer: PeerId, reason: DropReason) {
        if let Some(counters) = self.sessions.peer_counters(peer) {
            counters.drops.count(reason);
        }
    }
}
