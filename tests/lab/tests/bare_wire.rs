//! The lab without VEIL: what it measures tunnels with must itself be right.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use veil_lab::{Flood, Lab, Namespace, Ports, Received, Transfer, ping, require_privileges};

const SOON: Duration = Duration::from_secs(5);

fn two_namespaces(lab: &Lab) -> Result<(Namespace, Namespace)> {
    let (a, b) = (lab.namespace("a")?, lab.namespace("b")?);
    lab.veth(&a, "eth0", &b, "eth0")?;
    for (namespace, host) in [(&a, 1), (&b, 2)] {
        namespace.address("eth0", &format!("10.99.0.{host}/24"))?;
        namespace.address("eth0", &format!("fd99::{host}/64"))?;
    }
    Ok((a, b))
}

#[test]
fn ping_and_transfer_cross_a_bare_wire() -> Result<()> {
    if !require_privileges("ping_and_transfer_cross_a_bare_wire") {
        return Ok(());
    }
    let lab = Lab::new("bare")?;
    let (a, b) = two_namespaces(&lab)?;
    for target in ["10.99.0.2", "fd99::2"] {
        ping(&a, target, SOON)?;
        let transfer = Transfer::start(&a, &b, target)?;
        transfer.wait_for(1 << 20, SOON)?;
        assert!(transfer.finish()? >= 1 << 20);
    }
    assert!(ping(&a, "10.99.0.3", Duration::from_millis(300)).is_err(), "nobody lives at 10.99.0.3");
    Ok(())
}

#[test]
fn every_packet_of_a_flood_is_counted_where_it_arrives() -> Result<()> {
    if !require_privileges("every_packet_of_a_flood_is_counted_where_it_arrives") {
        return Ok(());
    }
    let lab = Lab::new("flood")?;
    let (a, b) = two_namespaces(&lab)?;
    let target = "10.99.0.2".parse()?;
    // The kernel asks for the neighbour's address first, which is no packet of the flood.
    ping(&a, "10.99.0.2", SOON)?;
    // Opened once: a program that another test starts just then holds what is closed until it runs.
    let most = 40;
    let _ports = in_namespace(&b, move || Ports::open(target, most))?;
    for flows in [1, most] {
        let before = Received::of(&b, "eth0")?;
        let sent = in_namespace(&a, move || {
            Flood::new(target, flows, 64)?.run(10_000.0, Duration::from_millis(50))
        })?;
        let received = Received::of(&b, "eth0")?.since(before);
        // Ethernet, IPv4 and UDP headers before each payload; a late neighbour or router message is not 10 packets.
        let arrived = received.bytes / (14 + 20 + 8 + 64);
        assert!(
            sent.packets > 0 && (sent.packets..sent.packets + 10).contains(&arrived),
            "{sent:?} {received:?}"
        );
    }
    Ok(())
}

fn in_namespace<T: Send + 'static>(
    namespace: &Namespace,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    namespace.spawn(work).join().expect("no panic inside")
}

#[test]
fn a_transfer_to_nobody_fails_and_says_where() -> Result<()> {
    if !require_privileges("a_transfer_to_nobody_fails_and_says_where") {
        return Ok(());
    }
    let lab = Lab::new("nobody")?;
    let (a, b) = two_namespaces(&lab)?;
    b.exec(["ip", "route", "add", "unreachable", "10.99.1.0/24"])?;
    let error = Transfer::start(&a, &b, "10.99.7.7").map(|_| ()).expect_err("that address is not here");
    assert!(format!("{error:#}").contains("10.99.7.7"), "{error:#}");
    Ok(())
}

#[test]
fn entering_a_namespace_moves_this_thread_and_dropping_the_guard_brings_it_back() -> Result<()> {
    if !require_privileges("entering_a_namespace_moves_this_thread_and_dropping_the_guard_brings_it_back") {
        return Ok(());
    }
    let lab = Lab::new("enter")?;
    let (a, _) = two_namespaces(&lab)?;
    let here = || std::fs::read_link("/proc/thread-self/ns/net");
    let home = here()?;
    {
        let _inside = a.enter()?;
        assert_ne!(here()?, home);
        UdpSocket::bind("10.99.0.1:0")?;
    }
    assert_eq!(here()?, home);
    assert!(UdpSocket::bind("10.99.0.1:0").is_err(), "that address exists inside only");
    Ok(())
}

#[test]
fn a_dropped_lab_leaves_nothing_not_even_what_ran_inside() -> Result<()> {
    if !require_privileges("a_dropped_lab_leaves_nothing_not_even_what_ran_inside") {
        return Ok(());
    }
    let lab = Lab::new("drop")?;
    let a = lab.namespace("a")?;
    let (name, folder) = (a.name().to_owned(), lab.folder().to_owned());
    let mut sleeper = a.command("sleep").arg("600").spawn()?;
    drop(lab);
    assert!(!sleeper.wait()?.success(), "the sleeper was ended");
    assert!(!folder.exists());
    let names = veil_lab::run(Command::new("ip").args(["netns", "list"]))?;
    assert!(!names.contains(&name), "{names}");
    Ok(())
}
