//! The Config message: what one end gives the other as its place in the tunnel (`protocol.md`, Data body).
//!
//! Its value is again `type 1 | length 2 | value`, each type as often as needed: 1 address and 2 route (address bytes, 4
//! or 16, then the prefix length), 3 DNS server (4 or 16 bytes), 4 MTU (2 bytes), 5 keepalive interval in seconds
//! (2 bytes). What the receiver makes of it is its own decision: see
//! [`Sessions::accept_control`](crate::tunnel::Sessions::accept_control).

use std::net::IpAddr;

use super::tlv::{split_tlv, write_tlv};
use crate::DropReason;
use crate::allowed_ips::IpNet;

const ADDRESS: u8 = 1;
const ROUTE: u8 = 2;
const DNS: u8 = 3;
const MTU: u8 = 4;
const KEEPALIVE: u8 = 5;

/// What a lease consists of, whole: what is absent is given no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Inner addresses for the receiver, with the prefix length of the network they are in.
    pub addresses: Vec<IpNet>,
    /// Networks to be reached through the tunnel.
    pub routes: Vec<IpNet>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Largest inner packet, bytes.
    pub mtu: Option<u16>,
    /// Persistent keepalive interval, seconds; 0 as if it were absent: what the receiver has configured counts.
    pub keepalive: Option<u16>,
}

impl Config {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (kind, nets) in [(ADDRESS, &self.addresses), (ROUTE, &self.routes)] {
            for net in nets {
                let mut value = address_bytes(net.addr);
                value.push(net.prefix);
                write_tlv(&mut out, kind, &value);
            }
        }
        for &server in &self.dns {
            write_tlv(&mut out, DNS, &address_bytes(server));
        }
        for (kind, number) in [(MTU, self.mtu), (KEEPALIVE, self.keepalive)] {
            if let Some(number) = number {
                write_tlv(&mut out, kind, &number.to_le_bytes());
            }
        }
        out
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, DropReason> {
        let mut config = Config::default();
        let mut rest = value;
        while let Some((kind, value)) = split_tlv(&mut rest)? {
            match kind {
                ADDRESS => config.addresses.push(net(value)?),
                ROUTE => config.routes.push(net(value)?),
                DNS => config.dns.push(address(value)?),
                MTU => config.mtu = Some(number(value)?),
                KEEPALIVE => config.keepalive = Some(number(value)?),
                _ => {}
            }
        }
        Ok(config)
    }
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address(value: &[u8]) -> Result<IpAddr, DropReason> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Ok(v4.into());
    }
    <[u8; 16]>::try_from(value).map(IpAddr::from).map_err(|_| DropReason::FrameMalformed)
}

fn net(value: &[u8]) -> Result<IpNet, DropReason> {
    let (&prefix, bytes) = value.split_last().ok_or(DropReason::FrameMalformed)?;
    let addr = address(bytes)?;
    if usize::from(prefix) > bytes.len() * 8 {
        return Err(DropReason::FrameMalformed);
    }
    Ok(IpNet { addr, prefix })
}

fn number(value: &[u8]) -> Result<u16, DropReason> {
    value.try_into().map(u16::from_le_bytes).map_err(|_| DropReason::FrameMalformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        let v4 = (any::<[u8; 4]>(), 0u8..=32).prop_map(|(a, prefix)| IpNet { addr: a.into(), prefix });
        let v6 = (any::<[u8; 16]>(), 0u8..=128).prop_map(|(a, prefix)| IpNet { addr: a.into(), prefix });
        prop::collection::vec(prop_oneof![v4, v6], 0..5)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            addresses in nets(), routes in nets(), dns in nets(), mtu: Option<u16>, keepalive: Option<u16>,
        ) {
            let dns = dns.into_iter().map(|net| net.addr).collect();
            let config = Config { addresses, routes, dns, mtu, keepalive };
            prop_assert_eq!(Config::decode(&config.encode()), Ok(config));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Config::decode(&bytes);
        }
    }

    #[test]
    fn what_cannot_be_an_address_or_a_number_is_refused() {
        for (kind, value) in [
            (ADDRESS, &[10, 8, 0, 1][..]),
            (ADDRESS, &[10, 8, 0, 1, 33]),
            (ROUTE, &[0; 16]),
            (ROUTE, &[129; 17]),
            (DNS, &[1, 2, 3]),
            (MTU, &[1]),
            (KEEPALIVE, &[1, 2, 3]),
            (ADDRESS, &[]),
        ] {
            let mut bytes = Vec::new();
            write_tlv(&mut bytes, kind, value);
            assert_eq!(Config::decode(&bytes), Err(DropReason::FrameMalformed), "{kind} {value:?}");
        }
    }

    #[test]
    fn a_later_versions_field_is_skipped() {
        let mut bytes = Vec::new();
        write_tlv(&mut bytes, 200, b"?");
        write_tlv(&mut bytes, MTU, &1300u16.to_le_bytes());
        assert_eq!(Config::decode(&bytes).unwrap().mtu, Some(1300));
    }
}
