//! Each configuration mistake and the one line it is answered with.

use super::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

// RFC 7748 6.1: Alice's and Bob's private keys, and their public ones.
const ALICE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const ALICE_PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const BOB_PUBLIC: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
const CAROL_PUBLIC: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// A folder with a key file, a pre-shared key and whatever configuration a test writes.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("veil.key", ALICE, 0o600);
        folder.write("laptop.psk", CAROL_PUBLIC, 0o600);
        folder
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    /// Loads `text`; an error is its one line with the folder's name taken out.
    fn load(&self, text: &str) -> Result<Config, String> {
        self.write("veil.toml", text, 0o644);
        Config::load(&self.0.path().join("veil.toml"))
            .map_err(|e| format!("{e:#}").replace(&format!("{}/", self.0.path().display()), ""))
    }

    fn error(&self, text: &str) -> String {
        let error = self.load(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert!(!error.contains('\n'), "{error}");
        error
    }
}

/// Line 1 is `[interface]`, 2 the key, 3 the addresses; `extra` begins on line 4.
fn interface(extra: &str) -> String {
    format!(
        "[interface]\nprivate-key-file = \"veil.key\"\naddresses = [\"10.8.0.1/24\", \"fd08::1/64\"]\n{extra}"
    )
}

/// Bob is named on line 5; `extra` begins on line 8.
fn with_bob(extra: &str) -> String {
    let bob = format!(
        "[[peer]]\nname = \"bob\"\npublic-key = \"{BOB_PUBLIC}\"\nallowed-ips = [\"10.8.0.2/32\"]\n{extra}"
    );
    interface(&bob)
}

/// Bob, then Carol from line 8 on, her key on line 10, `extra` on line 11.
fn with_carol(key: &str, extra: &str) -> String {
    with_bob(&format!("[[peer]]\nname = \"carol\"\npublic-key = \"{key}\"\n{extra}"))
}

fn error(text: &str) -> String {
    Folder::new().error(text)
}

#[test]
fn the_documented_example_is_read_in_full() {
    let text = format!(
        r#"
        [interface]
        name = "veil1"
        private-key-file = "veil.key"
        network-secret-file = "laptop.psk"
        listen = "[::]:4434"
        addresses = ["10.8.0.1/24", "fd08::1/64"]
        mtu = 1400
        offload = false
        finish-checksums = true
        [link]
        mode = "auto"
        interface = "eth0"
        dscp = 46
        gso = false
        gro = false
        [timers]
        rekey-after = 60
        rotate-after = 20
        [[peer]]
        name = "laptop"
        public-key = "{BOB_PUBLIC}"
        preshared-key-file = "laptop.psk"
        allowed-ips = ["10.8.0.2/32", "fd08::2/128", "192.168.7.9/24"]
        endpoint = "vpn.example.org:4433"
        persistent-keepalive = 25
        cipher = "chacha20-poly1305"
        lease = true
    "#
    );
    let config = Folder::new().load(&text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.name.as_str(), config.mtu), ("veil1", 1400));
    assert!(!config.offload && config.finish_checksums);
    assert_eq!(*config.private_key.to_base64(), ALICE);
    assert_eq!(config.listen, "[::]:4434".parse().unwrap());
    assert_eq!(
        config.addresses.iter().map(IpNet::to_string).collect::<Vec<_>>(),
        ["10.8.0.1/24", "fd08::1/64"]
    );
    assert_eq!((config.link.mode, config.link.dscp), (LinkMode::Auto, 46));
    assert!(!config.link.gso && !config.link.gro);
    assert_eq!(config.link.interface.as_deref(), Some("eth0"));
    assert_eq!(config.rekey_after, Some(Duration::from_secs(60)));
    assert_eq!(config.rotate_after, Some(Duration::from_secs(20)));
    let [peer] = config.peers.as_slice() else { panic!("not one peer") };
    assert_eq!((peer.name.as_str(), peer.public_key.to_string().as_str()), ("laptop", BOB_PUBLIC));
    let allowed: Vec<_> = peer.allowed_ips.iter().map(IpNet::to_string).collect();
    assert_eq!(allowed, ["10.8.0.2/32", "fd08::2/128", "192.168.7.0/24"]);
    assert_eq!(peer.endpoint, Some(Endpoint { host: "vpn.example.org".into(), port: 4433 }));
    assert_eq!(peer.keepalive, Some(Duration::from_secs(25)));
    assert_eq!(peer.cipher, Some(Suite::ChaCha20Poly1305));
    assert!(peer.lease);
}

