//! The mirror of links, neighbours, routes and addresses against the kernel: every change is made by `ip`, waited for as
//! an event, and the mirror asked.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use veil_lab::{Namespace, ping, require_privileges};
use veil_xdp::next_hop::{Changes, Hop, NextHops, Unresolved, refresh};

use crate::wire::{INTERFACE, OURS_V4, OURS_V6, PAIRS, PATIENCE, Wire, until};

/// A network beyond the wire, of each family, and another gateway to it: a second address of their end.
const BEYOND: [(&str, &str, &str); 2] =
    [("10.78.0.0/24", "10.78.0.1", "10.77.0.3"), ("fd78::/64", "fd78::1", "fd77::3")];

struct Mirrored {
    mirror: NextHops,
    /// The number of our end of the wire.
    interface: u32,
    wire: Wire,
}

impl Mirrored {
    /// A mirror in our namespace, where their addresses are known as neighbours.
    fn new(title: &str) -> Result<Mirrored> {
        let wire = Wire::new(title, 1)?;
        for (_, _, gateway) in BEYOND {
            let length = if gateway.contains(':') { 64 } else { 24 };
            wire.theirs.address(INTERFACE, &format!("{gateway}/{length}"))?;
        }
        let _inside = wire.ours.enter()?;
        let mirror = NextHops::open()?;
        let interface = mirror.interface(INTERFACE).context("the mirror has no such interface")?;
        Ok(Mirrored { mirror, interface, wire })
    }

    /// `ip` with these words, on our side.
    fn ip(&self, words: &str) -> Result<()> {
        ip(&self.wire.ours, words)
    }

    /// Takes in events until `done` says so, asked of the mirror and of what has changed since this was called.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut NextHops, Changes) -> bool) -> Result<()> {
        let mut seen = Changes::default();
        let waited = until(what, || {
            let news = self.mirror.update()?;
            seen.links |= news.links;
            seen.neighbours |= news.neighbours;
            seen.routes |= news.routes;
            seen.addresses |= news.addresses;
            Ok(done(&mut self.mirror, seen))
        });
        waited.with_context(|| format!("seen {seen:?}"))
    }

    /// Waits for a change of routes after which `to` is reached by `next`, who becomes known when it is pinged.
    fn goes_by(&mut self, to: IpAddr, next: IpAddr) -> Result<Hop> {
        let before = self.mirror.version();
        self.until("routes", |_, seen| seen.routes)?;
        ensure!(self.mirror.version() != before, "the old answer still looked good");
        ping(&self.wire.ours, &next.to_string(), PATIENCE)?;
        self.until(&format!("{next} known"), |mirror, _| resolve(mirror, to, None).is_ok())?;
        let hop = resolve(&mut self.mirror, to, None).map_err(|why| anyhow::anyhow!("{why}"))?;
        let macs = (self.wire.our_mac, self.wire.their_mac);
        ensure!((hop.source_mac, hop.neighbour_mac) == macs, "{hop:?}");
        ensure!(hop.interface == self.interface && hop.neighbour == next, "not by {next}: {hop:?}");
        Ok(hop)
    }

    /// Takes in what setting up has to tell.
    fn settle(&mut self) -> Result<()> {
        self.mirror.update()?;
        Ok(())
    }
}

const OUR_PORT: u16 = 4433;
/// One that every kernel has rules for.
const OUR_DSCP: u8 = 4;
const THEIR_PORT: u16 = 4434;

fn resolve(mirror: &mut NextHops, to: IpAddr, from: Option<IpAddr>) -> Result<Hop, Unresolved> {
    mirror.resolve(SocketAddr::new(to, THEIR_PORT), from, OUR_PORT, OUR_DSCP)
}

fn ip(namespace: &Namespace, words: &str) -> Result<()> {
    namespace.exec(std::iter::once("ip").chain(words.split(' ')))?;
    Ok(())
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address of the tests")
}

