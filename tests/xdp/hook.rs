//! The interface's XDP hook: who is on it, what is said when it is taken or may not be, and that it is left free.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use veil_lab::{require_privileges, require_program};
use veil_xdp::{AttachError, AttachMode, Program, Umem, UmemSettings, holder, program_on};

use crate::wire::{INTERFACE, Wire, until};

const MODES: [AttachMode; 2] = [AttachMode::Native, AttachMode::Generic];

/// Set for the process without capabilities.
const CHILD: &str = "VEIL_WITHOUT_CAPABILITIES";

fn index() -> Result<u32> {
    let text = Command::new("ip").args(["-o", "link", "show", INTERFACE]).output()?.stdout;
    let text = String::from_utf8(text)?;
    text.split(':').next().context("no index")?.parse().context("an index is a number")
}

#[test]
fn the_hook_is_free_again_when_the_program_is_dropped() -> Result<()> {
    if !require_privileges("the_hook_is_free_again_when_the_program_is_dropped") {
        return Ok(());
    }
    let wire = Wire::new("hook", 1)?;
    let _inside = wire.ours.enter()?;
    let index = index()?;
    for mode in MODES {
        ensure!(holder(index)?.is_none());
        let program = Program::attach(INTERFACE, mode)?;
        let there = holder(index)?.context("nobody is on the hook")?;
        ensure!(there.id == program.id() && there.name.as_deref() == Some("veil_steer"), "{there}");
        drop(program);
        until("the hook to be free", || Ok(holder(index)?.is_none()))?;
    }
    Ok(())
}

#[test]
fn a_program_on_the_hook_is_named_and_stays() -> Result<()> {
    if !require_privileges("a_program_on_the_hook_is_named_and_stays") {
        return Ok(());
    }
    let wire = Wire::new("busy", 1)?;
    let _inside = wire.ours.enter()?;
    let index = index()?;
    for first in MODES {
        let program = Program::attach(INTERFACE, first)?;
        for second in MODES {
            let error = Program::attach(INTERFACE, second).err().context("attached over another program")?;
            ensure!(matches!(error, AttachError::Busy { .. }), "{error}");
            let (text, id) = (error.to_string(), program.id());
            for word in [INTERFACE, second.name(), "veil_steer", &id.to_string()] {
                ensure!(text.contains(word), "{text:?} does not say {word}");
            }
        }
        ensure!(program_on(index)? == Some(program.id()));
        drop(program);
        until("the hook to be free", || Ok(holder(index)?.is_none()))?;
    }
    Ok(())
}

#[test]
fn a_removed_interface_is_noticed() -> Result<()> {
    if !require_privileges("a_removed_interface_is_noticed") {
        return Ok(());
    }
    let wire = Wire::new("removed", 1)?;
    let _inside = wire.ours.enter()?;
    let index = index()?;
    let program = Program::attach(INTERFACE, AttachMode::Native)?;
    wire.ours.exec(["ip", "link", "del", INTERFACE])?;
    let error = program_on(index).err().context("an interface that is gone has a hook")?;
    ensure!(error.raw_os_error() == Some(libc::ENODEV), "{error}");
    drop(program);
    let error = Program::attach(INTERFACE, AttachMode::Native).err().context("attached to nothing")?;
    ensure!(
        matches!(error, AttachError::NoInterface { .. }) && error.to_string().contains(INTERFACE),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_missing_capability_is_named() -> Result<()> {
    if !require_privileges("a_missing_capability_is_named")
        || !require_program("a_missing_capability_is_named", "setpriv")
    {
        return Ok(());
    }
    // This very program, in another process: capabilities given up do not come back.
    let mut child = Command::new("setpriv");
    child.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(std::env::current_exe()?);
    child.env(CHILD, "1").args(["--exact", "hook::without_capabilities", "--ignored", "--nocapture"]);
    let output = child.output()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{text}");
    ensure!(text.contains("1 passed"), "the child tested nothing: {text}");
    Ok(())
}

#[test]
#[ignore = "run by a_missing_capability_is_named, without capabilities"]
fn without_capabilities() -> Result<()> {
    // Never the machine's own interfaces, should somebody run all ignored tests.
    ensure!(std::env::var_os(CHILD).is_some(), "this is half a test");
    let error = Program::attach("lo", AttachMode::Generic).err().context("attached without capabilities")?;
    let text = error.to_string();
    ensure!(text.contains("CAP_BPF and CAP_NET_ADMIN") && text.contains("for lo"), "{text}");
    let error = Umem::new(UmemSettings::default()).err().context("a UMEM without capabilities")?;
    ensure!(error.to_string().contains("CAP_NET_RAW"), "{error}");
    Ok(())
}
