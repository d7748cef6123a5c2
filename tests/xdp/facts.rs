//! What is said of an interface is what the kernel does: the facts of a veth, and the ladder's verdicts put to the test.

use anyhow::{Context, Result, ensure};
use veil_lab::require_privileges;
use veil_xdp::ladder::{Asked, Rung, best, rungs};
use veil_xdp::nic::{Facts, HookMode, XDP_MTU_MAX};
use veil_xdp::{AttachMode, Program};

use crate::wire::{INTERFACE, Wire, until};

const ASKED: Asked = Asked { xdp: true, generic: false, frames: 512, own_program: None };

fn rung(facts: &Facts) -> Rung {
    best(&rungs(facts, ASKED))
}

#[test]
fn a_veth_is_described_and_takes_native_copy() -> Result<()> {
    if !require_privileges("a_veth_is_described_and_takes_native_copy") {
        return Ok(());
    }
    let wire = Wire::new("facts", 4)?;
    let _inside = wire.ours.enter()?;
    let facts = Facts::gather(INTERFACE)?;
    let nic = &facts.nic;
    ensure!(nic.mac == Some(wire.our_mac) && nic.driver_name() == "veth", "{nic:?}");
    ensure!(nic.mtu == 1500 && nic.up && nic.carrier && nic.hook.is_empty(), "{nic:?}");
    ensure!((nic.queues.rx, nic.queues.tx) == (4, 4), "{:?}", nic.queues);
    let xdp = nic.xdp.context("this kernel does not say what its drivers can do")?;
    ensure!(xdp.basic && xdp.redirect && !xdp.xsk_zerocopy, "{xdp:?}");
    ensure!(facts.privileges.missing().is_empty());
    ensure!(rung(&facts) == Rung::NativeCopy, "{:?}", rungs(&facts, ASKED));
    Ok(())
}

#[test]
fn who_is_on_the_hook_is_named_with_mode_and_process() -> Result<()> {
    if !require_privileges("who_is_on_the_hook_is_named_with_mode_and_process") {
        return Ok(());
    }
    let wire = Wire::new("held", 1)?;
    let _inside = wire.ours.enter()?;
    for (mode, expected) in [(AttachMode::Native, HookMode::Native), (AttachMode::Generic, HookMode::Generic)]
    {
        let program = Program::attach(INTERFACE, mode)?;
        let facts = Facts::gather(INTERFACE)?;
        let [hook] = facts.nic.hook.as_slice() else { anyhow::bail!("{:?}", facts.nic.hook) };
        ensure!(hook.mode == expected && hook.program == program.id(), "{hook:?}");
        ensure!(hook.name.as_deref() == Some("veil_steer"), "{hook:?}");
        let me = format!("(pid {})", std::process::id());
        ensure!(hook.processes.iter().any(|process| process.ends_with(&me)), "{hook:?} without {me}");
        ensure!(rung(&facts) == Rung::Udp, "another program is in the way");
        let ours = Asked { own_program: Some(program.id()), ..ASKED };
        ensure!(best(&rungs(&facts, ours)) == Rung::NativeCopy, "our own program is not");
        drop(program);
        until("the hook to be free", || Ok(Facts::gather(INTERFACE)?.nic.hook.is_empty()))?;
    }
    Ok(())
}

#[test]
fn the_mtus_limit_is_the_kernels() -> Result<()> {
    if !require_privileges("the_mtus_limit_is_the_kernels") {
        return Ok(());
    }
    let wire = Wire::new("mtu", 1)?;
    let set = |mtu: u32| -> Result<()> {
        for end in [&wire.ours, &wire.theirs] {
            end.exec(["ip", "link", "set", INTERFACE, "mtu", &mtu.to_string()])?;
        }
        Ok(())
    };
    for (mtu, works) in [(XDP_MTU_MAX, true), (XDP_MTU_MAX + 1, false)] {
        set(mtu)?;
        let _inside = wire.ours.enter()?;
        let facts = Facts::gather(INTERFACE)?;
        ensure!((rung(&facts) == Rung::NativeCopy) == works, "MTU {mtu}: {:?}", rungs(&facts, ASKED));
        let attached = Program::attach(INTERFACE, AttachMode::Native);
        ensure!(attached.is_ok() == works, "MTU {mtu}: the kernel says {:?}", attached.err());
        drop(attached);
        until("the hook to be free", || Ok(Facts::gather(INTERFACE)?.nic.hook.is_empty()))?;
    }
    Ok(())
}

#[test]
fn an_interface_that_cannot_be_used_is_not_tried() -> Result<()> {
    if !require_privileges("an_interface_that_cannot_be_used_is_not_tried") {
        return Ok(());
    }
    let wire = Wire::new("unfit", 1)?;
    wire.ours.exec(["ip", "link", "set", INTERFACE, "down"])?;
    // The other end has more TX queues than this one has RX queues.
    let few =
        "ip link add few0 numrxqueues 1 numtxqueues 1 type veth peer name many0 numrxqueues 4 numtxqueues 4";
    wire.ours.exec(few.split(' '))?;
    wire.ours.exec(["ip", "link", "set", "few0", "up"])?;
    let _inside = wire.ours.enter()?;
    for (interface, word) in [(INTERFACE, "switched off"), ("few0", "more TX queues"), ("lo", "no Ethernet")]
    {
        let [_, (_, native), ..] = rungs(&Facts::gather(interface)?, ASKED);
        let why = native.err().with_context(|| format!("{interface} is fit"))?.to_string();
        ensure!(why.contains(word), "{interface}: {why}");
    }
    let attached = Program::attach("few0", AttachMode::Native);
    ensure!(attached.is_err(), "the kernel takes the program on few0");
    Ok(())
}