#[test]
fn a_route_comes_changes_and_goes() -> Result<()> {
    if !require_privileges("a_route_comes_changes_and_goes") {
        return Ok(());
    }
    let mut scene = Mirrored::new("route")?;
    for ((network, beyond, other), (ours, theirs)) in BEYOND.into_iter().zip(PAIRS) {
        let to = address(beyond);
        ensure!(resolve(&mut scene.mirror, ours, None) == Err(Unresolved::NotUnicast));
        ensure!(resolve(&mut scene.mirror, to, None) == Err(Unresolved::NoRoute));
        scene.settle()?;
        scene.ip(&format!("route add {network} via {theirs} mtu 1400"))?;
        let hop = scene.goes_by(to, theirs)?;
        ensure!(hop.source == ours && hop.mtu == 1400, "{hop:?}");
        ensure!(resolve(&mut scene.mirror, to, Some(ours)) == Ok(hop));
        ensure!(
            resolve(&mut scene.mirror, to, Some(theirs)) == Err(Unresolved::NoRoute),
            "not ours to send from"
        );
        scene.settle()?;
        scene.ip(&format!("route replace {network} via {other}"))?;
        let hop = scene.goes_by(to, address(other))?;
        ensure!(hop.source == ours && hop.mtu == 1500, "{hop:?}");
        scene.settle()?;
        scene.ip(&format!("route del {network}"))?;
        scene.until("the route's end", |_, seen| seen.routes)?;
        ensure!(resolve(&mut scene.mirror, to, None) == Err(Unresolved::NoRoute));
    }
    Ok(())
}

