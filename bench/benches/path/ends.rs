//! Two process stages with a session, and what is carried from one to the other: super-packets, whole runs at a time.

use veil_bench::Handshaking;
use veil_proto::crypto::Suite;
use veil_proto::tunnel::ToHandshakes;
use veil_proto::{Now, PeerId};
use veil_userspace::event_loop::process::Process;
use veil_userspace::frame::{
    Bounded, GSO_TCPV4, GSO_TCPV6, Inbox, Inner, NEEDS_CSUM, Opened, Outbox, Sealed, SetName, VnetHdr,
    WideSet,
};

/// The tunnel's MTU.
pub const MTU: u16 = 1416;
/// Bytes of a super-packet: what a host makes at most of segments that fill the MTU.
const LEN: usize = 65_160;
const TCP_HEADER: usize = 20;
/// Super-packets readied at once: few enough that they are still warm when it is their turn.
pub const RUN: usize = 4;
/// Runs that a super-packet may become.
const RUNS: usize = 16;

/// A TCP super-packet, and what its host says about it.
pub struct SuperPacket {
    pub vnet_hdr: VnetHdr,
    pub bytes: Vec<u8>,
    pub segments: u64,
}

impl SuperPacket {
    /// One of each family, by name.
    pub fn both() -> [(&'static str, SuperPacket); 2] {
        let of = |gso_type, ip_header: usize, bytes| {
            let headers = ip_header + TCP_HEADER;
            let size = usize::from(MTU) - headers;
            let vnet_hdr = VnetHdr {
                flags: NEEDS_CSUM,
                gso_type,
                hdr_len: headers as u16,
                gso_size: size as u16,
                csum_start: ip_header as u16,
                csum_offset: 16,
            };
            SuperPacket { vnet_hdr, bytes, segments: (LEN - headers).div_ceil(size) as u64 }
        };
        let peer = PeerId(0);
        [
            ("v4", of(GSO_TCPV4, 20, veil_bench::packet::ipv4(peer, LEN))),
            ("v6", of(GSO_TCPV6, 40, veil_bench::packet::ipv6(peer, LEN))),
        ]
    }
}

/// A super-packet on its way, in one of these at a time.
pub struct Carried {
    pub read: Bounded<Inner>,
    pub sealed: Bounded<Sealed>,
    pub opened: Bounded<Opened>,
}

impl Carried {
    pub fn new() -> Self {
        Carried { read: Bounded::new(1), sealed: Bounded::new(RUNS), opened: Bounded::new(RUNS) }
    }
}

/// Both ends.
pub struct Ends {
    sender: Process,
    receiver: Process,
    read: WideSet,
    pub received: WideSet,
    to_handshakes: Bounded<ToHandshakes>,
    now: Now,
}

impl Ends {
    pub fn new() -> Self {
        let (sessions, now) = Handshaking::new(Suite::Aes256Gcm).sessions();
        let [sender, receiver] = sessions.map(|sessions| Process::new(sessions, MTU));
        let mut ends = Ends {
            sender,
            receiver,
            read: WideSet::new(SetName::TunReceive, RUN),
            received: WideSet::new(SetName::LinkReceive, RUN * RUNS),
            to_handshakes: Bounded::new(1),
            now,
        };
        // The session is the receiver's to use from the first datagram on.
        let mut first = Carried::new();
        ends.sender.settle(&mut first.sealed, now);
        ends.cross(&mut first);
        ends.open(&mut first);
        ends
    }

    /// Reads `packet` from the sender's host.
    pub fn read(&mut self, packet: &SuperPacket, carried: &mut Carried) {
        self.clear(carried);
        let mut frame = self.read.take().expect("a frame for each that is readied");
        frame.buffer_mut()[..packet.bytes.len()].copy_from_slice(&packet.bytes);
        frame.set_len(packet.bytes.len());
        let inner = Inner { frame: frame.into(), vnet_hdr: packet.vnet_hdr };
        carried.read.push(inner).expect("room for one");
    }

    /// Splits and seals what was read.
    pub fn seal(&mut self, carried: &mut Carried) {
        self.sender.outbound(&mut carried.read, &mut self.read, &mut carried.sealed, self.now);
    }

    /// Copies what was sealed to the receiver, as a wire would.
    pub fn cross(&mut self, carried: &mut Carried) {
        for _ in 0..carried.sealed.len() {
            let Some(Sealed { frame, segment, tos, path }) = carried.sealed.pop() else { break };
            let mut copy = self.received.take().expect("a frame for each run");
            copy.buffer_mut()[..frame.bytes().len()].copy_from_slice(frame.bytes());
            copy.set_len(frame.bytes().len());
            frame.home(self.sender.transmit_set());
            let run = Sealed { frame: copy.into(), segment, tos, path };
            carried.sealed.push(run).expect("there was room before");
        }
    }

    /// Opens and marks what was received.
    pub fn open(&mut self, carried: &mut Carried) {
        let Carried { sealed, opened, .. } = carried;
        self.receiver.inbound(sealed, opened, &mut self.to_handshakes, &mut self.received, self.now);
    }

    /// Otherwise a refusal was measured.
    pub fn assert_nothing_dropped(&self) {
        let sessions = [&self.sender, &self.receiver].map(|end| end.sessions().counters().drops.total());
        let (sender, receiver) = (self.sender.counters(), self.receiver.counters());
        let dropped = [sender.drops.total(), receiver.frame_drops.total(), receiver.inbound_drops.total()];
        assert_eq!((sessions, dropped), ([0; 2], [0; 3]));
    }

    /// Sends home what has gone its way.
    fn clear(&mut self, carried: &mut Carried) {
        while let Some(run) = carried.sealed.pop() {
            run.frame.home(self.sender.transmit_set());
        }
        while let Some(run) = carried.opened.pop() {
            run.frame.home(&mut self.received);
        }
    }
}
