//! The end of a UMEM and the beginning of the next: what is taken home, and when a queue is free again.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use veil_lab::{require_privileges, uninterrupted};
use veil_xdp::{AttachMode, BindMode, Umem, UmemFrame, XskSocket};

use crate::station::{PORT, Station, settings};
use crate::wire::{INTERFACE, PAIRS, Wire, until};

#[test]
fn frames_of_a_dead_socket_are_taken_home_and_its_queue_is_free_with_the_last_one() -> Result<()> {
    if !require_privileges("frames_of_a_dead_socket_are_taken_home_and_its_queue_is_free_with_the_last_one") {
        return Ok(());
    }
    let wire = Wire::new("generations", 1)?;
    let _inside = wire.ours.enter()?;
    let Station { mut program, umem, mut sockets, mut free, .. } =
        Station::new(&wire, AttachMode::Native, 1)?;
    program.unregister(0)?;
    let socket = sockets.pop().context("one socket")?;
    let in_hand = free.len();
    drop(socket.rx);
    ensure!(umem.home_count() == 0, "half a socket is still a socket");
    drop(socket.tx);
    ensure!(umem.home_count() == umem.total() - in_hand, "what was on the fill ring is home");
    let last = free.pop().context("frames in hand")?;
    free.drain(..).for_each(UmemFrame::retire);
    drop(umem);
    // The next generation waits for the last frame of this one, whose memory is still there.
    let (next, mut frames) = Umem::new(settings(1))?;
    let refused = next.bind(INTERFACE, 0, BindMode::Copy).err().context("the queue is taken")?;
    for word in [INTERFACE, "queue 0", "copy", "another AF_XDP socket"] {
        ensure!(refused.to_string().contains(word), "{refused} does not say {word}");
    }
    let mut last = last;
    last.set_len(100);
    last.bytes_mut().fill(7);
    ensure!(last.bytes().iter().all(|byte| *byte == 7));
    last.retire();
    let mut bound = None;
    until("the queue to be free", || {
        bound = next.bind(INTERFACE, 0, BindMode::Copy).ok();
        Ok(bound.is_some())
    })?;
    let XskSocket { rx, tx, .. } = bound.context("bound")?;
    drop((rx, tx));
    frames.drain(..).for_each(UmemFrame::retire);
    ensure!(next.home_count() == next.total());
    Ok(())
}

#[test]
fn zero_copy_is_refused_where_there_is_none_and_copy_still_bound() -> Result<()> {
    if !require_privileges("zero_copy_is_refused_where_there_is_none_and_copy_still_bound") {
        return Ok(());
    }
    let wire = Wire::new("zero-copy", 1)?;
    let _inside = wire.ours.enter()?;
    let (umem, mut frames) = Umem::new(settings(1))?;
    let error = umem.bind(INTERFACE, 0, BindMode::ZeroCopy).err().context("veth has no zero-copy")?;
    ensure!(error.to_string().contains("zero-copy mode"), "{error}");
    let error = umem.bind(INTERFACE, 7, BindMode::Copy).err().context("there is no queue 7")?;
    ensure!(error.to_string().contains("ethtool -l"), "{error}");
    let error = umem.bind("no-such-if", 0, BindMode::Copy).err().context("there is no such interface")?;
    ensure!(error.to_string().contains("ip link"), "{error}");
    let socket = umem.bind(INTERFACE, 0, BindMode::Copy)?;
    ensure!(socket.mode == BindMode::Copy);
    drop(socket);
    frames.drain(..).for_each(UmemFrame::retire);
    Ok(())
}

#[test]
fn a_link_that_goes_down_and_up_again_keeps_its_sockets() -> Result<()> {
    if !require_privileges("a_link_that_goes_down_and_up_again_keeps_its_sockets") {
        return Ok(());
    }
    let wire = Wire::new("down-up", 1)?;
    let mut station = Station::new(&wire, AttachMode::Native, 1)?;
    let (ours, theirs) = PAIRS[0];
    let socket = {
        let _inside = wire.theirs.enter()?;
        UdpSocket::bind((theirs, 0))?
    };
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    wire.ours.exec(["ip", "link", "set", INTERFACE, "down"])?;
    station.send(&wire, 0, socket.local_addr()?, b"waits", 0)?;
    let error = station.sockets[0].tx.kick().err().context("sent over a link that is down")?;
    ensure!(error.raw_os_error() == Some(libc::ENETDOWN), "{error}");
    wire.ours.exec(["ip", "link", "set", INTERFACE, "up"])?;
    // The same sockets, the same program: what waited goes, and what comes arrives.
    station.flush()?;
    let mut buffer = [0; 16];
    let length = uninterrupted(|| socket.recv(&mut buffer)).context("what waited for the link")?;
    ensure!(&buffer[..length] == b"waits");
    socket.send_to(b"comes", (ours, PORT))?;
    station.receive(1)?;
    ensure!(station.received[0].1 == b"comes");
    station.close()
}

#[test]
fn a_socket_whose_interface_is_gone_says_so_and_gives_its_frames_back() -> Result<()> {
    if !require_privileges("a_socket_whose_interface_is_gone_says_so_and_gives_its_frames_back") {
        return Ok(());
    }
    let wire = Wire::new("gone", 1)?;
    let mut station = Station::new(&wire, AttachMode::Native, 1)?;
    wire.ours.exec(["ip", "link", "del", INTERFACE])?;
    station.send(&wire, 0, (PAIRS[0].1, 9).into(), b"lost", 0)?;
    let error = station.sockets[0].tx.kick().err().context("sent over no interface")?;
    ensure!(matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENETDOWN | libc::ENODEV)), "{error}");
    let Station { umem, sockets, mut free, .. } = station;
    drop(sockets);
    free.drain(..).for_each(UmemFrame::retire);
    ensure!(umem.home_count() == umem.total(), "{umem:?}");
    Ok(())
}
