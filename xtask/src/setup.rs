//! `cargo xtask setup`: a table of what is here and what is missing; `--install` gets what is missing.

use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::elevate::as_root;
use crate::needs::{BPF_LINKER, Cure, For, NEEDS, Need};

/// A tool that takes longer than this to build is given up, so that CI ends.
const INSTALL_WITHIN: Duration = Duration::from_secs(10 * 60);

#[derive(Args)]
pub struct Options {
    /// Install what is missing (packages by apt-get or dnf, through sudo if you are not root)
    #[arg(long)]
    install: bool,
    /// Also what building the eBPF program anew takes
    #[arg(long)]
    ebpf: bool,
}

pub fn setup(options: &Options) -> Result<()> {
    let wanted = |need: &&Need| options.ebpf || need.purpose != For::Ebpf;
    let mut failures = Vec::new();
    if options.install {
        let needs: Vec<_> = missing().into_iter().filter(wanted).collect();
        for need in &needs {
            println!("-- {}: {}", need.what, need.cure.line());
        }
        failures = install(&needs);
    }
    print_table();
    // What only CI needs is no fault of a machine that was merely asked about, and not every machine can have a nightly
    // compiler, or what the eBPF program takes: `ci` decides whether that is a failure.
    let counts = |need: &&Need| match need.purpose {
        For::Ci => options.install,
        For::Nightly => false,
        For::Ebpf => options.ebpf && !options.install,
        _ => true,
    };
    let lacking: Vec<&str> = missing().into_iter().filter(counts).map(|need| need.what).collect();
    ensure!(failures.is_empty(), "not installed: {}", failures.join("; "));
    ensure!(
        lacking.is_empty(),
        "missing: {}{}",
        lacking.join(", "),
        if options.install { "" } else { " (`cargo xtask setup --install` gets what can be got)" }
    );
    Ok(())
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !(need.present)()).collect()
}

fn print_table() {
    println!("{:<14} {:<7} {:<8} cure", "what", "for", "");
    for need in NEEDS {
        let present = (need.present)();
        let cure = if present { String::new() } else { need.cure.line() };
        let line = format!(
            "{:<14} {:<7} {:<8} {cure}",
            need.what,
            need.purpose.word(),
            if present { "ok" } else { "MISSING" }
        );
        println!("{}", line.trim_end());
    }
}

/// Packages in one go; the rest one by one. What cannot be installed stays missing, keeps nothing else out, and the table
/// says so. Returns what should have been installed and was not, and why.
fn install(needs: &[&Need]) -> Vec<String> {
    // Asked again each time: a nightly with the library's sources is a compiler for eBPF as well.
    let of = |wanted: fn(For) -> bool| -> Vec<&Need> {
        needs.iter().copied().filter(|need| wanted(need.purpose) && !(need.present)()).collect()
    };
    let failures = install_all(&of(|purpose| !matches!(purpose, For::Nightly | For::Ebpf)));
    let nightly = install_all(&of(|purpose| purpose == For::Nightly));
    if !nightly.is_empty() {
        println!("!! NOT INSTALLED: a nightly compiler and what it takes along ({})", nightly.join("; "));
        println!("!! Nothing looks for races and undefined behaviour here.");
    }
    let ebpf = install_all(&of(|purpose| purpose == For::Ebpf));
    if !ebpf.is_empty() {
        println!("!! NOT INSTALLED: what the eBPF program takes ({})", ebpf.join("; "));
        println!("!! The committed program is used as it is; it cannot be built anew here.");
    }
    failures
}

fn install_all(needs: &[&Need]) -> Vec<String> {
    let (packages, others): (Vec<&Need>, Vec<&Need>) =
        needs.iter().copied().partition(|need| matches!(need.cure, Cure::Package { .. }));
    let mut failures = Vec::new();
    let mut note = |what: &str, installed: Result<()>| {
        failures.extend(installed.err().map(|error| format!("{what} ({error:#})")));
    };
    if !packages.is_empty() {
        refresh_packages();
        if install_packages(&packages).is_err() {
            // One package that the archive does not know keeps out all that are asked for with it.
            for need in packages {
                note(need.what, install_packages(&[need]));
            }
        }
    }
    for need in others {
        note(need.what, install_other(&need.cure));
    }
    failures
}

fn install_other(cure: &Cure) -> Result<()> {
    match cure {
        Cure::Crate(name) => install_crate(&[name], None),
        Cure::BpfLinker { llvm } => install_crate(BPF_LINKER, Some(("LLVM_PREFIX", llvm))),
        Cure::Component(_) | Cure::Nightly | Cure::NightlyComponents(_)
            if veil_lab::has_program("rustup") =>
        {
            finish(Command::new("rustup").args(cure.rustup()))
        }
        Cure::Module(name) => finish(as_root("modprobe")?.arg(name)),
        // Packages are there by now, rustup's things are not to be had without it, and advice is for the owner.
        _ => Ok(()),
    }
}

fn install_packages(needs: &[&Need]) -> Result<()> {
    let packages = |debian_names: bool| -> Vec<&str> {
        let names = needs.iter().filter_map(|need| match need.cure {
            Cure::Package { debian, fedora } => Some(if debian_names { debian } else { fedora }),
            _ => None,
        });
        names.flat_map(|names| names.split(' ')).collect()
    };
    if veil_lab::has_program("apt-get") {
        apt_get_install(&packages(true))
    } else if veil_lab::has_program("dnf") {
        finish(as_root("dnf")?.args(["install", "-y"]).args(packages(false)))
    } else {
        bail!("neither apt-get nor dnf here: install {} yourself", packages(true).join(", "))
    }
}

/// Has apt, where there is one, ask for the newest list of packages. An archive that does not answer need not be the one
/// that ours come from.
pub fn refresh_packages() {
    if veil_lab::has_program("apt-get") {
        let refreshed = as_root("apt-get").and_then(|mut apt| finish(apt.arg("update").stdout(io::stderr())));
        if let Err(error) = refreshed {
            eprintln!("{error:#}");
        }
    }
}

/// Installs Debian packages. Nothing of it is said on stdout.
pub fn apt_get_install(packages: &[&str]) -> Result<()> {
    // iperf3 asks whether to start a server at boot; `env` because sudo drops our environment.
    let mut apt = as_root("env")?;
    apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends"]);
    finish(apt.args(packages).stdout(io::stderr()))
}

/// Builds a tool without optimisation: it runs for seconds, and compiling it well would take minutes.
fn install_crate(what: &[&str], environment: Option<(&str, &str)>) -> Result<()> {
    let name = what.join(" ");
    let mut cargo = crate::cargo();
    cargo.args(["install", "--locked"]).args(what).envs(environment);
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_LTO", "off");
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "false").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "64");
    let mut child = cargo.spawn().context("starting cargo")?;
    let deadline = Instant::now() + INSTALL_WITHIN;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "cargo install {name} failed ({status})");
            return Ok(());
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("cargo install {name} took longer than {} minutes", INSTALL_WITHIN.as_secs() / 60);
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Runs a command in view of the user.
fn finish(command: &mut Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let status = command.status().with_context(|| format!("starting {name}"))?;
    ensure!(status.success(), "{name} failed ({status})");
    Ok(())
}