#[test]
fn everything_optional_may_be_left_out() {
    let text =
        interface(&format!("[[peer]]\npublic-key = \"{BOB_PUBLIC}\"\nallowed-ips = [\"0.0.0.0/0\"]\n"));
    let config = Folder::new().load(&text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.name.as_str(), config.mtu, config.link.dscp), ("veil0", 1416, 0));
    assert_eq!(config.listen, "[::]:4433".parse().unwrap());
    assert_eq!((config.rekey_after, config.rotate_after), (None, None));
    assert!(config.offload && !config.finish_checksums && config.link.gso && config.link.gro);
    let peer = &config.peers[0];
    assert_eq!(peer.name, "3p7bfXt9");
    assert!(peer.endpoint.is_none() && peer.keepalive.is_none() && peer.cipher.is_none() && !peer.lease);
}

#[test]
fn an_endpoint_may_lie_inside_the_default_route() {
    let text = with_carol(CAROL_PUBLIC, "allowed-ips = [\"0.0.0.0/0\"]\nendpoint = \"192.0.2.1:4433\"\n");
    assert!(Folder::new().load(&text).is_ok());
}

#[test]
fn the_mtu_is_larger_where_every_endpoint_is_ipv4() {
    let with = |endpoint: &str| with_bob(&format!("endpoint = \"{endpoint}\"\n"));
    for (endpoint, mtu) in
        [("192.0.2.1:4433", 1436), ("[2001:db8::1]:4433", 1416), ("vpn.example.org:4433", 1416)]
    {
        let config = Folder::new().load(&with(endpoint)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.mtu, mtu, "{endpoint}");
    }
}

#[test]
fn unknown_and_unbuilt_keys_are_errors_with_their_line() {
    let text = interface("mut = 1400\n");
    let known = "`name`, `private-key`, `private-key-file`, `network-secret-file`, `listen`, `addresses`, `mtu`, `offload`, \
         `finish-checksums`";
    assert_eq!(
        error(&text),
        format!("veil.toml:4: unknown key `mut`: remove it or correct it, known here: {known}")
    );
    let unbuilt = "[link]\nzero-copy = true\n";
    assert!(error(&interface(unbuilt)).starts_with("veil.toml:5: unknown key `"), "{unbuilt}");
    assert!(
        error(&with_bob("port = 1\n"))
            .starts_with("veil.toml:8: unknown key `port`: remove it or correct it")
    );
    assert!(
        error(&interface("[peers]\n"))
            .starts_with("veil.toml:4: unknown key `peers`: remove it or correct it")
    );
}

#[test]
fn missing_keys_wrong_types_and_bad_toml_are_one_line_each() {
    assert_eq!(error(""), "veil.toml:1: the key `interface` is missing: add it");
    assert_eq!(
        error("\n[interface]\nprivate-key-file = \"veil.key\"\n"),
        "veil.toml:2: the key `addresses` is missing: add it"
    );
    let text = "[interface]\naddresses = []\n";
    let cure = "run `(umask 077; veil genkey > veil.key)` and add private-key-file = \"veil.key\"";
    assert_eq!(error(text), format!("veil.toml:1: [interface] has no private key: {cure}"));
    assert_eq!(
        error(&interface("offload = 1\n")),
        "veil.toml:4: invalid type: integer `1`, expected true or false"
    );
    let text = interface("mtu = \"1400\"\n");
    assert_eq!(error(&text), "veil.toml:4: invalid type: string \"1400\", expected a whole number");
    assert!(error(&interface("mtu = \n")).starts_with("veil.toml:4: "));
    assert!(error(&interface("mtu = 1400\nmtu = 1400\n")).starts_with("veil.toml:5: duplicate key"));
}

#[test]
fn a_private_key_never_shows_up_in_an_error() {
    for line in [
        format!("private-key = \"{ALICE}\" oops"),
        format!("private-key = {ALICE}"),
        format!("private-key = \"{ALICE}"),
    ] {
        let error = error(&format!("[interface]\n{line}\naddresses = []\n"));
        assert!(!error.contains(&ALICE[..10]), "{error}");
    }
}

