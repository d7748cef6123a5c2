//! Super-packets through two process stages in memory: out of one, into the other, on to its host.

mod far_end;

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::event_loop::process::{Notice, ProcessCounters};
use crate::frame::{
    Bounded, GSO_NONE, GSO_TCPV4, GSO_UDP_L4, Inbox, MAX_SEGMENTS, NEEDS_CSUM, SetName, VnetHdr, WideSet,
};
use crate::tun::TunWrite;
use crate::tun::mem::{MemHost, MemTunTx, tun};
use crate::tun::offload::testing::{ACK, PSH, Packet, split, unjoined};
use std::sync::Arc;
use veil_proto::Tai64n;
use veil_proto::allowed_ips::IpNet;
use veil_proto::crypto::{
    AeadKey, HeaderKey, NetworkSecret, Psk, PublicKey, Suite, Suites, aead_decrypt, aead_encrypt,
};
use veil_proto::handshake::NewSession;
use veil_proto::handshake::message::{Header, TYPE_DATA};
use veil_proto::mux::checksum::update;
use veil_proto::mux::frame::{FRAGMENT, PROBE};
use veil_proto::peer::PeerSettings;
use veil_proto::session::reassembly::fragment_header;
use veil_proto::session::{Opener, Role, Sealer, TransportSession};
use veil_proto::time::SECOND;
use veil_proto::tunnel::{Sessions, ToSessions};

const MTU: u16 = 1416;
const SUITE: Suite = Suite::Aes256Gcm;
const KEYS: [[u8; 32]; 2] = [[5; 32], [6; 32]];

fn now() -> Now {
    Now { mono: 1, wall: Tai64n::default() }
}

fn path() -> Path {
    Path::to(([192, 0, 2, 1], 4433).into())
}

fn public(end: usize) -> PublicKey {
    PublicKey([1 + end as u8; 32])
}

fn settings(public_key: PublicKey, allowed_ips: Vec<IpNet>) -> PeerSettings {
    PeerSettings {
        public_key,
        psk: Psk::default(),
        suites: Suites::only(SUITE),
        allowed_ips,
        keepalive: None,
        lease: false,
        has_endpoint: true,
    }
}

/// A session of end `own` with a peer, under one receiver index both ways.
fn session(own: usize, peer: PeerId, role: Role, index: u32, now: Now) -> Box<TransportSession> {
    let header = HeaderKey::derive(&public(1 - own), &NetworkSecret::default());
    let sealer = Sealer::new(AeadKey::new(SUITE, &KEYS[own]), index, header);
    let opener = Opener::new(AeadKey::new(SUITE, &KEYS[1 - own]));
    Box::new(TransportSession::new(peer, role, now.mono, index, sealer, opener))
}

/// End 0 or 1 of a tunnel, with a session since then, if any: it seals under its own key and opens under the other's.
fn end(own: usize, since: Option<Now>) -> Process {
    let (other, secret) = (1 - own, NetworkSecret::default());
    let all = ["0.0.0.0/0", "::/0"].map(|net| net.parse::<IpNet>().unwrap());
    let settings = [settings(public(other), all.to_vec())];
    let mut sessions = Sessions::new(&public(own), &secret, &settings, None);
    if let Some(now) = since {
        let (index, header) = (7, HeaderKey::derive(&public(own), &secret));
        let session = session(own, PeerId(0), Role::Responder, index, now);
        sessions.handle(ToSessions::Ready(NewSession { session, path: path(), number: None }));
        // The other end's first datagram brings the session into use. Its counter is one that the other sealer does not
        // come to here, and within the replay window of those it does.
        let (mut keepalive, counter) = ([0; MIN_DATAGRAM], 8000);
        let (head, body) = keepalive.split_at_mut(HEADER_LEN);
        Header { kind: TYPE_DATA, index, counter }.write(head);
        aead_encrypt(&AeadKey::new(SUITE, &KEYS[other]), counter, head, body);
        header.mask(&mut keepalive);
        sessions.open(&mut keepalive, &path(), now);
        while sessions.next_event().is_some() {}
    }
    Process::new(sessions, MTU)
}

