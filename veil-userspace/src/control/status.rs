//! Gathers a [`Snapshot`] of a running tunnel: what does not change, and the counters of every stage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use veil_proto::tunnel::{HandshakeCounters, SessionCounters};
use veil_proto::{DropCounters, DropReason, Now, PeerId};

use super::show::{
    ADDED_INBOUND, ADDED_OUTBOUND, Balance, FrameSet, LeaseSnapshot, PACKETS_PER_DATAGRAM, PeerSnapshot,
    RUNS_RECEIVED, RUNS_SEALED, Snapshot,
};
use super::state::StateCounters;
use crate::config::Config;
use crate::event_loop::ThreadingMode;
use crate::event_loop::added::AddedTime;
use crate::event_loop::cpu_latency::CpuLatency;
use crate::event_loop::process::{Process, ProcessCounters};
use crate::frame::{SetName, WideSet, lost_frames};
use crate::histogram::Summary;
use crate::link::LinkCounters;
use crate::tun::TunCounters;

/// What is known about a tunnel from its start.
pub struct Facts {
    /// Answers are made from this, with the counters filled in.
    template: Snapshot,
    started: u64,
}

impl Facts {
    /// The facts of a tunnel that starts `now`, over a link and in a threading mode chosen for these reasons.
    pub fn new(
        config: &Config,
        listen: Vec<String>,
        link_reason: String,
        (mode, reason): (ThreadingMode, String),
        now: Now,
    ) -> Self {
        let peers = config.peers.iter().map(|peer| PeerSnapshot {
            name: peer.name.clone(),
            public_key: peer.public_key.to_string(),
            configured_endpoint: peer.endpoint.as_ref().map(ToString::to_string),
            allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
            lease_wanted: peer.lease,
            offer: peer.offer.as_ref().map(LeaseSnapshot::from),
            ..Default::default()
        });
        let template = Snapshot {
            interface: config.name.clone(),
            public_key: config.private_key.public().to_string(),
            listen,
            link: "udp".into(),
            rung: "udp".into(),
            rung_reason: link_reason,
            threads: mode.name().into(),
            threads_reason: reason,
            mtu: config.mtu.into(),
            peers: peers.collect(),
            ..Default::default()
        };
        Facts { template, started: now.mono }
    }

    /// What is asked of the machine's cores meanwhile.
    pub fn with_cpu_latency(mut self, asked: Option<&CpuLatency>) -> Self {
        self.template.cpu_latency_us = asked.map(|asked| asked.microseconds().into());
        self
    }

    /// How many peers there are.
    pub fn peers(&self) -> usize {
        self.template.peers.len()
    }

    /// What the peer is called.
    pub fn peer_name(&self, peer: PeerId) -> &str {
        self.template.peers.get(peer.index()).map_or("?", |peer| &peer.name)
    }
}

impl FrameSet {
    /// How a set is just now.
    pub fn of(set: &WideSet) -> Self {
        FrameSet { total: set.total() as u64, home: set.home_count() as u64 }
    }
}

/// The counters of all stages.
#[derive(Default)]
pub struct Gauges {
    /// The link's, both ends.
    pub link: Arc<LinkCounters>,
    /// The TUN's, both ends.
    pub tun: Arc<TunCounters>,
    /// What the handshakes refused.
    pub handshake_drops: Arc<DropCounters>,
    /// What happened to handshakes otherwise.
    pub handshakes: Arc<HandshakeCounters>,
    /// Handshake datagrams handed to the link.
    pub handshakes_out: Arc<AtomicU64>,
    /// The state file's.
    pub state: Arc<StateCounters>,
    /// How long packets were inside the daemon.
    pub added: Arc<AddedTime>,
    /// AF_XDP's, where it is beside the sockets.
    #[cfg(feature = "xdp")]
    pub xdp: Option<Arc<crate::link::xdp::XdpStatus>>,
}

