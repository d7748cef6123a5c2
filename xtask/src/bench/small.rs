//! Small packets: the highest rate of 64-byte UDP at which no more than 1 % is lost.
//!
//! The sender is the lab's flood, the same for all. Arrivals are counted at the device where packets leave the tunnel, so
//! that a reading program takes no processor time from those that are measured.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use veil_lab::{Flood, Namespace, Ports, Sent};

use super::figures::{Direction, FLOWS, small_key};
use super::measure::Samples;
use super::plan::Settings;
use super::stats::highest_rate;
use super::topology::{Cpu, Tunnel};
use crate::interrupt;

const PAYLOAD: usize = 64;
const MOST_LOST: f64 = 0.01;
/// Packets per second; below and above all that these machines do.
const RATES: (f64, f64) = (1e3, 2e6);
/// A sender that reaches less than this part of the rate is slowed down by the machine, and may yet send more.
const REACHED: f64 = 0.97;
/// ... if it sends this many times more than ever before; otherwise it is itself the limit.
const PROGRESS: f64 = 1.02;
/// For what is still in queues when the sender stops.
const DRAIN: Duration = Duration::from_millis(100);
/// A rate is given up only when it fails twice: one hiccup of the machine is not a limit.
const TRIES: u32 = 2;

/// What one try at one rate came to.
#[derive(Clone, Copy, Debug)]
struct Trial {
    sent: Sent,
    arrived: u64,
    cpu: Option<Cpu>,
}

impl Trial {
    fn rate(&self) -> f64 {
        self.sent.packets as f64 / self.sent.elapsed.as_secs_f64().max(1e-9)
    }

    fn kept(&self) -> bool {
        self.sent.packets > 0 && self.arrived as f64 >= self.sent.packets as f64 * (1.0 - MOST_LOST)
    }

    /// Whether the sender reached `wanted`.
    fn reached(&self, wanted: f64) -> bool {
        self.rate() >= wanted * REACHED
    }
}

pub fn measure(tunnel: &Tunnel, settings: &Settings, samples: &mut Samples) -> Result<()> {
    for (flows, word) in FLOWS {
        let target = tunnel.target;
        let _ports = inside(&tunnel.right, move || Ports::open(target, flows))?;
        let (best, limit) = best_trial(settings, |rate| trial(tunnel, flows, rate, settings.trial()))?;
        let best = best.with_context(|| format!("more than 1 % was lost at every rate ({word} flows)"))?;
        let key = small_key(word);
        match limit {
            Limit::Tunnel => samples.add(&key, best.rate() / 1e3),
            Limit::Sender => samples.add_at_least(&key, best.rate() / 1e3),
        }
        if let Some(cpu) = best.cpu {
            samples.add_cpu_used(&key, cpu, Direction::Forward, best.arrived as f64 / 1e6);
        }
    }
    Ok(())
}

/// Who stood in the way of a higher rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// It lost too much.
    Tunnel,
    /// It never could send what would have been too much.
    Sender,
}

/// The trial with the highest rate among those that kept 99 %, wherever bisection led.
fn best_trial(
    settings: &Settings,
    mut trial: impl FnMut(f64) -> Result<Trial>,
) -> Result<(Option<Trial>, Limit)> {
    let (mut best, mut limit): (Option<Trial>, _) = (None, Limit::Sender);
    highest_rate(RATES.0, RATES.1, settings.trials, |rate| {
        for _ in 0..TRIES {
            interrupt::check()?;
            let tried = trial(rate)?;
            if tried.kept() {
                let before = best.map_or(0.0, |best| best.rate());
                if tried.rate() > before {
                    best = Some(tried);
                }
                return Ok(tried.reached(rate) || tried.rate() > before * PROGRESS);
            }
        }
        limit = Limit::Tunnel;
        Ok(false)
    })?;
    Ok((best, limit))
}

fn trial(tunnel: &Tunnel, flows: u16, rate: f64, length: Duration) -> Result<Trial> {
    let (before, cpu_before) = (tunnel.received()?, tunnel.cpu()?);
    let target = tunnel.target;
    let sent = inside(&tunnel.left, move || Flood::new(target, flows, PAYLOAD)?.run(rate, length))?;
    thread::sleep(DRAIN);
    let received = tunnel.received()?.since(before);
    let arrived = tunnel.datagrams(received, PAYLOAD as u64);
    let cpu = tunnel.cpu()?.zip(cpu_before).map(|(after, before)| after.since(before));
    Ok(Trial { sent, arrived, cpu })
}

fn inside<T: Send + 'static>(
    namespace: &Namespace,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    namespace.spawn(work).join().map_err(|_| anyhow!("a thread of the flood panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tunnel that carries `limit` packets a second and loses the rest, and a sender that reaches `sender`.
    fn ideal(limit: f64, sender: f64) -> impl FnMut(f64) -> Result<Trial> {
        move |rate| {
            let packets = rate.min(sender) as u64;
            let sent = Sent { packets, elapsed: Duration::from_secs(1) };
            Ok(Trial { sent, arrived: packets.min(limit as u64), cpu: None })
        }
    }

    fn best(trial: impl FnMut(f64) -> Result<Trial>) -> Option<f64> {
        best_trial(&Settings::new(false, false), trial).unwrap().0.map(|trial| trial.rate())
    }

    fn limit(trial: impl FnMut(f64) -> Result<Trial>) -> Limit {
        best_trial(&Settings::new(false, false), trial).unwrap().1
    }

    #[test]
    fn the_limit_of_the_tunnel_is_found() {
        let found = best(ideal(80_000.0, 1e9)).unwrap();
        // 1 % may be lost, and eight trials are 3 % fine.
        assert!(found > 77_000.0 && found < 81_000.0, "{found}");
    }

    #[test]
    fn a_sender_that_is_the_limit_is_reported_as_it_was() {
        assert_eq!(best(ideal(1e9, 300_000.0)), Some(300_000.0));
        assert_eq!(limit(ideal(1e9, 300_000.0)), Limit::Sender);
        assert_eq!(limit(ideal(80_000.0, 300_000.0)), Limit::Tunnel);
    }

    #[test]
    fn a_sender_that_is_always_a_little_late_is_still_asked_for_more() {
        let found = best(|rate| ideal(80_000.0, 1e9)(rate * 0.9)).unwrap();
        assert!(found > 77_000.0 && found < 81_000.0, "{found}");
    }

    #[test]
    fn one_bad_try_does_not_decide_and_a_dead_tunnel_has_no_rate() {
        let mut ideal = ideal(80_000.0, 1e9);
        let mut tries = 0;
        let found = best(|rate| {
            tries += 1;
            // Every other try loses everything.
            if tries % 2 == 1 { Ok(Trial { arrived: 0, ..ideal(rate)? }) } else { ideal(rate) }
        });
        assert!(found.unwrap() > 77_000.0, "{found:?}");
        assert_eq!(best(|rate| Ok(Trial { arrived: 0, ..self::ideal(1.0, 1e9)(rate)? })), None);
    }
}