/// A packet as it is read from the host, in a frame of `set`.
fn inner(set: &mut WideSet, vnet_hdr: VnetHdr, packet: &[u8]) -> Inner {
    let mut frame = set.take().unwrap();
    frame.buffer_mut()[..packet.len()].copy_from_slice(packet);
    frame.set_len(packet.len());
    Inner { frame: frame.into(), vnet_hdr }
}

/// A tunnel in memory from a host to another.
struct Tunnel {
    out: Process,
    into: Process,
    tun: MemTunTx,
    host: MemHost,
    read: WideSet,
    received: WideSet,
    now: Now,
}

impl Tunnel {
    fn new() -> Self {
        Self::at(now())
    }

    /// The same at another time.
    fn at(now: Now) -> Self {
        let (_, mut tun, host) = tun(10_000).unwrap();
        tun.join(true, true);
        let (out, into) = (end(0, Some(now)), end(1, Some(now)));
        let read = WideSet::new(SetName::TunReceive, 64);
        let received = WideSet::new(SetName::LinkReceive, 64);
        Tunnel { out, into, tun, host, read, received, now }
    }

    fn counters(&self) -> Arc<ProcessCounters> {
        self.out.counters().clone()
    }

    /// Reads `packets` in one batch; the runs they become.
    fn seal(&mut self, packets: &[(VnetHdr, Vec<u8>)]) -> Vec<Sealed> {
        let mut from_tun = Bounded::new(64);
        for (vnet_hdr, packet) in packets {
            from_tun.push(inner(&mut self.read, *vnet_hdr, packet)).unwrap();
        }
        let mut to_link = Bounded::new(128);
        self.out.outbound(&mut from_tun, &mut self.read, &mut to_link, self.now);
        assert!(from_tun.is_empty() && self.read.is_whole());
        std::iter::from_fn(|| to_link.pop()).collect()
    }

    /// Puts one packet into its run, which stays open as while a batch lasts.
    fn put(&mut self, (header, packet): (VnetHdr, Vec<u8>), to_link: &mut Bounded<Sealed>) {
        let mut inner = inner(&mut self.read, header, &packet);
        if header.gso_type == GSO_NONE {
            self.out.seal_inner(&mut inner, to_link, self.now).unwrap();
        } else {
            self.out.seal_super(&inner, to_link, self.now);
        }
        inner.frame.home(&mut self.read);
    }

    /// Opens `runs` at the far end, frame by frame copied as a wire would; what its host is given.
    fn open(&mut self, runs: Vec<Sealed>) -> Vec<(VnetHdr, Vec<u8>)> {
        let mut from_link = Bounded::new(64);
        for run in runs {
            let mut frame = self.received.take().unwrap();
            let bytes = run.frame.bytes();
            frame.buffer_mut()[..bytes.len()].copy_from_slice(bytes);
            frame.set_len(bytes.len());
            let Sealed { segment, tos, path, .. } = run;
            from_link.push(Sealed { frame: frame.into(), segment, tos, path }).unwrap();
            run.frame.home(self.out.transmit_set());
        }
        let (mut to_tun, mut to_handshakes) = (Bounded::new(128), Bounded::new(1));
        self.into.inbound(&mut from_link, &mut to_tun, &mut to_handshakes, &mut self.received, self.now);
        let mut homes = crate::frame::TwoHomes(&mut self.received, self.into.injected_set());
        self.tun.write(&mut to_tun, &mut homes);
        assert!(self.received.is_whole());
        assert!(self.out.sets().iter().chain(&self.into.sets()).all(|set| set.is_whole()));
        assert_eq!(self.into.counters().frame_drops.total(), 0);
        std::iter::from_fn(|| self.host.receive()).collect()
    }

    fn assert_conserved(&self) {
        let counters = self.out.counters();
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
        let gone = of(&counters.sealed) + of(&counters.waiting) + counters.drops.total();
        assert_eq!(of(&counters.tun_packets), gone);
    }
}

/// A super-packet over IPv4 with `payload` bytes, `size` in each segment.
fn large(tcp: bool, payload: usize, size: u16) -> (VnetHdr, Vec<u8>) {
    let payload: Vec<u8> = (0..payload).map(|at| (at * 11) as u8).collect();
    let packet = Packet { flags: ACK | PSH, ..Packet::new(false, tcp, &payload) };
    let (gso_type, csum_offset) = if tcp { (GSO_TCPV4, 16) } else { (GSO_UDP_L4, 6) };
    let hdr_len = packet.header_len() as u16;
    let header =
        VnetHdr { flags: NEEDS_CSUM, gso_type, hdr_len, gso_size: size, csum_start: 20, csum_offset };
    (header, packet.partial())
}