#[test]
fn a_rule_is_seen() -> Result<()> {
    if !require_privileges("a_rule_is_seen") {
        return Ok(());
    }
    let mut scene = Mirrored::new("rule")?;
    for (_, theirs) in PAIRS {
        let family = if theirs.is_ipv4() { "-4" } else { "-6" };
        for (rule, ours) in [
            (format!("to {theirs}"), true),
            (format!("ipproto udp sport {OUR_PORT}"), true),
            (format!("ipproto udp dport {THEIR_PORT}"), true),
            (format!("ipproto tcp dport {THEIR_PORT}"), false),
            (format!("tos {:#x}", OUR_DSCP << 2), true),
            ("tos 0x8".to_owned(), false),
        ] {
            for what in ["add", "del"] {
                scene.settle()?;
                scene.ip(&format!("{family} rule {what} {rule} prohibit"))?;
                scene.until(&format!("rule {what}"), |_, seen| seen.routes)?;
                let refused = resolve(&mut scene.mirror, theirs, None) == Err(Unresolved::NoRoute);
                ensure!(refused == (what == "add" && ours), "{family} rule {what} {rule}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_neighbour_not_heard_of_lately_is_confirmed_when_it_is_refreshed() -> Result<()> {
    if !require_privileges("a_neighbour_not_heard_of_lately_is_confirmed_when_it_is_refreshed") {
        return Ok(());
    }
    let mut scene = Mirrored::new("stale")?;
    for family in ["ipv4", "ipv6"] {
        let soon = format!("net.{family}.neigh.{INTERFACE}.delay_first_probe_time=1");
        scene.wire.ours.exec(["sysctl", "-qw", &soon])?;
    }
    for (_, theirs) in PAIRS {
        let hop = resolve(&mut scene.mirror, theirs, None).map_err(|why| anyhow::anyhow!("{why}"))?;
        scene.ip(&format!("neigh change {theirs} dev {INTERFACE} nud stale"))?;
        scene.until("due", |mirror, _| mirror.is_due(&hop, 1))?;
        ensure!(!scene.mirror.is_due(&hop, 30_000_000_000), "again already");
        ensure!(scene.mirror.is_due(&hop, 30_000_000_001));
        let _inside = scene.wire.ours.enter()?;
        refresh(hop.interface, theirs)?;
        until("the neighbour to be confirmed", || {
            let known = scene.wire.ours.exec(["ip", "neigh", "show", "to", &theirs.to_string()])?;
            Ok(known.contains("REACHABLE"))
        })?;
        // As long as it counts as stale it is due each time.
        let mut now = 60_000_000_001;
        scene.until("not due", |mirror, _| {
            now += 30_000_000_000;
            !mirror.is_due(&hop, now)
        })?;
    }
    Ok(())
}

/// The route stays as it is, and what it names becomes something else.
#[test]
fn a_nexthop_object_that_a_route_names_is_seen() -> Result<()> {
    if !require_privileges("a_nexthop_object_that_a_route_names_is_seen") {
        return Ok(());
    }
    let mut scene = Mirrored::new("object")?;
    // Or the kernel would announce the routes as well.
    scene.wire.ours.exec(["sysctl", "-qw", "net.ipv4.nexthop_compat_mode=0"])?;
    for ((network, beyond, other), (_, theirs)) in BEYOND.into_iter().zip(PAIRS) {
        let number = if theirs.is_ipv4() { 4 } else { 6 };
        scene.ip(&format!("nexthop add id {number} via {theirs} dev {INTERFACE}"))?;
        scene.ip(&format!("route add {network} nhid {number}"))?;
        scene.goes_by(address(beyond), theirs)?;
        scene.settle()?;
        scene.ip(&format!("nexthop replace id {number} via {other} dev {INTERFACE}"))?;
        scene.goes_by(address(beyond), address(other))?;
    }
    Ok(())
}

#[test]
fn a_neighbour_is_unknown_until_the_kernel_knows_it_and_again_when_it_is_gone() -> Result<()> {
    if !require_privileges("a_neighbour_is_unknown_until_the_kernel_knows_it_and_again_when_it_is_gone") {
        return Ok(());
    }
    let mut scene = Mirrored::new("neighbour")?;
    // The other end need not ask, by which ours would learn of it.
    let mac = scene.wire.our_mac.map(|byte| format!("{byte:02x}")).join(":");
    for (ours, theirs) in PAIRS {
        ip(&scene.wire.theirs, &format!("neigh replace {ours} lladdr {mac} nud permanent dev {INTERFACE}"))?;
        let known = |mirror: &mut NextHops| resolve(mirror, theirs, None).map(|hop| hop.neighbour_mac);
        ensure!(known(&mut scene.mirror) == Ok(scene.wire.their_mac));
        scene.settle()?;
        scene.ip(&format!("neigh del {theirs} dev {INTERFACE}"))?;
        let unknown = Err(Unresolved::Neighbour(theirs));
        scene.until("unknown", |mirror, seen| seen.neighbours && known(mirror) == unknown)?;
        let before = scene.mirror.version();
        ping(&scene.wire.ours, &theirs.to_string(), PATIENCE)?;
        scene.until("known", |mirror, _| known(mirror).is_ok())?;
        ensure!(scene.mirror.version() != before, "the old answer still looked good");
        let other = [2, 0, 0, 0, 0, 0x77];
        scene.ip(&format!("neigh replace {theirs} lladdr 02:00:00:00:00:77 dev {INTERFACE}"))?;
        scene.until("another", |mirror, seen| seen.neighbours && known(mirror) == Ok(other))?;
    }
    Ok(())
}

#[test]
fn an_address_that_may_be_anothers_is_not_ours_yet() -> Result<()> {
    if !require_privileges("an_address_that_may_be_anothers_is_not_ours_yet") {
        return Ok(());
    }
    let mut scene = Mirrored::new("tentative")?;
    // Looked for on the wire; the other end has the first, so that it will never be ours.
    scene.wire.theirs.address(INTERFACE, "fd77::66/64")?;
    for at in ["fd77::66", "fd77::67"] {
        scene.ip(&format!("-6 address add {at}/64 dev {INTERFACE}"))?;
    }
    let interface = scene.interface;
    let mut early = false;
    scene.until("the free one", |mirror, _| {
        let here = mirror.local_addresses(interface);
        early |= here.contains(&address("fd77::66"));
        here.contains(&address("fd77::67"))
    })?;
    ensure!(!early, "the other end's address was taken for ours");
    // Nor by who reads the kernel's tables anew.
    let _inside = scene.wire.ours.enter()?;
    let here = NextHops::open()?.local_addresses(interface);
    ensure!(here.contains(&address("fd77::67")) && !here.contains(&address("fd77::66")), "{here:?}");
    Ok(())
}

#[test]
fn link_local_addresses_count_on_their_own_interface_alone() -> Result<()> {
    if !require_privileges("link_local_addresses_count_on_their_own_interface_alone") {
        return Ok(());
    }
    let mut scene = Mirrored::new("scope")?;
    scene.ip("link add other0 type veth peer name other1")?;
    scene.ip("link set other0 up")?;
    for at in ["fe80::88/64", "10.79.0.1/24"] {
        scene.wire.ours.address("other0", at)?;
    }
    let (ours, both) = (scene.interface, [address("fe80::88"), address("10.79.0.1")]);
    let mut other = 0;
    scene.until("the other interface's addresses", |mirror, _| {
        other = mirror.interface("other0").unwrap_or_default();
        both.iter().all(|at| mirror.local_addresses(other).contains(at))
    })?;
    let here = scene.mirror.local_addresses(ours);
    ensure!(here.contains(&both[1]) && !here.contains(&both[0]), "{here:?}");
    Ok(())
}

#[test]
fn a_link_that_is_removed_takes_its_addresses_along() -> Result<()> {
    if !require_privileges("a_link_that_is_removed_takes_its_addresses_along") {
        return Ok(());
    }
    let mut scene = Mirrored::new("removed")?;
    let interface = scene.interface;
    let here = scene.mirror.local_addresses(interface);
    ensure!(here.contains(&OURS_V4.into()) && here.contains(&OURS_V6.into()), "{here:?}");
    scene.ip(&format!("link del {INTERFACE}"))?;
    scene.until("no address", |mirror, seen| {
        seen.links && seen.addresses && mirror.local_addresses(interface).is_empty()
    })?;
    ensure!(scene.mirror.link(interface).is_none() && scene.mirror.interface(INTERFACE).is_none());
    Ok(())
}

#[test]
fn lost_events_are_made_up_for() -> Result<()> {
    if !require_privileges("lost_events_are_made_up_for") {
        return Ok(());
    }
    let mut scene = Mirrored::new("lost")?;
    scene.settle()?;
    // As small as the kernel lets it be: room for a few events.
    SockRef::from(&scene.mirror).set_recv_buffer_size(1)?;
    let many: Vec<String> = (10..60).map(|host| format!("10.77.0.{host}")).collect();
    for at in &many {
        scene.ip(&format!("address add {at}/32 dev {INTERFACE}"))?;
    }
    scene.ip(&format!("address del {OURS_V4}/24 dev {INTERFACE}"))?;
    let seen = scene.mirror.update()?;
    // None of these happened, as far as was heard.
    ensure!(seen.links && seen.neighbours && seen.routes && seen.addresses, "nothing was lost: {seen:?}");
    let here = scene.mirror.local_addresses(scene.interface);
    ensure!(many.iter().all(|at| here.contains(&address(at))), "{here:?}");
    ensure!(!here.contains(&OURS_V4.into()), "{here:?}");
    // And it goes on by events, for which there is room again.
    SockRef::from(&scene.mirror).set_recv_buffer_size(1 << 20)?;
    scene.settle()?;
    scene.ip(&format!("address del {}/32 dev {INTERFACE}", many[0]))?;
    let interface = scene.interface;
    scene.until("another event", |mirror, seen| {
        !seen.links && !mirror.local_addresses(interface).contains(&address(&many[0]))
    })
}
