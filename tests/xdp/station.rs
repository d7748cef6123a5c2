//! Our side of a wire as the tunnel would have it: the program, one socket per queue over one UMEM, frames for receiving
//! on the fill rings and frames for sending in hand.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result, ensure};
use veil_ebpf::{SteeringConfig, Verdict};
use veil_xdp::{AttachMode, BindMode, HEADROOM, Kicked, Program, Umem, UmemFrame, UmemSettings, XskSocket};

use crate::packet::{udp_frame, udp_payload};
use crate::wire::{INTERFACE, PAIRS, Wire, until};

pub const PORT: u16 = 51_820;
const PER_QUEUE: usize = 512;

pub struct Station {
    pub program: Program,
    pub umem: Umem,
    pub sockets: Vec<XskSocket>,
    /// To send from.
    pub free: Vec<UmemFrame>,
    /// Datagrams received, by queue, oldest first.
    pub received: Vec<(usize, Vec<u8>)>,
}

/// Room for all, in rings smaller than a burst.
pub fn settings(queues: usize) -> UmemSettings {
    UmemSettings {
        frames: (2 * PER_QUEUE * queues) as u32,
        fill_ring: 512,
        rx_ring: 256,
        tx_ring: 128,
        completion_ring: 128,
        ..UmemSettings::default()
    }
}

impl Station {
    pub fn new(wire: &Wire, mode: AttachMode, queues: usize) -> Result<Station> {
        let _inside = wire.ours.enter()?;
        let mut program = Program::attach(INTERFACE, mode)?;
        program.set_config(SteeringConfig { mac: wire.our_mac, port: PORT, longest: 1792 })?;
        program.set_local(&PAIRS.map(|(ours, _)| ours))?;
        let (umem, mut free) = Umem::new(settings(queues))?;
        let mut sockets = Vec::new();
        for queue in 0..queues {
            let mut socket = umem.bind(INTERFACE, queue as u32, BindMode::Copy)?;
            ensure!(socket.mode == BindMode::Copy, "veth has zero-copy");
            let mut frames = free.split_off(free.len() - PER_QUEUE);
            ensure!(socket.rx.fill(&mut frames)? == PER_QUEUE && frames.is_empty());
            program.register(queue as u32, socket.rx.as_fd())?;
            sockets.push(socket);
        }
        Ok(Station { program, umem, sockets, free, received: Vec::new() })
    }

    /// Receives until `count` datagrams are there, giving every frame back to its queue.
    pub fn receive(&mut self, count: usize) -> Result<()> {
        until("datagrams by AF_XDP", || {
            for (queue, socket) in self.sockets.iter_mut().enumerate() {
                let mut frames = Vec::new();
                socket.rx.receive(&mut frames, 64);
                for frame in &frames {
                    let payload = udp_payload(frame.bytes()).context("no UDP datagram")?;
                    self.received.push((queue, payload.to_vec()));
                }
                socket.rx.fill(&mut frames)?;
                ensure!(frames.is_empty(), "the fill ring has no room for what came out of it");
            }
            Ok(self.received.len() >= count)
        })
    }

    /// Sends a datagram by the socket of a queue, having left `gap` bytes in front that headers could have filled.
    pub fn send(
        &mut self,
        wire: &Wire,
        queue: usize,
        to: SocketAddr,
        payload: &[u8],
        gap: usize,
    ) -> Result<()> {
        let ours = PAIRS.map(|(ours, _)| ours).into_iter().find(|ours| ours.is_ipv4() == to.is_ipv4());
        let from = SocketAddr::new(ours.context("no address")?, PORT);
        let bytes = udp_frame((wire.our_mac, wire.their_mac), from, to, payload);
        let socket = &mut self.sockets[queue];
        until("a frame to send from", || {
            socket.tx.complete(&mut self.free);
            Ok(!self.free.is_empty())
        })?;
        let mut frame = self.free.pop().context("just seen")?;
        frame.set_range(HEADROOM + gap, 0);
        frame.buffer_mut()[..bytes.len()].copy_from_slice(&bytes);
        frame.set_len(bytes.len());
        let mut queued = VecDeque::from([frame]);
        until("room in the TX ring", || {
            socket.tx.send(&mut queued);
            Ok(queued.is_empty()
                || socket.tx.kick()? == Kicked::Done && socket.tx.complete(&mut self.free) > 0)
        })?;
        ensure!(queued.is_empty(), "the TX ring did not take the frame");
        Ok(())
    }

    /// Has the kernel send what is queued, and waits until every frame has come back.
    pub fn flush(&mut self) -> Result<()> {
        until("completions", || {
            for socket in &mut self.sockets {
                socket.tx.kick()?;
                socket.tx.complete(&mut self.free);
            }
            Ok(self.sockets.iter().all(|socket| socket.tx.outstanding() == 0))
        })
    }

    pub fn count(&self, verdict: Verdict) -> Result<u64> {
        Ok(self.program.counters()?[verdict as usize])
    }

    /// Ends everything and checks that every frame is accounted for and nothing was returned that should not have been.
    pub fn close(mut self) -> Result<()> {
        self.flush()?;
        let expected = self.umem.total() - PER_QUEUE * self.sockets.len();
        ensure!(self.free.len() == expected, "{} frames in hand, not {expected}", self.free.len());
        for (queue, socket) in self.sockets.drain(..).enumerate() {
            let counters = socket.rx.shared_counters().clone();
            for refused in [&counters.rx.refused, &counters.tx.refused] {
                let (foreign, not_there) = (&refused.foreign, &refused.not_there);
                ensure!(foreign.load(Relaxed) == 0 && not_there.load(Relaxed) == 0, "{counters:?}");
            }
            self.program.unregister(queue as u32)?;
        }
        self.free.drain(..).for_each(UmemFrame::retire);
        ensure!(self.umem.home_count() == self.umem.total(), "{:?}", self.umem);
        Ok(())
    }
}
