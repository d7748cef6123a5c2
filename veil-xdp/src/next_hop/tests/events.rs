//! What events change in the tables.

use super::*;
use crate::next_hop::rtnetlink::{Answers, messages};
use crate::next_hop::tables::{Neighbour, Tables};
use crate::next_hop::{Changes, Link};
use proptest::prelude::*;

const DEL_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const NEW_NEIGHBOUR: u16 = 28;
const DEL_NEIGHBOUR: u16 = 29;
const BRIDGE: u8 = 7;

/// Enters an event and says what it changed.
fn hear(tables: &mut Tables, kind: u16, body: &[u8]) -> Changes {
    tables.changes = Changes::default();
    let event = message(kind, 0, 0, body);
    messages(&event).for_each(|message| tables.hear(message));
    tables.changes
}

const LINKS: Changes = Changes { links: true, neighbours: false, routes: false, addresses: false };
const NEIGHBOURS: Changes = Changes { links: false, neighbours: true, routes: false, addresses: false };
const ROUTES: Changes = Changes { links: false, neighbours: false, routes: true, addresses: false };
const ADDRESSES: Changes = Changes { links: false, neighbours: false, routes: false, addresses: true };
const NOTHING: Changes = Changes { links: false, neighbours: false, routes: false, addresses: false };

#[test]
fn a_link_comes_changes_and_takes_all_along_that_was_on_it() {
    let mut tables = Tables::default();
    assert_eq!(hear(&mut tables, NEW_LINK, &link(0, 7, 1500)), LINKS);
    assert_eq!(hear(&mut tables, NEW_LINK, &link(0, 7, 1500)), NOTHING);
    assert_eq!(hear(&mut tables, NEW_LINK, &link(0, 7, 9000)), LINKS);
    let name = "eth7".to_owned();
    let expected = Link { name, mac: MAC, mtu: 9000, up: true, running: true, ethernet: true, program: 0 };
    assert_eq!(tables.links[&7], expected);
    for index in [7, 8] {
        hear(&mut tables, NEW_ADDRESS, &address(index, 0, 64, "fd99::1"));
        hear(&mut tables, NEW_NEIGHBOUR, &neighbour(index, 2, "fd99::2", &MAC));
    }
    // It leaves its bridge, and is there still.
    assert_eq!(hear(&mut tables, DEL_LINK, &link(BRIDGE, 7, 9000)), NOTHING);
    assert_eq!(hear(&mut tables, DEL_LINK, &link(0, 7, 9000)), Changes { addresses: true, ..LINKS });
    assert!(tables.links.is_empty());
    assert!(tables.addresses.iter().eq([&(8, ip("fd99::1"), 64)]));
    assert!(tables.neighbours.keys().eq([&(8, ip("fd99::2"))]));
}

#[test]
fn a_neighbour_is_known_stale_another_and_gone() {
    const INCOMPLETE: u16 = 1;
    const REACHABLE: u16 = 2;
    const STALE: u16 = 4;
    const FAILED: u16 = 0x20;
    let other = [2, 0, 0, 0, 0, 8];
    for at in ["10.99.0.2", "fe80::2"] {
        let mut tables = Tables::default();
        let mut hear = |kind, state, mac: &[u8]| {
            let changes = hear(&mut tables, kind, &neighbour(7, state, at, mac));
            (changes, tables.neighbours.get(&(7, ip(at))).copied())
        };
        let known = |mac, stale| Some(Neighbour { mac, stale });
        assert_eq!(hear(NEW_NEIGHBOUR, INCOMPLETE, &[]), (NOTHING, None));
        assert_eq!(hear(NEW_NEIGHBOUR, REACHABLE, &MAC), (NEIGHBOURS, known(MAC, false)));
        assert_eq!(hear(NEW_NEIGHBOUR, STALE, &MAC), (NOTHING, known(MAC, true)));
        assert_eq!(hear(NEW_NEIGHBOUR, REACHABLE, &other), (NEIGHBOURS, known(other, false)));
        assert_eq!(hear(NEW_NEIGHBOUR, FAILED, &other), (NEIGHBOURS, None));
        hear(NEW_NEIGHBOUR, REACHABLE, &MAC);
        assert_eq!(hear(DEL_NEIGHBOUR, REACHABLE, &MAC), (NEIGHBOURS, None));
        // No Ethernet address.
        assert_eq!(hear(NEW_NEIGHBOUR, REACHABLE, &[1, 2, 3, 4]), (NOTHING, None));
    }
}

