//! A report as people read it, in the form of `veil show`.

use super::{Report, TunOffloads};
use crate::page::{BOLD, GREEN, Page, YELLOW, listed};
use veil_xdp::ladder::Rung;
use veil_xdp::nic::{Facts, Hook, Kernel, Nic, Privileges, Probe, mac_text};

/// The report as text, ending in a newline; with ANSI colours when `colour`.
pub fn render(report: &Report, colour: bool) -> String {
    let Facts { nic, kernel, privileges } = &report.facts;
    let mut page = Page::new(colour);
    interface(&mut page, nic);
    page.gap();
    machine(&mut page, kernel, *privileges, &report.tun);
    page.gap();
    ladder(&mut page, report);
    page.text
}

fn interface(page: &mut Page, nic: &Nic) {
    page.title("interface", &nic.name);
    let driver = nic.driver.as_ref().map(|driver| format!("{} {}", driver.name, driver.version));
    page.line("driver", driver.as_deref().map_or("does not say", str::trim_end));
    page.line("MAC", &nic.mac.map_or("none: no Ethernet".to_owned(), mac_text));
    let state = match (nic.up, nic.carrier) {
        (true, true) => "up, with carrier".to_owned(),
        (true, false) => page.paint(YELLOW, "up, without carrier"),
        (false, _) => page.paint(YELLOW, "switched off"),
    };
    page.line("state", &state);
    let limit = nic.mtu_limit;
    let at_most = if limit.exact { "at most" } else { "at best" };
    page.line("mtu", &format!("{}; for XDP {at_most} {} ({})", nic.mtu, limit.bytes, limit.source));
    let queues = nic.queues;
    page.line(
        "queues",
        &format!("{} RX of {}, {} TX of {}", queues.rx, queues.rx_max, queues.tx, queues.tx_max),
    );
    let features = match nic.xdp {
        Some(xdp) => listed(&xdp.names()),
        None => "this kernel does not say (since 6.3): tried at start".to_owned(),
    };
    page.line("XDP features", &features);
    let zero_copy = match nic.xdp {
        Some(xdp) if xdp.xsk_zerocopy && xdp.zerocopy_max_segments > 1 => {
            format!("offered, up to {} buffers a packet", xdp.zerocopy_max_segments)
        }
        Some(xdp) if xdp.xsk_zerocopy => "offered".to_owned(),
        Some(_) => "not offered".to_owned(),
        None => "not known".to_owned(),
    };
    page.line("zero-copy", &zero_copy);
    if nic.hook.is_empty() {
        page.line("XDP hook", "free");
    }
    for hook in &nic.hook {
        let text = if hook.is_veil() {
            format!("VEIL's: {}", holder(hook))
        } else {
            page.paint(YELLOW, &holder(hook))
        };
        page.line("XDP hook", &text);
    }
}

fn holder(hook: &Hook) -> String {
    let name = hook.name.as_ref().map_or(String::new(), |name| format!(" {name}"));
    let by = if hook.processes.is_empty() { "" } else { ", held by " };
    format!("program {}{name}, {} mode{by}{}", hook.program, hook.mode.name(), hook.processes.join(", "))
}

fn machine(page: &mut Page, kernel: &Kernel, privileges: Privileges, tun: &TunOffloads) {
    page.title("kernel", &kernel.release);
    for (label, probe) in [("AF_XDP sockets", &kernel.af_xdp), ("XDP programs", &kernel.bpf)] {
        let text = match probe {
            Probe::Works => "can be made".to_owned(),
            Probe::Fails(_, why) => page.paint(YELLOW, &format!("refused: {why}")),
        };
        page.line(label, &text);
    }
    page.line("BTF", if kernel.btf { "there" } else { "not there; VEIL does without" });
    let missing = privileges.missing();
    let text = if missing.is_empty() {
        "all that AF_XDP needs".to_owned()
    } else {
        let names: Vec<_> = missing.into_iter().map(|capability| capability.name()).collect();
        page.paint(YELLOW, &format!("missing: {}", names.join(", ")))
    };
    page.line("privileges", &text);
    let lockable = match privileges.lockable {
        _ if privileges.may_lock(u64::MAX) => "without limit".to_owned(),
        limit => format!("{} KiB", limit.unwrap_or_default() >> 10),
    };
    page.line("locked memory", &lockable);
    let offloads = match (&tun.unknown, tun.tso, tun.uso) {
        (Some(why), ..) => format!("not known: {why}"),
        (None, true, true) => "checksums, TCP and UDP super-packets".to_owned(),
        (None, true, false) => "checksums, TCP super-packets (UDP: Linux 6.2)".to_owned(),
        (None, false, _) => "none".to_owned(),
    };
    page.line("TUN offloads", &offloads);
}

