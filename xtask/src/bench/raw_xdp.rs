//! AF_XDP alone: packets per second between two processes over the same veth pair, native mode, copying. A tunnel over
//! AF_XDP can carry no more, so this is what it is compared with.
//!
//! The ends are the program `veil-raw-xdp`, built beforehand: this one links nothing of AF_XDP.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use veil_lab::terminate;

use super::figures::{RAW_XDP_BYTES, raw_xdp_key};
use super::measure::Samples;
use super::plan::Settings;
use super::topology::{OUTER, Tunnel, WIRE};
use crate::interrupt;

const PORT: u16 = 4433;
/// For what is still in queues when the sender stops.
const DRAIN: Duration = Duration::from_millis(100);
const GONE_WITHIN: Duration = Duration::from_secs(3);

/// The receiving process. Dropping it ends it.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        // A drop has nobody to tell; the lab ends whatever is left inside.
        let _ = terminate(&mut self.0, GONE_WITHIN);
    }
}

/// The rate at which packets of each size arrive from a sender that never waits.
pub fn measure(tunnel: &Tunnel, program: &Path, settings: &Settings, samples: &mut Samples) -> Result<()> {
    let mac = tunnel.right.exec(["cat", &format!("/sys/class/net/{WIRE}/address")])?;
    for bytes in RAW_XDP_BYTES {
        interrupt::check()?;
        let length = Duration::from_secs(settings.bulk_seconds.into());
        let rate = rate(tunnel, program, mac.trim(), bytes, length)?;
        samples.add(&raw_xdp_key(bytes), rate / 1e3);
    }
    Ok(())
}

fn rate(tunnel: &Tunnel, program: &Path, mac: &str, bytes: u32, length: Duration) -> Result<f64> {
    let [from, to] = OUTER.map(|address| format!("{address}:{PORT}"));
    let mut command = tunnel.right.command(program);
    command.args(["receive", WIRE, &to]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut receiver = Receiver(command.spawn().context("starting the receiver")?);
    let mut said = BufReader::new(receiver.0.stdout.take().context("it has no output")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    ensure!(line.trim() == "ready", "the receiver of AF_XDP packets did not start");
    let (bytes, seconds) = (bytes.to_string(), length.as_secs_f64().to_string());
    let program = program.to_str().context("a path that is no text")?;
    tunnel.left.exec([program, "send", WIRE, &from, &to, mac, &bytes, &seconds])?;
    thread::sleep(DRAIN);
    // That its input ends tells it to.
    drop(receiver.0.stdin.take());
    let mut report = String::new();
    said.read_to_string(&mut report)?;
    parse(&report)
}

/// Packets per second out of "PACKETS NANOSECONDS".
fn parse(report: &str) -> Result<f64> {
    let numbers: Vec<f64> = report.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [packets, nanoseconds] = numbers[..] else { anyhow::bail!("veil-raw-xdp reported {report:?}") };
    ensure!(packets > 1.0 && nanoseconds > 0.0, "no AF_XDP packet arrived");
    Ok(packets / (nanoseconds * 1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_rate_and_silence_is_an_error() {
        assert_eq!(parse("300000 500000000\n").unwrap(), 600_000.0);
        for wrong in ["0 0", "", "5", "1 0", "many packets"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