#[test]
fn an_address_is_ours_when_nobody_else_has_it() {
    const TENTATIVE: u8 = 0x40;
    const FAILED: u8 = 0x08;
    let mut tables = Tables::default();
    let mut hear = |kind, flags| {
        let changes = hear(&mut tables, kind, &address(7, flags, 64, "fd99::1"));
        (changes, tables.local_addresses(7).len())
    };
    assert_eq!(hear(NEW_ADDRESS, TENTATIVE), (NOTHING, 0));
    assert_eq!(hear(NEW_ADDRESS, TENTATIVE | FAILED), (NOTHING, 0));
    assert_eq!(hear(NEW_ADDRESS, 0), (ADDRESSES, 1));
    assert_eq!(hear(NEW_ADDRESS, 0), (NOTHING, 1));
    // The link was down and up.
    assert_eq!(hear(NEW_ADDRESS, TENTATIVE), (ADDRESSES, 0));
    assert_eq!(hear(NEW_ADDRESS, 0), (ADDRESSES, 1));
    assert_eq!(hear(DEL_ADDRESS, 0), (ADDRESSES, 0));
}

#[test]
fn another_interfaces_link_local_address_is_not_ours_here() {
    let mut tables = Tables::default();
    for (index, at) in [
        (1, "127.0.0.1"),
        (1, "::1"),
        (7, "fe80::7"),
        (8, "fe80::8"),
        (8, "febf::8"),
        (8, "fec0::8"),
        (8, "10.99.0.8"),
    ] {
        assert_eq!(hear(&mut tables, NEW_ADDRESS, &address(index, 0, 24, at)), ADDRESSES, "{at}");
    }
    let mut here = tables.local_addresses(7);
    here.sort();
    assert_eq!(here, ["10.99.0.8", "fe80::7", "fec0::8"].map(ip));
}

#[test]
fn an_address_with_two_prefixes_stays_until_both_are_gone() {
    let mut tables = Tables::default();
    for prefix in [16, 24] {
        hear(&mut tables, NEW_ADDRESS, &address(7, 0, prefix, "10.99.0.1"));
    }
    assert_eq!(tables.local_addresses(7), [ip("10.99.0.1")]);
    hear(&mut tables, DEL_ADDRESS, &address(7, 0, 16, "10.99.0.1"));
    assert_eq!(tables.local_addresses(7), [ip("10.99.0.1")]);
    hear(&mut tables, DEL_ADDRESS, &address(7, 0, 24, "10.99.0.1"));
    assert!(tables.local_addresses(7).is_empty());
}

#[test]
fn routes_rules_and_nexthop_objects_change_routes_whatever_they_say() {
    let mut tables = Tables::default();
    for kind in [24, 25, 32, 33, 104, 105] {
        assert_eq!(hear(&mut tables, kind, &[]), ROUTES, "{kind}");
    }
    assert_eq!(hear(&mut tables, NEW_ROUTE, &route(7, &[])), ROUTES);
    // RTM_GETROUTE, RTM_NEWQDISC, RTM_NEWTFILTER, and one that nobody knows.
    for kind in [26, 36, 44, 999] {
        assert_eq!(hear(&mut tables, kind, &[0; 20]), NOTHING, "{kind}");
    }
}

#[test]
fn a_datagram_cut_short_gives_what_is_whole() {
    let first = message(NEW_LINK, 0, 0, &link(0, 7, 1500));
    let whole = [first.clone(), message(NEW_ADDRESS, 0, 0, &address(7, 0, 24, "10.99.0.1"))].concat();
    for length in 0..=whole.len() {
        let mut tables = Tables::default();
        messages(&whole[..length]).for_each(|message| tables.hear(message));
        assert_eq!(tables.links.len(), usize::from(length >= first.len()), "{length}");
        assert_eq!(tables.addresses.len(), usize::from(length == whole.len()), "{length}");
    }
}

proptest! {
    #[test]
    fn whatever_bytes_come_are_read_or_passed_over(
        kind in prop_oneof![0u16..120, any::<u16>()],
        mut body in proptest::collection::vec(any::<u8>(), 0..200),
        lengths in any::<bool>(),
    ) {
        if lengths {
            // Attributes whose lengths are at least small.
            body.iter_mut().skip(13).step_by(4).for_each(|byte| *byte = 0);
        }
        let bytes = message(kind, 0, 5, &body);
        let mut tables = Tables::default();
        messages(&bytes).for_each(|message| tables.hear(message));
        messages(&body).for_each(|message| tables.hear(message));
        let _ = Answers::to(5).read(&bytes, |message| tables.take(message));
        let _ = Answers::to(5).read(&body, |message| tables.take(message));
    }
}
