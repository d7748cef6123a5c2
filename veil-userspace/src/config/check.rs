//! From the file as written to a [`Config`] that can be honoured: each of its `values`, then all of them together.
//!
//! Called by `Config::load` only. Invariant: an error names the line, what is wrong there, and the cure.

use super::offer::{check_owners, offer};
use super::raw::{Peer, Raw, Source};
use super::values::{addresses, choice, cipher, cores_of, endpoint, interface_name, listen, network, number};
use super::{Config, Endpoint, LinkConfig, PeerConfig, ThreadsConfig};
use crate::keyfile;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;
use veil_proto::allowed_ips::IpNet;
use veil_proto::crypto::{NetworkSecret, PrivateKey, Psk, PublicKey};

/// The tunnel MTU that fits the outer headers of IPv4 and IPv6 into 1500 bytes with room for the mux.
const DEFAULT_MTU: u16 = 1416;
/// The same when every peer has an IPv4 endpoint.
const DEFAULT_MTU_V4: u16 = 1436;
const DEFAULT_NAME: &str = "veil0";

type Span = Range<usize>;

/// Checks everything in `raw`; reads the key files it names.
pub fn config(raw: Raw, source: &Source) -> Result<Config> {
    let interface = raw.interface;
    let name = match &interface.name {
        Some(name) => interface_name(name, "name", source)?,
        None => DEFAULT_NAME.to_owned(),
    };
    let private_key = match (&interface.private_key, &interface.private_key_file) {
        (Some(_), Some(file)) => {
            return Err(
                source.error(file.span(), "private-key and private-key-file are both given: remove one")
            );
        }
        (Some(key), None) => PrivateKey::from_base64(key.get_ref().0.trim()).map_err(|e| {
            source.error(key.span(), format!("private-key is no key (make one with `veil genkey`): {e}"))
        })?,
        (None, Some(file)) => {
            keyfile::read_key(&beside(source, file), "private key", "veil genkey", PrivateKey::from_base64)
                .with_context(|| key_file_place(source, file, "private-key-file"))?
        }
        (None, None) => {
            let cure = "run `(umask 077; veil genkey > veil.key)` and add private-key-file = \"veil.key\"";
            return Err(source.error(0..0, format!("[interface] has no private key: {cure}")));
        }
    };
    let network_secret = match &interface.network_secret_file {
        Some(file) => keyfile::read_key(
            &beside(source, file),
            "network secret",
            "veil genpsk",
            NetworkSecret::from_base64,
        )
        .with_context(|| key_file_place(source, file, "network-secret-file"))?,
        None => NetworkSecret::default(),
    };
    let link = LinkConfig {
        mode: choice(raw.link.mode.as_ref(), "mode", source)?,
        interface: match &raw.link.interface {
            Some(name) => Some(interface_name(name, "interface", source)?),
            None => None,
        },
        dscp: number(raw.link.dscp.as_ref(), "dscp", 0..=63, "(46 is expedited forwarding)", source)?
            .unwrap_or(0),
        gso: raw.link.gso.unwrap_or(true),
        gro: raw.link.gro.unwrap_or(true),
        xdp_mode: choice(raw.link.xdp_mode.as_ref(), "xdp-mode", source)?,
        udp_checksum: raw.link.udp_checksum.unwrap_or(true),
    };
    let threads = ThreadsConfig {
        mode: choice(raw.threads.mode.as_ref(), "mode", source)?,
        cores: raw.threads.cores.map(|cores| cores_of(&cores, source)).transpose()?,
        busy_poll: raw.threads.busy_poll.unwrap_or(false),
        cpu_latency: number(
            raw.threads.cpu_latency.as_ref(),
            "cpu-latency",
            0..=1_000_000,
            "microseconds (with 0 no core sleeps)",
            source,
        )?,
        nice: number(raw.threads.nice.as_ref(), "nice", -20..=19, "(-20 is served first)", source)?,
    };
    let rekey_cure = "seconds (sessions are never kept longer than 120)";
    let rekey_after = number(raw.timers.rekey_after.as_ref(), "rekey-after", 1..=120, rekey_cure, source)?;
    let rotate_cure = "seconds (receiver indices are never kept longer than 30 while there is traffic)";
    let rotate_after = number(raw.timers.rotate_after.as_ref(), "rotate-after", 1..=30, rotate_cure, source)?;
    let listen = listen(interface.listen.as_ref(), source)?;
    let addresses = addresses(&interface.addresses, source)?;
    let own = Own { key: private_key.public(), listen: listen.ip(), addresses: &addresses };
    let peers = peers(raw.peer, &own, source)?;
    Ok(Config {
        name,
        private_key,
        listen,
        addresses,
        mtu: number(interface.mtu.as_ref(), "mtu", 1280..=9000, "bytes", source)?
            .unwrap_or_else(|| default_mtu(&peers)),
        offload: interface.offload.unwrap_or(true),
        finish_checksums: interface.finish_checksums.unwrap_or(false),
        network_secret,
        link,
        threads,
        rekey_after: rekey_after.map(|seconds: u8| Duration::from_secs(seconds.into())),
        rotate_after: rotate_after.map(|seconds: u8| Duration::from_secs(seconds.into())),
        peers,
    })
}

