//! What is owed to peers after a batch: control frames join the datagram that is open for the peer, or make one; probes
//! travel alone; a keepalive goes to whom nothing else went.

use veil_proto::PeerId;
use veil_proto::mux::control::MAX_MESSAGES;
use veil_proto::mux::frame::PROBE;
use veil_proto::session::retransmit_buffer::SEQUENCE_LEN;
use veil_proto::tunnel::{Outbound, Probe};
use veil_proto::{Now, Path};

use super::Process;
use super::outbound::{MuxFrame, OpenRun};
use crate::frame::{Outbox, Sealed};

/// Bytes of the longest control frame's payload.
pub const CONTROL_FRAME: usize = SEQUENCE_LEN + MAX_MESSAGES;

impl Process {
    /// Sends the control frames, acknowledgements and probes that are owed, as far as there is room.
    pub(super) fn send_owed(&mut self, to_link: &mut impl Outbox<Sealed>, now: Now) {
        while self.has_room(to_link)
            && let Some(peer) = self.sessions.next_owing()
        {
            // What is owed is owed in a session that is there: for its sake none is started.
            let Some(path) = self.sessions.way_to(peer, now) else { continue };
            self.send_control(peer, path, to_link, now);
            self.send_probes(peer, path, to_link, now);
            if !self.has_room(to_link) {
                // There may be more: nothing that is owed is forgotten for want of room.
                self.sessions.owe(peer);
            }
        }
    }

    fn send_control(&mut self, peer: PeerId, path: Path, to_link: &mut impl Outbox<Sealed>, now: Now) {
        let (room, tos) = (self.room(peer), self.open_tos(peer));
        let mut payload = std::mem::take(&mut self.control);
        while self.has_room(to_link)
            && let Some(kind) = self.sessions.next_control_frame(peer, now, &mut payload)
        {
            let frame = MuxFrame { kind, flags: 0, head: &[], body: &payload, ends_packet: false };
            self.place(peer, path, tos, room, &frame, to_link, now);
        }
        self.control = payload;
    }

    fn send_probes(&mut self, peer: PeerId, path: Path, to_link: &mut impl Outbox<Sealed>, now: Now) {
        while self.has_room(to_link)
            && let Some(Probe { payload, size }) = self.sessions.next_probe(peer, now)
        {
            let Some(frame) = self.transmit.take() else { return };
            let mut run = OpenRun::new(peer, path, 0, frame);
            let frame = MuxFrame { kind: PROBE, flags: 0, head: &[], body: &payload, ends_packet: false };
            run.append(&frame);
            run.pad_to(size);
            // A session that has reached its limit is replaced; the probe is lost with it.
            let _ = run.seal(&mut self.sessions, now);
            self.send_run(run, to_link);
        }
    }

    /// A keepalive to each peer that is owed a datagram and got none.
    pub(super) fn keepalives(&mut self, to_link: &mut impl Outbox<Sealed>, now: Now) {
        while self.has_room(to_link)
            && let Some(peer) = self.sessions.next_flagged()
        {
            let Outbound::Ready(path) = self.sessions.begin(peer, now) else { continue };
            let Some(frame) = self.transmit.take() else { return };
            let mut run = OpenRun::new(peer, path, 0, frame);
            let _ = run.seal(&mut self.sessions, now);
            self.send_run(run, to_link);
        }
    }
}
