//! The table: facts of a good NIC, one of them changed, and the verdict on each rung.

use super::*;
use crate::nic::{Driver, Hook, Kernel, MtuLimit, Nic, Privileges, Queues, Virtio, XDP_MTU_MAX, XdpFeatures};

const ASKED: Asked = Asked { xdp: true, generic: true, frames: 8192, own_program: None };
const ALL_CAPABILITIES: u64 = 1 << 12 | 1 << 13 | 1 << 39;

/// A NIC with everything, on a kernel with everything, before a process that may do everything.
fn good() -> Facts {
    let xdp = XdpFeatures { basic: true, redirect: true, xsk_zerocopy: true, ..XdpFeatures::default() };
    Facts {
        nic: Nic {
            name: "eth7".into(),
            index: 7,
            mac: Some([2, 0, 0, 0, 0, 7]),
            mtu: 1500,
            up: true,
            carrier: true,
            driver: Some(Driver { name: "igb".into(), version: String::new() }),
            queues: Queues { rx: 4, tx: 4, rx_max: 8, tx_max: 8 },
            xdp: Some(xdp),
            mtu_limit: MtuLimit { bytes: XDP_MTU_MAX, source: "", exact: true },
            hook: vec![],
            virtio: None,
        },
        kernel: Kernel { release: "6.12.0".into(), af_xdp: Probe::Works, bpf: Probe::Works, btf: true },
        privileges: Privileges { effective: ALL_CAPABILITIES, lockable: None },
    }
}

fn hook(mode: HookMode) -> Hook {
    Hook { mode, program: 12, name: Some("xdp_lb".into()), processes: vec!["lb (pid 71)".into()] }
}

fn refused(errno: i32) -> Probe {
    Probe::Fails(Some(errno), "No".into())
}

