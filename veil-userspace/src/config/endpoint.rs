//! Where a peer can be reached: a host name or address, and a port.
//!
//! Called by the configuration (parse) and by whoever starts a handshake (resolve). Invariant: `host` is never empty and
//! an IPv6 address in it has no brackets.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A peer's first address: a name is looked up anew each time it is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name, an IPv4 address or an IPv6 address without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl Endpoint {
    /// The address, when the host is one and not a name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// All addresses the system's resolver gives, in its order; never an empty list. Blocks while a name is looked up.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let cure = "check the name, and this machine's DNS";
        let found = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|e| io::Error::new(e.kind(), format!("cannot look up `{}`: {e}: {cure}", self.host)))?;
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            let text = format!("`{}` has no address: {cure}", self.host);
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        Ok(found)
    }
}

impl FromStr for Endpoint {
    type Err = &'static str;

    /// Parses `host:port`, `1.2.3.4:port` or `[v6]:port`; the error says what to write instead.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write host:port, for example vpn.example.org:4433 or [2001:db8::1]:4433";
        if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
            return Err("put the IPv6 address in brackets and add a port, for example [2001:db8::1]:4433");
        }
        let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
        let port = port
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .ok_or("give a port from 1 to 65535 after the last colon")?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or(FORM)?;
                let address = inner.split('%').next().unwrap_or(inner);
                address.parse::<std::net::Ipv6Addr>().map_err(|_| "only an IPv6 address goes in brackets")?;
                inner
            }
            None if host.contains(':') => {
                return Err("put the IPv6 address in brackets, for example [2001:db8::1]:4433");
            }
            None => host,
        };
        if host.is_empty()
            || host.len() > 253
            || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
        {
            return Err(FORM);
        }
        Ok(Endpoint { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_spellings_parse_and_print_back() {
        for text in ["vpn.example.org:4433", "192.0.2.1:1", "[2001:db8::1]:65535", "[fe80::1%eth0]:7"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_spelling_is_told_the_right_one() {
        let error = |text: &str| text.parse::<Endpoint>().unwrap_err();
        assert!(error("2001:db8::1").contains("brackets and add a port"));
        assert!(error("2001:db8:0:0:0:0:0:0:1:4433").contains("in brackets"));
        assert!(error("example.org").contains("host:port"));
        assert!(error("example.org:0").contains("port from 1 to 65535"));
        assert!(error("example.org:70000").contains("port from 1 to 65535"));
        assert!(error("[example.org]:1").contains("only an IPv6 address"));
        assert!(error(":4433").contains("host:port"));
        assert!(error("http://a/b:4433").contains("brackets"));
    }

    #[test]
    fn addresses_resolve_to_themselves_and_unknown_names_are_an_error() {
        let endpoint: Endpoint = "[::1]:9".parse().unwrap();
        assert_eq!(endpoint.resolve().unwrap(), ["[::1]:9".parse().unwrap()]);
        let error =
            "does-not-exist.invalid:9".parse::<Endpoint>().unwrap().resolve().unwrap_err().to_string();
        assert!(error.starts_with("cannot look up `does-not-exist.invalid`: "), "{error}");
        assert!(error.ends_with("check the name, and this machine's DNS"), "{error}");
    }
}
