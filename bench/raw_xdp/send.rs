//! The sending end: the same datagram over and over, as fast as the kernel takes it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use veil_xdp::outer::OuterTemplate;
use veil_xdp::{BindMode, HEADROOM, Kicked, Umem, UmemFrame, UmemSettings};

use crate::{BURST, Moved, QUEUE, checked, mac_of};

/// What is sent, where to, and for how long.
pub struct Stream<'a> {
    pub interface: &'a str,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub to_mac: [u8; 6],
    /// Bytes of UDP payload.
    pub payload: usize,
    pub length: Duration,
}

/// Sends the stream; what it returns are packets the kernel has taken.
pub fn send(stream: &Stream<'_>) -> Result<Moved> {
    let macs = (mac_of(stream.interface)?, stream.to_mac);
    let template = OuterTemplate::new(macs, stream.from, stream.to, false).context("two families")?;
    let (umem, mut free) = Umem::new(UmemSettings::default())?;
    let packet = packet(&template, stream.payload);
    for frame in &mut free {
        frame.set_range(HEADROOM, 0);
        let room = frame.buffer_mut().get_mut(..packet.len()).context("a frame does not hold the packet")?;
        // Once and for all: a frame comes back from the kernel as it was.
        room.copy_from_slice(&packet);
    }
    let mut socket = checked(umem.bind(stream.interface, QUEUE, BindMode::Copy)?)?;
    let (mut queued, mut moved) = (VecDeque::new(), Moved::default());
    let end = Instant::now() + stream.length;
    while Instant::now() < end {
        let wanted = BURST.saturating_sub(queued.len()).min(free.len());
        queued.extend(free.drain(free.len() - wanted..).map(|mut frame| {
            frame.set_len(packet.len());
            frame
        }));
        socket.tx.send(&mut queued);
        let kicked = socket.tx.kick()?;
        moved.add(socket.tx.complete(&mut free));
        if kicked == Kicked::Later {
            thread::yield_now();
        }
    }
    drop(socket);
    free.into_iter().chain(queued).for_each(UmemFrame::retire);
    ensure!(moved.packets > 0, "the kernel took nothing");
    Ok(moved)
}

/// The whole Ethernet frame.
fn packet(template: &OuterTemplate, payload: usize) -> Vec<u8> {
    let mut bytes = vec![0x55; template.len() + payload];
    let (headers, payload) = bytes.split_at_mut(template.len());
    template.write(headers, payload, 0);
    bytes
}
