use super::*;
use proptest::prelude::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_bare_address_is_a_network_of_one() {
    assert_eq!(net("10.0.0.7"), IpNet { addr: ip("10.0.0.7"), prefix: 32 });
    assert_eq!(net("2001:db8::1"), IpNet { addr: ip("2001:db8::1"), prefix: 128 });
}

#[test]
fn what_is_written_is_what_is_shown() {
    for text in ["10.0.0.7/24", "0.0.0.0/0", "2001:db8::/32", "::/0", "fd00::1/128"] {
        assert_eq!(net(text).to_string(), text);
    }
}

#[test]
fn a_wrong_text_says_which_part_is_wrong() {
    for (text, message) in [
        ("10.0.0/8", "`10.0.0` is not an IPv4 or IPv6 address"),
        ("", "`` is not an IPv4 or IPv6 address"),
        ("10.0.0.0/33", "`33` is not a prefix length: 10.0.0.0 takes 0 to 32"),
        ("::/129", "`129` is not a prefix length: :: takes 0 to 128"),
        ("10.0.0.0/+8", "`+8` is not a prefix length: 10.0.0.0 takes 0 to 32"),
        ("10.0.0.0/", "`` is not a prefix length: 10.0.0.0 takes 0 to 32"),
        ("10.0.0.0/8/9", "`8/9` is not a prefix length: 10.0.0.0 takes 0 to 32"),
        ("10.0.0.0/300", "`300` is not a prefix length: 10.0.0.0 takes 0 to 32"),
    ] {
        assert_eq!(IpNet::parse(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_network_has_no_host_bits_and_contains_its_own_addresses_only() {
    assert_eq!(net("10.1.2.3/8").network(), net("10.0.0.0/8"));
    assert_eq!(net("2001:db8:ffff::1/33").network(), net("2001:db8:8000::/33"));
    assert_eq!(net("10.1.2.3/0").network(), net("0.0.0.0/0"));
    assert!(net("10.1.2.3/8").contains(ip("10.255.0.1")));
    assert!(!net("10.1.2.3/8").contains(ip("11.0.0.1")));
    assert!(net("10.1.2.3").contains(ip("10.1.2.3")));
    assert!(!net("0.0.0.0/0").contains(ip("::")));
    assert!(net("::/0").contains(ip("ffff::")));
}

#[test]
fn the_longest_network_wins() {
    let mut table = AllowedIps::new();
    assert_eq!(table.lookup(ip("10.0.0.1")), None);
    for (text, owner) in [("10.0.0.1/32", 4), ("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.0.0.0/24", 3)] {
        assert_eq!(table.insert(net(text), owner), None);
    }
    assert_eq!(table.lookup(ip("10.0.0.1")), Some(4));
    assert_eq!(table.lookup(ip("10.0.0.2")), Some(3));
    assert_eq!(table.lookup(ip("10.0.1.1")), Some(2));
    assert_eq!(table.lookup(ip("11.0.0.1")), Some(1));
    assert_eq!(table.lookup(ip("::1")), None);
}

#[test]
fn a_network_moves_to_its_new_owner() {
    let mut table = AllowedIps::new();
    assert_eq!(table.insert(net("10.0.0.0/8"), 'a'), None);
    assert_eq!(table.insert(net("10.9.9.9/8"), 'b'), Some('a'));
    assert_eq!(table.lookup(ip("10.1.1.1")), Some('b'));
    table.remove_all('b');
    assert_eq!(table.lookup(ip("10.1.1.1")), None);
}

#[test]
fn a_prefix_that_is_too_long_counts_as_full_length() {
    let mut table = AllowedIps::new();
    table.insert(IpNet { addr: ip("10.0.0.1"), prefix: 200 }, 1);
    table.insert(IpNet { addr: ip("::1"), prefix: 200 }, 2);
    assert_eq!(table.lookup(ip("10.0.0.1")), Some(1));
    assert_eq!(table.lookup(ip("10.0.0.2")), None);
    assert_eq!(table.lookup(ip("::1")), Some(2));
    assert_eq!(IpNet { addr: ip("10.0.0.1"), prefix: 200 }.network(), net("10.0.0.1"));
}

/// Addresses of few distinct bits, so that networks nest and part at every depth.
fn address() -> impl Strategy<Value = IpAddr> {
    let byte = || prop::sample::select(vec![0u8, 1, 0x7f, 0x80, 0xff]);
    prop_oneof![
        prop::array::uniform4(byte()).prop_map(IpAddr::from),
        prop::array::uniform16(byte()).prop_map(IpAddr::from),
        any::<[u8; 4]>().prop_map(IpAddr::from),
        (any::<u128>(), 0u32..128).prop_map(|(bits, by)| Ipv6Addr::from_bits(bits >> by).into()),
    ]
}

fn network() -> impl Strategy<Value = IpNet> {
    (address(), 0u8..=128).prop_map(|(addr, prefix)| IpNet { addr, prefix: prefix % (width(addr) + 1) })
}

#[derive(Clone, Debug)]
enum Step {
    Insert(IpNet, u8),
    RemoveAll(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (network(), 0u8..6).prop_map(|(net, owner)| Step::Insert(net, owner)),
        1 => (0u8..6).prop_map(Step::RemoveAll),
    ]
}

proptest! {
    #[test]
    fn the_trie_answers_as_a_linear_scan_does(
        steps in prop::collection::vec(step(), 0..80),
        asked in prop::collection::vec(address(), 40),
    ) {
        let mut table = AllowedIps::new();
        let mut model: Vec<(IpNet, u8)> = Vec::new();
        let mut asked = asked;
        for step in steps {
            match step {
                Step::Insert(net, owner) => {
                    asked.push(net.addr);
                    let net_only = net.network();
                    let old = model.iter().position(|&(n, _)| n == net_only).map(|i| model.remove(i).1);
                    model.push((net_only, owner));
                    prop_assert_eq!(table.insert(net, owner), old);
                }
                Step::RemoveAll(owner) => {
                    model.retain(|&(_, o)| o != owner);
                    table.remove_all(owner);
                }
            }
        }
        for addr in asked {
            let longest = model.iter().filter(|(n, _)| n.contains(addr)).max_by_key(|(n, _)| n.prefix);
            prop_assert_eq!(table.lookup(addr), longest.map(|&(_, owner)| owner), "{}", addr);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,24}|[0-9a-f:./]{0,24}") {
        if let Ok(net) = IpNet::parse(&text) {
            prop_assert_eq!(net.to_string().parse::<IpNet>(), Ok(net));
        }
    }
}
