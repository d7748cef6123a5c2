//! A snapshot as people read it.
//!
//! Called by `veil show` on the client's side. Invariant: what is as it should be takes one quiet line or none; what is
//! not stands out.

use super::{
    ADDED_INBOUND, ADDED_OUTBOUND, PACKETS_PER_DATAGRAM, PeerSnapshot, RUNS_RECEIVED, RUNS_SEALED, Snapshot,
};
use crate::page::{BOLD, DIM, GREEN, LABEL, Page, YELLOW, listed};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A session is renewed well before it is this old while it is used.
const FRESH_S: u64 = 180;

/// The snapshot as text, ending in a newline; with ANSI colours when `colour`.
pub fn render(snapshot: &Snapshot, colour: bool) -> String {
    let mut page = Page::new(colour);
    page.title("interface", &snapshot.interface);
    page.line("public key", &snapshot.public_key);
    page.line("listening", &listed(&snapshot.listen));
    let rung = match (snapshot.link.as_str(), snapshot.rung.as_str()) {
        (link, "" | "udp") if link == "udp" => link.to_owned(),
        (link, rung) => format!("{link}, {rung}"),
    };
    page.line_because("link", &rung, &snapshot.rung_reason);
    page.line_because("threads", &snapshot.threads, &snapshot.threads_reason);
    if let Some(microseconds) = snapshot.cpu_latency_us {
        page.line_because("cores wake", &format!("within {} µs", grouped(microseconds)), "as asked");
    }
    page.line("mtu", &snapshot.mtu.to_string());
    page.line("running for", &duration(snapshot.uptime_s));
    page.line("offloads", &offloads(snapshot));
    page.line("frames", &frames(snapshot));
    page.histograms(snapshot);
    page.drops(&snapshot.drops);
    if snapshot.peers.is_empty() {
        page.text.push_str("\nno peers: add a [[peer]] to the configuration and restart\n");
    }
    for peer in &snapshot.peers {
        page.gap();
        page.peer(peer);
    }
    page.counters(snapshot);
    page.text
}

impl Page {
    /// A line whose value has a reason, if there is one to give.
    fn line_because(&mut self, label: &str, value: &str, reason: &str) {
        let because =
            if reason.is_empty() { String::new() } else { self.paint(DIM, &format!(" ({reason})")) };
        self.line(label, &format!("{value}{because}"));
    }

    fn peer(&mut self, peer: &PeerSnapshot) {
        self.title("peer", &peer.name);
        self.line("public key", &peer.public_key);
        match (&peer.endpoint, &peer.configured_endpoint) {
            (Some(endpoint), _) => self.line("endpoint", endpoint),
            (None, Some(configured)) => self.line_because("endpoint", configured, "not in use yet"),
            (None, None) => {
                let unknown = self.paint(DIM, "not known yet: the peer has to speak first");
                self.line("endpoint", &unknown);
            }
        }
        if let Some(bytes) = peer.path_mtu_datagram {
            self.line("path takes", &format!("datagrams of {} bytes", grouped(bytes)));
        }
        self.line("allowed IPs", &listed(&peer.allowed_ips));
        self.leases(peer);
        let handshake = match peer.last_handshake_s_ago {
            Some(seconds) => {
                let colour = if seconds <= FRESH_S { GREEN } else { YELLOW };
                self.paint(colour, &format!("{} ago", duration(seconds)))
            }
            None => self.paint(YELLOW, "none yet"),
        };
        self.line("last handshake", &handshake);
        self.line("received", &traffic(peer.rx_bytes, peer.rx_packets));
        self.line("sent", &traffic(peer.tx_bytes, peer.tx_packets));
        self.drops(&peer.drops);
    }

    fn leases(&mut self, peer: &PeerSnapshot) {
        match &peer.lease {
            Some(lease) if peer.lease_in_force => self.line("leased", &lease.to_string()),
            Some(lease) => self.line_because("leased", &lease.to_string(), "not in force yet"),
            None if peer.lease_wanted => {
                let none = self.paint(YELLOW, "nothing yet");
                self.line("leased", &none);
            }
            None => {}
        }
        if !peer.lease_left_out.is_empty() {
            let left_out = self.paint(YELLOW, &listed(&peer.lease_left_out));
            self.line("not taken", &left_out);
        }
        if let Some(offer) = &peer.offer {
            self.line("offered", &offer.to_string());
        }
    }

    fn drops(&mut self, drops: &BTreeMap<String, u64>) {
        let mut found: Vec<_> = drops.iter().filter(|&(_, &n)| n > 0).collect();
        if found.is_empty() {
            return;
        }
        found.sort_by_key(|&(name, &n)| (std::cmp::Reverse(n), name));
        let text: Vec<_> = found.iter().map(|(name, n)| format!("{} {name}", grouped(**n))).collect();
        let text = self.paint(YELLOW, &text.join(", "));
        self.line("dropped", &text);
    }