/// A packet of `len` bytes that is no super-packet.
fn plain(len: usize) -> (VnetHdr, Vec<u8>) {
    (VnetHdr::NONE, Packet::new(false, false, &vec![7; len - 28]).partial())
}

fn datagrams(runs: &[Sealed]) -> Vec<usize> {
    runs.iter().map(Sealed::datagrams).collect()
}

#[test]
fn a_super_packet_that_does_not_fit_is_shared_out_evenly() {
    assert_eq!((share(47, 44, 44), share(23, 44, 44)), (24, 23));
    assert_eq!(share(44, 44, 44), 44);
    assert_eq!((share(47, 21, 44), share(26, 44, 44)), (21, 26));
    assert_eq!((share(22, 21, 44), share(11, 44, 44)), (11, 11));
    assert_eq!(share(1, 1, 1), 1);

    let mut tunnel = Tunnel::new();
    // MTU 1416 less IPv4 and TCP with timestamps; 45 such datagrams are as much as UDP carries.
    let (header, packet) = large(true, 47 * 1364, 1364);
    let runs = tunnel.seal(&[(header, packet.clone())]);
    assert_eq!(datagrams(&runs), [24, 23]);
    assert!(runs.iter().all(|run| usize::from(run.segment) == 1416 + MUX_HEADER + MIN_DATAGRAM));
    let written = tunnel.open(runs);
    assert_eq!(written, [(header, packet)], "the far host gets what the near one sent");
    tunnel.assert_conserved();
    assert_eq!(tunnel.counters().sealed.load(Relaxed), 47);
}

#[test]
fn the_next_super_packet_goes_on_in_the_run_and_a_short_segment_ends_it() {
    let mut tunnel = Tunnel::new();
    let of = |segments: usize, rest: usize| large(true, segments * 1364 + rest, 1364);
    let packets = [of(20, 0), of(20, 0), of(10, 500), of(5, 0)];
    let runs = tunnel.seal(&packets);
    // 40 of 45, where 5 of the next fit, the short one of which ends the second run; then the last.
    assert_eq!(datagrams(&runs), [45, 6, 5]);
    let written = unjoined(&tunnel.open(runs));
    let expected: Vec<_> = packets.iter().flat_map(|(header, packet)| split(*header, packet)).collect();
    assert_eq!(written, expected.into_iter().map(|packet| (packet, true)).collect::<Vec<_>>());
    tunnel.assert_conserved();
}

#[test]
fn small_segments_share_datagrams_and_keep_their_order() {
    let mut tunnel = Tunnel::new();
    let (header, packet) = large(false, 100 * 64, 64);
    let runs = tunnel.seal(&[(header, packet.clone())]);
    let total: usize = datagrams(&runs).iter().sum();
    // A frame of 4 + 28 + 64 bytes: 14 to a datagram.
    assert_eq!(total, 100usize.div_ceil(14));
    let written = unjoined(&tunnel.open(runs));
    assert_eq!(written.iter().map(|(packet, _)| packet.clone()).collect::<Vec<_>>(), split(header, &packet));
    tunnel.assert_conserved();
}

#[test]
fn on_a_narrow_path_tcp_is_cut_shorter_and_udp_goes_in_pieces() {
    for tcp in [true, false] {
        let mut tunnel = Tunnel::new();
        tunnel.out.path_mtu(path().remote().ip(), 1300, now());
        let (header, packet) = large(tcp, 20 * 1300, 1300);
        let runs = tunnel.seal(&[(header, packet.clone())]);
        assert!(runs.iter().all(|run| usize::from(run.segment) <= 1300 - 28));
        assert!(runs.len() <= 2, "runs of equal datagrams: {:?}", datagrams(&runs));
        let got: Vec<Vec<u8>> = unjoined(&tunnel.open(runs)).into_iter().map(|(packet, _)| packet).collect();
        let fragmented = tunnel.counters().fragmented.load(Relaxed);
        if tcp {
            let head = usize::from(header.hdr_len);
            let data: Vec<u8> = got.iter().flat_map(|packet| packet[head..].to_vec()).collect();
            assert_eq!(data, packet[head..]);
            assert_eq!(fragmented, 0);
        } else {
            assert_eq!(got, split(header, &packet));
            assert_eq!(fragmented, 20);
        }
        tunnel.assert_conserved();
    }
}

