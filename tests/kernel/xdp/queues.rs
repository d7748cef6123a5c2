//! A server whose NIC has several receive queues, and clients whose datagrams the NIC spreads over them.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;

use anyhow::{Result, ensure};
use veil_lab::{Lab, Node, Transfer, ping, require_privileges, run};
use veil_tests::{number, show};

use super::{GENERIC, Link, NATIVE, UDP, count, end, goes_by_ring, until};
use crate::tunnel::PATIENCE;

const QUEUES: u64 = 4;
const CLIENTS: usize = 4;
const SOURCES: u16 = 64;

/// A server and clients in one other namespace, each with a port and an outer address of its own.
fn scene(lab: &Lab) -> Result<(Node, Vec<Node>)> {
    let mut server = lab.node("s", &["10.8.0.254/24"])?;
    let place = lab.namespace("c")?;
    let end = format!("numrxqueues {QUEUES} numtxqueues {QUEUES}");
    let wire =
        format!("ip link add eth0 {end} type veth peer name eth0 {end} netns {}", server.namespace.name());
    place.exec(wire.split(' '))?;
    for (namespace, host) in [(&place, 1), (&server.namespace, 254)] {
        namespace.exec(["ip", "link", "set", "eth0", "up"])?;
        namespace.address("eth0", &format!("10.99.0.{host}/24"))?;
    }
    let mut clients = Vec::new();
    for n in 1..=CLIENTS {
        let mut client = lab.node(&format!("c{n}"), &[&format!("10.8.0.{n}/32")])?;
        client.namespace = place.clone();
        client.config = client.config.replace("[::]:4433", &format!("10.99.0.{}:{}", 10 + n, 5000 + n));
        place.address("eth0", &format!("10.99.0.{}/24", 10 + n))?;
        client.add_peer(&server, Some("10.99.0.254:4433"));
        server.add_peer(&client, None);
        clients.push(client);
    }
    Ok((server, clients))
}

fn all_queues(name: &str, link: Link) -> Result<()> {
    if !require_privileges(name) {
        return Ok(());
    }
    let lab = Lab::new(name)?;
    let (server, clients) = scene(&lab)?;
    let daemon = server.start_with(link)?;
    ensure!(count(&daemon, "queues")? == QUEUES, "{}", daemon.log());
    let place = clients[0].namespace.clone();
    // One after the other: all of them route 10.8.0.254 by their own interface.
    for client in &clients {
        let own = client.start_with(UDP)?;
        ping(&place, "10.8.0.254", PATIENCE)?;
        let host = client.hosts().next().unwrap_or_default();
        goes_by_ring(&daemon, &server.namespace, host)?;
        let transfer = Transfer::start(&server.namespace, &place, host)?;
        transfer.wait_for(1 << 20, PATIENCE)?;
        transfer.finish()?;
        end(own)?;
    }
    // From so many ports that no queue is left out: whichever the NIC chooses has its socket.
    let before = (count(&daemon, "ring_received")?, count(&daemon, "verdict_no_socket")?);
    {
        let _inside = place.enter()?;
        for port in 0..SOURCES {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 30_000 + port))?;
            socket.send_to(&[0xee; 64], SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 254), 4433))?;
        }
    }
    let wanted = before.0 + u64::from(SOURCES);
    until("all datagrams by the rings", || Ok(count(&daemon, "ring_received")? >= wanted))?;
    ensure!(count(&daemon, "verdict_no_socket")? == before.1);
    if link == NATIVE {
        // Its driver counts no packets of the generic program.
        let used = used_queues(&server)?;
        ensure!(used == QUEUES as usize, "the datagrams came by {used} queues");
    }
    ensure!(number(&show(&daemon)?["counters"], "datagrams_received")? >= wanted);
    end(daemon)
}

/// By how many queues something came to the server's eth0, as its driver counts.
fn used_queues(server: &Node) -> Result<usize> {
    let mut command: Command = server.namespace.command("ethtool");
    let table = run(command.args(["-S", "eth0"]))?;
    let packets = table.lines().filter(|line| line.contains("rx_queue_") && line.contains("xdp_packets:"));
    Ok(packets.filter(|line| !line.trim_end().ends_with(": 0")).count())
}

#[test]
fn more_queues_get_more_sockets() -> Result<()> {
    if !require_privileges("more_queues_get_more_sockets") {
        return Ok(());
    }
    let lab = Lab::new("more-queues")?;
    let (server, clients) = scene(&lab)?;
    let place = &clients[0].namespace;
    // A veth wants as many receive queues as the other end has to send.
    place.exec(["ethtool", "-L", "eth0", "tx", "2"])?;
    server.namespace.exec(["ethtool", "-L", "eth0", "rx", "2"])?;
    let (daemon, client) = (server.start_with(NATIVE)?, clients[0].start_with(UDP)?);
    ensure!(count(&daemon, "queues")? == 2, "{}", daemon.log());
    let transfer = Transfer::start(place, &server.namespace, "10.8.0.254")?;
    transfer.wait_for(1 << 20, PATIENCE)?;
    server.namespace.exec(["ethtool", "-L", "eth0", "rx", "4"])?;
    until("sockets on all queues", || Ok(count(&daemon, "queues")? == QUEUES))
        .map_err(|error| error.context(daemon.log()))?;
    let arrived = transfer.arrived();
    transfer.wait_for(arrived + (1 << 20), PATIENCE)?;
    transfer.finish()?;
    goes_by_ring(&daemon, &server.namespace, "10.8.0.1")?;
    ensure!(count(&daemon, "transitions")? == 3, "{}", daemon.log());
    end(client)?;
    end(daemon)
}

#[test]
fn clients_reach_a_server_of_four_queues_native() -> Result<()> {
    all_queues("queues-native", NATIVE)
}

#[test]
fn clients_reach_a_server_of_four_queues_generic() -> Result<()> {
    all_queues("queues-generic", GENERIC)
}
