//! What an interface has received, by the kernel's count (proc_net(5), `/proc/net/dev`).

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
}