/// What is changed; what a reason must say for each of zero-copy, native and generic, "" where the rung is to be had.
type Case = (fn(&mut Facts, &mut Asked), [&'static str; 3]);

const TABLE: &[Case] = &[
    (|_, _| {}, ["", "", ""]),
    // What was asked for.
    (|_, asked| asked.generic = false, ["", "", "not asked for"]),
    (|_, asked| asked.xdp = false, ["only UDP", "only UDP", "only UDP"]),
    // What the interface is.
    (|facts, _| facts.nic.mac = None, ["no Ethernet", "no Ethernet", "no Ethernet"]),
    (|facts, _| facts.nic.xdp = None, ["", "", ""]),
    (|facts, _| facts.nic.xdp.as_mut().unwrap().xsk_zerocopy = false, ["igb has no zero-copy", "", ""]),
    (|facts, _| facts.nic.xdp.as_mut().unwrap().redirect = false, ["igb runs no XDP", "igb runs no XDP", ""]),
    (|facts, _| facts.nic.xdp.as_mut().unwrap().basic = false, ["igb runs no XDP", "igb runs no XDP", ""]),
    (
        |facts, _| {
            facts.nic.xdp = Some(XdpFeatures::default());
            facts.nic.driver.as_mut().unwrap().name = "veth".into();
        },
        ["more TX queues", "more TX queues", ""],
    ),
    (
        |facts, _| facts.nic.driver.as_mut().unwrap().name = "bonding".into(),
        ["by interfaces below it", "by interfaces below it", ""],
    ),
    (|facts, _| facts.nic.virtio = Some(Virtio::new(1 << 33 | 1 << 40)), ["", "", ""]),
    (|facts, _| facts.nic.virtio = Some(Virtio::new(0)), ["iommu_platform=on", "", ""]),
    (
        |facts, _| facts.nic.virtio = Some(Virtio::new(1 << 33 | 1 << 40 | 1 << 7)),
        ["CTRL_GUEST_OFFLOADS", "CTRL_GUEST_OFFLOADS", ""],
    ),
    // What the kernel is.
    (|facts, _| facts.kernel.release = "5.8.18".into(), ["bpf_link"; 3]),
    (|facts, _| facts.kernel.release = "5.10.1".into(), ["", "", ""]),
    (|facts, _| facts.kernel.af_xdp = refused(libc::EAFNOSUPPORT), ["CONFIG_XDP_SOCKETS"; 3]),
    (|facts, _| facts.kernel.bpf = refused(libc::ENOSYS), ["CONFIG_BPF_SYSCALL"; 3]),
    // How the interface is set up.
    (|facts, _| facts.nic.up = false, ["set dev eth7 up"; 3]),
    (|facts, _| facts.nic.carrier = false, ["", "", ""]),
    (|facts, _| facts.nic.mtu = XDP_MTU_MAX, ["", "", ""]),
    (|facts, _| facts.nic.mtu = XDP_MTU_MAX + 1, ["MTU of 3507 is above 3506", "mtu 3506", ""]),
    (|facts, _| facts.nic.mtu = 3822, ["above 3506", "above 3506", ""]),
    (|facts, _| facts.nic.mtu = 3823, ["above 3506", "above 3506", "more than a UMEM frame"]),
    (
        |facts, _| facts.nic.hook = vec![hook(HookMode::Native)],
        ["12 `xdp_lb` (native mode) of lb (pid 71)"; 3],
    ),
    (|facts, _| facts.nic.hook = vec![hook(HookMode::Generic)], ["12 `xdp_lb` (generic mode)"; 3]),
    (|facts, _| facts.nic.hook = vec![hook(HookMode::Hardware)], ["", "", ""]),
    (
        |facts, _| facts.nic.hook = vec![Hook { processes: vec![], ..hook(HookMode::Native) }],
        ["set dev eth7 xdp off"; 3],
    ),
    (
        |facts, asked| {
            facts.nic.hook = vec![hook(HookMode::Native)];
            asked.own_program = Some(12);
        },
        ["", "", ""],
    ),
    // What the process may do.
    (|facts, _| facts.privileges.effective &= !(1 << 39), ["CAP_BPF missing"; 3]),
    (|facts, _| facts.privileges.effective = 0, ["CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW missing"; 3]),
    (|facts, _| facts.kernel.bpf = refused(libc::EPERM), ["bpf() is refused (No)"; 3]),
    (|facts, _| facts.kernel.af_xdp = refused(libc::EPERM), ["AF_XDP sockets is refused (No)"; 3]),
    (|facts, _| facts.privileges.lockable = Some(32 << 20), ["", "", ""]),
    (
        |facts, _| facts.privileges.lockable = Some(16 << 20),
        ["32768 KiB of memory must be locked, and 16384 KiB", "", ""],
    ),
    (
        |facts, _| facts.privileges.lockable = Some(8 << 20),
        [
            "32768 KiB of memory must be locked, and 8192 KiB",
            "16384 KiB of memory must be locked, and 8192 KiB",
            "16384 KiB of memory must be locked, and 8192 KiB",
        ],
    ),
];

#[test]
fn every_case_of_the_table_gets_its_reasons() {
    for (at, (change, wanted)) in TABLE.iter().enumerate() {
        let (mut facts, mut asked) = (good(), ASKED);
        change(&mut facts, &mut asked);
        let [rest @ .., udp] = rungs(&facts, asked);
        assert_eq!(udp, (Rung::Udp, Ok(())), "case {at}");
        for ((rung, verdict), wanted) in rest.into_iter().zip(wanted) {
            match verdict {
                Ok(()) => assert_eq!(*wanted, "", "case {at}: {rung} is to be had"),
                Err(why) => {
                    assert!(
                        !wanted.is_empty() && why.to_string().contains(wanted),
                        "case {at}, {rung}: {why}"
                    );
                    assert!(!why.cure.is_empty(), "case {at}, {rung}");
                }
            }
        }
    }
}

#[test]
fn the_best_rung_is_the_first_that_can_be_had() {
    let mut facts = good();
    assert_eq!(best(&rungs(&facts, ASKED)), Rung::ZeroCopy);
    facts.nic.xdp = Some(XdpFeatures { xsk_zerocopy: false, ..facts.nic.xdp.unwrap() });
    assert_eq!(best(&rungs(&facts, ASKED)), Rung::NativeCopy);
    facts.nic.xdp = Some(XdpFeatures::default());
    assert_eq!(best(&rungs(&facts, ASKED)), Rung::GenericCopy);
    assert_eq!(best(&rungs(&facts, Asked { generic: false, ..ASKED })), Rung::Udp);
}

#[test]
fn what_cannot_be_cured_is_said_before_what_can() {
    let mut facts = good();
    facts.privileges.effective = 0;
    facts.kernel.bpf = refused(libc::EPERM);
    facts.nic.up = false;
    facts.nic.xdp.as_mut().unwrap().xsk_zerocopy = false;
    let why = |verdict: Result<(), WhyNot>| verdict.err().map_or(String::new(), |why| why.to_string());
    let [zero_copy, native, ..] = rungs(&facts, ASKED).map(|(_, verdict)| why(verdict));
    assert!(zero_copy.contains("no zero-copy") && native.contains("switched off"), "{zero_copy}, {native}");
}