#[test]
fn private_keys_are_given_once_and_kept_private() {
    let folder = Folder::new();
    let text = interface(&format!("private-key = \"{ALICE}\"\n"));
    folder.write("veil.toml", &text, 0o600);
    let both = Config::load(&folder.0.path().join("veil.toml")).err().unwrap().to_string();
    assert!(
        both.ends_with("veil.toml:2: private-key and private-key-file are both given: remove one"),
        "{both}"
    );

    let inline = format!("[interface]\nprivate-key = \"{ALICE}\"\naddresses = []\n");
    let wanted = "veil.toml: other users can get at the private key in this file (mode 0644): run `chmod 600 veil.toml`";
    assert_eq!(folder.error(&inline), wanted);
    folder.write("veil.toml", &inline, 0o600);
    assert!(Config::load(&folder.0.path().join("veil.toml")).is_ok());

    folder.write("veil.key", ALICE, 0o640);
    let wanted = "veil.toml:2: private-key-file: veil.key: other users can get at the private key in this file (mode 0640): \
                  run `chmod 600 veil.key`";
    assert_eq!(folder.error(&interface("")), wanted);
}

#[test]
fn wrong_keys_are_named_with_the_command_that_makes_them() {
    let folder = Folder::new();
    folder.write("veil.key", "short", 0o600);
    let text = folder.error(&interface(""));
    let wanted = "veil.toml:2: private-key-file: veil.key: this is no private key (make one with `veil genkey`): wrong length";
    assert!(text.starts_with(wanted), "{text}");
    let text = error(&with_bob("preshared-key-file = \"gone.psk\"\n"));
    let wanted = "veil.toml:8: preshared-key-file: gone.psk: cannot read the pre-shared key: \
                  check the path, or make one with `veil genpsk`: No such file";
    assert!(text.starts_with(wanted), "{text}");
    let text = error(&with_carol("abc", "allowed-ips = [\"10.8.0.3/32\"]\n"));
    assert!(
        text.starts_with("veil.toml:10: public-key is no key (`veil pubkey` prints it): wrong length"),
        "{text}"
    );
}

#[test]
fn numbers_out_of_range_are_told_the_range() {
    assert_eq!(
        error(&interface("mtu = 1279\n")),
        "veil.toml:4: mtu = 1279 is out of range: choose 1280 to 9000 bytes"
    );
    assert_eq!(
        error(&interface("mtu = 70000\n")),
        "veil.toml:4: mtu = 70000 is out of range: choose 1280 to 9000 bytes"
    );
    assert_eq!(
        error(&interface("[link]\ndscp = 64\n")),
        "veil.toml:5: dscp = 64 is out of range: choose 0 to 63 (46 is expedited forwarding)"
    );
    assert_eq!(
        error(&interface("[threads]\nnice = -21\n")),
        "veil.toml:5: nice = -21 is out of range: choose -20 to 19 (-20 is served first)"
    );
    let wanted = "veil.toml:5: cpu-latency = -1 is out of range: choose 0 to 1000000 microseconds (with 0 no core sleeps)";
    assert_eq!(error(&interface("[threads]\ncpu-latency = -1\n")), wanted);
    let wanted = "veil.toml:5: rekey-after = 121 is out of range: choose 1 to 120 seconds (sessions are never kept longer than 120)";
    assert_eq!(error(&interface("[timers]\nrekey-after = 121\n")), wanted);
    let wanted = "veil.toml:5: rotate-after = 31 is out of range: choose 1 to 30 seconds (receiver indices are never kept longer than 30 while there is traffic)";
    assert_eq!(error(&interface("[timers]\nrotate-after = 31\n")), wanted);
    let wanted = "veil.toml:8: persistent-keepalive = -1 is out of range: choose 0 to 65535 seconds (25 keeps most NATs open, 0 is off)";
    assert_eq!(error(&with_bob("persistent-keepalive = -1\n")), wanted);
}

