//! A second opinion, written to be unlike the first: it eats the frame from the front and knows one answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frames::{CONFIG, local};

/// What is left of a frame.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        Some(self.bytes(bytes)?.iter().fold(0, |sum, byte| sum * 256 + u64::from(*byte)))
    }

    fn address<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }
}

/// Whether `frame` meets every condition of being VEIL's.
pub fn is_ours(frame: &[u8]) -> bool {
    datagram_to(frame).is_some_and(|(address, port)| {
        let here = local().map(|key| Ipv6Addr::from(key).to_canonical());
        here.contains(&address) && port == u64::from(CONFIG.port) && frame.len() <= CONFIG.longest.into()
    })
}

/// Where the whole, plain UDP datagram in `frame` goes.
fn datagram_to(frame: &[u8]) -> Option<(IpAddr, u64)> {
    let mut rest = Rest(frame);
    (rest.bytes(6)? == CONFIG.mac).then_some(())?;
    rest.bytes(6)?;
    let (address, length) = match rest.number(2)? {
        0x0800 => {
            (rest.number(1)? == 0x45).then_some(())?;
            rest.bytes(1)?;
            let length = rest.number(2)?.checked_sub(20)?;
            rest.bytes(2)?;
            // The two flags that do not matter, reserved and DF, may be either.
            matches!(rest.number(2)?, 0 | 0x4000 | 0x8000 | 0xc000).then_some(())?;
            rest.bytes(1)?;
            (rest.number(1)? == 17).then_some(())?;
            rest.bytes(2 + 4)?;
            (IpAddr::V4(Ipv4Addr::from(rest.address()?)), length)
        }
        0x86dd => {
            (rest.number(4)? >> 28 == 6).then_some(())?;
            let length = rest.number(2)?;
            (rest.number(1)? == 17).then_some(())?;
            rest.bytes(1 + 16)?;
            // Never made canonical: an IPv4-mapped address is no IPv4 address here.
            (IpAddr::V6(Ipv6Addr::from(rest.address()?)), length)
        }
        _ => return None,
    };
    let mut rest = Rest(rest.bytes(length as usize)?);
    rest.bytes(2)?;
    let port = rest.number(2)?;
    let udp_length = rest.number(2)?;
    rest.bytes(2)?;
    (8..=length).contains(&udp_length).then_some((address, port))
}
