//! Where an answer ends, and whether it is whole.

use super::*;
use crate::next_hop::rtnetlink::{Answers, read_route, repeated};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteLwEnCapType, RouteMessage, RouteType};
use std::io;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP_INTERRUPTED: u16 = 0x10;

/// Reads answers to request 5; what the end says, and the numbers of the links among them.
fn answers(datagram: &[u8]) -> (Option<io::Result<bool>>, Vec<u32>) {
    let mut links = Vec::new();
    let end = Answers::to(5).read(datagram, |message| {
        if let RouteNetlinkMessage::NewLink(message) = message {
            links.push(message.header.index);
        }
    });
    (end, links)
}

#[test]
fn an_older_requests_answers_are_not_taken_for_the_newer_ones() {
    let older = [message(NEW_LINK, 2, 4, &link(0, 1, 1500)), message(DONE, 2, 4, &[0; 4])].concat();
    let newer = [message(NEW_LINK, 2, 5, &link(0, 2, 1500)), message(DONE, 2, 5, &[0; 4])].concat();
    assert!(matches!(answers(&older), (None, none) if none.is_empty()));
    let (end, links) = answers(&[older, newer].concat());
    assert!(end.unwrap().unwrap());
    assert_eq!(links, [2]);
}

#[test]
fn an_answer_ends_by_its_acknowledgement_its_refusal_or_the_dumps_end() {
    let link = message(NEW_LINK, 2, 5, &link(0, 2, 1500));
    // An attribute longer than its message: passed over, not waited for again.
    let unreadable = message(NEW_LINK, 2, 5, &[&[0; 16][..], &[200, 0, 1, 0]].concat());
    assert!(answers(&link).0.is_none());
    let (end, links) = answers(&[unreadable, link.clone()].concat());
    assert!(end.is_none() && links == [2], "{links:?}");
    // struct nlmsgerr: an error number, and the header of what was asked.
    let told = |error: i32| [error.to_ne_bytes().to_vec(), vec![0; 16]].concat();
    for (kind, body) in [(ERROR, told(0)), (DONE, vec![0; 4])] {
        assert!(answers(&[link.clone(), message(kind, 0, 5, &body)].concat()).0.unwrap().unwrap());
    }
    for (kind, body) in [(ERROR, told(-libc::EBUSY)), (DONE, (-libc::EBUSY).to_ne_bytes().to_vec())] {
        let (end, links) = answers(&[link.clone(), message(kind, 0, 5, &body)].concat());
        assert_eq!(end.unwrap().unwrap_err().raw_os_error(), Some(libc::EBUSY));
        assert_eq!(links, [2]);
    }
}

#[test]
fn an_interrupted_dump_is_noticed_wherever_it_is_said() {
    for at in 0..3 {
        let flags = |n| if n == at { 2 | DUMP_INTERRUPTED } else { 2 };
        let mut dump = Answers::to(5);
        // In datagrams of their own.
        for n in 0..2 {
            assert!(dump.read(&message(NEW_LINK, flags(n), 5, &link(0, 1, 1500)), |_| {}).is_none());
        }
        let end = dump.read(&message(DONE, flags(2), 5, &[0; 4]), |_| {});
        assert!(!end.unwrap().unwrap(), "message {at}");
    }
    // Of an older one: no matter.
    let older = message(DONE, DUMP_INTERRUPTED, 4, &[0; 4]);
    assert!(answers(&[older, message(DONE, 0, 5, &[0; 4])].concat()).0.unwrap().unwrap());
}

#[test]
fn an_interrupted_dump_is_repeated_but_not_for_ever() {
    let tries = |good: usize| {
        let mut done = 0;
        let complete = repeated(|| {
            done += 1;
            Ok(done == good)
        });
        (complete.unwrap(), done)
    };
    assert_eq!(tries(1), (true, 1));
    assert_eq!(tries(3), (true, 3));
    assert_eq!(tries(1000), (false, 4));
    assert!(repeated(|| Err(io::Error::other("refused"))).is_err());
}

#[test]
fn a_routes_gateway_may_be_of_either_family() {
    let read = |attributes: &[Vec<u8>]| {
        let mut found = None;
        Answers::to(5).read(&message(NEW_ROUTE, 0, 5, &route(7, attributes)), |message| {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                found = Some(read_route(message));
            }
        });
        found.unwrap()
    };
    let plain = read(&[attribute(7, &[10, 99, 0, 1])]);
    assert_eq!((plain.interface, plain.gateway, plain.source), (Some(7), None, Some(ip("10.99.0.1"))));
    assert!(plain.unicast && plain.mtu.is_none());
    assert_eq!(read(&[attribute(5, &[10, 99, 0, 254])]).gateway, Some(ip("10.99.0.254")));
    // RTA_VIA: the family, then the address.
    let (family, gateway) = octets(ip("fe80::1"));
    let via = attribute(18, &[u16::from(family).to_ne_bytes().to_vec(), gateway].concat());
    assert_eq!(read(&[via]).gateway, Some(ip("fe80::1")));
    // RTA_METRICS with RTAX_MTU.
    let metrics = attribute(8, &attribute(2, &1400u32.to_ne_bytes()));
    assert_eq!(read(&[metrics]).mtu, Some(1400));
}

#[test]
fn what_is_sent_inside_something_else_is_left_to_the_kernel() {
    let mut message = RouteMessage::default();
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Oif(7)];
    assert!(read_route(message.clone()).unicast);
    message.attributes.push(RouteAttribute::EncapType(RouteLwEnCapType::Mpls));
    assert!(!read_route(message).unicast);
}
