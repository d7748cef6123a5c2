//! For the tests of this folder: packets built field by field, sums by their definition, and a host that keeps what it
//! is given.

use super::{Coalescer, Segments};
use crate::frame::{
    Bounded, GSO_NONE, InnerMark, MARK_LEN, MAX_SEGMENTS, NEEDS_CSUM, Opened, Outbox, SetName, VNET_HDR_LEN,
    VnetHdr, WideSet,
};
use crate::tun::{DATAGRAM_HEADER_LEN, TunCounters};
use std::io::{self, IoSlice};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// RFC 1071's definition, word by word.
pub fn plain_sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0u16, |total, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (total, carry) = total.overflowing_add(word);
        total + u16::from(carry)
    })
}

/// All that varies in a packet.
#[derive(Clone, Debug)]
pub struct Packet {
    pub v6: bool,
    pub tcp: bool,
    pub tos: u8,
    pub label: u32,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub source: u8,
    pub ports: [u16; 2],
    pub sequence: u32,
    pub ack: u32,
    pub reserved: u8,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub ip_options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn new(v6: bool, tcp: bool, payload: &[u8]) -> Self {
        Packet {
            v6,
            tcp,
            tos: 0,
            label: 0x12345,
            id: 1,
            fragment: 0x4000,
            ttl: 64,
            source: 1,
            ports: [40_000, 443],
            sequence: 1000,
            ack: 77,
            reserved: 0,
            flags: ACK,
            window: 500,
            urgent: 0,
            options: if tcp { vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] } else { vec![] },
            ip_options: vec![],
            payload: payload.to_vec(),
        }
    }

    fn pseudo(&self, segment: &[u8]) -> Vec<u8> {
        let mut bytes = self.addresses();
        bytes.extend((segment.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, if self.tcp { 6 } else { 17 }]);
        bytes
    }

    fn addresses(&self) -> Vec<u8> {
        match self.v6 {
            false => vec![10, 8, 0, self.source, 10, 8, 0, 99],
            true => {
                let host = |last| [0xfd, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
                [host(self.source), host(99)].concat()
            }
        }
    }

    fn transport(&self) -> (Vec<u8>, usize) {
        let mut out: Vec<u8> = self.ports.iter().flat_map(|port| port.to_be_bytes()).collect();
        let at = if self.tcp {
            out.extend(self.sequence.to_be_bytes());
            out.extend(self.ack.to_be_bytes());
            out.extend([((5 + self.options.len() / 4) << 4) as u8 | self.reserved, self.flags]);
            out.extend(self.window.to_be_bytes());
            out.extend([0, 0]);
            out.extend(self.urgent.to_be_bytes());
            out.extend(&self.options);
            16
        } else {
            out.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            out.extend([0, 0]);
            6
        };
        out.extend(&self.payload);
        (out, at)
    }

    fn assemble(&self, transport: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if self.v6 {
            out.extend((0x6000_0000 | u32::from(self.tos) << 20 | self.label).to_be_bytes());
            out.extend((transport.len() as u16).to_be_bytes());
            out.extend([if self.tcp { 6 } else { 17 }, self.ttl]);
            out.extend(self.addresses());
        } else {
            let header_len = 20 + self.ip_options.len();
            out.extend([0x40 | (header_len / 4) as u8, self.tos]);
            out.extend(((header_len + transport.len()) as u16).to_be_bytes());
            out.extend(self.id.to_be_bytes());
            out.extend(self.fragment.to_be_bytes());
            out.extend([self.ttl, if self.tcp { 6 } else { 17 }, 0, 0]);
            out.extend(self.addresses());
            out.extend(&self.ip_options);
            let checksum = !plain_sum(&out);
            out[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        out.extend(transport);
        out
    }

    /// The packet with only the pseudo-header's sum in its checksum field.
    pub fn partial(&self) -> Vec<u8> {
        let (mut transport, at) = self.transport();
        let sum = plain_sum(&self.pseudo(&transport));
        transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self.assemble(&transport)
    }

    /// The packet as it is on a wire.
    pub fn whole(&self) -> Vec<u8> {
        let (mut transport, at) = self.transport();
        let sum = !plain_sum(&[self.pseudo(&transport), transport.clone()].concat());
        let sum = if sum == 0 && !self.tcp { 0xffff } else { sum };
        transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self.assemble(&transport)
    }

    /// Where its headers end.
    pub fn header_len(&self) -> usize {
        let ip = if self.v6 { 40 } else { 20 + self.ip_options.len() };
        ip + if self.tcp { 20 + self.options.len() } else { 8 }
    }
}

/// What a host was given at once.
pub type Written = (VnetHdr, Vec<u8>);

/// A batch on its way to a host: how it is joined, and what becomes of it.
pub struct Host {
    pub coalescer: Coalescer,
    pub counters: TunCounters,
    pub written: Vec<Written>,
    /// What super-packets are refused with.
    pub refuses: Option<i32>,
    set: WideSet,
}

impl Host {
    pub fn new() -> Self {
        let mut coalescer = Coalescer::new();
        coalescer.join(true, true);
        let set = WideSet::new(SetName::LinkReceive, 200);
        Host { coalescer, counters: TunCounters::default(), written: Vec::new(), refuses: None, set }
    }

    /// Writes one batch of packets, each with whether its sum is partial, `per_datagram` to a datagram.
    pub fn write(&mut self, packets: &[(Vec<u8>, bool)], per_datagram: usize) -> Vec<Written> {
        let mut runs = Bounded::new(200);
        let datagrams: Vec<Vec<u8>> = packets.chunks(per_datagram).map(datagram).collect();
        let mut rest = &datagrams[..];
        while let Some(first) = rest.first() {
            // A run as UDP_GRO makes it: all of one size, the last may be shorter.
            let segment = first.len();
            let most = MAX_SEGMENTS.min(65_000 / segment).max(1);
            let same = rest.iter().take(most).take_while(|datagram| datagram.len() == segment).count();
            let taken = same + usize::from(same < most && rest.get(same).is_some_and(|d| d.len() < segment));
            let mut frame = self.set.take().unwrap();
            let bytes = rest[..taken].concat();
            frame.buffer_mut()[..bytes.len()].copy_from_slice(&bytes);
            frame.set_len(bytes.len());
            for datagram in &rest[..taken] {
                assert!(frame.table_mut().push((datagram.len() - DATAGRAM_HEADER_LEN) as u16));
            }
            runs.push(Opened { frame: frame.into(), segment: segment as u16 }).unwrap();
            rest = &rest[taken..];
        }
        let (written, refuses) = (&mut self.written, self.refuses);
        self.coalescer.write(&mut runs, &mut self.set, &self.counters, |parts: &[IoSlice<'_>]| {
            let bytes = parts.iter().flat_map(|part| part.to_vec()).collect::<Vec<u8>>();
            let (header, packet) = bytes.split_first_chunk::<VNET_HDR_LEN>().unwrap();
            let header = VnetHdr::decode(*header);
            if let (Some(errno), true) = (refuses, header.gso_type != GSO_NONE) {
                return Err(io::Error::from_raw_os_error(errno));
            }
            written.push((header, packet.to_vec()));
            Ok(())
        });
        assert!(self.set.is_whole());
        std::mem::take(&mut self.written)
    }
}

fn datagram(packets: &[(Vec<u8>, bool)]) -> Vec<u8> {
    let mut out = vec![0xee; DATAGRAM_HEADER_LEN];
    for (packet, partial) in packets {
        let mark = InnerMark { length: packet.len() as u16, deliver: true, partial: *partial };
        out.extend::<[u8; MARK_LEN]>(mark.encode());
        out.extend(packet);
    }
    out
}

/// Cuts a super-packet as the process stage does.
pub fn split(header: VnetHdr, packet: &[u8]) -> Vec<Vec<u8>> {
    all(&Segments::parse(header, packet).unwrap_or_else(|e| panic!("{header:?}: {e:?}")))
}

/// All segments.
pub fn all(segments: &Segments<'_>) -> Vec<Vec<u8>> {
    let write = |index| {
        let mut out = vec![0xdd; segments.len(index)];
        segments.write(index, &mut out);
        out
    };
    (0..segments.count()).map(write).collect()
}

/// What was written, each super-packet cut: the packets the host has in the end, and whether each is partial.
pub fn unjoined(written: &[Written]) -> Vec<(Vec<u8>, bool)> {
    let packets = |(header, packet): &Written| -> Vec<(Vec<u8>, bool)> {
        let partial = header.flags & NEEDS_CSUM != 0;
        match header.gso_type {
            GSO_NONE => vec![(packet.clone(), partial)],
            _ => split(*header, packet).into_iter().map(|packet| (packet, partial)).collect(),
        }
    };
    written.iter().flat_map(packets).collect()
}
