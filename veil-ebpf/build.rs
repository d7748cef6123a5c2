//! Refuses to build with a program that its sources have left behind: the kernel would run another rule than the tests.
//!
//! `cargo xtask build-ebpf` writes `veil-steer.sha256`, in the form of `sha256sum`: every source, and the object.

use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;

const OBJECT: &str = "veil-steer.bpf.o";
const HASHES: &str = "veil-steer.sha256";

fn main() {
    for input in ["build.rs", "src", OBJECT, HASHES] {
        println!("cargo::rerun-if-changed={input}");
    }
    // The program itself is being built: the object is what comes of it.
    if std::env::var_os("CARGO_FEATURE_PROGRAM").is_some() {
        return;
    }
    if let Err(why) = check() {
        println!("cargo::error={OBJECT} is not what its sources say: {why}");
        println!("cargo::error=run `cargo xtask build-ebpf`, and commit {OBJECT} together with {HASHES}");
    }
}

/// Every file named is as it was when the object was built, and every source is named.
fn check() -> Result<(), String> {
    let read = |name: &str| fs::read(name).map_err(|error| format!("cannot read {name}: {error}"));
    let listing = String::from_utf8(read(HASHES)?).map_err(|_| format!("{HASHES} is not a text file"))?;
    let mut named = BTreeSet::new();
    for line in listing.lines() {
        let (hash, name) =
            line.split_once("  ").ok_or_else(|| format!("{HASHES} has a line that is not sha256sum's"))?;
        let digest: String = Sha256::digest(read(name)?).iter().map(|byte| format!("{byte:02x}")).collect();
        if digest != hash {
            return Err(format!("{name} has changed"));
        }
        named.insert(name.to_owned());
    }
    let sources = fs::read_dir("src").map_err(|error| format!("cannot list src: {error}"))?;
    let sources = sources.flatten().map(|entry| format!("src/{}", entry.file_name().to_string_lossy()));
    match sources
        .filter(|name| name.ends_with(".rs"))
        .chain([OBJECT.to_owned()])
        .find(|name| !named.contains(name))
    {
        Some(new) => Err(format!("{new} is new")),
        None => Ok(()),
    }
}