#[test]
fn a_run_wider_than_its_path_has_become_is_not_gone_on_with() {
    // What comes later is shorter by less than is padded: it would be made as long as what was sealed before.
    let cases = [
        (vec![plain(1416), plain(1416)], plain(1366)),
        (vec![large(true, 2 * 1364, 1364)], large(true, 2 * 1314, 1314)),
    ];
    for (before, after) in cases {
        let (mut tunnel, mut to_link) = (Tunnel::new(), Bounded::new(4));
        before.into_iter().for_each(|packet| tunnel.put(packet, &mut to_link));
        tunnel.out.path_mtu(path().remote().ip(), 1430, now());
        tunnel.put(after, &mut to_link);
        tunnel.out.flush(&mut to_link, now());
        let runs: Vec<Sealed> = std::iter::from_fn(|| to_link.pop()).collect();
        let segments: Vec<u16> = runs.iter().map(|run| run.segment).collect();
        assert_eq!(segments, [1416 + (MUX_HEADER + MIN_DATAGRAM) as u16, 1430 - 28]);
        tunnel.open(runs);
    }
}

#[test]
fn packets_too_wide_for_a_limit_that_is_no_longer_believed_have_a_probe_of_their_size_sent() {
    for packet in [plain(1400), large(true, 3 * 1348, 1348)] {
        let mut tunnel = Tunnel::at(Now { mono: 601 * SECOND, ..now() });
        // Ten minutes ago, of the least width there is: that one needs no confirmation.
        tunnel.out.path_mtu(path().remote().ip(), 1280, now());
        // With the first the limit's time is up, the second begins the search.
        for _ in 0..2 {
            let runs = tunnel.seal(std::slice::from_ref(&packet));
            tunnel.open(runs);
            tunnel.out.on_timer(tunnel.now);
        }
        let runs = tunnel.seal(&[]);
        let largest = runs.iter().map(|run| usize::from(run.segment)).max();
        assert_eq!(largest, Some(1400 + MUX_HEADER + MIN_DATAGRAM));
        tunnel.open(runs);
    }
}

/// What the far end opens of a run's datagrams: the plaintext of each, padding included.
fn plaintexts(run: &Sealed) -> Vec<Vec<u8>> {
    let (header, key) = (HeaderKey::derive(&PublicKey([2; 32]), &NetworkSecret::default()), &KEYS[0]);
    let open = |range: std::ops::Range<usize>| {
        let mut datagram = run.frame.bytes()[range].to_vec();
        header.mask(&mut datagram);
        let counter = Header::parse(&datagram).unwrap().counter;
        let (head, body) = datagram.split_at_mut(HEADER_LEN);
        aead_decrypt(&AeadKey::new(SUITE, key), counter, head, body).unwrap().to_vec()
    };
    run.ranges().map(open).collect()
}

#[test]
fn datagrams_and_probes_are_padded_with_zeros_whatever_was_in_their_frame_before() {
    let mut tunnel = Tunnel::new();
    let full = || large(false, 5 * 1364, 1364);
    let first = tunnel.seal(&[full()]);
    tunnel.open(first);

    // Of three segments the last is shorter by less than what is padded.
    let (header, packet) = large(false, 3 * 1364 - 50, 1364);
    let segments = split(header, &packet);
    let runs = tunnel.seal(&[(header, packet)]);
    assert_eq!(datagrams(&runs), [3]);
    let last = plaintexts(&runs[0]).pop().unwrap();
    assert_eq!(last.len(), MUX_HEADER + segments[0].len());
    assert!(last[MUX_HEADER + segments[2].len()..].iter().all(|&byte| byte == 0));
    tunnel.open(runs);

    // Full datagrams have gone out: a probe as large follows.
    tunnel.out.on_timer(now());
    let runs = tunnel.seal(&[]);
    let probes: Vec<Vec<u8>> = runs.iter().flat_map(plaintexts).filter(|p| p[0] == PROBE).collect();
    let largest = probes.iter().max_by_key(|probe| probe.len()).unwrap();
    assert_eq!(largest.len(), MUX_HEADER + segments[0].len());
    assert!(largest[MUX_HEADER + 5..].iter().all(|&byte| byte == 0));
    tunnel.open(runs);
}