/// Everything about the tunnel at this moment.
pub fn snapshot(
    facts: &Facts,
    gauges: &Gauges,
    process: &Process,
    ends: [(SetName, FrameSet); 2],
    now: Now,
) -> Snapshot {
    let mut out = facts.template.clone();
    out.uptime_s = now.mono.saturating_sub(facts.started) / 1_000_000_000;
    let sessions = process.sessions();
    for (n, peer) in out.peers.iter_mut().enumerate() {
        let Some(status) = sessions.status(PeerId(n as u32)) else { continue };
        peer.endpoint = status.endpoint.map(|path| path.remote().to_string());
        peer.last_handshake_s_ago = status.handshake_at.map(|at| now.mono.saturating_sub(at) / 1_000_000_000);
        peer.path_mtu_datagram = status.path_limit.map(|limit| limit as u64);
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        peer.rx_packets = of(&status.counters.rx_packets);
        peer.rx_bytes = of(&status.counters.rx_bytes);
        peer.tx_packets = of(&status.counters.tx_packets);
        peer.tx_bytes = of(&status.counters.tx_bytes);
        peer.drops = status.counters.drops.nonzero().map(|(reason, n)| (reason.name().into(), n)).collect();
    }
    let (opened, stage) = (sessions.counters(), process.counters());
    let own = process.sets().map(|set| (set.name(), FrameSet::of(set)));
    out.frames.extend(ends.into_iter().chain(own).map(|(set, frames)| (set.name().into(), frames)));
    out.drops = drops(gauges, &opened, stage);
    out.counters = counters(gauges, &opened, stage);
    out.counters.insert("sessions".into(), sessions.session_count() as u64);
    out.offloads = offloads(gauges);
    out.histograms = histograms(gauges, stage);
    out.conservation = conservation(gauges, &opened, stage);
    #[cfg(feature = "xdp")]
    if let Some(xdp) = &gauges.xdp {
        out.link = "xdp".into();
        (out.rung, out.rung_reason, out.xdp) = (xdp.rung().name().into(), xdp.reason(), xdp.all());
    }
    out
}

fn drops(gauges: &Gauges, opened: &SessionCounters, stage: &ProcessCounters) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let sources = [
        &gauges.link.receive_drops,
        &gauges.link.send_drops,
        &gauges.link.datagram_drops,
        &gauges.tun.read_drops,
        &gauges.tun.write_drops,
        &gauges.handshake_drops,
        &opened.drops,
        &opened.reassembly_drops,
        &stage.drops,
        &stage.frame_drops,
        &stage.inbound_drops,
        &stage.reassembly_drops,
    ];
    for (reason, n) in sources.into_iter().flat_map(DropCounters::nonzero) {
        *all.entry(reason.name().to_string()).or_default() += n;
    }
    all
}

fn counters(gauges: &Gauges, opened: &SessionCounters, stage: &ProcessCounters) -> BTreeMap<String, u64> {
    let (link, tun) = (&gauges.link, &gauges.tun);
    let (handshakes, state) = (&gauges.handshakes, &gauges.state);
    let named: [(&str, &AtomicU64); 55] = [
        ("datagrams_received", &link.datagrams_received),
        ("datagrams_opened", &opened.opened),
        ("datagrams_handshake", &opened.handshake),
        ("datagrams_sealed", &opened.sealed),
        ("datagrams_sent", &link.datagrams_sent),
        ("handshakes_sent", &gauges.handshakes_out),
        ("initiations_sent", &handshakes.initiations_sent),
        ("initiations_accepted", &handshakes.initiations_accepted),
        ("initiations_under_load", &handshakes.under_load),
        ("cookies_sent", &handshakes.cookies_sent),
        ("cookies_received", &handshakes.cookies_received),
        ("state_written", &state.written),
        ("state_failed", &state.failed),
        ("bytes_received", &link.bytes_received),
        ("bytes_sent", &link.bytes_sent),
        ("receive_overflow", &link.receive_overflow),
        ("receive_calls", &link.receive_calls),
        ("send_calls", &link.send_calls),
        ("send_blocked", &link.blocked),
        ("resends", &link.resends),
        ("path_errors", &link.path_errors),
        ("gso_step_downs", &link.gso_step_downs),
        ("busy_poll_refused", &link.busy_poll_refused),
        ("frames_opened", &stage.frames),
        ("frames_ip", &stage.ip),
        ("frames_fragment", &stage.fragment),
        ("frames_control", &stage.control),
        ("frames_ack", &stage.ack),
        ("frames_probe", &stage.probe),
        ("frames_skipped", &stage.skipped),
        ("control_sent", &opened.control_sent),
        ("control_resent", &opened.control_resent),
        ("control_given_up", &opened.control_given_up),
        ("acks_sent", &opened.acks_sent),
        ("sessions_closed_by_peers", &opened.closed),
        ("index_rotations", &opened.rotations),
        ("probes_sent", &opened.probes_sent),
        ("probe_replies_sent", &opened.probe_replies_sent),
        ("probes_answered", &opened.probes_answered),
        ("path_black_holes", &opened.black_holes),
        ("ip_written", &tun.packets_written),
        ("ip_written_bytes", &tun.bytes_written),
        ("tun_packets", &stage.tun_packets),
        ("tun_bytes", &tun.bytes_read),
        ("tun_super_packets", &stage.super_packets),
        ("tun_super_segments", &stage.super_segments),
        ("tun_read_calls", &tun.read_calls),
        ("tun_write_calls", &tun.write_calls),
        ("super_packets_written", &tun.super_packets_written),
        ("super_packets_refused", &tun.super_packets_refused),
        ("ip_reassembled", &stage.reassembled),
        ("packets_fragmented", &stage.fragmented),
        ("packets_sealed", &stage.sealed),
        ("packets_waiting", &stage.waiting),
        ("runs_sealed", &stage.runs),
    ];
    let mut all: BTreeMap<String, u64> =
        named.into_iter().map(|(name, counter)| (name.into(), counter.load(Relaxed))).collect();
    all.insert("frames_dropped".into(), stage.frame_drops.total());
    all.insert("frames_lost".into(), lost_frames());
    // Here as well as by themselves, for programs that look for them here.
    all.extend(offloads(gauges).into_iter().map(|(name, on)| (name, on.into())));
    all
}