/// What fits 1500 bytes outside, over whatever the endpoints allow.
fn default_mtu(peers: &[PeerConfig]) -> u16 {
    let is_v4 =
        |peer: &PeerConfig| peer.endpoint.as_ref().and_then(Endpoint::ip).is_some_and(|ip| ip.is_ipv4());
    if !peers.is_empty() && peers.iter().all(is_v4) { DEFAULT_MTU_V4 } else { DEFAULT_MTU }
}

/// What this end is, for peers to differ from.
struct Own<'a> {
    key: PublicKey,
    listen: IpAddr,
    addresses: &'a [IpNet],
}

impl Own<'_> {
    /// Why no peer can be reached at `ip`, and the cure.
    fn cannot_reach(&self, ip: IpAddr) -> Option<String> {
        if let Some(net) = self.addresses.iter().find(|net| net.network().contains(ip)) {
            return Some(format!(
                "inside {}, which `addresses` puts into the tunnel: it would swallow its own datagrams, use another \
                 endpoint",
                net.network()
            ));
        }
        let both = self.listen.is_ipv6() && self.listen.is_unspecified();
        let family = |ip: IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        (!both && self.listen.is_ipv4() != ip.is_ipv4()).then(|| {
            let (here, there) = (family(self.listen), family(ip));
            format!("{there}, and `listen` is {here} only: listen on [::] for both, or use another endpoint")
        })
    }
}

/// Checks each peer, then all of them against each other and against this end.
fn peers(raw: Vec<Spanned<Peer>>, own: &Own<'_>, source: &Source) -> Result<Vec<PeerConfig>> {
    let mut keys: HashMap<PublicKey, String> = HashMap::new();
    let mut names: HashMap<String, Span> = HashMap::new();
    let mut networks: HashMap<IpNet, String> = HashMap::new();
    let mut endpoints: Vec<(IpAddr, Span, String)> = Vec::new();
    let mut offers: Vec<Option<Span>> = Vec::new();
    let mut out = Vec::with_capacity(raw.len());
    for item in raw {
        let place = item.span();
        let (peer, spans) = peer(item.into_inner(), source)?;
        let name = &peer.name;
        if peer.public_key == own.key {
            let text = format!(
                "peer `{name}` has this machine's own public key: give the other end's (`veil pubkey` there)"
            );
            return Err(source.error(spans.public_key, text));
        }
        if let Some(other) = keys.insert(peer.public_key, name.clone()) {
            let text = format!(
                "peers `{other}` and `{name}` have the same public key: each machine needs its own, remove one"
            );
            return Err(source.error(spans.public_key, text));
        }
        if names.insert(name.clone(), place.clone()).is_some() {
            return Err(source
                .error(spans.name.unwrap_or(place), format!("two peers are named `{name}`: rename one")));
        }
        for (network, span) in peer.allowed_ips.iter().zip(spans.allowed_ips) {
            let host = if network.addr.is_ipv4() { 32 } else { 128 };
            if network.prefix == host && own.addresses.iter().any(|net| net.addr == network.addr) {
                let text = format!(
                    "the allowed IP {network} of peer `{name}` is this machine's own address: give the peer's"
                );
                return Err(source.error(span, text));
            }
            if let Some(other) = networks.insert(*network, name.clone()) {
                let text = match other == *name {
                    true => format!("peer `{name}` has the allowed IP {network} twice: remove one"),
                    false => format!(
                        "the allowed IP {network} belongs to peer `{other}` and to peer `{name}`: leave it with one"
                    ),
                };
                return Err(source.error(span, text));
            }
        }
        if let (Some(endpoint), Some(span)) = (&peer.endpoint, spans.endpoint)
            && let Some(ip) = endpoint.ip()
        {
            endpoints.push((ip.to_canonical(), span, name.clone()));
        }
        offers.push(spans.offer);
        out.push(peer);
    }
    check_owners(&out, &offers, own.addresses, source)?;
    for (ip, span, name) in endpoints {
        let inside = |net: &&IpNet| net.prefix != 0 && net.contains(ip);
        let found = out.iter().find_map(|peer| Some((peer, peer.allowed_ips.iter().find(inside)?)));
        if let Some((peer, network)) = found {
            let whose = if peer.name == name { String::new() } else { format!(" of peer `{}`", peer.name) };
            let text = format!(
                "the endpoint {ip} of peer `{name}` is inside the allowed IP {network}{whose}: the tunnel would swallow \
                 its own datagrams, narrow the allowed IP or use another endpoint"
            );
            return Err(source.error(span, text));
        }
        if let Some(why) = own.cannot_reach(ip) {
            return Err(source.error(span, format!("the endpoint {ip} of peer `{name}` is {why}")));
        }
    }
    Ok(out)
}

