//! One guest: its file system put together, then booted and watched.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::cpio::Archive;
use super::modules;
use super::qemu::{self, Nic};

/// What a guest is made of: programs of ours, and unpacked packages.
pub struct Guest<'a> {
    pub nic: Nic,
    pub link: &'a str,
    pub init: &'a Path,
    pub veil: &'a Path,
    pub qemu: &'a Path,
    pub kernel: &'a Path,
}

impl Guest<'_> {
    /// Boots it and waits for the guest program's verdict. Initramfs and logs stay in `folder`.
    pub fn boot(&self, folder: &Path) -> Result<()> {
        let name = self.nic.model();
        let initrd = folder.join(format!("{name}.initramfs"));
        fs::write(&initrd, self.file_system(folder)?)
            .with_context(|| format!("writing {}", initrd.display()))?;
        let image = modules::folder(self.kernel)?.join("vmlinuz");
        // What the kernel does not know, and has a "=", becomes init's environment; what follows "--", its arguments.
        let append = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off PATH=/bin VEIL_BIN=/bin/veil -- link={} {}",
            self.link,
            self.nic.cables().join(" ")
        );
        let serial = folder.join(format!("{name}.log"));
        println!("Booting a guest with {name} NICs, its daemons with --link {} ...", self.link);
        qemu::watch(qemu::command(self.qemu, self.nic, &image, &initrd, &append, &serial)?, &serial)
    }

    /// The guest program as init, `veil` and `ip` with the libraries they need, busybox, and modules numbered in
    /// the order in which they load.
    fn file_system(&self, folder: &Path) -> Result<Vec<u8>> {
        let busybox = self.qemu.join("bin/busybox");
        let mut archive = Archive::default();
        // Init's terminal, and what its first children have for input; every other one is made by the kernel.
        archive.device("/dev/console", 5, 1);
        archive.device("/dev/null", 1, 3);
        for mount in ["/proc", "/sys", "/dev", "/tmp", "/run"] {
            archive.folder(mount);
        }
        archive.file("/bin/busybox", &read(&busybox)?);
        let drivers: &[&str] = if self.nic == Nic::Igb { &["igb"] } else { &["virtio_net"] };
        let modules = modules::modules(self.kernel, &busybox, &[drivers, &["tun"]].concat())?;
        for (number, module) in modules.iter().enumerate() {
            archive.file(&format!("/modules/{number:02}-{}.ko", module.name), &module.content);
        }
        let ip = find("ip")?;
        let mut libraries = BTreeSet::new();
        for (place, program) in [("/init", self.init), ("/bin/veil", self.veil), ("/bin/ip", &ip)] {
            archive.file(place, &stripped(program, folder)?);
            libraries.extend(needed(program)?);
        }
        for library in libraries {
            archive.file(&library, &read(Path::new(&library))?);
        }
        Ok(archive.finish())
    }
}

/// The paths of the libraries and the loader that `program` is started with, as ldd(1) lists them.
fn needed(program: &Path) -> Result<Vec<String>> {
    let listed = veil_lab::run(Command::new("ldd").arg(program))?;
    let mut paths = Vec::new();
    for line in listed.lines() {
        ensure!(!line.contains("not found"), "{}: {}", program.display(), line.trim());
        paths.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned));
    }
    Ok(paths)
}

/// A program without what only a debugger reads, which is most of it.
fn stripped(program: &Path, folder: &Path) -> Result<Vec<u8>> {
    if !veil_lab::has_program("strip") {
        return read(program);
    }
    let thin = folder.join(format!("stripped.{}", std::process::id()));
    veil_lab::run(Command::new("strip").arg("-o").arg(&thin).arg(program))?;
    let content = read(&thin);
    fs::remove_file(&thin)?;
    content
}

fn find(name: &str) -> Result<PathBuf> {
    for folder in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        let file = Path::new(folder).join(name);
        if file.is_file() {
            return Ok(file);
        }
    }
    bail!("{name} is missing: `cargo xtask setup --install` gets it");
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}