#[test]
fn words_that_are_not_known_are_told_the_known_ones() {
    assert_eq!(
        error(&interface("[link]\nmode = \"fast\"\n")),
        "veil.toml:5: mode `fast` is unknown: choose auto, udp or xdp"
    );
    assert_eq!(
        error(&interface("[link]\nxdp-mode = \"Native\"\n")),
        "veil.toml:5: xdp-mode `Native` is unknown: choose native or generic"
    );
    assert_eq!(
        error(&interface("[threads]\nmode = \"many\"\n")),
        "veil.toml:5: mode `many` is unknown: choose auto, single or pipeline"
    );
    let wanted =
        "veil.toml:8: cipher `rot13` is unknown: choose aes-256-gcm or chacha20-poly1305, or leave it out";
    assert_eq!(error(&with_bob("cipher = \"rot13\"\n")), wanted);
    for name in ["", "a b", "sixteen-letters!", "a/b", "..", "veil%d"] {
        let wanted =
            format!("veil.toml:4: name `{name}` is no interface name: use 1 to 15 letters, digits, - or _");
        assert_eq!(error(&interface(&format!("name = \"{name}\"\n"))), wanted);
    }
}

#[test]
fn listen_is_an_address_and_a_port() {
    let listen = |text: &str| error(&interface(&format!("listen = \"{text}\"\n")));
    let cure = "write \"[::]:4433\" for IPv4 and IPv6, \"0.0.0.0:4433\" for IPv4 only";
    assert_eq!(listen("4433"), format!("veil.toml:4: listen `4433` is no address and port: {cure}"));
    assert_eq!(listen("[::]:0"), "veil.toml:4: listen `[::]:0` has port 0: choose a port from 1 to 65535");
    let wanted =
        "veil.toml:4: listen `224.0.0.1:1` is a multicast address: use an address of this machine, or [::]";
    assert_eq!(listen("224.0.0.1:1"), wanted);
}

#[test]
fn addresses_are_ones_an_interface_can_have() {
    let addresses =
        |list: &str| error(&format!("[interface]\nprivate-key-file = \"veil.key\"\naddresses = [{list}]\n"));
    let wanted = "veil.toml:3: address `10.8.0/24`: `10.8.0` is not an IPv4 or IPv6 address: write it like 10.8.0.1/24 or fd08::1/64";
    assert_eq!(addresses("\"10.8.0/24\""), wanted);
    let wanted = "veil.toml:3: address `10.8.0.0/24` is the network or broadcast address of its network: choose one in between";
    assert_eq!(addresses("\"10.8.0.0/24\""), wanted);
    assert!(addresses("\"10.8.0.255/24\"").contains("is the network or broadcast address"));
    for text in ["0.0.0.0/8", "224.1.1.1/24", "127.0.0.1/8", "10.0.0.1/0", "::1/128"] {
        let wanted = format!(
            "veil.toml:3: address `{text}` cannot be given to an interface: choose a private address such as 10.8.0.1/24"
        );
        assert_eq!(addresses(&format!("\"{text}\"")), wanted);
    }
    let wanted = "veil.toml:4: address `10.8.0.1/32` is given twice: remove one";
    assert_eq!(addresses("\"10.8.0.1/24\",\n \"10.8.0.1/32\""), wanted);
}

#[test]
fn peers_do_not_share_what_must_be_their_own() {
    let wanted = "veil.toml:10: peers `bob` and `carol` have the same public key: each machine needs its own, remove one";
    assert_eq!(error(&with_carol(BOB_PUBLIC, "allowed-ips = [\"10.8.0.3/32\"]\n")), wanted);
    let wanted = "veil.toml:10: peer `carol` has this machine's own public key: give the other end's (`veil pubkey` there)";
    assert_eq!(error(&with_carol(ALICE_PUBLIC, "allowed-ips = [\"10.8.0.3/32\"]\n")), wanted);
    let wanted = "veil.toml:11: the allowed IP 10.8.0.2/32 belongs to peer `bob` and to peer `carol`: leave it with one";
    assert_eq!(error(&with_carol(CAROL_PUBLIC, "allowed-ips = [\"10.8.0.2\"]\n")), wanted);
    let wanted = "veil.toml:12: peer `carol` has the allowed IP 10.9.0.0/16 twice: remove one";
    assert_eq!(
        error(&with_carol(CAROL_PUBLIC, "allowed-ips = [\"10.9.0.1/16\",\n \"10.9.0.0/16\"]\n")),
        wanted
    );
    let same_name = with_carol(CAROL_PUBLIC, "allowed-ips = [\"10.8.0.3/32\"]\n").replace("carol", "bob");
    assert_eq!(error(&same_name), "veil.toml:9: two peers are named `bob`: rename one");
}

