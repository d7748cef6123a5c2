//! The committed program is the one its sources describe.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

const OBJECT: &str = "veil-steer.bpf.o";

#[test]
fn the_committed_program_was_built_from_these_sources() -> Result<()> {
    let home = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../veil-ebpf"));
    let mut expected = BTreeSet::from([OBJECT.to_owned()]);
    for entry in fs::read_dir(home.join("src"))? {
        let name = entry?.file_name().into_string().ok().context("a source's name is not UTF-8")?;
        expected.insert(format!("src/{name}"));
    }
    let mut seen = BTreeSet::new();
    for line in fs::read_to_string(home.join("veil-steer.sha256"))?.lines() {
        let (hash, name) = line.split_once("  ").context("not a line of sha256sum")?;
        let bytes = fs::read(home.join(name)).with_context(|| name.to_owned())?;
        let actual: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(actual == hash, "{name} changed after the program was built: run `cargo xtask build-ebpf`");
        seen.insert(name.to_owned());
    }
    ensure!(seen == expected, "hashed {seen:?}, there are {expected:?}: run `cargo xtask build-ebpf`");
    ensure!(fs::read(home.join(OBJECT))? == veil_ebpf::OBJECT, "another program is embedded");
    Ok(())
}