    /// A line for each histogram that has counted something.
    fn histograms(&mut self, snapshot: &Snapshot) {
        let mut one = |label, name, show: fn(u64) -> String, unit| {
            if let Some(spread) = snapshot.histograms.get(name).filter(|spread| spread.count > 0) {
                self.line(label, &format!("p50 {}, p99 {}{unit}", show(spread.p50), show(spread.p99)));
            }
        };
        one("added inbound", ADDED_INBOUND, short_time, "");
        one("added outbound", ADDED_OUTBOUND, short_time, "");
        one("runs received", RUNS_RECEIVED, grouped, " datagrams");
        one("runs sealed", RUNS_SEALED, grouped, " datagrams");
        one("in a datagram", PACKETS_PER_DATAGRAM, grouped, " packets");
    }

    fn counters(&mut self, snapshot: &Snapshot) {
        let counted: Vec<_> = snapshot.counters.iter().filter(|&(_, &n)| n > 0).collect();
        let open: Vec<_> = snapshot.conservation.iter().filter(|(_, sums)| sums.left != sums.right).collect();
        if counted.is_empty() && open.is_empty() {
            return;
        }
        let heading = self.paint(BOLD, "counters");
        let _ = writeln!(self.text, "\n{heading}");
        let width = counted.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(LABEL - 2) + 2;
        for (name, n) in counted {
            let _ = writeln!(self.text, "  {name:width$}{}", grouped(*n));
        }
        for (name, sums) in open {
            let difference = sums.left.abs_diff(sums.right);
            let sums = format!("{name}: {} = {}", grouped(sums.left), grouped(sums.right));
            let note =
                format!("{sums} is off by {}: on its way, unless it stays so at rest", grouped(difference));
            let note = self.paint(YELLOW, &note);
            let _ = writeln!(self.text, "  {note}");
        }
    }
}

fn offloads(snapshot: &Snapshot) -> String {
    let on = snapshot.offloads.iter().filter(|&(_, &on)| on);
    listed(&on.map(|(name, _)| name.replace('_', " ")).collect::<Vec<_>>())
}

fn frames(snapshot: &Snapshot) -> String {
    let total: u64 = snapshot.frames.values().map(|set| set.total).sum();
    let away: Vec<_> = snapshot
        .frames
        .iter()
        .filter(|(_, set)| set.home != set.total)
        .map(|(name, set)| format!("{} of {name}", grouped(set.total.saturating_sub(set.home))))
        .collect();
    match away.is_empty() {
        true => format!("all {} at rest", grouped(total)),
        false => format!("{}; in use: {}", grouped(total), away.join(", ")),
    }
}

fn traffic(bytes: u64, packets: u64) -> String {
    let packets = if packets == 1 { "1 packet".to_owned() } else { format!("{} packets", grouped(packets)) };
    format!("{} in {packets}", size(bytes))
}

/// 1234567 as "1 234 567".
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the largest binary unit that keeps a whole number before the point.
fn size(bytes: u64) -> String {
    let units = [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.2} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// Nanoseconds in the unit that keeps up to three digits before the point.
fn short_time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} µs", nanoseconds as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        _ => format!("{:.1} s", nanoseconds as f64 / 1e9),
    }
}

