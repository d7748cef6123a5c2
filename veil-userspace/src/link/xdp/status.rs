//! Which rung the link stands on and why, and what AF_XDP counts: written by the supervisor and the two ends, read by
//! `veil show`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use veil_ebpf::Verdict;
use veil_xdp::ladder::Rung;
use veil_xdp::{Program, SocketCounters, statistics};

/// What is counted beside the link's own counters.
#[derive(Debug, Default)]
pub struct XdpCounters {
    /// Datagrams that came and went by the rings.
    pub ring_received: AtomicU64,
    pub ring_sent: AtomicU64,
    /// Runs that could have gone by the ring and went by the socket, where the kernel works on a run as one packet.
    pub gso_runs: AtomicU64,
    /// Frames from a ring that were no datagram of ours after all; counted as received and dropped.
    pub ring_refused: AtomicU64,
    /// Paths that went over from their socket to the ring, and back.
    pub moves_to_ring: AtomicU64,
    pub moves_to_socket: AtomicU64,
    /// How often the rings were left to fill, at a high rate, rather than watched.
    pub ring_held: AtomicU64,
    /// How often sending waited for frames or room in the ring.
    pub ring_blocked: AtomicU64,
    /// Datagrams that were counted as sent and waited for the ring when the lane was given up.
    pub ring_lost: AtomicU64,
    /// How often the link went to another rung.
    pub transitions: AtomicU64,
}

struct State {
    rung: Rung,
    reason: String,
    queues: Vec<Queue>,
    program: Option<Program>,
}

/// One socket, as far as it is looked at from here.
struct Queue {
    socket: OwnedFd,
    counters: Arc<SocketCounters>,
}

/// The link's rung, the program and the sockets' counters.
pub struct XdpStatus {
    interface: String,
    pub counters: XdpCounters,
    state: Mutex<State>,
}

impl XdpStatus {
    pub fn new(interface: String) -> Self {
        let state = State { rung: Rung::Udp, reason: "not tried yet".into(), queues: vec![], program: None };
        XdpStatus { interface, counters: XdpCounters::default(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rung the link stands on.
    pub fn rung(&self) -> Rung {
        self.state().rung
    }

    /// Why not a higher one, or what it has.
    pub fn reason(&self) -> String {
        self.state().reason.clone()
    }

    /// The link stands on another rung, or on the same for another reason: said once, and counted.
    pub(super) fn stands_on(&self, rung: Rung, reason: String) {
        let mut state = self.state();
        if state.rung == rung && state.reason == reason {
            return;
        }
        if state.rung != rung {
            self.counters.transitions.fetch_add(1, Relaxed);
        }
        tracing::info!("{}: link {}: {reason}", self.interface, rung.name());
        (state.rung, state.reason) = (rung, reason);
    }

    /// The program and the sockets that are in use from now on.
    pub(super) fn keep(&self, program: Program, sockets: Vec<(OwnedFd, Arc<SocketCounters>)>) {
        let mut state = self.state();
        state.program = Some(program);
        state.queues = sockets.into_iter().map(|(socket, counters)| Queue { socket, counters }).collect();
    }

    /// Detaches the program and lets go of the sockets.
    pub(super) fn release(&self) {
        let mut state = self.state();
        (state.program, state.queues) = (None, vec![]);
    }

    /// Does something with the program, if there is one.
    pub(super) fn with_program<T>(&self, f: impl FnOnce(&mut Program) -> T) -> Option<T> {
        self.state().program.as_mut().map(f)
    }

    /// Everything counted, by name: our counters, one per verdict of the program, and the kernel's six per socket,
    /// added up.
    pub fn all(&self) -> BTreeMap<String, u64> {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let c = &self.counters;
        let mut all: BTreeMap<String, u64> = [
            ("ring_received", of(&c.ring_received)),
            ("ring_sent", of(&c.ring_sent)),
            ("gso_runs", of(&c.gso_runs)),
            ("ring_refused", of(&c.ring_refused)),
            ("ring_held", of(&c.ring_held)),
            ("ring_blocked", of(&c.ring_blocked)),
            ("ring_lost", of(&c.ring_lost)),
            ("moves_to_ring", of(&c.moves_to_ring)),
            ("moves_to_socket", of(&c.moves_to_socket)),
            ("transitions", of(&c.transitions)),
        ]
        .map(|(name, n)| (name.to_owned(), n))
        .into();
        let state = self.state();
        let verdicts = state.program.as_ref().and_then(|program| program.counters().ok());
        for (verdict, n) in Verdict::ALL.iter().zip(verdicts.unwrap_or_default()) {
            all.insert(format!("verdict_{}", verdict.name()), n);
        }
        all.insert("queues".into(), state.queues.len() as u64);
        let mut add = |name: &str, n: u64| *all.entry(name.to_owned()).or_default() += n;
        for queue in &state.queues {
            let kernel = statistics(queue.socket.as_fd()).unwrap_or_default();
            add("kernel_rx_dropped", kernel.rx_dropped);
            add("kernel_rx_invalid_descs", kernel.rx_invalid_descs);
            add("kernel_tx_invalid_descs", kernel.tx_invalid_descs);
            add("kernel_rx_ring_full", kernel.rx_ring_full);
            add("kernel_rx_fill_ring_empty_descs", kernel.rx_fill_ring_empty_descs);
            add("kernel_tx_ring_empty_descs", kernel.tx_ring_empty_descs);
            let (rx, tx) = (&queue.counters.rx, &queue.counters.tx);
            add("rx_wakeups", of(&rx.wakeups));
            add("tx_kicks", of(&tx.kicks));
            add("tx_later", of(&tx.later));
            add(
                "addresses_refused",
                [&rx.refused, &tx.refused].map(|r| of(&r.foreign) + of(&r.not_there)).iter().sum(),
            );
        }
        all
    }
}
