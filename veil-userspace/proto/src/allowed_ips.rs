//! Which peer an inner address belongs to: longest-prefix match over IPv4 and IPv6 networks.
//!
//! Owned by the process stage, asked for every packet in both directions: outbound by destination, inbound by
//! source. Single addresses, which is what most peers of a server with thousands of them have, are hashed: no
//! network is longer. The others are, for each family, a path-compressed binary trie in one flat `Vec`: a node
//! is a prefix, its children are longer prefixes below it, so a lookup visits at most as many nodes as there
//! are branchings on the way and never allocates. Invariant: a child's prefix is strictly longer than its
//! parent's and begins with it. Removal builds the trie anew, because it happens on configuration changes only.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with a prefix length. The address may have host bits ("10.0.0.7/24"): [`IpNet::network`] clears
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpNet {
    /// The address, as written.
    pub addr: IpAddr,
    /// How many leading bits belong to the network; more than the family has count as all of them.
    pub prefix: u8,
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpNetError {
    /// The part before the slash is neither an IPv4 nor an IPv6 address.
    #[error("`{0}` is not an IPv4 or IPv6 address")]
    Address(String),
    /// The part after the slash is not a number from 0 to the family's width.
    #[error("`{prefix}` is not a prefix length: {addr} takes 0 to {max}")]
    Prefix {
        /// The address before the slash.
        addr: IpAddr,
        /// What stands after the slash.
        prefix: String,
        /// 32 or 128.
        max: u8,
    },
}

impl IpNet {
    /// The network that holds `addr` alone: /32 or /128.
    pub fn host(addr: IpAddr) -> Self {
        IpNet { addr, prefix: width(addr) }
    }

    /// Reads `address/prefix`, or a bare address as /32 or /128.
    ///
    /// # Errors
    /// [`IpNetError`], naming the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, IpNetError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let addr: IpAddr = address.parse().map_err(|_| IpNetError::Address(address.to_owned()))?;
        let Some(prefix) = prefix else { return Ok(IpNet::host(addr)) };
        let max = width(addr);
        // `u8::from_str` would also take "+8".
        let number = prefix.bytes().all(|b| b.is_ascii_digit()).then(|| prefix.parse().ok()).flatten();
        match number {
            Some(prefix) if prefix <= max => Ok(IpNet { addr, prefix }),
            _ => Err(IpNetError::Prefix { addr, prefix: prefix.to_owned(), max }),
        }
    }

    /// The same network with all host bits zero.
    pub fn network(self) -> Self {
        let prefix = self.prefix.min(width(self.addr));
        let addr = match self.addr {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits().masked(prefix))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits().masked(prefix))),
        };
        IpNet { addr, prefix }
    }

    /// Whether `addr` is of this family and inside this network.
    pub fn contains(self, addr: IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(net), IpAddr::V4(addr)) => {
                net.to_bits().common_bits(addr.to_bits()) >= self.prefix.min(32)
            }
            (IpAddr::V6(net), IpAddr::V6(addr)) => {
                net.to_bits().common_bits(addr.to_bits()) >= self.prefix.min(128)
            }
            _ => false,
        }
    }

    /// Whether all of `other` is inside this network.
    pub fn covers(self, other: IpNet) -> bool {
        self.prefix <= other.prefix && self.contains(other.addr)
    }
}

impl FromStr for IpNet {
    type Err = IpNetError;

