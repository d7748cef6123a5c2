//! TCP transfers by iperf3: one server in the right namespace, a client per transfer in the left one.
//!
//! Some of a transfer's speed may be chance that no contender has a hand in. iperf3 writes from one page-aligned buffer, and
//! the kernel copies that to the same place of a page, until a super-packet ends less than 32 bytes before the end of the
//! memory it is copied to (`sk_page_frag_refill`, net/core/sock.c): these bytes are left out, and all that follows lands so
//! much further on. An EPYC was seen to copy (`rep movsb`) 2 to 3 GB/s to a place 1 to 31 bytes further on in its page than
//! where the bytes come from, and tens of GB/s to any other that was tried. Of eight transfers over its bare wire, the one
//! with such copies came to 14 Gbit/s, the others to 20 to 32. Through a tunnel of MTU 1416 iperf3's bytes landed 4 bytes on
//! in an eighth to four fifths of each second's samples; with 1396 and 1428, whose segments are multiples of 32 bytes, never.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use veil_lab::{Namespace, run};

use super::figures::Direction;
use super::topology::Tunnel;

/// The server needs a moment to listen, and another to be done with the last transfer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server, ended when dropped.
pub struct Iperf {
    server: Child,
    client: Namespace,
    target: Ipv4Addr,
}

/// What a transfer came to, by the receiver's count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moved {
    pub gigabits: f64,
    pub gigabits_per_second: f64,
    /// CPU seconds of iperf3 itself: of its client and of its server.
    pub cpu: [f64; 2],
}

impl Iperf {
    pub fn serve(tunnel: &Tunnel) -> Result<Iperf> {
        let mut server = tunnel.right.command("iperf3");
        server.args(["--server", "--bind", &tunnel.target.to_string()]).stdin(Stdio::null());
        let server = server.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn();
        let server = server.context("starting iperf3's server")?;
        Ok(Iperf { server, client: tunnel.left.clone(), target: tunnel.target })
    }

    /// Moves bytes for so many seconds.
    pub fn transfer(&self, streams: u32, direction: Direction, seconds: u32) -> Result<Moved> {
        Ok(self.transfer_after(|| Ok(()), streams, direction, seconds)?.1)
    }

    /// The same, and what `look` saw right before. It looks again before each attempt, so that what it sees does not hold
    /// the cost of one that failed.
    pub fn transfer_after<T>(
        &self,
        mut look: impl FnMut() -> Result<T>,
        streams: u32,
        direction: Direction,
        seconds: u32,
    ) -> Result<(T, Moved)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = look()?;
            match self.once(streams, direction, seconds) {
                Ok(moved) => return Ok((seen, moved)),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn once(&self, streams: u32, direction: Direction, seconds: u32) -> Result<Moved> {
        let mut client = self.client.command("iperf3");
        client.args(["--json", "--congestion", "cubic", "--connect-timeout", "3000"]);
        client.args(["--time", &seconds.to_string(), "--parallel", &streams.to_string()]);
        if direction == Direction::Back {
            client.arg("--reverse");
        }
        parse(&run(client.args(["--client", &self.target.to_string()]))?)
    }
}

impl Drop for Iperf {
    fn drop(&mut self) {
        // It can only fail by being gone already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn parse(report: &str) -> Result<Moved> {
    let report: Value = serde_json::from_str(report).context("iperf3's report is no JSON")?;
    // It may end well and say only here that it did not.
    if let Some(error) = report.get("error") {
        bail!("iperf3: {error}");
    }
    let received = &report["end"]["sum_received"];
    let number = |key: &str| received[key].as_f64().with_context(|| format!("iperf3's report lacks {key}"));
    let seconds = number("seconds")?;
    let cpu = ["host_total", "remote_total"].map(|end| {
        let percent = report["end"]["cpu_utilization_percent"][end].as_f64();
        percent
            .map(|percent| percent / 100.0 * seconds)
            .with_context(|| format!("iperf3's report lacks {end}"))
    });
    let [client, server] = cpu;
    Ok(Moved {
        gigabits: number("bytes")? * 8e-9,
        gigabits_per_second: number("bits_per_second")? * 1e-9,
        cpu: [client?, server?],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_count_is_taken() {
        let report = r#"{"end": {"sum_sent": {"bytes": 9e9, "bits_per_second": 9e9},
                                 "sum_received": {"bytes": 250000000, "bits_per_second": 1000000000.0, "seconds": 2.0},
                                 "cpu_utilization_percent": {"host_total": 50.0, "remote_total": 25.0}}}"#;
        let moved = Moved { gigabits: 2.0, gigabits_per_second: 1.0, cpu: [1.0, 0.5] };
        assert_eq!(parse(report).unwrap(), moved);
    }

    #[test]
    fn an_error_inside_a_report_is_an_error() {
        let busy = r#"{"start": {}, "end": {}, "error": "the server is busy"}"#;
        assert!(parse(busy).unwrap_err().to_string().contains("busy"));
        assert!(parse(r#"{"end": {}}"#).is_err() && parse("iperf3: no").is_err());
    }
}
