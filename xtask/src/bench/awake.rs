//! Cores that do not sleep while it is measured, as latency tools have it (cyclictest does so, and tuned's profile
//! network-latency): else a figure tells how long this machine, or what it is a guest of, takes to wake them, which is no
//! contender's doing (Linux, Documentation/power/pm_qos_interface.rst).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

const DEVICE: &str = "/dev/cpu_dma_latency";

/// Whether the kernel can be asked, and goes by it.
pub fn possible() -> bool {
    let driver = fs::read_to_string("/sys/devices/system/cpu/cpuidle/current_driver");
    Path::new(DEVICE).exists() && driver.is_ok_and(|name| name.trim() != "none")
}

/// From here on until the file is closed.
pub fn keep() -> Result<File> {
    let keep = || -> std::io::Result<File> {
        let mut device = OpenOptions::new().write(true).open(DEVICE)?;
        device.write_all(&0i32.to_ne_bytes())?;
        Ok(device)
    };
    keep().with_context(|| format!("keeping the cores awake by {DEVICE} (--let-cores-sleep does without)"))
}