    fn from_str(text: &str) -> Result<Self, IpNetError> {
        IpNet::parse(text)
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

fn width(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// A table of networks and their owners: an address belongs to the owner of the longest network that contains
/// it.
#[derive(Clone, Debug)]
pub struct AllowedIps<T> {
    v4: Family<u32, T>,
    v6: Family<u128, T>,
}

impl<T> Default for AllowedIps<T> {
    fn default() -> Self {
        AllowedIps { v4: Family::default(), v6: Family::default() }
    }
}

impl<T: Copy + Eq> AllowedIps<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `net` (its host bits ignored) to `owner`, and returns who owned exactly this network before.
    pub fn insert(&mut self, net: IpNet, owner: T) -> Option<T> {
        match net.addr {
            IpAddr::V4(addr) => self.v4.insert(addr.to_bits(), net.prefix.min(32), owner),
            IpAddr::V6(addr) => self.v6.insert(addr.to_bits(), net.prefix.min(128), owner),
        }
    }

    /// The owner of `addr`. IPv4-mapped IPv6 addresses are IPv6 here.
    #[inline]
    pub fn lookup(&self, addr: IpAddr) -> Option<T> {
        match addr {
            IpAddr::V4(addr) => self.lookup_v4(addr.octets()),
            IpAddr::V6(addr) => self.lookup_v6(addr.octets()),
        }
    }

    /// The owner of an IPv4 address as it stands in a packet.
    #[inline]
    pub fn lookup_v4(&self, addr: [u8; 4]) -> Option<T> {
        self.v4.lookup(u32::from_be_bytes(addr))
    }

    /// The owner of an IPv6 address as it stands in a packet.
    #[inline]
    pub fn lookup_v6(&self, addr: [u8; 16]) -> Option<T> {
        self.v6.lookup(u128::from_be_bytes(addr))
    }

    /// Takes every network away from `owner`.
    pub fn remove_all(&mut self, owner: T) {
        self.v4.remove_all(owner);
        self.v6.remove_all(owner);
    }
}

/// The networks of one address family.
#[derive(Clone, Debug)]
struct Family<K, T> {
    /// Those of a single address.
    hosts: HashMap<K, T, BuildHasherDefault<AddressHasher>>,
    nets: Trie<K, T>,
}

impl<K, T> Default for Family<K, T> {
    fn default() -> Self {
        Family { hosts: HashMap::default(), nets: Trie::default() }
    }
}

impl<K: Key, T: Copy + Eq> Family<K, T> {
    #[inline]
    fn lookup(&self, key: K) -> Option<T> {
        self.hosts.get(&key).copied().or_else(|| self.nets.lookup(key))
    }

    fn insert(&mut self, key: K, prefix: u8, owner: T) -> Option<T> {
        if prefix == K::WIDTH { self.hosts.insert(key, owner) } else { self.nets.insert(key, prefix, owner) }
    }

    fn remove_all(&mut self, owner: T) {
        self.hosts.retain(|_, o| *o != owner);
        self.nets.remove_all(owner);
    }
}

/// Spreads addresses that differ in few bits, wherever those are. What is hashed comes from the configuration: nobody
/// else can choose addresses that collide.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    #[inline]
    fn write_u128(&mut self, word: u128) {
        self.write_u64((word >> 64) as u64);
        self.write_u64(word as u64);
    }
}

/// No node: past the end of any `Vec`, so that `get` ends a walk.
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Node<K, T> {
    key: K,
    prefix: u8,
    owner: Option<T>,
    children: [u32; 2],
}

#[derive(Clone, Debug)]
struct Trie<K, T> {
    root: u32,
    nodes: Vec<Node<K, T>>,
}

impl<K, T> Default for Trie<K, T> {
    fn default() -> Self {
        Trie { root: NONE, nodes: Vec::new() }
    }
}

impl<K: Key, T: Copy + Eq> Trie<K, T> {
    #[inline]
    fn lookup(&self, key: K) -> Option<T> {
        let mut best = None;
        let mut at = self.root;
        while let Some(node) = self.nodes.get(at as usize) {
            let common = key.common_bits(node.key);
            if common < node.prefix {
                break;
            }
            if node.owner.is_some() {
                best = node.owner;
            }
            at = node.children[key.bit(node.prefix)];
        }
        best
    }

    fn insert(&mut self, key: K, prefix: u8, owner: T) -> Option<T> {
        let key = key.masked(prefix);
        let mut parent = None;
        let mut at = self.root;
        let put = loop {
            let Some(node) = self.nodes.get_mut(at as usize) else {
                break self.push(key, prefix, Some(owner), [NONE; 2]);
            };
            let common = key.common_bits(node.key).min(prefix).min(node.prefix);
            if common == node.prefix && common == prefix {
                return node.owner.replace(owner);
            }
            if common == node.prefix {
                let side = key.bit(common);
                parent = Some((at as usize, side));
                at = node.children[side];
                continue;
            }
            // The two part above this node: the new network, or a fork without owner, takes its place.
            let mut children = [NONE; 2];
            children[node.key.bit(common)] = at;
            if common == prefix {
                break self.push(key, prefix, Some(owner), children);
            }
            children[key.bit(common)] = self.push(key, prefix, Some(owner), [NONE; 2]);
            break self.push(key.masked(common), common, None, children);
        };
        match parent {
            Some((node, side)) => self.nodes[node].children[side] = put,
            None => self.root = put,
        }
        None
    }

    fn push(&mut self, key: K, prefix: u8, owner: Option<T>, children: [u32; 2]) -> u32 {
        self.nodes.push(Node { key, prefix, owner, children });
        (self.nodes.len() - 1) as u32
    }

    fn remove_all(&mut self, owner: T) {
        let old = std::mem::take(self);
        for node in old.nodes {
            if let Some(kept) = node.owner.filter(|&o| o != owner) {
                self.insert(node.key, node.prefix, kept);
            }
        }
    }
}

/// An address as a number, its first bit the most significant.
trait Key: Copy + Eq + Hash {
    /// Bits in an address.
    const WIDTH: u8;
    /// The address with everything after the first `prefix` bits zero.
    fn masked(self, prefix: u8) -> Self;
    /// How many leading bits two addresses share.
    fn common_bits(self, other: Self) -> u8;
    /// The bit after the first `at`, as an index; any bit if `at` is the width, for such a node has no
    /// children.
    fn bit(self, at: u8) -> usize;
}

macro_rules! key {
    ($number:ty) => {
        impl Key for $number {
            const WIDTH: u8 = <$number>::BITS as u8;

            #[inline]
            fn masked(self, prefix: u8) -> Self {
                self & !<$number>::MAX.checked_shr(prefix.into()).unwrap_or(0)
            }

            #[inline]
            fn common_bits(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }

            #[inline]
            fn bit(self, at: u8) -> usize {
                // The mask makes `at` = width harmless without a branch.
                (self.wrapping_shr(<$number>::BITS - 1 - (u32::from(at) & (<$number>::BITS - 1))) & 1)
                    as usize
            }
        }
    };
}

key!(u32);
key!(u128);

#[cfg(test)]
mod tests;
