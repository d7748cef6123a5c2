//! `offer`: what this end gives a peer that asks for a lease.
//!
//! Called by `check`. Invariant: an offer fits one control message, and its addresses are the peer's to use.

use super::PeerConfig;
use super::raw::{Offer, Source};
use super::values::{addresses, network, number};
use crate::control::lease::{MAX_ENTRIES, is_ordinary};
use anyhow::Result;
use std::net::IpAddr;
use std::ops::Range;
use toml::Spanned;
use veil_proto::allowed_ips::{AllowedIps, IpNet};
use veil_proto::mux::Config;
use veil_proto::mux::control::Message;

/// The offer to the peer called `name`. An empty one takes back what was given before.
pub fn offer(raw: &Spanned<Offer>, name: &str, source: &Source) -> Result<Config> {
    let wrong = |text: String| source.error(raw.span(), text);
    let Offer { addresses: hosts, routes, dns, mtu, persistent_keepalive } = raw.get_ref();
    let offer = Config {
        addresses: addresses(hosts, source)?,
        routes: routes.iter().map(|text| network(text, "route", source)).collect::<Result<_>>()?,
        dns: dns.iter().map(|text| name_server(text, source)).collect::<Result<_>>()?,
        mtu: number(mtu.as_ref(), "mtu", 1280..=9000, "bytes", source)?,
        keepalive: number(
            persistent_keepalive.as_ref(),
            "persistent-keepalive",
            1..=65535,
            "seconds (25 keeps most NATs open)",
            source,
        )?,
    };
    let nets = offer.addresses.iter().chain(&offer.routes);
    for (net, text) in nets.zip(hosts.iter().chain(routes)) {
        if !is_ordinary(*net) {
            return Err(source.error(
                text.span(),
                format!(
                    "{net}, offered to peer `{name}`, is taken by no host: it is the default route, or stays on a host or \
                     its wire, remove it"
                ),
            ));
        }
    }
    for (what, entries) in [("addresses", offer.addresses.len()), ("routes", offer.routes.len())] {
        if entries > MAX_ENTRIES {
            return Err(wrong(format!(
                "the offer to peer `{name}` has {entries} {what}: it would take {MAX_ENTRIES}, remove some"
            )));
        }
    }
    if Message::Config(offer.clone()).write(&mut Vec::new()).is_err() {
        return Err(wrong(format!(
            "the offer to peer `{name}` is too long for one message: remove some of it"
        )));
    }
    Ok(offer)
}

fn name_server(text: &Spanned<String>, source: &Source) -> Result<IpAddr> {
    let shown = text.get_ref();
    shown.parse().map_err(|_| {
        source
            .error(text.span(), format!("dns `{shown}` is no IP address: write it like 10.8.0.1 or fd08::1"))
    })
}

/// Checks that each offered address is its peer's to use, and not one of `own`; `places` are where the offers of `peers`
/// stand.
pub fn check_owners(
    peers: &[PeerConfig],
    places: &[Option<Range<usize>>],
    own: &[IpNet],
    source: &Source,
) -> Result<()> {
    let mut owners = AllowedIps::new();
    for (n, peer) in peers.iter().enumerate() {
        peer.allowed_ips.iter().for_each(|&net| _ = owners.insert(net, n));
    }
    for (n, (PeerConfig { name, offer, .. }, place)) in peers.iter().zip(places).enumerate() {
        for ip in offer.iter().flat_map(|offer| &offer.addresses).map(|net| net.addr) {
            let why = match owners.lookup(ip) {
                _ if own.iter().any(|net| net.addr == ip) => "this machine's own: offer another".to_owned(),
                Some(owner) if owner == n => continue,
                Some(owner) => format!("one of peer `{}`, by its allowed IPs: offer another", peers[owner].name),
                None => "in none of its allowed IPs, so that what it sends from there would be dropped: add it to \
                         allowed-ips"
                    .to_owned(),
            };
            let text = format!("the address {ip} offered to peer `{name}` is {why}");
            return Err(source.error(place.clone().unwrap_or_default(), text));
        }
    }
    Ok(())
}
