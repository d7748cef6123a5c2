//! `cargo xtask build-ebpf`: builds the steering program anew and stores it beside its sources, with their hashes.
//!
//! The program is committed, so that only who changes it needs what this needs: a rustc that takes unstable options
//! and has the sources of `core`, and bpf-linker. veil-ebpf's build script compares the hashes, so that a stale program does not build.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "veil-steer.bpf.o";
/// What `sha256sum` writes and checks, of every source and of the object.
const HASHES: &str = "veil-steer.sha256";

const NO_COMPILER: &str = "\
no Rust compiler here can build for eBPF. It must take unstable options and have the sources of `core`:
    rustup toolchain install nightly --component rust-src
or, on Debian:
    apt-get install rustc-web rust-web-src";

const NO_LINKER: &str = "\
bpf-linker is missing. Its LLVM must be the compiler's or newer (`rustc -vV` names it). With LLVM 22, on Debian:
    apt-get install llvm-22-dev
    LLVM_PREFIX=/usr/lib/llvm-22 cargo install --locked bpf-linker --no-default-features --features llvm-22";

/// Programs that can drop what a linker leaves of debugging information, and keep BTF: Debian's, LLVM's.
const STRIPPERS: &[&str] = &["llvm-strip-22", "llvm-strip"];

const NO_STRIPPER: &str = "\
llvm-strip is missing. On Debian:
    apt-get install llvm-22";

/// Where a compiler is, and where its library's sources are.
struct Compiler {
    rustc: PathBuf,
    sources: PathBuf,
}

/// Builds the program and commits it to its place, with the hashes.
pub fn build_ebpf() -> Result<()> {
    let home = crate::workspace().join("veil-ebpf");
    std::fs::copy(build()?, home.join(OBJECT)).with_context(|| format!("writing {OBJECT}"))?;
    let hashes = Command::new("sh")
        .args(["-c", &format!("sha256sum src/*.rs {OBJECT}")])
        .env("LC_ALL", "C")
        .current_dir(&home)
        .stderr(Stdio::inherit())
        .output()
        .context("starting sha256sum")?;
    ensure!(hashes.status.success(), "sha256sum failed ({})", hashes.status);
    std::fs::write(home.join(HASHES), hashes.stdout).with_context(|| format!("writing {HASHES}"))?;
    println!("veil-ebpf/{OBJECT} is built; commit it together with veil-ebpf/{HASHES}");
    Ok(())
}

/// The committed program.
pub fn committed() -> PathBuf {
    crate::workspace().join("veil-ebpf").join(OBJECT)
}

/// Whether this machine has a compiler for the program.
pub fn has_compiler() -> bool {
    compiler().is_some()
}

/// Builds the program below `target`; the committed one stays as it is.
pub fn build() -> Result<PathBuf> {
    let compiler = compiler().context(NO_COMPILER)?;
    ensure!(veil_lab::has_program("bpf-linker"), NO_LINKER);
    let strip = STRIPPERS.iter().find(|name| veil_lab::has_program(name)).context(NO_STRIPPER)?;
    println!("with {}", compiler.rustc.display());

    let target = crate::workspace().join("target/ebpf");
    let mut cargo = crate::cargo();
    // Debian's compiler is a stable one; a nightly does not mind.
    cargo.env("RUSTC", &compiler.rustc).env("RUSTC_BOOTSTRAP", "1");
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.args(["build", "--release", "--locked", "-Zbuild-std=core", "--target", TARGET, "--target-dir"]);
    cargo.arg(&target);
    cargo.args(["--package", "veil-ebpf", "--features", "program", "--bin", "veil-steer"]);
    // BTF is made of debugging information.
    cargo.args(["--config", "profile.release.debug=2", "--config", "profile.release.lto=false"]);
    cargo.args(["--config", &format!("target.{TARGET}.rustflags={:?}", flags(&compiler)?)]);
    let status = cargo.status().context("starting cargo build")?;
    ensure!(status.success(), "the program does not build ({status})");

    let built = target.join(TARGET).join("release/veil-steer");
    let object = target.join(OBJECT);
    let stripped = Command::new(strip).arg("--strip-debug").arg(&built).arg("-o").arg(&object).status();
    ensure!(stripped.with_context(|| format!("starting {strip}"))?.success(), "{strip} failed");
    Ok(object)
}

/// rustup's nightly if it has the library's sources, else a system compiler that has them, as Debian's rustc-web.
fn compiler() -> Option<Compiler> {
    let nightly = output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]));
    nightly.into_iter().map(PathBuf::from).chain([PathBuf::from("/usr/bin/rustc")]).find_map(|rustc| {
        let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let sources = PathBuf::from(sysroot).join("lib/rustlib/src/rust/library");
        sources.join("core/src/lib.rs").exists().then_some(Compiler { rustc, sources })
    })
}

/// The compiler's flags: BTF, and no path of this machine in it, so that who builds does not show.
fn flags(compiler: &Compiler) -> Result<Vec<String>> {
    let cargo_home = match (std::env::var_os("CARGO_HOME"), std::env::var_os("HOME")) {
        (Some(home), _) => PathBuf::from(home),
        (None, Some(home)) => PathBuf::from(home).join(".cargo"),
        (None, None) => bail!("neither CARGO_HOME nor HOME is set"),
    };
    let mut flags = ["--btf", "--disable-memory-builtins"].map(|flag| format!("-Clink-arg={flag}")).to_vec();
    for (from, to) in [
        (crate::workspace(), "veil"),
        (cargo_home.as_path(), "cargo"),
        (compiler.sources.as_path(), "library"),
    ] {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    Ok(flags)
}

/// The first line a program prints, if it succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}
