//! What interfaces have received, and what the kernel has dropped, by its own count (proc_net(5)).

use std::fs;

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// Totals since the interface was made. A super-packet (several segments in one) is one packet here, so to count
/// segments, divide the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub bytes: u64,
    pub packets: u64,
}

impl Received {
    /// Of `interface` in `namespace`, now.
    pub fn of(namespace: &Namespace, interface: &str) -> Result<Received> {
        let _inside = namespace.enter()?;
        // Of the thread, because only the thread is inside.
        let table = fs::read_to_string("/proc/thread-self/net/dev").context("reading interface counters")?;
        parse(&table, interface)
            .with_context(|| format!("no counters of {interface} in {}", namespace.name()))
    }

    /// What came since `before`.
    pub fn since(self, before: Received) -> Received {
        Received {
            bytes: self.bytes.saturating_sub(before.bytes),
            packets: self.packets.saturating_sub(before.packets),
        }
    }
}

/// What the kernel has dropped inside `namespace` so far: at any interface, either way, and in front of UDP sockets, most
/// of all for want of room in their buffers. One packet may be counted more than once.
pub fn dropped(namespace: &Namespace) -> Result<u64> {
    let _inside = namespace.enter()?;
    let table = |name: &str| {
        let path = format!("/proc/thread-self/net/{name}");
        fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    };
    let sockets = parse_errors(&table("snmp")?).context("no UDP errors in the kernel's table")?;
    // Without IPv6 there is none.
    let sockets6 = table("snmp6").map_or(0, |table| parse_errors6(&table));
    Ok(parse_drops(&table("dev")?) + sockets + sockets6)
}

/// The columns `drop` of receiving and of sending, of all interfaces.
fn parse_drops(table: &str) -> u64 {
    let rows = table.lines().filter_map(|line| Some(line.split_once(':')?.1));
    let drops = |row: &str| -> Vec<u64> {
        let columns: Vec<u64> = row.split_ascii_whitespace().flat_map(str::parse).collect();
        [3, 11].iter().filter_map(|&n| columns.get(n).copied()).collect()
    };
    rows.flat_map(drops).sum()
}

/// `InErrors` of UDP over IPv4: a row of names, and one of values below it.
fn parse_errors(table: &str) -> Option<u64> {
    let mut rows = table.lines().filter(|line| line.starts_with("Udp:")).map(str::split_ascii_whitespace);
    let (names, values) = (rows.next()?, rows.next()?);
    names.zip(values).find(|(name, _)| *name == "InErrors")?.1.parse().ok()
}

/// The same over IPv6: a name and a value in each row.
fn parse_errors6(table: &str) -> u64 {
    let row = table.lines().find_map(|line| line.strip_prefix("Udp6InErrors"));
    row.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

fn parse(table: &str, interface: &str) -> Option<Received> {
    let row = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut columns = row.split_ascii_whitespace().map(|column| column.parse().ok());
    Some(Received { bytes: columns.next()??, packets: columns.next()?? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
  eth0: 4886718   46101    0    0    0     0          0         0      176       2    0    0    0     0       0          0
";

    #[test]
    fn the_first_two_columns_of_the_right_row_are_taken() {
        assert_eq!(parse(TABLE, "eth0"), Some(Received { bytes: 4_886_718, packets: 46_101 }));
        assert_eq!(parse(TABLE, "lo"), Some(Received { bytes: 100, packets: 2 }));
        for absent in ["eth", "th0", "face"] {
            assert_eq!(parse(TABLE, absent), None, "{absent}");
        }
    }

    #[test]
    fn drops_are_summed_over_interfaces_and_directions() {
        assert_eq!(parse_drops(TABLE), 0);
        // Both of lo, and the sending one of eth0.
        assert_eq!(parse_drops(&TABLE.replace("2    0    0    0", "2    0    5    0")), 3 * 5);
    }

    #[test]
    fn errors_in_front_of_sockets_are_found_by_name() {
        let table = "Tcp: InErrs\nTcp: 9\nUdp: InDatagrams NoPorts InErrors OutDatagrams\nUdp: 4 1 3 8\n";
        assert_eq!(parse_errors(table), Some(3));
        assert_eq!(parse_errors("Tcp: InErrs\nTcp: 9\n"), None);
        assert_eq!(parse_errors6("Udp6NoPorts   \t1\nUdp6InErrors                    \t6\n"), 6);
        assert_eq!(parse_errors6(""), 0);
    }
}
