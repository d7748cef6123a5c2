//! The receiving end: counts what the steering program hands to the socket, and gives every frame back at once.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use anyhow::Result;
use veil_bench::watch_input;
use veil_ebpf::SteeringConfig;
use veil_xdp::{AttachMode, BindMode, Program, Umem, UmemFrame, UmemSettings};

use crate::{BURST, Moved, QUEUE, checked, mac_of};

/// Receives at `at` until the standard input is closed.
pub fn receive(interface: &str, at: SocketAddr) -> Result<Moved> {
    let mut program = Program::attach(interface, AttachMode::Native)?;
    let settings = UmemSettings::default();
    let longest = settings.frame_size.longest();
    program.set_config(SteeringConfig { mac: mac_of(interface)?, port: at.port(), longest })?;
    program.set_local(&[at.ip()])?;
    let (umem, mut frames) = Umem::new(settings)?;
    let mut socket = checked(umem.bind(interface, QUEUE, BindMode::Copy)?)?;
    socket.rx.fill(&mut frames)?;
    program.register(QUEUE, socket.rx.as_fd())?;
    let over = watch_input();
    println!("ready");
    let mut moved = Moved::default();
    while !over.load(Relaxed) {
        let received = socket.rx.receive(&mut frames, BURST);
        moved.add(received);
        socket.rx.fill(&mut frames)?;
        if received == 0 {
            // The other end may have to share this core.
            thread::yield_now();
        }
    }
    program.unregister(QUEUE)?;
    drop(socket);
    frames.drain(..).for_each(UmemFrame::retire);
    Ok(moved)
}