/// Which offloads are in use: the link's, and the TUN's.
fn offloads(gauges: &Gauges) -> BTreeMap<String, bool> {
    let (link, tun) = (&gauges.link, &gauges.tun);
    let named = [
        ("gso", &link.gso),
        ("gro", &link.gro),
        ("tun_tso", &tun.tso),
        ("tun_uso", &tun.uso),
        ("tun_joins_tcp", &tun.joins_tcp),
        ("tun_joins_udp", &tun.joins_udp),
    ];
    named.into_iter().map(|(name, on)| (name.into(), on.load(Relaxed))).collect()
}

fn histograms(gauges: &Gauges, stage: &ProcessCounters) -> BTreeMap<String, Summary> {
    let named = [
        (ADDED_INBOUND, &gauges.added.inbound),
        (ADDED_OUTBOUND, &gauges.added.outbound),
        (RUNS_RECEIVED, &gauges.link.run_lengths),
        (RUNS_SEALED, &stage.run_lengths),
        (PACKETS_PER_DATAGRAM, &stage.packets_per_datagram),
    ];
    named.into_iter().map(|(name, histogram)| (name.into(), histogram.summary())).collect()
}

/// The sums of the architecture's 'Conservation', equal when nothing is on its way.
fn conservation(
    gauges: &Gauges,
    opened: &SessionCounters,
    stage: &ProcessCounters,
) -> BTreeMap<String, Balance> {
    let (link, tun) = (&gauges.link, &gauges.tun);
    let of = |counters: &[&AtomicU64]| counters.iter().map(|counter| counter.load(Relaxed)).sum::<u64>();
    let sums = [
        (
            "datagrams-received",
            of(&[&link.datagrams_received]),
            of(&[&opened.opened, &opened.handshake])
                + opened.drops.total()
                + link.receive_drops.total()
                + stage.inbound_drops.of(DropReason::RunTooLong),
        ),
        (
            "frames-opened",
            of(&[&stage.frames]),
            of(&[&stage.ip, &stage.fragment, &stage.control, &stage.ack, &stage.probe, &stage.skipped])
                + stage.frame_drops.total(),
        ),
        (
            "ip-accepted",
            of(&[&stage.ip, &stage.reassembled]),
            of(&[&tun.packets_written]) + tun.write_drops.total(),
        ),
        (
            "tun-packets",
            // After the split: a super-packet is as many packets as it has segments.
            of(&[&tun.packets_read, &stage.super_segments]) - of(&[&stage.super_packets]),
            of(&[&stage.sealed, &stage.waiting]) + stage.drops.total() + tun.read_drops.total(),
        ),
        (
            "datagrams-sealed",
            of(&[&opened.sealed, &gauges.handshakes_out]),
            of(&[&link.datagrams_sent, &stage.dropped_datagrams])
                + link.send_drops.total()
                + link.datagram_drops.total(),
        ),
    ];
    sums.into_iter().map(|(name, left, right)| (name.into(), Balance { left, right })).collect()
}
