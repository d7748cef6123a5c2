//! What the far end does about datagrams besides handing packets to its host.

use super::*;

/// Has the far end open a run of these datagrams at this time; nothing of it is for the host.
fn receive(tunnel: &mut Tunnel, datagrams: &[Vec<u8>], now: Now) {
    let mut frame = tunnel.received.take().unwrap();
    let (bytes, segment) = (datagrams.concat(), datagrams[0].len() as u16);
    frame.buffer_mut()[..bytes.len()].copy_from_slice(&bytes);
    frame.set_len(bytes.len());
    let (mut from_link, mut to_tun, mut to_handshakes) = (Bounded::new(1), Bounded::new(1), Bounded::new(1));
    from_link.push(Sealed { frame: frame.into(), segment, tos: 0, path: path() }).unwrap();
    tunnel.into.inbound(&mut from_link, &mut to_tun, &mut to_handshakes, &mut tunnel.received, now);
    assert!(to_tun.is_empty() && tunnel.received.is_whole());
}

/// A datagram of the near end's with this plaintext.
fn sealed(tunnel: &mut Tunnel, plaintext: &[u8]) -> Vec<u8> {
    let mut datagram = [&[0; HEADER_LEN], plaintext, &[0; MIN_DATAGRAM - HEADER_LEN]].concat();
    tunnel.out.sessions.seal(PeerId(0), &mut datagram, now()).unwrap();
    datagram
}

#[test]
fn of_a_run_no_more_datagrams_are_opened_than_are_counted_in_its_frame() {
    let mut tunnel = Tunnel::new();
    let run: Vec<_> = (0..MAX_SEGMENTS + 2).map(|_| sealed(&mut tunnel, &[])).collect();
    let opened = |tunnel: &Tunnel| tunnel.into.sessions().counters().opened.load(Relaxed);
    let before = opened(&tunnel);
    receive(&mut tunnel, &run, now());
    assert_eq!(opened(&tunnel) - before, MAX_SEGMENTS as u64);
    assert_eq!(tunnel.into.counters().inbound_drops.of(DropReason::RunTooLong), 2);
}

#[test]
fn a_piece_of_a_packet_is_traffic_that_changes_the_receiver_index() {
    let mut tunnel = Tunnel::new();
    tunnel.into.handle(ToSessions::Indices(vec![9]));
    let mut header = [0; MUX_HEADER];
    write_header(&mut header, FRAGMENT, 0, 1008);
    let piece = [&header[..], &fragment_header(1, 0, 2000), &[0; 1000]].concat();
    let (datagram, later) = (sealed(&mut tunnel, &piece), Now { mono: 40 * SECOND, ..now() });
    receive(&mut tunnel, &[datagram], later);
    assert_eq!(tunnel.into.sessions().counters().rotations.load(Relaxed), 1);
}

#[test]
fn a_peer_whose_packets_nothing_has_answered_is_sent_one_keepalive() {
    let mut tunnel = Tunnel::new();
    let runs = tunnel.seal(&[plain(1000)]);
    tunnel.open(runs);
    let later = Now { mono: tunnel.now.mono + 10 * SECOND, ..now() };
    tunnel.into.on_timer(later);
    for expected in [vec![MIN_DATAGRAM], vec![]] {
        let mut to_link: Bounded<Sealed> = Bounded::new(16);
        tunnel.into.settle(&mut to_link, later);
        let mut sent = Vec::new();
        while let Some(run) = to_link.pop() {
            sent.push(run.frame.bytes().len());
            run.frame.home(tunnel.into.transmit_set());
        }
        assert_eq!(sent, expected);
    }
}
