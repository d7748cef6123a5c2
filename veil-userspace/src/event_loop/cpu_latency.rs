//! How long a core may take to wake: the deepest sleep that the kernel's idle loop may choose, for the whole machine
//! (Linux, Documentation/power/pm_qos_interface.rst).
//!
//! The kernel counts a request for as long as its file is open, so none outlives the daemon, however that ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

const DEVICE: &str = "/dev/cpu_dma_latency";
/// Who chooses how deep cores sleep; where nobody does, a request changes nothing.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";

/// A request that is in force until it is dropped.
#[derive(Debug)]
pub struct CpuLatency {
    _device: File,
    microseconds: u32,
}

impl CpuLatency {
    /// Asks for cores that wake within so many microseconds (0: they do not sleep), if it is given; where that is refused,
    /// it is said and they sleep as before.
    pub fn hold(microseconds: Option<u32>) -> Option<CpuLatency> {
        let microseconds = microseconds?;
        let asked = CpuLatency::ask(Path::new(DEVICE), microseconds);
        match &asked {
            Ok(_) if !heard(Path::new(DRIVER)) => {
                tracing::warn!(
                    "cpu-latency = {microseconds} is asked for in vain: this kernel has no cpuidle driver"
                );
            }
            Ok(_) => {}
            Err(error) => {
                let cure = if error.kind() == io::ErrorKind::PermissionDenied { " (needs root)" } else { "" };
                tracing::warn!("cannot ask for cpu-latency = {microseconds}: {DEVICE}: {error}{cure}");
            }
        }
        asked.ok()
    }

    fn ask(device: &Path, microseconds: u32) -> io::Result<CpuLatency> {
        let mut device = OpenOptions::new().write(true).open(device)?;
        device.write_all(&i32::try_from(microseconds).unwrap_or(i32::MAX).to_ne_bytes())?;
        Ok(CpuLatency { _device: device, microseconds })
    }

    /// What was asked for.
    pub fn microseconds(&self) -> u32 {
        self.microseconds
    }
}

/// Whether there is a `driver` that goes by what is asked.
fn heard(driver: &Path) -> bool {
    std::fs::read_to_string(driver).is_ok_and(|name| name.trim() != "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_the_kernel_reads_it_and_a_refusal_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("device");
        assert!(CpuLatency::ask(&device, 7).is_err(), "there is none");
        std::fs::write(&device, "").unwrap();
        assert_eq!(CpuLatency::ask(&device, 7).unwrap().microseconds(), 7);
        assert_eq!(std::fs::read(&device).unwrap(), 7i32.to_ne_bytes());
        assert!(CpuLatency::hold(None).is_none());
        let driver = folder.path().join("driver");
        assert!(!heard(&driver));
        for (name, is) in [("none\n", false), ("haltpoll\n", true)] {
            std::fs::write(&driver, name).unwrap();
            assert_eq!(heard(&driver), is, "{name}");
        }
    }
}
