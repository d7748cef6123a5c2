//! Which figures there are: their keys in a results file, what they mean, and which way is better.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::contenders::{Contender, Kind};

/// What `--figures` chooses among; each is one piece of work of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Round trip times, idle and under bulk load
    Latency,
    /// TCP (cubic), 1 and 4 streams, both directions
    Bulk,
    /// 64-byte UDP, one and many flows: highest rate at 1 % loss or less
    Small,
    /// Bulk again with tx-udp-segmentation off: each datagram crosses alone, as on a NIC without USO
    Segmented,
    /// AF_XDP alone, native mode and copying: packets between two processes, beside the bare wire
    RawXdp,
    /// TCP, 1 stream, beside a flood of handshakes, and of the same datagrams to another port
    Flood,
    /// Round trip time under bulk load on a wire of 100 Mbit/s
    Shaped,
}

impl Group {
    pub const ALL: [Group; 7] = [
        Group::Latency,
        Group::Bulk,
        Group::Small,
        Group::Segmented,
        Group::RawXdp,
        Group::Flood,
        Group::Shaped,
    ];

    /// Whether this contender has these figures. What AF_XDP sends passes by the queue that shapes the wire.
    pub fn is_for(self, contender: &Contender) -> bool {
        match self {
            Group::RawXdp => contender.kind == Kind::Raw,
            Group::Flood => contender.kind == Kind::Veil,
            Group::Shaped => contender.rung().is_none(),
            _ => true,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Group::Latency => "latency",
            Group::Bulk => "bulk",
            Group::Small => "small packets",
            Group::Segmented => "segmented wire",
            Group::RawXdp => "raw AF_XDP",
            Group::Flood => "flood",
            Group::Shaped => "shaped wire",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    More,
    Less,
}

impl Better {
    pub fn word(self) -> &'static str {
        match self {
            Better::More => "more is better",
            Better::Less => "less is better",
        }
    }
}

/// One figure, as a results file describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub key: String,
    pub title: String,
    pub unit: String,
    pub better: Better,
    /// Details are in the results file only.
    pub detail: bool,
}

/// Forward is from left, where iperf3's client and the pings are, to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Back,
}

impl Direction {
    pub const BOTH: [Direction; 2] = [Direction::Forward, Direction::Back];

    pub fn word(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Back => "back",
        }
    }
}

pub const STREAMS: [u32; 2] = [1, 4];

/// Kinds of system calls: the counter in `veil show`, and the word for it.
pub const CALLS: [(&str, &str); 4] = [
    ("receive_calls", "receive"),
    ("send_calls", "send"),
    ("tun_read_calls", "tun-read"),
    ("tun_write_calls", "tun-write"),
];

/// How many inner flows the small packets are spread over, and the word for it.
pub const FLOWS: [(u16, &str); 2] = [(1, "one"), (64, "many")];

/// The keys of what one stream reaches beside a flood of initiations, and of as many datagrams to another port.
pub const FLOODED: &str = "flood-initiations";
pub const FLOODED_ELSEWHERE: &str = "flood-elsewhere";

/// Who works on a transfer: key, and what it is. Each but the last is one thread, and a core's worth at most.
pub const STAGES: [(&str, &str); 11] = [
    ("client", "iperf3, sending"),
    ("sender-main", "sending daemon, main thread"),
    ("sender-rx", "sending daemon, RX, carrying too"),
    ("sender-process", "sending daemon, process"),
    ("sender-tx", "sending daemon, TX"),
    ("receiver-main", "receiving daemon, main thread"),
    ("receiver-rx", "receiving daemon, RX, carrying too"),
    ("receiver-process", "receiving daemon, process"),
    ("receiver-tx", "receiving daemon, TX"),
    ("server", "iperf3, receiving"),
    (KERNEL, "kernel threads"),
];
/// As many threads as there are cores.
pub const KERNEL: &str = "kernel";

/// The key of what a stage costs when one stream goes forward.
pub fn stage_key(stage: &str) -> String {
    format!("stage-{stage}")
}

/// The key of a bulk figure on either wire.
pub fn bulk_key(group: Group, streams: u32, direction: Direction) -> String {
    let wire = if group == Group::Segmented { "segmented" } else { "bulk" };
    format!("{wire}-{streams}-{}", direction.word())
}

/// The key of how many datagrams a bulk transfer, whose own key is given, is cut into.
pub fn datagrams_key(bulk: &str) -> String {
    format!("{bulk}-datagrams")
}

/// UDP payloads that AF_XDP alone is measured with.
pub const RAW_XDP_BYTES: [u32; 2] = [64, 1450];

/// The key of what AF_XDP alone carries.
pub fn raw_xdp_key(bytes: u32) -> String {
    format!("raw-xdp-{bytes}")
}

/// The key of a small-packet figure.
pub fn small_key(flows: &str) -> String {
    format!("small-{flows}")
}

/// The key of the time added inside VEIL's daemons, under that load ("idle", "bulk") and on that way ("inbound", "outbound").
pub fn added_key(load: &str, way: &str) -> String {
    format!("added-{load}-{way}-p50")
}

