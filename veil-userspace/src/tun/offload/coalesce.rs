//! Joining the packets of a flow into super-packets for the host, within one batch of opened runs.
//!
//! The TX stage adds every run of a batch, then flushes: one write per group, made of a small rebuilt header and of the
//! payloads where they lie in the received frames. Packets are only appended, and groups are written in the order of
//! their first packets; a packet that does not fit at the end of its flow's group ends that group, and one of no flow
//! (ICMP, a fragment) ends all of them, so no flow is reordered.
//!
//! Checksums: both packets partial, or both verified in full first, so that no corrupted packet gains a valid sum. Which
//! session a packet came by need not be asked: an inner source address belongs to one peer's allowed IPs, checked for
//! every packet before it comes here, so packets of one flow in one batch are one peer's. That the sessions of one peer
//! may differ around a rekey changes nothing: both are the same authenticated peer, and the packets stand in the order
//! they came in.
//!
//! The invariant: every packet added is handed to the sink once, alone or in a group, or counted; no frame is kept
//! after `flush`.

mod write;

use super::headers::{Headers, Transport};
use super::rules::{ends, follows, may_begin};
use crate::frame::{Home, Inbox, MARK_LEN, Marks, Opened};
use crate::tun::{DATAGRAM_HEADER_LEN, TunCounters};
use std::io::{self, IoSlice};

pub use write::MAX_REFUSALS;

/// Runs in a batch.
const RUNS: usize = 64;
/// Packets in a batch; more begin another.
const PACKETS: usize = 4096;
/// Flows that can be appended to at a time.
const FLOWS: usize = 16;
/// Bytes of a super-packet, its headers included.
const MAX_BYTES: usize = 65_535;
/// Packets in a TCP super-packet: with its header one `writev`, far from IOV_MAX (1024).
const MAX_TCP: usize = 128;
/// Packets in a UDP super-packet (`UDP_GRO_CNT_MAX` and, before 6.9, `UDP_MAX_SEGMENTS`).
const MAX_UDP: usize = 64;

