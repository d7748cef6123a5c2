//! Who is measured: the bare wire, each link and threading mode of VEIL, VEIL without its cipher, and peers.
//!
//! Everything here happens before the run and as the user: building, finding, asking for versions. What cannot be measured
//! stays in the list with the reason, so that a table never leaves out somebody silently.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use veil_lab::{Profile, build_program, build_veil, run};

use super::peers;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The veth pair without a tunnel.
    Raw,
    Veil,
    /// VEIL built with `--cfg veil_null_cipher`: what does everything but the cipher cost?
    NullCipher,
    /// Another VPN in user space.
    Peer,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contender {
    pub name: String,
    pub kind: Kind,
    /// None for who is missing; of the bare wire `veil-raw-xdp`, if AF_XDP alone is measured.
    pub program: Option<PathBuf>,
    /// For `veil run`.
    pub arguments: Vec<String>,
    pub version: Option<String>,
    /// How the SHA-256 begins of the program that is started, a copy of what was found or built.
    pub sha256: Option<String>,
    /// Why it cannot be measured.
    pub missing: Option<String>,
}

impl Contender {
    /// The rung that `veil show` must name: a veth pair has native XDP, and copies.
    pub fn rung(&self) -> Option<&'static str> {
        let over_xdp = self.arguments.windows(2).any(|words| words == ["--link", "xdp"]);
        over_xdp.then_some("native copy")
    }
}

const NULL_CIPHER: &str = "null-cipher";

/// Link and threading mode; the names follow from them.
const MODES: [(&str, &str); 4] =
    [("udp", "single"), ("udp", "pipeline"), ("xdp", "single"), ("xdp", "pipeline")];

/// All that `only` selects (all there are, if it is empty), in the order of the tables. Builds VEIL as needed.
pub fn find(only: &[String], paths: &[(String, PathBuf)]) -> Result<Vec<Contender>> {
    let names = names(paths);
    for word in only {
        ensure!(
            names.iter().any(|name| selects(word, name)),
            "nobody is called {word:?}; there are {}",
            names.join(", ")
        );
    }
    let wanted = |name: &String| only.is_empty() || only.iter().any(|word| selects(word, name));
    names.into_iter().filter(wanted).map(|name| contender(name, paths)).collect()
}

/// Builds what measures AF_XDP alone.
pub fn build_raw_xdp() -> Result<PathBuf> {
    build_program("veil-bench", "veil-raw-xdp", Profile::Release)
}

/// Builds what floods a daemon with handshakes.
pub fn build_flood() -> Result<PathBuf> {
    build_program("veil-bench", "veil-flood", Profile::Release)
}

fn names(paths: &[(String, PathBuf)]) -> Vec<String> {
    let modes = MODES.map(|(link, threads)| mode_name(link, threads));
    let known = peers::PEERS.iter().map(|peer| peer.name.to_owned());
    let extra = paths.iter().map(|(name, _)| name.clone()).filter(|name| peers::known(name).is_none());
    ["raw".to_owned()]
        .into_iter()
        .chain(modes)
        .chain([NULL_CIPHER.to_owned()])
        .chain(known)
        .chain(extra)
        .collect()
}

fn mode_name(link: &str, threads: &str) -> String {
    format!("veil-{link}-{threads}")
}

/// "veil" selects "veil-udp-single" and its like; a full name selects itself.
fn selects(word: &str, name: &str) -> bool {
    name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || (word == "veil" && rest.starts_with('-')))
}

fn contender(name: String, paths: &[(String, PathBuf)]) -> Result<Contender> {
    if name == "raw" {
        return Ok(Contender {
            name,
            kind: Kind::Raw,
            program: None,
            arguments: Vec::new(),
            version: None,
            sha256: None,
            missing: None,
        });
    }
    if let Some((link, threads)) = MODES.into_iter().find(|(link, threads)| mode_name(link, threads) == name)
    {
        return veil(name, Kind::Veil, build_veil(Profile::Release)?, link, threads);
    }
    if name == NULL_CIPHER {
        return veil(name, Kind::NullCipher, build_null_cipher()?, "udp", "single");
    }
    let given = paths.iter().find(|(named, _)| *named == name).map(|(_, path)| path.clone());
    peer(name, given)
}

fn veil(name: String, kind: Kind, program: PathBuf, link: &str, threads: &str) -> Result<Contender> {
    let mut arguments =
        vec!["--link".to_owned(), link.to_owned(), "--threads".to_owned(), threads.to_owned()];
    if link == "xdp" {
        arguments.extend(["--iface".to_owned(), super::topology::WIRE.to_owned()]);
    }
    let version =
        version(&program).with_context(|| format!("asking {} for its version", program.display()))?;
    let null = version.contains("NULL CIPHER");
    ensure!(
        null == (kind == Kind::NullCipher),
        "{} says it is {version:?}: not the build that {name} needs",
        program.display()
    );
    let missing = refusal(&program, &arguments);
    let (program, version) = (Some(program), Some(version));
    Ok(Contender { name, kind, program, arguments, version, sha256: None, missing })
}

