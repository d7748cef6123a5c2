//! QEMU's command line, and a running QEMU watched through its serial line.
//!
//! QEMU 10, because the one of Debian 12 brings the guest down when XDP is attached under traffic. Its exit code says
//! nothing about the guest, whose last line does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::bounded::{last_lines, text};

/// What is unpacked beside the libraries: QEMU, its firmware comes along, and a busybox that needs no library.
pub const PACKAGES: &[&str] = &["qemu-system-x86", "busybox-static"];

/// A guest takes half a minute on an idle machine; this is for one busy with other things.
const ENDS_WITHIN: Duration = Duration::from_secs(6 * 60);
const POWERED_OFF_WITHIN: Duration = Duration::from_secs(15);

/// How every line of the guest program begins, and what follows in its last one.
const GUEST: &str = "veil-guest: ";
const PASSED: &str = "veil-guest: passed";
const FAILED: &str = "veil-guest: FAILED";

/// The NICs of one guest. Their last MAC byte is their number, from one; each two share a cable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Nic {
    /// 1 and 2 with zero-copy, 3 and 4 without.
    Virtio,
    /// 1 and 2, with zero-copy.
    Igb,
}

impl Nic {
    pub fn model(self) -> &'static str {
        match self {
            Nic::Virtio => "virtio_net",
            Nic::Igb => "igb",
        }
    }

    /// The small kernel, where it has the driver.
    pub fn kernel_flavour(self) -> &'static str {
        match self {
            Nic::Virtio => "cloud-amd64",
            Nic::Igb => "amd64",
        }
    }

    /// What the guest is to find on each cable, in its arguments' own words.
    pub fn cables(self) -> &'static [&'static str] {
        match self {
            Nic::Virtio => {
                &["zero-copy=52:54:00:00:00:01,52:54:00:00:00:02", "copy=52:54:00:00:00:03,52:54:00:00:00:04"]
            }
            Nic::Igb => &["zero-copy=52:54:00:00:00:01,52:54:00:00:00:02"],
        }
    }

    fn devices(self) -> Vec<String> {
        // Zero-copy needs the NIC to go through the DMA layer, which for virtio is a choice. No NIC boots: no ROM.
        let virtio = |number: u32, more: &str| {
            format!(
                "virtio-net-pci,netdev=n{number},mac=52:54:00:00:00:0{number},disable-legacy=on,romfile={more}"
            )
        };
        match self {
            Nic::Virtio => vec![
                virtio(1, ",iommu_platform=on"),
                virtio(2, ",iommu_platform=on"),
                virtio(3, ""),
                virtio(4, ""),
            ],
            // A PCIe card: each behind a port of its own.
            Nic::Igb => (1..=2)
                .flat_map(|number| {
                    [
                        format!("pcie-root-port,id=port{number},chassis={number}"),
                        format!(
                            "igb,bus=port{number},netdev=n{number},mac=52:54:00:00:00:0{number},romfile="
                        ),
                    ]
                })
                .collect(),
        }
    }
}

/// QEMU as unpacked from its packages, run by the dynamic loader that came with it.
pub fn command(
    unpacked: &Path,
    nic: Nic,
    kernel: &Path,
    initrd: &Path,
    append: &str,
    serial: &Path,
) -> Result<Command> {
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|folder| unpacked.join(folder));
    let loader =
        libraries.iter().map(|folder| folder.join("ld-linux-x86-64.so.2")).find(|file| file.exists());
    let mut command = Command::new(loader.context("the packages brought no dynamic loader")?);
    command.arg("--library-path").arg(std::env::join_paths(&libraries)?);
    command.arg(unpacked.join("usr/bin/qemu-system-x86_64"));
    command.env("QEMU_MODULE_DIR", unpacked.join("usr/lib/x86_64-linux-gnu/qemu"));
    for data in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(unpacked.join(data));
    }
    command.args("-M q35 -accel tcg,thread=multi,tb-size=512 -cpu max -smp 2 -m 1024M".split(' '));
    command.args("-nodefaults -no-user-config -display none -no-reboot".split(' '));
    command.arg("-serial").arg(format!("file:{}", serial.display()));
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", append]);
    for number in 1..=2 * nic.cables().len() {
        let cable = number.div_ceil(2);
        command.arg("-netdev").arg(format!("hubport,id=n{number},hubid={cable}"));
    }
    for device in nic.devices() {
        command.arg("-device").arg(device);
    }
    Ok(command)
}

/// A running QEMU, killed when dropped.
struct Qemu {
    child: Child,
    complaints: PathBuf,
    serial: PathBuf,
}

/// Runs QEMU until the guest has said how it went. `serial` is the file its serial line is written to.
pub fn watch(mut command: Command, serial: &Path) -> Result<()> {
    // What an earlier guest said must not count.
    let _ = fs::remove_file(serial);
    let complaints = serial.with_extension("qemu");
    let output = File::create(&complaints).with_context(|| format!("creating {}", complaints.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let child = command.spawn().context("starting QEMU")?;
    let mut qemu = Qemu { child, complaints, serial: serial.to_owned() };
    let passed = qemu.verdict()?;
    qemu.wait_for_power_off()?;
    if passed {
        return Ok(());
    }
    // Read again: what failed may be told in many lines.
    let text = text(serial);
    let told = text.find(FAILED).map_or("", |at| &text[at + GUEST.len()..]);
    bail!("{}\n(all it said is in {})", told.trim_end(), serial.display())
}

impl Qemu {
    /// Shows the guest's lines as they come until the last one, which says whether it passed.
    fn verdict(&mut self) -> Result<bool> {
        let deadline = Instant::now() + ENDS_WITHIN;
        let mut shown = 0;
        loop {
            // Asked before reading, so that nothing said before the end is missed.
            let ended = self.child.try_wait().context("watching QEMU")?;
            let text = text(&self.serial);
            // The last line may be half written.
            let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            for line in whole[shown..].lines().map(str::trim_end) {
                if line == PASSED || line.starts_with(FAILED) {
                    return Ok(line == PASSED);
                }
                if let Some(said) = line.strip_prefix(GUEST) {
                    println!("  {said}");
                }
            }
            shown = whole.len();
            if let Some(status) = ended {
                bail!("{}", self.story(&format!("QEMU ended ({status}) before the guest said how it went")));
            }
            ensure!(
                Instant::now() < deadline,
                "{}",
                self.story(&format!("no result within {ENDS_WITHIN:?}"))
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn wait_for_power_off(&mut self) -> Result<()> {
        let deadline = Instant::now() + POWERED_OFF_WITHIN;
        while self.child.try_wait()?.is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        // One that does not power off is ended by the drop: its verdict is known.
        Ok(())
    }

    fn story(&self, what: &str) -> String {
        let text = text(&self.serial);
        let panicked = if text.contains("Kernel panic") { " (its kernel panicked)" } else { "" };
        let complaints = last_lines(&self.complaints, 5);
        format!(
            "{what}{panicked}. The serial line's end:\n{}QEMU said:\n{complaints}",
            last_lines(&self.serial, 30)
        )
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It can only fail by being gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
