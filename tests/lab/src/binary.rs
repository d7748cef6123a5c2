//! Finding the `veil` program: `VEIL_BIN` if set, else built once by cargo, beside the running program and in the
//! same profile.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};

/// How the program is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Debug,
    Release,
}

/// The program under test. The first caller builds it if `VEIL_BIN` does not name one.
pub fn veil_binary() -> Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|error| anyhow!("{error}"))
}

/// Builds `veil` with cargo, whose progress goes to stderr, and returns where it is.
pub fn build_veil(profile: Profile) -> Result<PathBuf> {
    build_program("veil-userspace", "veil", profile)
}

/// The same without AF_XDP, which takes neither clang nor libelf or zlib.
pub fn build_udp_only_veil(profile: Profile) -> Result<PathBuf> {
    build(&["--package", "veil-userspace", "--no-default-features"], "veil", profile)
}

/// Builds the program `name` together with all tests of the workspace, as `cargo test --workspace` does: apart, it would
/// have its dependencies with fewer features, and they would be compiled twice.
pub fn build_with_tests(name: &str, profile: Profile) -> Result<PathBuf> {
    build(&["--workspace", "--tests"], name, profile)
}

/// Builds the program `name` of the workspace's package `package`, likewise.
pub fn build_program(package: &str, name: &str, profile: Profile) -> Result<PathBuf> {
    build(&["--package", package], name, profile)
}

fn build(what: &[&str], name: &str, profile: Profile) -> Result<PathBuf> {
    let target = target_folder()?.0;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    cargo.args(["build", "--quiet", "--bin", name, "--target-dir"]).arg(&target).args(what);
    // What an outer cargo says of the package it is testing would look like a change to some build scripts.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| name.to_string_lossy().starts_with(own)) {
            cargo.env_remove(name);
        }
    }
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    let status = cargo.status().context("starting cargo")?;
    ensure!(status.success(), "building {name} failed ({status})");
    Ok(target.join(if profile == Profile::Release { "release" } else { "debug" }).join(name))
}

fn find() -> Result<PathBuf> {
    let Some(named) = std::env::var_os("VEIL_BIN").map(PathBuf::from) else {
        return build_veil(target_folder()?.1);
    };
    // Absolute, because daemons and tests do not share a working folder.
    named.canonicalize().with_context(|| format!("VEIL_BIN names {}", named.display()))
}

/// Cargo's target folder and the profile, read off the path of the running program.
fn target_folder() -> Result<(PathBuf, Profile)> {
    let program = std::env::current_exe().context("finding the running program")?;
    let mut folder = program.parent().context("the running program has no folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps has no parent folder")?;
    }
    let profile = if folder.ends_with("release") { Profile::Release } else { Profile::Debug };
    Ok((folder.parent().context("the profile's folder has no parent")?.to_owned(), profile))
}