fn ladder(page: &mut Page, report: &Report) {
    page.title("VEIL would stand on", report.rung.name());
    let mut above = None;
    for verdict in &report.rungs {
        let repeated = verdict.why_not.is_some() && verdict.why_not.as_ref() == above;
        above = verdict.why_not.as_ref();
        match &verdict.why_not {
            None if verdict.rung == report.rung => {
                let text = page.paint(GREEN, "yes");
                page.line(verdict.rung.name(), &text);
            }
            None => page.line(verdict.rung.name(), "can be had too"),
            Some(_) if repeated => page.line(verdict.rung.name(), "no, for the same reason"),
            Some(why) => {
                page.line(verdict.rung.name(), &format!("no: {}", why.what));
                page.line("", &format!("-> {}", why.cure));
            }
        }
    }
    if report.rung == Rung::Udp {
        return;
    }
    page.gap();
    let heading = page.paint(BOLD, "what that costs this host");
    page.text.push_str(&format!("{heading}\n"));
    for cost in &report.costs {
        page.text.push_str(&format!("  {cost}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use veil_xdp::nic::{Driver, HookMode, MtuLimit, Queues, XdpFeatures};

    fn example(facts: Facts) -> Report {
        Report::of(facts, false, TunOffloads { tso: true, uso: true, unknown: None })
    }

    fn veth() -> Facts {
        Facts {
            nic: Nic {
                name: "veth0".into(),
                index: 4,
                mac: Some([2, 0, 0, 0xaa, 0xbb, 0xcc]),
                mtu: 1500,
                up: true,
                carrier: true,
                driver: Some(Driver { name: "veth".into(), version: "1.0".into() }),
                queues: Queues { rx: 2, tx: 2, rx_max: 4, tx_max: 4 },
                xdp: Some(XdpFeatures { basic: true, redirect: true, rx_sg: true, ..XdpFeatures::default() }),
                mtu_limit: MtuLimit { bytes: 3506, source: "its source", exact: true },
                hook: vec![],
                virtio: None,
            },
            kernel: Kernel { release: "6.12.1".into(), af_xdp: Probe::Works, bpf: Probe::Works, btf: true },
            privileges: Privileges { effective: u64::MAX, lockable: None },
        }
    }

    #[test]
    fn a_person_reads_it_at_a_glance() {
        let wanted = "\
interface veth0
  driver          veth 1.0
  MAC             02:00:00:aa:bb:cc
  state           up, with carrier
  mtu             1500; for XDP at most 3506 (its source)
  queues          2 RX of 4, 2 TX of 4
  XDP features    basic, redirect, rx-sg
  zero-copy       not offered
  XDP hook        free

kernel 6.12.1
  AF_XDP sockets  can be made
  XDP programs    can be made
  BTF             there
  privileges      all that AF_XDP needs
  locked memory   without limit
  TUN offloads    checksums, TCP and UDP super-packets

VEIL would stand on native copy
  zero-copy       no: the driver veth has no zero-copy in this kernel
                  -> use another interface, or be content with the next rung
  native copy     yes
  generic copy    no: generic mode is slower than UDP and was not asked for
                  -> nothing to cure
  udp             can be had too

what that costs this host
  the host's firewall, NAT and packet captures do not see what VEIL takes
  veth: the other end sends TCP in single packets (loses GSO and TSO) while the program is attached
";
        assert_eq!(render(&example(veth()), false), wanted);
    }

    #[test]
    fn what_is_in_the_way_stands_out() {
        let mut facts = veth();
        facts.privileges = Privileges { effective: 0, lockable: Some(8 << 20) };
        facts.kernel.af_xdp = Probe::Fails(Some(1), "Operation not permitted".into());
        facts.nic.hook = vec![Hook {
            mode: HookMode::Native,
            program: 12,
            name: Some("xdp_lb".into()),
            processes: vec!["lb (pid 71)".into()],
        }];
        let text = render(&example(facts), false);
        for line in [
            "  AF_XDP sockets  refused: Operation not permitted\n",
            "  privileges      missing: CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW\n",
            "  locked memory   8192 KiB\n",
            "  XDP hook        program 12 xdp_lb, native mode, held by lb (pid 71)\n",
            "VEIL would stand on udp\n",
            "  native copy     no: veth0's XDP hook has program 12 `xdp_lb` (native mode) of lb (pid 71)\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("costs"), "{text}");
    }

    #[test]
    fn a_tunnel_that_runs_is_in_nobodys_way() {
        let mut facts = veth();
        let (mode, processes) = (HookMode::Native, vec!["veil (pid 71)".into()]);
        facts.nic.hook = vec![Hook { mode, program: 12, name: Some("veil_steer".into()), processes }];
        let text = render(&example(facts), false);
        for line in [
            "  XDP hook        VEIL's: program 12 veil_steer, native mode, held by veil (pid 71)\n",
            "VEIL would stand on native copy\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn a_reason_is_told_once() {
        let mut facts = veth();
        facts.nic.mac = None;
        let text = render(&example(facts), false);
        assert_eq!(text.matches("no Ethernet interface").count(), 1, "{text}");
        assert!(text.contains("  native copy     no, for the same reason\n"), "{text}");
    }

    #[test]
    fn programs_read_it_too() {
        let json = serde_json::to_value(example(veth())).unwrap();
        assert_eq!(json["rung"], "native copy");
        assert_eq!(json["rungs"][0]["rung"], "zero-copy");
        assert_eq!(json["rungs"][0]["why_not"]["what"], "the driver veth has no zero-copy in this kernel");
        assert!(json["rungs"][1]["why_not"].is_null());
        assert_eq!(json["nic"]["mac"], "02:00:00:aa:bb:cc");
        assert_eq!((&json["nic"]["queues"]["rx"], &json["kernel"]["bpf"]), (&2.into(), &"works".into()));
        assert_eq!(json["privileges"]["capabilities"][0], "CAP_NET_ADMIN");
    }
}
