//! What is not the tunnel's is unharmed while both NICs have the program: TCP, ping and UDP of the hosts themselves, and
//! what is routed through them, to the tunnel's own port as well, and what goes to that port at an address that the tunnel
//! does not listen on.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use veil_lab::{Namespace, Transfer, ping, require_privileges, uninterrupted};

use super::{GENERIC, Link, NATIVE, count, finish, goes_by_ring, start};
use crate::tunnel::{Hosts, Outer, PATIENCE};

const PORT: u16 = 4433;

/// A datagram from one namespace to a socket at `to` in the other, and its echo.
fn echo(from: &Namespace, source: &str, into: &Namespace, to: SocketAddr) -> Result<()> {
    let server = {
        let _inside = into.enter()?;
        UdpSocket::bind(to).with_context(|| format!("binding {to}"))?
    };
    let _inside = from.enter()?;
    let client = UdpSocket::bind(SocketAddr::new(source.parse()?, 0))?;
    let mut buffer = [0; 16];
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    client.send_to(b"is it there", to)?;
    let (length, back) =
        uninterrupted(|| server.recv_from(&mut buffer)).context("the datagram did not arrive")?;
    server.send_to(&buffer[..length], back)?;
    let (length, _) =
        uninterrupted(|| client.recv_from(&mut buffer)).context("its echo did not come back")?;
    ensure!(&buffer[..length] == b"is it there");
    Ok(())
}

fn unharmed(name: &str, link: Link) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    let mut hosts = Hosts::new(name, Outer::V4)?;
    hosts.right.config = hosts.right.config.replace("[::]:4433", "10.99.0.2:4433");
    let third = hosts.third("10.97.0", "fd97:")?;
    let (left, right) = (hosts.left.namespace.clone(), hosts.right.namespace.clone());
    left.address("eth0", "fd99::1/64")?;
    right.address("eth0", "fd99::2/64")?;
    right.address("eth0", "10.99.0.3/24")?;
    left.exec(["ip", "route", "add", "10.97.0.0/24", "via", "10.99.0.2"])?;
    left.exec(["ip", "-6", "route", "add", "fd97::/64", "via", "fd99::2"])?;
    let tunnel = start(hosts, link, link)?;
    goes_by_ring(&tunnel.left, &left, "10.8.0.2")?;
    let passed = |verdict: &str| count(&tunnel.right, &format!("verdict_{verdict}"));
    let before = (passed("wrong_address")?, passed("wrong_port")?, passed("not_udp")?);
    for (near, far, beyond) in [("10.99.0.1", "10.99.0.2", "10.97.0.2"), ("fd99::1", "fd99::2", "fd97::2")] {
        for (from, into, to) in [(&left, &right, far), (&right, &left, near), (&left, &third, beyond)] {
            ping(from, to, PATIENCE).with_context(|| format!("ping to {to}"))?;
            let transfer = Transfer::start(from, into, to)?;
            transfer.wait_for(1 << 20, PATIENCE).with_context(|| format!("TCP to {to}"))?;
            transfer.finish()?;
        }
        echo(&left, near, &right, SocketAddr::new(far.parse()?, PORT + 1))?;
        echo(&right, far, &left, SocketAddr::new(near.parse()?, PORT + 1))?;
        echo(&left, near, &third, SocketAddr::new(beyond.parse()?, PORT)).context("transit")?;
    }
    echo(&left, "10.99.0.1", &right, SocketAddr::new("10.99.0.3".parse()?, PORT)).context("another's")?;
    ensure!(passed("wrong_address")? == before.0 + 3, "transit to the port was not seen, or not as such");
    ensure!(passed("wrong_port")? >= before.1 + 4 && passed("not_udp")? > before.2);
    goes_by_ring(&tunnel.right, &right, "10.8.0.1")?;
    finish(tunnel)
}

#[test]
fn what_is_not_the_tunnels_is_unharmed_native() -> Result<()> {
    unharmed("beside-native", NATIVE)
}

#[test]
fn what_is_not_the_tunnels_is_unharmed_generic() -> Result<()> {
    unharmed("beside-generic", GENERIC)
}
