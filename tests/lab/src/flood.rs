//! UDP packets of one size at a steady rate, from one thread, to one or many ports; and ports where they may arrive.
//!
//! Open loop: what is due is sent, whether or not anything arrives; counting arrivals is the caller's business, where it
//! costs nothing (a device's counters). A sender that falls behind by more than [`BACKLOG`] gives up what it owes instead
//! of pouring it out in one burst that no queue would hold, so that [`Sent::packets`] may be less than was asked for.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::sendmmsg::{BATCH, send_batch};

/// Between two looks at the clock; at 100 000 packets a second, ten packets.
const TICK: Duration = Duration::from_micros(100);
/// The most that is made up for.
const BACKLOG: Duration = Duration::from_millis(1);
const FIRST_PORT: u16 = 20_000;

/// A sender in the namespace of the thread that made it.
#[derive(Debug)]
pub struct Flood {
    socket: UdpSocket,
    targets: Vec<SocketAddrV4>,
    payload: Vec<u8>,
}

/// What a flood sent, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    pub packets: u64,
    pub elapsed: Duration,
}

impl Flood {
    /// Packets with `payload` bytes to `flows` ports of `target`, taking turns: each port is a flow of its own.
    pub fn new(target: Ipv4Addr, flows: u16, payload: usize) -> Result<Flood> {
        ensure!(flows > 0, "a flood needs a flow");
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("opening the flood's socket")?;
        let targets = ports(flows).map(|port| SocketAddrV4::new(target, port)).collect();
        Ok(Flood { socket, targets, payload: vec![0x5a; payload] })
    }

    /// Sends `rate` packets a second for `length`. What the kernel has no room for counts as sent: it is lost, as it
    /// would be further on.
    pub fn run(&self, rate: f64, length: Duration) -> Result<Sent> {
        let mut pace = Pace::new(rate);
        let mut turn = self.targets.iter().copied().cycle();
        let start = Instant::now();
        let mut packets = 0;
        loop {
            let elapsed = start.elapsed();
            let mut due = pace.due(elapsed.min(length));
            packets += due;
            while due > 0 {
                let targets: Vec<SocketAddrV4> = turn.by_ref().take(BATCH.min(due as usize)).collect();
                send_batch(&self.socket, &targets, &self.payload).context("sending the flood")?;
                due -= targets.len() as u64;
            }
            if elapsed >= length {
                return Ok(Sent { packets, elapsed });
            }
            std::thread::sleep(TICK);
        }
    }
}

/// Sockets on the ports a [`Flood`] sends to, in the namespace of the calling thread, so that nothing is answered with
/// "port unreachable". Nobody reads them: when their buffers are full, the kernel drops cheaply.
#[derive(Debug)]
pub struct Ports {
    _sockets: Vec<UdpSocket>,
}

impl Ports {
    /// Opens them at `address`, for so many flows.
    pub fn open(address: Ipv4Addr, flows: u16) -> Result<Ports> {
        let open =
            |port| UdpSocket::bind((address, port)).with_context(|| format!("opening UDP port {port}"));
        Ok(Ports { _sockets: ports(flows).map(open).collect::<Result<_>>()? })
    }
}

fn ports(flows: u16) -> impl Iterator<Item = u16> {
    (0..flows).map(|flow| FIRST_PORT + flow)
}

/// How many packets are due, by a clock that is handed in.
struct Pace {
    rate: f64,
    /// When the next packet is due, in packets since the start.
    settled: f64,
}

impl Pace {
    fn new(rate: f64) -> Pace {
        Pace { rate, settled: 0.0 }
    }

    /// Packets due since the last call; those owed for longer than [`BACKLOG`] are given up.
    fn due(&mut self, elapsed: Duration) -> u64 {
        let now = self.rate * elapsed.as_secs_f64();
        let most = (self.rate * BACKLOG.as_secs_f64()).max(1.0);
        let due = (now - self.settled).min(most).floor().max(0.0);
        self.settled = if now - self.settled > most { now } else { self.settled + due };
        due as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_clock_yields_the_rate_exactly() {
        let mut pace = Pace::new(123_456.0);
        let sent: u64 = (1..=10_000).map(|tick| pace.due(TICK * tick)).sum();
        assert!((123_455..=123_456).contains(&sent), "{sent}");
    }

    #[test]
    fn a_slow_rate_is_not_rounded_away() {
        let mut pace = Pace::new(3.0);
        let sent: u64 = (1..=20_000).map(|tick| pace.due(TICK * tick)).sum();
        assert!((5..=6).contains(&sent), "{sent}");
    }

    #[test]
    fn what_is_owed_for_too_long_is_given_up() {
        let mut pace = Pace::new(100_000.0);
        assert_eq!(pace.due(Duration::from_millis(50)), 100, "one millisecond's worth, not fifty");
        assert_eq!(pace.due(Duration::from_millis(50)), 0);
        assert_eq!(pace.due(Duration::from_micros(50_500)), 50, "and from then on the rate again");
    }
}