/// Where in the file a peer's values stand.
struct PeerSpans {
    name: Option<Span>,
    public_key: Span,
    allowed_ips: Vec<Span>,
    endpoint: Option<Span>,
    offer: Option<Span>,
}

fn peer(raw: Peer, source: &Source) -> Result<(PeerConfig, PeerSpans)> {
    let key = &raw.public_key;
    let public_key = PublicKey::from_base64(key.get_ref()).map_err(|e| {
        source.error(key.span(), format!("public-key is no key (`veil pubkey` prints it): {e}"))
    })?;
    let name = match &raw.name {
        Some(name) if name.get_ref().is_empty() || name.get_ref().chars().any(char::is_control) => {
            return Err(
                source.error(name.span(), "name is empty or has control characters in it: choose another")
            );
        }
        Some(name) => name.get_ref().clone(),
        None => public_key.to_string().chars().take(8).collect(),
    };
    let psk = match &raw.preshared_key_file {
        Some(file) => {
            keyfile::read_key(&beside(source, file), "pre-shared key", "veil genpsk", Psk::from_base64)
                .with_context(|| key_file_place(source, file, "preshared-key-file"))?
        }
        None => Psk::default(),
    };
    if raw.allowed_ips.get_ref().is_empty() {
        let text =
            format!("allowed-ips of peer `{name}` is empty: list the inner addresses that peer may use");
        return Err(source.error(raw.allowed_ips.span(), text));
    }
    let allowed_ips = raw.allowed_ips.get_ref().iter();
    let allowed_ips = allowed_ips.map(|text| network(text, "allowed IP", source)).collect::<Result<_>>()?;
    let offer = raw.offer.as_ref().map(|raw| offer(raw, &name, source)).transpose()?;
    let endpoint = match &raw.endpoint {
        Some(text) => Some(endpoint(text, source)?),
        None => None,
    };
    let keepalive = number(
        raw.persistent_keepalive.as_ref(),
        "persistent-keepalive",
        0..=65535,
        "seconds (25 keeps most NATs open, 0 is off)",
        source,
    )?;
    let cipher = match &raw.cipher {
        Some(text) => Some(cipher(text, source)?),
        None => None,
    };
    let spans = PeerSpans {
        name: raw.name.as_ref().map(Spanned::span),
        public_key: key.span(),
        allowed_ips: raw.allowed_ips.get_ref().iter().map(Spanned::span).collect(),
        endpoint: raw.endpoint.as_ref().map(Spanned::span),
        offer: raw.offer.as_ref().map(Spanned::span),
    };
    let keepalive =
        keepalive.filter(|&seconds: &u16| seconds != 0).map(|seconds| Duration::from_secs(seconds.into()));
    let lease = raw.lease;
    let peer = PeerConfig { name, public_key, psk, allowed_ips, endpoint, keepalive, cipher, lease, offer };
    Ok((peer, spans))
}

fn beside(source: &Source, file: &Spanned<String>) -> PathBuf {
    source.path.parent().unwrap_or("".as_ref()).join(file.get_ref())
}

fn key_file_place(source: &Source, file: &Spanned<String>, key: &str) -> String {
    source.error(file.span(), key).to_string()
}
