//! What an init does: mounts, modules, and the end. busybox does the system calls.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result};
use veil_lab::run;

use crate::say;

/// Mounts what programs expect and loads the modules in the order of their names.
pub fn set_up() -> Result<()> {
    for (kind, folder) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"), ("tmpfs", "/run")]
    {
        busybox(&["mount", "-t", kind, kind, folder])?;
    }
    let mut modules: Vec<PathBuf> =
        fs::read_dir("/modules")?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    modules.sort();
    for module in &modules {
        busybox(&["insmod", module.to_str().context("a module whose name is no text")?])?;
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let up = fs::read_to_string("/proc/uptime")?;
    say(&format!("Linux {}, {} s after power on", kernel.trim(), up.split(' ').next().unwrap_or_default()));
    Ok(())
}

/// The interface with that MAC address. A driver may still be busy making it.
pub fn interface(mac: &str) -> Result<String> {
    for _ in 0..100 {
        for entry in fs::read_dir("/sys/class/net")? {
            let entry = entry?;
            let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
            if address.trim() == mac {
                return Ok(entry.file_name().to_string_lossy().into_owned());
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("no interface has the address {mac}")
}

/// The name of an interface's driver.
pub fn driver(interface: &str) -> Result<String> {
    let link = Path::new("/sys/class/net").join(interface).join("device/driver");
    let target = fs::read_link(&link).with_context(|| format!("reading {}", link.display()))?;
    Ok(target.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// Switches the machine off.
pub fn power_off() -> ! {
    // Without it the machine is switched off from outside, later.
    let _ = busybox(&["poweroff", "-f"]);
    loop {
        thread::park();
    }
}

fn busybox(words: &[&str]) -> Result<()> {
    run(Command::new("/bin/busybox").args(words)).map(drop)
}
