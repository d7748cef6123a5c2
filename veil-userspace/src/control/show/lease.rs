//! What one end gives another, as `veil show` and the log tell it.

use std::fmt;

use serde::{Deserialize, Serialize};
use veil_proto::mux::Config;

/// What one end gives another, or as much of it as is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseSnapshot {
    /// With their networks' prefixes.
    pub addresses: Vec<String>,
    /// Networks that are reached by the tunnel.
    pub routes: Vec<String>,
    /// Name servers, which are only shown, never set.
    pub dns: Vec<String>,
    /// Bytes.
    pub mtu: Option<u64>,
    /// Seconds.
    pub keepalive_s: Option<u64>,
}

impl From<&Config> for LeaseSnapshot {
    fn from(config: &Config) -> Self {
        LeaseSnapshot {
            addresses: config.addresses.iter().map(ToString::to_string).collect(),
            routes: config.routes.iter().map(ToString::to_string).collect(),
            dns: config.dns.iter().map(ToString::to_string).collect(),
            mtu: config.mtu.map(u64::from),
            keepalive_s: config.keepalive.map(u64::from),
        }
    }
}

impl fmt::Display for LeaseSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let listed = |what: &str, items: &[String]| {
            (!items.is_empty()).then(|| format!("{what} {}", items.join(", ")))
        };
        let parts = [
            listed("addresses", &self.addresses),
            listed("routes", &self.routes),
            listed("name servers (not set)", &self.dns),
            self.mtu.map(|mtu| format!("mtu {mtu}")),
            self.keepalive_s.map(|seconds| format!("keepalive {seconds} s")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { f.write_str("nothing") } else { f.write_str(&parts.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_described_in_a_line() {
        let lease = Config {
            addresses: vec!["10.8.0.7/24".parse().unwrap(), "fd08::7/64".parse().unwrap()],
            routes: vec!["192.168.7.0/24".parse().unwrap()],
            dns: vec!["10.8.0.1".parse().unwrap()],
            mtu: Some(1400),
            keepalive: Some(25),
        };
        let text = "addresses 10.8.0.7/24, fd08::7/64; routes 192.168.7.0/24; name servers (not set) 10.8.0.1; \
                    mtu 1400; keepalive 25 s";
        assert_eq!(LeaseSnapshot::from(&lease).to_string(), text);
        assert_eq!(LeaseSnapshot::default().to_string(), "nothing");
    }
}