/// What `veil` says when it was not built for these arguments. It says so before it reads any file.
fn refusal(program: &Path, arguments: &[String]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(["run", "--config", "/nonexistent/veil.toml"]).args(arguments);
    not_built(&command.output().ok()?.stderr)
}

fn not_built(stderr: &[u8]) -> Option<String> {
    let said = String::from_utf8_lossy(stderr);
    let line = said.lines().find(|line| line.contains("not built in"))?;
    Some(format!("not built: {}", line.trim_start_matches("error: ")))
}

fn peer(name: String, given: Option<PathBuf>) -> Result<Contender> {
    if let Some(path) = &given {
        ensure!(path.is_file(), "--peer {name}: {} is no file", path.display());
    }
    // Absolute, because the process that measures is another one.
    let given = given.map(|path| path.canonicalize().context("finding its absolute path")).transpose()?;
    let program = given.or_else(|| peers::known(&name).and_then(peers::Peer::find));
    let missing = program.is_none().then(|| {
        let cure = peers::known(&name).map_or("", |peer| peer.cure);
        format!("not installed: {cure}")
    });
    let version = program.as_deref().and_then(|program| version(program).ok());
    Ok(Contender { name, kind: Kind::Peer, program, arguments: Vec::new(), version, sha256: None, missing })
}

/// Name and number from the first line of what `--version` prints; what follows tells how it was built.
fn version(program: &Path) -> Result<String> {
    let said = run(Command::new(program).arg("--version"))?;
    let line = said.lines().next().unwrap_or_default();
    Ok(line
        .split_once(" x86_64-")
        .or_else(|| line.split_once(" aarch64-"))
        .map_or(line, |(name, _)| name)
        .trim()
        .to_owned())
}

/// In a target folder of its own, so that neither build makes cargo forget the other.
fn build_null_cipher() -> Result<PathBuf> {
    let target = crate::workspace().join("target/null-cipher");
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default() + " --cfg veil_null_cipher";
    let mut cargo = crate::cargo();
    cargo.env("RUSTFLAGS", flags.trim_start());
    cargo.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "veil-userspace",
        "--bin",
        "veil",
        "--target-dir",
    ]);
    let status = cargo.arg(&target).status().context("starting cargo")?;
    ensure!(status.success(), "building veil without its cipher failed ({status})");
    Ok(target.join("release/veil"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_selects_its_name_and_veil_selects_every_mode() {
        assert!(selects("veil", "veil-udp-single") && selects("veil", "veil-xdp-pipeline"));
        assert!(selects("veil-udp-single", "veil-udp-single") && selects("raw", "raw"));
        for (word, name) in [
            ("veil", "null-cipher"),
            ("veil-udp", "veil-udp-single"),
            ("wireguard", "wireguard-go"),
            ("r", "raw"),
        ] {
            assert!(!selects(word, name), "{word} {name}");
        }
    }

    #[test]
    fn a_peer_by_path_is_listed_once_even_under_a_known_name() {
        let paths =
            [("wireguard-go".to_owned(), PathBuf::from("/x")), ("mine".to_owned(), PathBuf::from("/y"))];
        let names = names(&paths);
        assert_eq!(names.iter().filter(|name| *name == "wireguard-go").count(), 1);
        assert_eq!(names.last().map(String::as_str), Some("mine"));
    }

    #[test]
    fn only_the_af_xdp_link_has_a_rung_to_stand_on() {
        let contender = |link: &str| Contender {
            name: String::new(),
            kind: Kind::Veil,
            program: None,
            arguments: ["--link", link, "--threads", "single"].map(str::to_owned).to_vec(),
            version: None,
            sha256: None,
            missing: None,
        };
        assert_eq!([contender("xdp").rung(), contender("udp").rung()], [Some("native copy"), None]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_there_are() {
        let error = find(&["wiregard-go".to_owned()], &[]).unwrap_err().to_string();
        assert!(
            error.contains("wiregard-go") && error.contains("wireguard-go") && error.contains("raw"),
            "{error}"
        );
    }

    #[test]
    fn a_refusal_is_told_from_another_error() {
        let refused = b"error: --threads pipeline: the pipeline is not built in yet: use `single`\n";
        assert_eq!(
            not_built(refused).as_deref(),
            Some("not built: --threads pipeline: the pipeline is not built in yet: use `single`")
        );
        assert_eq!(not_built(b"error: /nonexistent/veil.toml: cannot read it\n"), None);
    }
}
