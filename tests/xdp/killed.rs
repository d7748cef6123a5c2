//! Nothing stays on the interface, however its owner ends.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use veil_lab::require_privileges;
use veil_xdp::nic::Facts;
use veil_xdp::{AttachMode, Program};

use crate::attached::attached_programs;
use crate::wire::{INTERFACE, Wire, until};

/// Set for the process that is to be killed.
const CHILD: &str = "VEIL_HOLDS_THE_HOOK";
const READY: &str = "it is attached";

#[test]
fn a_killed_process_leaves_nothing_on_the_hook() -> Result<()> {
    if std::env::var_os(CHILD).is_some() {
        let _program = Program::attach(INTERFACE, AttachMode::Native)?;
        println!("{READY}");
        loop {
            std::thread::park();
        }
    }
    if !require_privileges("a_killed_process_leaves_nothing_on_the_hook") {
        return Ok(());
    }
    let wire = Wire::new("killed", 1)?;
    let mut child = wire.ours.command(std::env::current_exe()?);
    child.args(["--exact", "killed::a_killed_process_leaves_nothing_on_the_hook", "--nocapture"]);
    let mut child = child.env(CHILD, "1").stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
    let ready = lines.any(|line| line.is_ok_and(|line| line.contains(READY)));
    let _inside = wire.ours.enter()?;
    let index = Facts::gather(INTERFACE)?.nic.index;
    let held = attached_programs(index);
    child.kill()?;
    child.wait()?;
    ensure!(ready, "the other process did not attach its program");
    ensure!(held?.len() == 1, "libbpf does not see the program");
    until("the hook to be free", || Ok(attached_programs(index)?.is_empty()))?;
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let program = Program::attach(INTERFACE, mode).context("a restart")?;
        ensure!(attached_programs(index)? == [program.id()], "libbpf sees another");
        drop(program);
        until("the hook to be free", || Ok(attached_programs(index)?.is_empty()))?;
    }
    Ok(())
}
