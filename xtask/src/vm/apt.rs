//! Debian packages, downloaded and unpacked into a folder of ours; never installed.
//!
//! apt-get does the work, with a private configuration: its own sources, lists and cache, and the record of a machine
//! that has nothing installed, so that it brings every library along and what comes out runs on any host. The
//! archive is the one that the machine's own sources name; signatures are checked as always.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::bounded::bounded;
use super::mirror::mirror;

/// QEMU of the first, with libraries of its base; kernels of the second.
const QEMU_SUITE: &str = "bookworm-backports";
const KERNEL_SUITE: &str = "trixie-backports";
const SUITES: [&str; 4] = ["bookworm", "bookworm-updates", QEMU_SUITE, KERNEL_SUITE];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const QUERY_WITHIN: Duration = Duration::from_secs(60);
const UPDATE_WITHIN: Duration = Duration::from_secs(3 * 60);
const DOWNLOAD_WITHIN: Duration = Duration::from_secs(10 * 60);

/// The folder `name` in `folder`, made by `make` unless it is there. It appears whole or not at all.
pub fn cached(folder: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let done = folder.join(name);
    if done.exists() {
        return Ok(done);
    }
    let begun = folder.join(format!("{name}.{}", std::process::id()));
    fs::create_dir_all(&begun).with_context(|| format!("creating {}", begun.display()))?;
    let made = make(&begun)
        .with_context(|| format!("getting {name}"))
        .and_then(|()| fs::rename(&begun, &done).with_context(|| format!("renaming {}", begun.display())));
    if made.is_err() {
        // The error is told; what is left of a failure is only in the way.
        let _ = fs::remove_dir_all(&begun);
    }
    made.map(|()| done)
}

/// apt-get with its private folder.
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    pub fn new(folder: PathBuf) -> Apt {
        Apt { folder }
    }

    /// Unpacks `packages` and all they depend on.
    pub fn unpack_with_libraries(&self, packages: &[&str], into: &Path) -> Result<()> {
        self.update()?;
        println!("Downloading {} and their libraries (about 40 MB) ...", packages.join(", "));
        let archives = self.folder.join("archives");
        let mut apt = self.command("apt-get");
        apt.args([
            "install",
            "--yes",
            "--download-only",
            "--no-install-recommends",
            "--target-release",
            QEMU_SUITE,
        ]);
        bounded(apt.args(packages), &self.log(), DOWNLOAD_WITHIN).context("downloading packages")?;
        unpack(&archives, into, &self.log())
    }

    /// Unpacks the newest kernel of a flavour ("cloud-amd64"): its image and its modules, without tools.
    pub fn unpack_kernel(&self, flavour: &str, into: &Path) -> Result<()> {
        self.update()?;
        let version = self.newest_kernel(flavour)?;
        println!("Downloading Linux {version} ({} MB) ...", if flavour == "amd64" { 120 } else { 40 });
        let archives = self.folder.join("kernel");
        fs::create_dir_all(&archives)?;
        let mut apt = self.command("apt-get");
        apt.arg("download").current_dir(&archives);
        apt.args(["binary", "modules", "base"].map(|part| format!("linux-{part}-{version}/{KERNEL_SUITE}")));
        bounded(&mut apt, &self.log(), DOWNLOAD_WITHIN)
            .with_context(|| format!("downloading Linux {version}"))?;
        unpack(&archives, into, &self.log())
    }

    /// The version which the flavour's meta-package stands for ("7.3.4+deb13-cloud-amd64").
    fn newest_kernel(&self, flavour: &str) -> Result<String> {
        let meta = format!("linux-image-{flavour}");
        let mut apt = self.command("apt-cache");
        let shown =
            bounded(apt.args(["show", &format!("{meta}/{KERNEL_SUITE}")]), &self.log(), QUERY_WITHIN)?;
        let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        let mut names = depends.split(", ").filter_map(|entry| entry.split(' ').next());
        let version = names.find_map(|name| name.strip_prefix("linux-image-"));
        version
            .map(str::to_owned)
            .with_context(|| format!("{meta} of {KERNEL_SUITE} names no kernel: {depends:?}"))
    }

    /// Writes the configuration and gets the archive's lists.
    fn update(&self) -> Result<()> {
        ensure!(
            ["apt-get", "apt-cache", "dpkg-deb"].iter().all(|name| veil_lab::has_program(name)),
            "apt-get and dpkg-deb are needed to get the guest's kernel and QEMU: Debian and its relatives have them"
        );
        let mirror = mirror()?;
        for part in ["state/lists/partial", "archives/partial"] {
            fs::create_dir_all(self.folder.join(part))
                .with_context(|| format!("creating {}", self.folder.display()))?;
        }
        fs::write(self.folder.join("state/status"), "")?;
        let signed =
            if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        let sources = SUITES.map(|suite| format!("deb {signed}{mirror} {suite} main\n")).concat();
        fs::write(self.folder.join("sources.list"), sources)?;
        fs::write(self.configuration(), self.settings())?;
        let update = bounded(self.command("apt-get").arg("update"), &self.log(), UPDATE_WITHIN);
        update.with_context(|| format!("reading the package lists of {mirror}")).map(drop)
    }

    /// The machine's own configuration stays in force (a proxy, say) but for this, and its hooks are not ours to run.
    fn settings(&self) -> String {
        let folder = self.folder.display();
        format!(
            "Dir::State \"{folder}/state\";\n\
             Dir::State::status \"{folder}/state/status\";\n\
             Dir::Cache \"{folder}\";\n\
             Dir::Etc::sourcelist \"{folder}/sources.list\";\n\
             Dir::Etc::sourceparts \"-\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n\
             APT::Architecture \"amd64\";\n\
             APT::Architectures {{ \"amd64\"; }};\n\
             APT::Sandbox::User \"\";\n\
             APT::Update::Error-Mode \"any\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"2\";\n\
             Acquire::http::Timeout \"20\";\n\
             Acquire::https::Timeout \"20\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             #clear APT::Update::Pre-Invoke;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             #clear DPkg::Post-Invoke;\n"
        )
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("apt.conf")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--config-file").arg(self.configuration()).env("LC_ALL", "C");
        command
    }
}

/// Unpacks every package in `archives` and removes it; which ones they were is noted beside what came out.
fn unpack(archives: &Path, into: &Path, log: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(archives).with_context(|| format!("reading {}", archives.display()))? {
        let package = entry?.path();
        if package.extension().is_none_or(|ending| ending != "deb") {
            continue;
        }
        bounded(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(into), log, QUERY_WITHIN)?;
        names.push(package.file_name().unwrap_or_default().to_string_lossy().into_owned());
        fs::remove_file(&package)?;
    }
    if names.is_empty() {
        bail!("apt-get brought no package");
    }
    names.sort();
    fs::write(into.join("packages"), names.join("\n") + "\n").context("noting the packages")
}