/// The two largest units that are not zero.
fn duration(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, length) in units {
        let n = rest / length;
        rest %= length;
        if n > 0 {
            parts.push(format!("{n} {unit}"));
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
pub mod tests {
    use super::super::{Balance, FrameSet, LeaseSnapshot};
    use super::*;
    use crate::histogram::Summary;

    pub fn example() -> Snapshot {
        let map = |pairs: &[(&str, u64)]| pairs.iter().map(|&(k, n)| (k.to_owned(), n)).collect();
        Snapshot {
            interface: "veil0".into(),
            public_key: "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".into(),
            listen: vec!["0.0.0.0:4433".into(), "[::]:4433".into()],
            link: "udp".into(),
            rung: "udp".into(),
            rung_reason: "as asked".into(),
            xdp: Default::default(),
            threads: "single".into(),
            threads_reason: "2 cores".into(),
            cpu_latency_us: Some(0),
            uptime_s: 11_530,
            mtu: 1416,
            peers: vec![
                PeerSnapshot {
                    name: "laptop".into(),
                    public_key: "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=".into(),
                    endpoint: Some("192.0.2.1:4433".into()),
                    configured_endpoint: Some("laptop.example.org:4433".into()),
                    path_mtu_datagram: Some(1372),
                    allowed_ips: vec!["10.8.0.2/32".into(), "fd08::2/128".into()],
                    last_handshake_s_ago: Some(72),
                    rx_bytes: 12_900_000,
                    tx_bytes: 999,
                    rx_packets: 1_234_567,
                    tx_packets: 1,
                    drops: map(&[("replayed", 3), ("bad-tag", 0), ("inner-source", 1000)]),
                    lease_wanted: true,
                    lease: Some(LeaseSnapshot {
                        addresses: vec!["10.8.0.1/24".into()],
                        dns: vec!["10.8.0.2".into()],
                        mtu: Some(1300),
                        ..LeaseSnapshot::default()
                    }),
                    lease_in_force: true,
                    lease_left_out: vec!["203.0.113.0/24".into()],
                    offer: None,
                },
                PeerSnapshot {
                    name: "desk".into(),
                    lease: Some(LeaseSnapshot::default()),
                    lease_wanted: true,
                    offer: Some(LeaseSnapshot { keepalive_s: Some(25), ..LeaseSnapshot::default() }),
                    ..PeerSnapshot::default()
                },
                PeerSnapshot {
                    name: "shelf".into(),
                    lease_wanted: true,
                    configured_endpoint: Some("shelf.example.org:4433".into()),
                    ..PeerSnapshot::default()
                },
            ],
            drops: map(&[("unknown-index", 2)]),
            counters: map(&[("tun-reads", 5), ("gso-fallbacks", 0)]),
            offloads: [("gro", true), ("gso", true), ("tun_uso", false)]
                .map(|(k, on)| (k.to_owned(), on))
                .into(),
            histograms: [
                (
                    ADDED_INBOUND,
                    Summary { count: 3, p50: 3_071, p99: 12_287, max: 12_287, ..Default::default() },
                ),
                (ADDED_OUTBOUND, Summary::default()),
                (RUNS_SEALED, Summary { count: 9, p50: 2, p99: 44, max: 44, buckets: vec![(2, 8), (47, 1)] }),
            ]
            .map(|(name, summary)| (name.to_owned(), summary))
            .into(),
            frames: [("wide-link-rx".to_owned(), FrameSet { total: 64, home: 61 })].into(),
            conservation: [
                ("opened".to_owned(), Balance { left: 7, right: 4 }),
                ("sealed".to_owned(), Balance { left: 9, right: 9 }),
            ]
            .into(),
        }
    }

    #[test]
    fn a_person_reads_it_at_a_glance() {
        let wanted = "\
interface veil0
  public key      hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=
  listening       0.0.0.0:4433, [::]:4433
  link            udp (as asked)
  threads         single (2 cores)
  cores wake      within 0 µs (as asked)
  mtu             1416
  running for     3 h 12 min
  offloads        gro, gso
  frames          64; in use: 3 of wide-link-rx
  added inbound   p50 3.1 µs, p99 12.3 µs
  runs sealed     p50 2, p99 44 datagrams
  dropped         2 unknown-index

peer laptop
  public key      3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=
  endpoint        192.0.2.1:4433
  path takes      datagrams of 1 372 bytes
  allowed IPs     10.8.0.2/32, fd08::2/128
  leased          addresses 10.8.0.1/24; name servers (not set) 10.8.0.2; mtu 1300
  not taken       203.0.113.0/24
  last handshake  1 min 12 s ago
  received        12.30 MiB in 1 234 567 packets
  sent            999 B in 1 packet
  dropped         1 000 inner-source, 3 replayed

peer desk
  public key      \n  endpoint        not known yet: the peer has to speak first
  allowed IPs     none
  leased          nothing (not in force yet)
  offered         keepalive 25 s
  last handshake  none yet
  received        0 B in 0 packets
  sent            0 B in 0 packets

peer shelf
  public key      \n  endpoint        shelf.example.org:4433 (not in use yet)
  allowed IPs     none
  leased          nothing yet
  last handshake  none yet
  received        0 B in 0 packets
  sent            0 B in 0 packets

counters
  tun-reads       5
  opened: 7 = 4 is off by 3: on its way, unless it stays so at rest
";
        assert_eq!(render(&example(), false), wanted);
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let mut coloured = render(&example(), true);
        assert!(coloured.contains("\x1b[32m1 min 12 s ago\x1b[0m"));
        for code in [BOLD, DIM, GREEN, YELLOW, "0"] {
            coloured = coloured.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(coloured, render(&example(), false));
    }

    #[test]
    fn durations_and_sizes_are_short() {
        let durations = [0, 59, 60, 3601, 86_400, 90_061].map(duration);
        assert_eq!(durations, ["0 s", "59 s", "1 min", "1 h", "1 d", "1 d 1 h"]);
        let times = [999, 1000, 999_949, 1_500_000, 2_000_000_000].map(short_time);
        assert_eq!(times, ["999 ns", "1.0 µs", "999.9 µs", "1.5 ms", "2.0 s"]);
        let sizes = [1023, 1024, 1 << 30, u64::MAX].map(size);
        assert_eq!(sizes, ["1023 B", "1.00 KiB", "1.00 GiB", "16.00 EiB"]);
    }
}