/// All figures, in the order of the tables.
pub fn figures() -> Vec<Figure> {
    let mut all = Vec::new();
    for group in [Group::Bulk, Group::Segmented] {
        for streams in STREAMS {
            for direction in Direction::BOTH {
                let wire = if group == Group::Segmented { ", segmented wire" } else { "" };
                let plural = if streams == 1 { "" } else { "s" };
                let title = format!("TCP, {streams} stream{plural} {}{wire}", direction.word());
                let key = bulk_key(group, streams, direction);
                all.push(figure(&key, &title, "Gbit/s", Better::More));
                all.push(Figure {
                    detail: true,
                    ..figure(
                        &datagrams_key(&key),
                        &format!("{title}: datagrams of the sending daemon"),
                        "k/s",
                        Better::More,
                    )
                });
                all.extend(cpu_figures(&key, &title, "s/Gbit"));
                all.extend(call_figures(&key, &title));
            }
        }
    }
    for (_, flows) in FLOWS {
        let (key, title) =
            (small_key(flows), format!("64-byte UDP, {flows} flow{}", if flows == "one" { "" } else { "s" }));
        all.push(figure(&key, &format!("{title}, at 1 % loss or less"), "kpps", Better::More));
        all.extend(cpu_figures(&key, &title, "s/Mpkt"));
    }
    for bytes in RAW_XDP_BYTES {
        let title = format!("AF_XDP alone, {bytes} bytes of UDP payload");
        all.push(figure(&raw_xdp_key(bytes), &title, "kpps", Better::More));
    }
    for (key, title) in [
        ("rtt-idle-p50", "Round trip, idle, p50"),
        ("rtt-idle-p99", "Round trip, idle, p99"),
        ("rtt-bulk-p50", "Round trip under bulk load, p50"),
        ("rtt-bulk-p99", "Round trip under bulk load, p99"),
        ("rtt-shaped-p50", "Round trip under bulk load at 100 Mbit/s, p50"),
        ("rtt-shaped-p99", "Round trip under bulk load at 100 Mbit/s, p99"),
    ] {
        all.push(figure(key, title, "ms", Better::Less));
    }
    for (load, under) in [("idle", "idle"), ("bulk", "TCP, 1 stream")] {
        for way in ["outbound", "inbound"] {
            let title = format!("Added inside the daemon, {under}, {way}, p50");
            all.push(figure(&added_key(load, way), &title, "µs", Better::Less));
        }
    }
    for (key, flood) in [(FLOODED, "initiations/s"), (FLOODED_ELSEWHERE, "datagrams/s to another port")] {
        let title = format!("TCP, 1 stream forward beside 20 000 {flood}");
        all.push(figure(key, &title, "Gbit/s", Better::More));
    }
    for (stage, title) in STAGES {
        let title = format!("TCP, 1 stream forward: CPU of {title}");
        all.push(Figure { detail: true, ..figure(&stage_key(stage), &title, "s/Gbit", Better::Less) });
    }
    all.push(Figure {
        detail: true,
        ..figure("shaped-rate", "TCP, 1 stream forward at 100 Mbit/s", "Mbit/s", Better::More)
    });
    all
}

fn cpu_figures(key: &str, title: &str, unit: &str) -> [Figure; 3] {
    let one = |end: &str, whose: &str, detail| Figure {
        detail,
        ..figure(&format!("{key}-cpu{end}"), &format!("{title}: CPU of {whose}"), unit, Better::Less)
    };
    [
        one("", "both daemons", false),
        one("-sender", "the sending daemon", true),
        one("-receiver", "the receiving daemon", true),
    ]
}

fn call_figures(key: &str, title: &str) -> impl Iterator<Item = Figure> {
    let calls = |end: &str, which: &str, detail| Figure {
        detail,
        ..figure(
            &format!("{key}-calls{end}"),
            &format!("{title}: {which} of both daemons"),
            "/GB",
            Better::Less,
        )
    };
    let kinds = CALLS.map(|(_, kind)| calls(&format!("-{kind}"), &format!("{kind} calls"), true));
    std::iter::once(calls("", "packet system calls", false)).chain(kinds)
}

fn figure(key: &str, title: &str, unit: &str, better: Better) -> Figure {
    Figure { key: key.into(), title: title.into(), unit: unit.into(), better, detail: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_figure_has_a_key_of_its_own() {
        let all = figures();
        let keys: HashSet<&str> = all.iter().map(|figure| figure.key.as_str()).collect();
        assert_eq!(keys.len(), all.len());
        for expected in [
            "bulk-1-forward",
            "segmented-4-back-cpu",
            "small-many",
            "small-one-cpu-receiver",
            "added-bulk-inbound-p50",
            "bulk-1-back-calls",
            "segmented-1-forward-datagrams",
            "raw-xdp-1450",
        ] {
            assert!(keys.contains(expected), "{expected}");
        }
    }
}