#[test]
fn finished_checksums_cross_whole() {
    let mut tunnel = Tunnel::new();
    tunnel.out.finish_checksums();
    tunnel.tun.join(false, false);
    for (header, packet) in [large(true, 5 * 1364, 1364), large(false, 5 * 61, 61)] {
        let runs = tunnel.seal(&[(header, packet.clone())]);
        let mut expected = split(header, &packet);
        assert!(expected.iter_mut().all(|packet| finish(packet, header.csum_start, header.csum_offset)));
        let expected: Vec<_> = expected.into_iter().map(|packet| (VnetHdr::NONE, packet)).collect();
        assert_eq!(tunnel.open(runs), expected);
    }
}

#[test]
fn a_checksum_is_finished_where_it_may_not_cross_partial() {
    // Behind IPv4 options, and where the configuration says so.
    for (ip_options, finishes) in [(vec![1; 4], false), (vec![], true)] {
        let mut tunnel = Tunnel::new();
        tunnel.tun.join(false, false);
        if finishes {
            tunnel.out.finish_checksums();
        }
        for (gso_type, len) in [(GSO_NONE, 1000), (GSO_TCPV4, 3 * 1000)] {
            let packet = Packet { ip_options: ip_options.clone(), ..Packet::new(false, true, &vec![7; len]) };
            let csum_start = 20 + ip_options.len() as u16;
            let (hdr_len, gso_size) = (packet.header_len() as u16, 1000);
            let header =
                VnetHdr { flags: NEEDS_CSUM, gso_type, hdr_len, gso_size, csum_start, csum_offset: 16 };
            let runs = tunnel.seal(&[(header, packet.partial())]);
            let mut expected = match gso_type {
                GSO_NONE => vec![packet.partial()],
                _ => split(header, &packet.partial()),
            };
            assert!(expected.iter_mut().all(|packet| finish(packet, csum_start, 16)));
            let expected: Vec<_> = expected.into_iter().map(|packet| (VnetHdr::NONE, packet)).collect();
            assert_eq!(tunnel.open(runs), expected);
        }
    }
}

#[test]
fn packets_of_another_ecn_field_have_a_run_of_their_own_with_it_outside() {
    let mut tunnel = Tunnel::new();
    let marked = |tos: u8, (header, mut packet): (VnetHdr, Vec<u8>)| {
        let before = u16::from_be_bytes([packet[10], packet[11]]);
        packet[1] = tos;
        packet[10..12].copy_from_slice(&update(before, 0, tos.into()).to_be_bytes());
        (header, packet)
    };
    let single = || (VnetHdr::NONE, Packet::new(false, false, &[7; 100]).partial());
    let packets = [
        marked(ecn::ECT_0, single()),
        marked(0xb8, single()),
        marked(0xb8 | ecn::CE, large(true, 3 * 1364, 1364)),
        marked(ecn::ECT_0, large(true, 2 * 1364, 1364)),
    ];
    let runs = tunnel.seal(&packets);
    let outside: Vec<u8> = runs.iter().map(|run| run.tos).collect();
    assert_eq!(outside, [ecn::ECT_0, ecn::NOT_ECT, ecn::CE, ecn::ECT_0]);
    assert_eq!(datagrams(&runs), [1, 1, 3, 2]);
    tunnel.open(runs);
    tunnel.assert_conserved();
}

#[test]
fn a_run_has_no_more_datagrams_and_bytes_than_one_system_call_takes() {
    let mut tunnel = Tunnel::new();
    let single = |len: usize| (VnetHdr::NONE, Packet::new(false, false, &vec![7; len]).partial());
    let packets: Vec<_> = std::iter::once(large(false, 60 * 800, 800))
        .chain(std::iter::repeat_with(|| single(800)).take(10))
        .collect();
    let runs = tunnel.seal(&packets);
    assert_eq!(datagrams(&runs), [MAX_DATAGRAMS, 6]);
    tunnel.open(runs);

    let packets: Vec<_> = std::iter::repeat_with(|| single(1416 - 28)).take(50).collect();
    let runs = tunnel.seal(&packets);
    assert_eq!(datagrams(&runs), [MAX_RUN / (1416 + MUX_HEADER + MIN_DATAGRAM), 5]);
    tunnel.open(runs);
}

