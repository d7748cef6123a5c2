//! VEIL's kernel side: an XDP program that steers VEIL's datagrams into AF_XDP sockets and leaves everything else to
//! the kernel. This library is what both sides of the kernel line share: the names of the maps, what is in them, the
//! verdicts, and the rule itself, [`steer::classify`], which is the same code in the kernel and in the tests.
//!
//! The program is `main.rs`, built by `cargo xtask build-ebpf` and committed as [`OBJECT`], so that building VEIL
//! needs no eBPF toolchain.
#![no_std]

pub mod headers;
pub mod steer;

/// The program's name in [`OBJECT`].
pub const PROGRAM: &str = "veil_steer";

/// The maps' names in [`OBJECT`].
pub mod maps {
    /// XSKMAP: receive queue (u32) to AF_XDP socket. A queue without one passes its packets to the kernel.
    pub const XSKS: &str = "XSKS";
    /// Array of one: [`SteeringConfig`](crate::SteeringConfig).
    pub const CONFIG: &str = "CONFIG";
    /// Hash: addresses this host answers to, as [`local_key`](crate::local_key) writes them, to a byte of no meaning.
    pub const LOCAL: &str = "LOCAL";
    /// Per-CPU array: packets (u64) by [`Verdict`](crate::Verdict).
    pub const COUNTERS: &str = "COUNTERS";
    /// Most receive queues [`XSKS`] has room for.
    pub const MAX_QUEUES: usize = 256;
    /// Most addresses [`LOCAL`] has room for.
    pub const MAX_LOCAL: usize = 1024;
}

/// The built program, an ELF file for any little-endian machine.
#[cfg(not(target_arch = "bpf"))]
pub static OBJECT: &[u8] = {
    /// Readers of ELF want it aligned.
    #[repr(C, align(8))]
    struct Aligned<B>(B);
    static ALIGNED: Aligned<[u8; include_bytes!("../veil-steer.bpf.o").len()]> =
        Aligned(*include_bytes!("../veil-steer.bpf.o"));
    &ALIGNED.0
};

/// Whose packets to redirect. As the kernel makes the map it is all zero, which redirects nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteeringConfig {
    /// The NIC's Ethernet address.
    pub mac: [u8; 6],
    /// VEIL's UDP port as a number, not in network order; 0 redirects nothing.
    pub port: u16,
    /// Bytes of the longest Ethernet frame that the sockets have room for. Longer ones, which segmentation offload joins
    /// on this host's side of the NIC, would be lost in a socket; the kernel takes them.
    pub longest: u16,
}

impl SteeringConfig {
    /// The value of [`maps::CONFIG`] as it lies in memory.
    pub const fn to_bytes(self) -> [u8; size_of::<SteeringConfig>()] {
        let ([a, b, c, d, e, f], [p, q], [l, m]) =
            (self.mac, self.port.to_ne_bytes(), self.longest.to_ne_bytes());
        [a, b, c, d, e, f, p, q, l, m]
    }
}

/// The key of an IPv4 address in [`maps::LOCAL`]: IPv4-mapped (RFC 4291, section 2.5.5.2). An IPv6 address is its own.
pub const fn local_key(address: [u8; 4]) -> [u8; 16] {
    (0xffff << 32 | u32::from_be_bytes(address) as u128).to_be_bytes()
}

/// What the program decided about a packet, and the index of its counter. All but [`Redirect`](Verdict::Redirect)
/// pass the packet to the kernel as it is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// VEIL's: to the AF_XDP socket of the queue it came by.
    Redirect,
    /// VEIL's, but its queue has no socket. The program alone says this; `classify` knows no sockets.
    NoSocket,
    /// The configuration names no port.
    NotConfigured,
    /// To another Ethernet address, broadcast and multicast among them.
    WrongMac,
    /// Tagged by 802.1Q or 802.1ad.
    Vlan,
    /// Neither IPv4 nor IPv6: ARP and the like.
    NotIp,
    /// Shorter than its headers are or say, or an IP header that contradicts itself.
    Malformed,
    /// IPv4 with options.
    Options,
    /// A fragment, first or later; IPv6 with a fragment header.
    Fragment,
    /// IPv6 with another extension header.
    ExtensionHeader,
    /// IP, but not UDP: TCP, ICMP, neighbour discovery.
    NotUdp,
    /// UDP to another port.
    WrongPort,
    /// A UDP length less than its header, or more than the packet has.
    BadUdpLength,
    /// To an address that is not this host's: what it forwards, multicast.
    WrongAddress,
    /// Longer than what the sockets have room for.
    TooLong,
}

impl Verdict {
    /// Every verdict, in the order of the counters.
    pub const ALL: [Verdict; 15] = [
        Verdict::Redirect,
        Verdict::NoSocket,
        Verdict::NotConfigured,
        Verdict::WrongMac,
        Verdict::Vlan,
        Verdict::NotIp,
        Verdict::Malformed,
        Verdict::Options,
        Verdict::Fragment,
        Verdict::ExtensionHeader,
        Verdict::NotUdp,
        Verdict::WrongPort,
        Verdict::BadUdpLength,
        Verdict::WrongAddress,
        Verdict::TooLong,
    ];

    /// The name of its counter.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Redirect => "redirect",
            Verdict::NoSocket => "no_socket",
            Verdict::NotConfigured => "not_configured",
            Verdict::WrongMac => "wrong_mac",
            Verdict::Vlan => "vlan",
            Verdict::NotIp => "not_ip",
            Verdict::Malformed => "malformed",
            Verdict::Options => "options",
            Verdict::Fragment => "fragment",
            Verdict::ExtensionHeader => "extension_header",
            Verdict::NotUdp => "not_udp",
            Verdict::WrongPort => "wrong_port",
            Verdict::BadUdpLength => "bad_udp_length",
            Verdict::WrongAddress => "wrong_address",
            Verdict::TooLong => "too_long",
        }
    }
}