#[test]
fn a_peer_has_allowed_ips_that_make_sense() {
    let wanted =
        "veil.toml:11: allowed-ips of peer `carol` is empty: list the inner addresses that peer may use";
    assert_eq!(error(&with_carol(CAROL_PUBLIC, "allowed-ips = []\n")), wanted);
    let wanted = "veil.toml:11: allowed IP `10.8.0.3/33`: `33` is not a prefix length: 10.8.0.3 takes 0 to 32: write it like 10.8.0.2/32 or fd08::/64";
    assert_eq!(error(&with_carol(CAROL_PUBLIC, "allowed-ips = [\"10.8.0.3/33\"]\n")), wanted);
    assert_eq!(error(&with_carol(CAROL_PUBLIC, "")), "veil.toml:8: the key `allowed-ips` is missing: add it");
}

#[test]
fn a_peers_address_is_not_this_machines() {
    let wanted = "veil.toml:11: the allowed IP 10.8.0.1/32 of peer `carol` is this machine's own address: give the peer's";
    assert_eq!(error(&with_carol(CAROL_PUBLIC, "allowed-ips = [\"10.8.0.1/32\"]\n")), wanted);
    let text = error(&with_carol(CAROL_PUBLIC, "allowed-ips = [\"fd08::1\"]\n"));
    assert!(text.contains("fd08::1/128 of peer `carol` is this machine's own address"), "{text}");
}

#[test]
fn an_endpoint_is_reachable_from_outside_the_tunnel() {
    let swallow = "the tunnel would swallow its own datagrams, narrow the allowed IP or use another endpoint";
    let text = with_carol(CAROL_PUBLIC, "allowed-ips = [\"192.0.2.0/24\"]\nendpoint = \"192.0.2.7:1\"\n");
    let wanted = format!(
        "veil.toml:12: the endpoint 192.0.2.7 of peer `carol` is inside the allowed IP 192.0.2.0/24: {swallow}"
    );
    assert_eq!(error(&text), wanted);
    let text =
        with_carol(CAROL_PUBLIC, "allowed-ips = [\"192.0.2.0/24\"]\nendpoint = \"[::ffff:10.8.0.2]:1\"\n");
    let wanted = format!(
        "veil.toml:12: the endpoint 10.8.0.2 of peer `carol` is inside the allowed IP 10.8.0.2/32 of peer `bob`: {swallow}"
    );
    assert_eq!(error(&text), wanted);
    let wanted = "veil.toml:8: the endpoint 10.8.0.77 of peer `bob` is inside 10.8.0.0/24, which `addresses` puts into the \
                  tunnel: it would swallow its own datagrams, use another endpoint";
    assert_eq!(error(&with_bob("endpoint = \"10.8.0.77:1\"\n")), wanted);
    let listen = |listen: &str, endpoint: &str| {
        let text = with_bob(&format!("endpoint = \"{endpoint}\"\n"));
        Folder::new()
            .load(&text.replacen("[[peer]]", &format!("listen = \"{listen}\"\n[[peer]]"), 1))
            .map(drop)
    };
    let wanted = "veil.toml:9: the endpoint 2001:db8::7 of peer `bob` is IPv6, and `listen` is IPv4 only: listen on [::] for \
                  both, or use another endpoint";
    assert_eq!(listen("0.0.0.0:1", "[2001:db8::7]:1"), Err(wanted.to_owned()));
    assert!(listen("[2001:db8::1]:1", "192.0.2.7:1").is_err_and(|error| error.contains("IPv6 only")));
    for (here, there) in
        [("[::]:1", "192.0.2.7:1"), ("[::]:1", "[2001:db8::7]:1"), ("0.0.0.0:1", "192.0.2.7:1")]
    {
        assert_eq!(listen(here, there), Ok(()));
    }
    let text = with_bob("endpoint = \"0.0.0.0:1\"\n");
    let wanted =
        "veil.toml:8: endpoint `0.0.0.0:1` is no machine's address: give the address the peer listens on";
    assert_eq!(error(&text), wanted);
    let wanted = "veil.toml:8: endpoint `bob` cannot be understood: \
                  write host:port, for example vpn.example.org:4433 or [2001:db8::1]:4433";
    assert_eq!(error(&with_bob("endpoint = \"bob\"\n")), wanted);
}