#[test]
fn a_datagram_shorter_than_its_run_is_padded_by_so_much_and_no_more() {
    let two = |len: usize| large(true, 2 * (len - 52), (len - 52) as u16);
    for (shorter, singles, supers) in [(PAD_UP, vec![3], vec![4]), (PAD_UP + 1, vec![2, 1], vec![2, 2])] {
        let (mut tunnel, len) = (Tunnel::new(), 1416 - shorter);
        let runs = tunnel.seal(&[plain(1416), plain(len), plain(1416)]);
        assert_eq!(datagrams(&runs), singles, "{shorter} bytes");
        tunnel.open(runs);

        let packets = [two(1416), two(len)];
        let runs = tunnel.seal(&packets);
        assert_eq!(datagrams(&runs), supers, "{shorter} bytes");
        let written = unjoined(&tunnel.open(runs));
        let expected = packets.iter().flat_map(|(header, packet)| split(*header, packet));
        assert_eq!(written, expected.map(|packet| (packet, true)).collect::<Vec<_>>());
        tunnel.assert_conserved();
    }
}

#[test]
fn a_packet_above_the_mtu_is_refused_and_one_as_large_is_not() {
    let mut tunnel = Tunnel::new();
    for (len, refused) in [(MTU, 0), (MTU + 1, 1)] {
        let packet = Packet::new(false, false, &vec![7; usize::from(len) - 28]).partial();
        let runs = tunnel.seal(&[(VnetHdr::NONE, packet)]);
        assert_eq!(runs.len(), 1 - refused, "{len} bytes");
        assert_eq!(tunnel.counters().drops.of(DropReason::TooBig), refused as u64, "{len} bytes");
        tunnel.open(runs);
    }
    tunnel.assert_conserved();
}

#[test]
fn packets_that_waited_in_vain_are_dropped_and_counted() {
    let mut tunnel = Tunnel::new();
    tunnel.out = end(0, None);
    assert!(tunnel.seal(&[large(true, 3 * 1364, 1364)]).is_empty());
    // Of another request: it says nothing about this one.
    for (number, waiting) in [(0, 3), (1, 0)] {
        tunnel.out.handle(ToSessions::GaveUp { peer: PeerId(0), number });
        assert!(tunnel.seal(&[]).is_empty());
        assert_eq!(tunnel.counters().waiting.load(Relaxed), waiting);
        tunnel.assert_conserved();
    }
    assert_eq!(tunnel.counters().drops.of(DropReason::NoSession), 3);
}

#[test]
fn what_is_refused_is_counted_by_its_segments() {
    let mut tunnel = Tunnel::new();
    let (mut wrong, packet) = large(true, 3 * 1000, 1000);
    wrong.csum_start += 4;
    let wide = large(false, 3 * 2000, 2000);
    assert!(tunnel.seal(&[(wrong, packet), wide]).is_empty());
    let counters = tunnel.counters();
    assert_eq!(counters.drops.of(DropReason::BadSuperPacket), 1);
    assert_eq!(counters.drops.of(DropReason::TooBig), 3);
    assert_eq!(counters.super_packets.load(Relaxed), 2);
    assert_eq!(counters.super_segments.load(Relaxed), 4);
    tunnel.assert_conserved();
}

#[test]
fn without_a_session_the_newest_segments_wait() {
    let mut tunnel = Tunnel::new();
    tunnel.out = end(0, None);
    assert!(tunnel.seal(&[large(true, 47 * 1364, 1364), large(true, 47 * 1364, 1364)]).is_empty());
    let counters = tunnel.counters();
    assert_eq!(counters.waiting.load(Relaxed), 64);
    assert_eq!(counters.drops.of(DropReason::NoSession), 94 - 64);
    tunnel.assert_conserved();
}

