//! One value of the file at a time: from its text to what it means.
//!
//! Called by `check` and `offer`. Invariant: an error names the line, what is wrong there, and the cure.

use super::Endpoint;
use super::raw::Source;
use anyhow::Result;
use clap::ValueEnum;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use toml::Spanned;
use veil_proto::allowed_ips::{IpNet, IpNetError};
use veil_proto::crypto::Suite;

const DEFAULT_LISTEN: &str = "[::]:4433";

pub fn endpoint(text: &Spanned<String>, source: &Source) -> Result<Endpoint> {
    let shown = text.get_ref();
    let endpoint: Endpoint = shown.parse().map_err(|cure| {
        source.error(text.span(), format!("endpoint `{shown}` cannot be understood: {cure}"))
    })?;
    match endpoint.ip() {
        Some(ip) if ip.is_unspecified() || ip.is_multicast() => {
            let text_ =
                format!("endpoint `{shown}` is no machine's address: give the address the peer listens on");
            Err(source.error(text.span(), text_))
        }
        _ => Ok(endpoint),
    }
}

pub fn cipher(text: &Spanned<String>, source: &Source) -> Result<Suite> {
    match text.get_ref().as_str() {
        "aes-256-gcm" => Ok(Suite::Aes256Gcm),
        "chacha20-poly1305" => Ok(Suite::ChaCha20Poly1305),
        other => {
            let text_ = format!(
                "cipher `{other}` is unknown: choose aes-256-gcm or chacha20-poly1305, or leave it out"
            );
            Err(source.error(text.span(), text_))
        }
    }
}

/// One of a few words, as `--help` lists them too; the default if there is none.
pub fn choice<T: ValueEnum + Default>(
    text: Option<&Spanned<String>>,
    key: &str,
    source: &Source,
) -> Result<T> {
    let Some(text) = text else { return Ok(T::default()) };
    let shown = text.get_ref();
    T::from_str(shown, false).map_err(|_| {
        let values = T::value_variants().iter().filter_map(T::to_possible_value);
        let words = values.map(|value| value.get_name().to_owned()).collect::<Vec<_>>().join(", ");
        let words = words.rsplit_once(", ").map_or(words.clone(), |(most, last)| format!("{most} or {last}"));
        source.error(text.span(), format!("{key} `{shown}` is unknown: choose {words}"))
    })
}

pub fn cores_of(cores: &[Spanned<i64>], source: &Source) -> Result<Vec<usize>> {
    let core = |core| number(Some(core), "core", 0..=1023, "", source);
    cores.iter().filter_map(|item| core(item).transpose()).collect()
}

pub fn listen(text: Option<&Spanned<String>>, source: &Source) -> Result<SocketAddr> {
    let Some(text) = text else {
        return Ok(DEFAULT_LISTEN.parse().expect("the default is an address"));
    };
    let shown = text.get_ref();
    let wrong =
        |what: &str, cure: &str| source.error(text.span(), format!("listen `{shown}` {what}: {cure}"));
    let listen: SocketAddr = shown.parse().map_err(|_| {
        wrong(
            "is no address and port",
            "write \"[::]:4433\" for IPv4 and IPv6, \"0.0.0.0:4433\" for IPv4 only",
        )
    })?;
    if listen.port() == 0 {
        return Err(wrong("has port 0", "choose a port from 1 to 65535"));
    }
    if listen.ip().is_multicast() {
        return Err(wrong("is a multicast address", "use an address of this machine, or [::]"));
    }
    Ok(listen)
}

/// Addresses for an interface, each with its network's prefix length.
pub fn addresses(raw: &[Spanned<String>], source: &Source) -> Result<Vec<IpNet>> {
    let mut out: Vec<IpNet> = Vec::with_capacity(raw.len());
    for text in raw {
        let shown = text.get_ref();
        let wrong =
            |what: &str, cure: &str| source.error(text.span(), format!("address `{shown}` {what}: {cure}"));
        let net = ip_net(text, "address", source)?;
        let ip = net.addr;
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || net.prefix == 0 {
            return Err(wrong(
                "cannot be given to an interface",
                "choose a private address such as 10.8.0.1/24",
            ));
        }
        if let IpAddr::V4(v4) = ip
            && net.prefix < 31
            && [0, host_mask_v4(net.prefix)].contains(&(v4.to_bits() & host_mask_v4(net.prefix)))
        {
            return Err(wrong("is the network or broadcast address of its network", "choose one in between"));
        }
        if out.iter().any(|other| other.addr == ip) {
            return Err(wrong("is given twice", "remove one"));
        }
        out.push(net);
    }
    Ok(out)
}

/// A network; `what` it is, for the error.
pub fn network(text: &Spanned<String>, what: &str, source: &Source) -> Result<IpNet> {
    Ok(ip_net(text, what, source)?.network())
}

fn ip_net(text: &Spanned<String>, what: &str, source: &Source) -> Result<IpNet> {
    let shown = text.get_ref();
    let example = if what == "address" { "10.8.0.1/24 or fd08::1/64" } else { "10.8.0.2/32 or fd08::/64" };
    shown.parse().map_err(|e: IpNetError| {
        source.error(text.span(), format!("{what} `{shown}`: {e}: write it like {example}"))
    })
}

fn host_mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shr(prefix.into()).unwrap_or(0)
}

/// A Linux interface name (`dev_valid_name`, net/core/dev.c): 1 to 15 bytes, no slash, colon or space, not "." or "..".
/// A `%` is refused too: the kernel would make a numbered name of it.
fn is_interface_name(name: &str) -> bool {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    (1..=15).contains(&name.len()) && name != "." && name != ".." && !name.contains(bad)
}

pub fn interface_name(name: &Spanned<String>, key: &str, source: &Source) -> Result<String> {
    let shown = name.get_ref();
    if is_interface_name(shown) {
        return Ok(shown.clone());
    }
    let text = format!("{key} `{shown}` is no interface name: use 1 to 15 letters, digits, - or _");
    Err(source.error(name.span(), text))
}

/// The number at `value`, when it is in `range`; `unit` explains it in the error.
pub fn number<N: TryFrom<i64>>(
    value: Option<&Spanned<i64>>,
    key: &str,
    range: RangeInclusive<i64>,
    unit: impl Display,
    source: &Source,
) -> Result<Option<N>> {
    let Some(value) = value else { return Ok(None) };
    let number = *value.get_ref();
    let (low, high) = (range.start(), range.end());
    match N::try_from(number) {
        Ok(fits) if range.contains(&number) => Ok(Some(fits)),
        _ => Err(source
            .error(value.span(), format!("{key} = {number} is out of range: choose {low} to {high} {unit}"))),
    }
}