#[test]
fn an_offer_is_read_in_full_and_what_is_wrong_with_it_is_said() {
    let text = "offer = { addresses = [\"10.8.0.2/24\"], routes = [\"10.60.0.7/16\"], dns = [\"10.8.0.1\"], mtu = 1300, \
                persistent-keepalive = 25 }\n";
    let config = Folder::new().load(&with_bob(text)).unwrap_or_else(|e| panic!("{e}"));
    let offer = config.peers[0].offer.as_ref().unwrap();
    let shown = |nets: &[IpNet]| nets.iter().map(IpNet::to_string).collect::<Vec<_>>();
    assert_eq!(
        (shown(&offer.addresses), shown(&offer.routes)),
        (vec!["10.8.0.2/24".into()], vec!["10.60.0.0/16".into()])
    );
    assert_eq!((offer.dns.len(), offer.mtu, offer.keepalive), (1, Some(1300), Some(25)));

    let empty = Folder::new().load(&with_bob("offer = {}\n")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(empty.peers[0].offer, Some(Lease::default()));

    let refused = |offer: &str| error(&with_bob(&format!("offer = {{ {offer} }}\n")));
    let many: Vec<_> = (0..17).map(|n| format!("\"10.{n}.0.0/16\"")).collect();
    let servers = vec!["\"10.8.0.1\""; 200].join(", ");
    for (offer, wanted) in [
        (
            "addresses = [\"10.8.0.3/24\"]",
            "the address 10.8.0.3 offered to peer `bob` is in none of its allowed IPs, so that what it sends from there \
             would be dropped: add it to allowed-ips",
        ),
        ("addresses = [\"10.8.0.2/33\"]", "address `10.8.0.2/33`: "),
        ("routes = [\"ten\"]", "route `ten`: "),
        (
            "routes = [\"10.60.0.0/16\", \"0.0.0.0/0\"]",
            "0.0.0.0/0, offered to peer `bob`, is taken by no host: ",
        ),
        ("addresses = [\"fe80::2/64\"]", "fe80::2/64, offered to peer `bob`, is taken by no host: "),
        (
            &format!("routes = [{}]", many.join(", ")),
            "the offer to peer `bob` has 17 routes: it would take 16, remove some",
        ),
        ("dns = [\"10.8.0.1/32\"]", "dns `10.8.0.1/32` is no IP address: write it like 10.8.0.1 or fd08::1"),
        (
            &format!("dns = [{servers}]"),
            "the offer to peer `bob` is too long for one message: remove some of it",
        ),
        ("mtu = 1200", "mtu = 1200 is out of range: choose 1280 to 9000 bytes"),
        ("persistent-keepalive = 0", "persistent-keepalive = 0 is out of range: "),
        ("gateway = true", "unknown key `gateway`: remove it or correct it"),
    ] {
        let text = refused(offer);
        assert!(text.starts_with(&format!("veil.toml:8: {wanted}")), "{offer}: {text}");
    }
}

#[test]
fn an_offered_address_is_the_peers_own_and_nobody_elses() {
    let offering = |allowed: &str, addresses: &str| {
        format!("allowed-ips = [\"{allowed}\"]\noffer = {{ addresses = [\"{addresses}\"] }}\n")
    };
    let text = with_carol(CAROL_PUBLIC, &offering("10.8.0.0/24", "10.8.0.1/24"));
    let wanted =
        "veil.toml:12: the address 10.8.0.1 offered to peer `carol` is this machine's own: offer another";
    assert_eq!(error(&text), wanted);
    let text = with_carol(CAROL_PUBLIC, &offering("10.8.0.0/24", "10.8.0.2/24"));
    let wanted = "veil.toml:12: the address 10.8.0.2 offered to peer `carol` is one of peer `bob`, by its allowed IPs: offer \
                  another";
    assert_eq!(error(&text), wanted);
    let text = with_carol(CAROL_PUBLIC, &offering("10.8.0.0/24", "10.8.0.3/24"));
    assert!(Folder::new().load(&text).is_ok());
}

#[test]
fn a_missing_configuration_is_named() {
    let error = format!("{:#}", Config::load(Path::new("/nonexistent/veil.toml")).err().unwrap());
    let wanted = "/nonexistent/veil.toml: cannot read the configuration: check the path given with --config: No such file";
    assert!(error.starts_with(wanted), "{error}");
}

#[test]
fn what_is_not_built_in_yet_says_so() {
    assert_eq!(LinkMode::Xdp.check_built_in("--link xdp").is_ok(), cfg!(feature = "xdp"));
    assert!(LinkMode::Auto.check_built_in("").is_ok());
}