#[test]
fn packets_that_waited_for_a_session_wait_for_room_as_well_and_come_first() {
    let mut tunnel = Tunnel::new();
    tunnel.out = end(0, None);
    assert!(tunnel.seal(&[large(true, 9 * 1364, 1364)]).is_empty());
    let session = session(0, PeerId(0), Role::Initiator, 7, tunnel.now);
    let ready = NewSession { session, path: path(), number: Some(1) };
    tunnel.out.handle(ToSessions::Ready(ready));
    let counters = tunnel.counters();
    tunnel.out.settle(&mut Bounded::new(1), tunnel.now);
    assert_eq!((counters.waiting.load(Relaxed), counters.dropped_datagrams.load(Relaxed)), (9, 0));
    let runs = tunnel.seal(&[plain(100)]);
    assert_eq!((counters.sealed.load(Relaxed), datagrams(&runs)), (10, vec![10]));
    let lengths: Vec<_> = tunnel.open(runs).into_iter().map(|(_, packet)| packet.len()).collect();
    assert_eq!(lengths.last(), Some(&100), "{lengths:?}");
    tunnel.out.settle(&mut Bounded::new(64), tunnel.now);
    assert_eq!(counters.waiting.load(Relaxed), 0);
    tunnel.assert_conserved();
}

#[test]
fn it_is_told_once_that_a_peer_has_been_found() {
    let mut tunnel = Tunnel::new();
    for told in [1, 0] {
        (0..2).for_each(|_| tunnel.into.settle(&mut Bounded::new(64), tunnel.now));
        let notices = std::iter::from_fn(|| tunnel.into.next_notice());
        assert_eq!(notices.filter(|notice| matches!(notice, Notice::Moved)).count(), told);
    }
}

#[test]
fn where_nothing_waits_no_session_is_begun_in_place_of_one_that_came_and_went() {
    let mut tunnel = Tunnel::new();
    tunnel.out = end(0, None);
    tunnel.out.usable.push_back(PeerId(0));
    tunnel.out.settle(&mut Bounded::new(64), tunnel.now);
    assert!(tunnel.out.usable.is_empty() && tunnel.out.next_message().is_none());
}

#[test]
fn every_run_finds_room_in_front_of_the_link_however_many_are_open() {
    let peer = |n: u8| settings(PublicKey([100 + n; 32]), vec![IpNet::host([10, 8, 0, n].into())]);
    let peers: Vec<PeerSettings> = (0..16).map(peer).collect();
    let mut sessions = Sessions::new(&public(0), &NetworkSecret::default(), &peers, None);
    let mut from_tun = Bounded::new(peers.len());
    let mut read = WideSet::new(SetName::TunReceive, peers.len());
    for n in 0..16 {
        let peer = PeerId(n);
        assert_eq!(sessions.begin(peer, now()), Outbound::Wait);
        let session = session(0, peer, Role::Initiator, n, now());
        sessions.handle(ToSessions::Ready(NewSession { session, path: path(), number: Some(1) }));
        let (header, mut packet) = plain(128);
        packet[19] = n as u8;
        from_tun.push(inner(&mut read, header, &packet)).unwrap();
    }
    // A packet may begin eight runs: it is taken while there is more room than that beside what is open.
    let (mut process, mut to_link) = (Process::new(sessions, MTU), Bounded::new(12));
    for _ in 0..4 {
        process.outbound(&mut from_tun, &mut read, &mut to_link, now());
        assert_eq!(to_link.len(), 4);
        while let Some(run) = to_link.pop() {
            run.frame.home(process.transmit_set());
        }
    }
    assert!(from_tun.is_empty() && read.is_whole());
    assert_eq!(process.counters().dropped_datagrams.load(Relaxed), 0);
}

#[test]
fn without_frames_the_rest_is_dropped_and_counted() {
    let mut tunnel = Tunnel::new();
    // All but one of the frames that `has_room` asks for: a run, and nothing for the other segments.
    let set = tunnel.out.transmit_set();
    let away: Vec<_> = (1..set.total()).map(|_| set.take().unwrap()).collect();
    let mut to_link = Bounded::new(4);
    tunnel.put(large(true, 47 * 1364, 1364), &mut to_link);
    tunnel.out.flush(&mut to_link, now());
    away.into_iter().for_each(|frame| tunnel.out.transmit_set().give(frame));
    let runs: Vec<Sealed> = std::iter::from_fn(|| to_link.pop()).collect();
    assert_eq!(datagrams(&runs), [24]);
    assert_eq!(tunnel.counters().drops.of(DropReason::NoFrame), 23);
    tunnel.assert_conserved();
    assert_eq!(unjoined(&tunnel.open(runs)).len(), 24);
}
