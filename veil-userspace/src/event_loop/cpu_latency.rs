//! How long a core may take to wake: the deepest sleep that the kernel's idle loop may choose, for the whole machine
//! (Linux, Documentation/power/pm_qos_interface.rst).
//!
//! The kernel counts a request for as long as its file is open, so none outlives the daemon, however that ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

const DEVICE: &str = "/dev/cpu_dma_latency";

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
        let said = |error: &io::Error| {
            tracing::warn!("cannot ask for cpu-latency = {microseconds}: {DEVICE}: {error} (needs root)");
        };
        asked.inspect_err(said).ok()
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
    }
}