/// Takes one packet or super-packet as the device's `writev` does: a [`VnetHdr`](crate::frame::VnetHdr) and the bytes.
pub trait Sink: FnMut(&[IoSlice<'_>]) -> io::Result<()> {}
impl<F: FnMut(&[IoSlice<'_>]) -> io::Result<()>> Sink for F {}

/// One packet of the batch.
#[derive(Clone, Copy)]
struct Packet {
    run: u16,
    len: u16,
    /// Where it begins in its run's frame.
    at: u32,
    /// The next packet of its group; 0 for none, since the first of a batch follows nothing.
    next: u16,
}

/// What is written at once.
struct Group {
    first: u16,
    last: u16,
    count: u16,
    /// `None`: neither TCP nor UDP, or not looked at.
    headers: Option<Headers>,
    partial: bool,
    /// The first packet's full checksum was found to be right.
    verified: bool,
    /// Nothing may be appended.
    ended: bool,
    /// Payload of the first packet.
    size: u16,
    /// Headers and payload so far.
    bytes: u16,
    /// TCP: the sequence number that follows.
    sequence: u32,
    /// IPv4: the last packet's id.
    id: u16,
}

/// Joins, writes and counts.
pub struct Coalescer {
    runs: Vec<Opened>,
    packets: Vec<Packet>,
    groups: Vec<Group>,
    /// Flows by hash, and the group each can go on in.
    flows: Vec<(u32, u16)>,
    oldest: usize,
    /// The group that the last packet went into: mostly the next one follows there.
    latest: u16,
    join_tcp: bool,
    join_udp: bool,
    finish: bool,
    refusals: [u64; 2],
}

impl Coalescer {
    /// Joins nothing yet: [`join`](Self::join) switches it on.
    pub fn new() -> Self {
        Coalescer {
            runs: Vec::with_capacity(RUNS),
            packets: Vec::with_capacity(PACKETS),
            groups: Vec::with_capacity(PACKETS),
            flows: Vec::with_capacity(FLOWS),
            oldest: 0,
            latest: 0,
            join_tcp: false,
            join_udp: false,
            finish: false,
            refusals: [0; 2],
        }
    }

    /// Says what is to be joined.
    pub fn join(&mut self, tcp: bool, udp: bool) {
        (self.join_tcp, self.join_udp) = (tcp, udp);
    }

    /// Whether TCP and UDP are joined now.
    pub fn joins(&self) -> (bool, bool) {
        (self.join_tcp, self.join_udp)
    }

    /// Finishes every partial checksum before a packet is written, and joins nothing.
    pub fn finish_checksums(&mut self, on: bool) {
        self.finish = on;
    }

    /// Writes every packet of `runs` that is marked for delivery; frames go to `home`.
    pub fn write(
        &mut self,
        runs: &mut impl Inbox<Opened>,
        home: &mut impl Home,
        counters: &TunCounters,
        mut sink: impl Sink,
    ) {
        while let Some(run) = runs.pop() {
            self.add(run, counters, &mut sink);
            if self.runs.len() == RUNS {
                self.flush(home, counters, &mut sink);
            }
        }
        self.flush(home, counters, &mut sink);
    }

    fn add(&mut self, run: Opened, counters: &TunCounters, sink: &mut impl Sink) {
        let (index, segment) = (self.runs.len() as u16, usize::from(run.segment));
        self.runs.push(run);
        for datagram in 0..self.runs[usize::from(index)].frame.table().len() {
            let frame = &self.runs[usize::from(index)].frame;
            let Some(&length) = frame.table().lengths().get(datagram) else { break };
            let mut at = datagram * segment + DATAGRAM_HEADER_LEN;
            let end = at + usize::from(length);
            // Each mark is read when it is its turn, since `self` is needed in between.
            while let Some(extent) = self.runs[usize::from(index)].frame.bytes().get(at..end)
                && let Some((mark, _)) = Marks::new(extent).next()
            {
                at += MARK_LEN;
                if mark.deliver {
                    let packet = Packet { run: index, len: mark.length, at: at as u32, next: 0 };
                    self.place(packet, mark.partial);
                    if self.packets.len() == PACKETS {
                        self.write_groups(counters, sink);
                    }
                }
                at += usize::from(mark.length);
            }
        }
    }

    /// Appends a packet to its flow's group, or begins one with it.
    fn place(&mut self, packet: Packet, partial: bool) {
        let number = self.packets.len() as u16;
        if self.append(self.latest, packet, number, partial) {
            return;
        }
        let bytes = bytes_of(&self.runs, packet);
        let headers = if self.finish { None } else { Headers::parse(bytes) };
        let Some(headers) = headers else {
            // It may belong to any flow: nothing that comes later may be put before it.
            self.flows.clear();
            return self.begin(packet, number, None, partial, true);
        };
        if !self.is_joined(headers.carries) {
            return self.begin(packet, number, Some(headers), partial, true);
        }
        let hash = flow_hash(&headers, bytes);
        let found = self.flows.iter().position(|&(other, _)| other == hash);
        if let Some(flow) = found
            && self.flows[flow].1 != self.latest
            && self.append(self.flows[flow].1, packet, number, partial)
        {
            return;
        }
        let bytes = bytes_of(&self.runs, packet);
        let ended = !may_begin(&headers, bytes, partial) || ends(&headers, bytes);
        let entry = (hash, self.groups.len() as u16);
        self.begin(packet, number, Some(headers), partial, ended);
        match found {
            Some(flow) => self.flows[flow] = entry,
            None if self.flows.len() < FLOWS => self.flows.push(entry),
            None => {
                self.flows[self.oldest] = entry;
                self.oldest = (self.oldest + 1) % FLOWS;
            }
        }
    }

    fn is_joined(&self, carries: Transport) -> bool {
        match carries {
            Transport::Tcp => self.join_tcp,
            Transport::Udp => self.join_udp,
        }
    }

    fn begin(&mut self, packet: Packet, number: u16, headers: Option<Headers>, partial: bool, ended: bool) {
        let bytes = bytes_of(&self.runs, packet);
        let mut group = Group {
            first: number,
            last: number,
            count: 1,
            headers,
            partial,
            verified: false,
            ended,
            size: 0,
            bytes: packet.len,
            sequence: 0,
            id: 0,
        };
        if let Some(headers) = headers.filter(|_| !ended) {
            group.size = packet.len - headers.payload;
            group.sequence = sequence(&headers, bytes).wrapping_add(group.size.into());
            group.id = u16::from_be_bytes([bytes[4], bytes[5]]);
        }
        self.latest = self.groups.len() as u16;
        self.groups.push(group);
        self.packets.push(packet);
    }

    /// Appends `packet` to a group, if it follows there.
    #[inline]
    fn append(&mut self, at: u16, packet: Packet, number: u16, partial: bool) -> bool {
        let Some(group) = self.groups.get_mut(usize::from(at)) else { return false };
        let Some(headers) = &group.headers else { return false };
        let most = if headers.carries == Transport::Tcp { MAX_TCP } else { MAX_UDP };
        let payload = packet.len.saturating_sub(headers.payload);
        if group.ended
            || group.partial != partial
            || usize::from(group.count) == most
            || payload == 0
            || payload > group.size
            || usize::from(group.bytes) + usize::from(payload) > MAX_BYTES
        {
            return false;
        }
        let first = bytes_of(&self.runs, self.packets[usize::from(group.first)]);
        let next = bytes_of(&self.runs, packet);
        if !follows(headers, first, next, partial, group.id, group.sequence) {
            return false;
        }
        if !partial {
            group.verified = group.verified || headers.sums_are_right(first);
            // A first packet that is wrong will not become right.
            group.ended = !group.verified;
            if group.ended || !headers.sums_are_right(next) {
                return false;
            }
        }
        self.packets[usize::from(group.last)].next = number;
        (group.last, group.count) = (number, group.count + 1);
        group.bytes += payload;
        group.sequence = group.sequence.wrapping_add(payload.into());
        group.id = u16::from_be_bytes([next[4], next[5]]);
        group.ended = payload < group.size || ends(headers, next);
        self.packets.push(packet);
        self.latest = at;
        true
    }

    /// Writes what is left and sends the frames home.
    fn flush(&mut self, home: &mut impl Home, counters: &TunCounters, sink: &mut impl Sink) {
        self.write_groups(counters, sink);
        for run in self.runs.drain(..) {
            run.frame.home(home);
        }
    }
}

impl Default for Coalescer {
    fn default() -> Self {
        Self::new()
    }
}

#[inline]
fn bytes_of(runs: &[Opened], packet: Packet) -> &[u8] {
    let at = packet.at as usize;
    let run = runs.get(usize::from(packet.run));
    run.and_then(|run| run.frame.bytes().get(at..at + usize::from(packet.len))).unwrap_or_default()
}

fn bytes_of_mut(runs: &mut [Opened], packet: Packet) -> Option<&mut [u8]> {
    let at = packet.at as usize;
    runs.get_mut(usize::from(packet.run))?.frame.bytes_mut().get_mut(at..at + usize::from(packet.len))
}

fn sequence(headers: &Headers, packet: &[u8]) -> u32 {
    let bytes = packet.get(usize::from(headers.transport) + 4..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |&bytes| u32::from_be_bytes(bytes))
}

/// Tells flows apart, mostly: two with one hash only end each other's groups.
#[inline]
fn flow_hash(headers: &Headers, packet: &[u8]) -> u32 {
    let addresses = if headers.ipv4 { 12..20 } else { 8..40 };
    let ports = packet.get(headers.transport.into()..).and_then(|rest| rest.first_chunk::<4>());
    let mut hash = u64::from(ports.map_or(0, |&ports| u32::from_ne_bytes(ports))) << 8;
    hash ^= u64::from(headers.carries.number());
    for word in packet.get(addresses).unwrap_or_default().chunks_exact(8) {
        let word = word.first_chunk().map_or(0, |&word| u64::from_ne_bytes(word));
        // A multiplicative hash (Knuth, TAOCP 3, 6.4) by 2^64 over the golden ratio.
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    (hash >> 16) as u32
}
