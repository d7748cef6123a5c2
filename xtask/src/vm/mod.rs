//! `cargo xtask test --vm`: a small virtual machine whose NICs offer zero-copy AF_XDP, which no virtual cable does.
//!
//! Its ingredients are Debian packages, unpacked under the target folder and kept there (remove its folder `vm` to get
//! newer ones); nothing is installed, and the guest has no disk and no way out. It proves function, never speed: QEMU
//! emulates the processor, too. Inside runs one program, `veil-guest` of the tests, as init; what it must find is said
//! there.

mod apt;
mod bounded;
mod cpio;
mod guest;
mod mirror;
mod modules;
mod qemu;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;
use veil_lab::Profile;

use crate::ci::Skipped;
use apt::{Apt, cached};
use guest::Guest;
use qemu::Nic;

/// Which emulated NICs to try.
#[derive(Clone, Copy, ValueEnum)]
pub enum Nics {
    /// virtio_net, as in a cloud, with zero-copy and without
    Virtio,
    /// Intel's igb, a card with hardware queues
    Igb,
    All,
}

impl Nics {
    fn kinds(self) -> &'static [Nic] {
        match self {
            Nics::Virtio => &[Nic::Virtio],
            Nics::Igb => &[Nic::Igb],
            Nics::All => &[Nic::Virtio, Nic::Igb],
        }
    }
}

/// What the daemons in the guest are told unless the user says otherwise.
pub const LINK: &str = "xdp";

/// Boots a guest for each kind of NIC; its daemons are told `--link LINK`.
pub fn vm(nics: Nics, link: &str, profile: Profile) -> Result<()> {
    let veil = match std::env::var_os("VEIL_BIN") {
        Some(named) => PathBuf::from(named),
        None => veil_lab::build_veil(profile)?,
    };
    boot(nics, link, &veil, &veil_lab::build_program("veil-tests", "veil-guest", profile)?)
}

fn boot(nics: Nics, link: &str, veil: &Path, init: &Path) -> Result<()> {
    let folder = folder()?;
    let apt = Apt::new(folder.join("apt"));
    let qemu = cached(&folder, "qemu-bookworm", |into| apt.unpack_with_libraries(qemu::PACKAGES, into))?;
    for &nic in nics.kinds() {
        let start = Instant::now();
        let flavour = nic.kernel_flavour();
        let kernel = cached(&folder, &format!("kernel-{flavour}"), |into| apt.unpack_kernel(flavour, into))?;
        let guest = Guest { nic, link, init, veil, qemu: &qemu, kernel: &kernel };
        guest.boot(&folder).with_context(|| format!("the guest with {} NICs", nic.model()))?;
        println!("The guest with {} NICs passed in {:.0} s.", nic.model(), start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// What CI runs of it. A machine that knows no Debian archive cannot have the guest, and says so.
pub fn ci() -> Result<()> {
    mirror::mirror().map_err(|why| Skipped(why.to_string()))?;
    let [veil, init] = ["veil", "veil-guest"].map(|name| veil_lab::build_with_tests(name, Profile::Debug));
    boot(Nics::Virtio, LINK, &veil?, &init?)
}

/// Where everything is kept: `vm` in the target folder this program was built into.
fn folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding the running program")?;
    let target = program.ancestors().nth(2).context("the running program is in no target folder")?;
    Ok(target.join("vm"))
}
