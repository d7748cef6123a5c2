//! Which Debian archive this machine uses, read from apt's own sources (sources.list(5), both styles).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The address of the machine's Debian archive.
pub fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir(Path::new("/etc/apt/sources.list.d")).into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    files.sort();
    let found = files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        let deb822 = file.extension().is_some_and(|ending| ending == "sources");
        if deb822 { from_stanzas(&text) } else { from_lines(&text) }
    });
    found.context(
        "apt's sources name no Debian archive to get the guest's kernel and QEMU from (see /etc/apt)",
    )
}

/// `deb [options] ADDRESS SUITE COMPONENT...`, one a line.
fn from_lines(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.trim().strip_prefix("deb ")?.trim_start();
        let line = if line.starts_with('[') { line.split_once(']')?.1 } else { line };
        let mut words = line.split_whitespace();
        let (address, suite) = (words.next()?, words.next()?);
        (is_debian(address) && is_release(suite)).then(|| address.to_owned())
    })
}

/// `Field: values`, sources parted by empty lines.
fn from_stanzas(text: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            let value = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.into_iter().flat_map(str::split_whitespace)
        };
        let wanted = field("Types").any(|kind| kind == "deb")
            && field("Suites").any(is_release)
            && field("Enabled").all(|enabled| enabled != "no");
        wanted.then(|| field("URIs").find(|address| is_debian(address)).map(str::to_owned)).flatten()
    })
}

/// Other people's archives use Debian's names for their suites, so the address must say Debian as well.
fn is_debian(address: &str) -> bool {
    let last = address.trim_end_matches('/').rsplit('/').next();
    last == Some("debian") && !address.starts_with("cdrom:")
}

/// One whose archive has our suites, too.
fn is_release(suite: &str) -> bool {
    let base = suite.trim_end_matches("-updates").trim_end_matches("-backports");
    ["bookworm", "trixie", "forky", "oldstable", "stable", "testing", "unstable", "sid"].contains(&base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_found_in_both_styles() {
        let lines = "# deb http://old.example/debian bookworm main\n\
                     deb http://security.example/debian-security bookworm-security main\n\
                     deb-src http://a.example/debian bookworm main\n\
                     deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian/ bookworm main contrib\n";
        assert_eq!(from_lines(lines).as_deref(), Some("http://a.example/debian/"));
        let stanzas = "Types: deb\n# URIs: http://old.example/debian\nURIs: http://b.example/debian\n\
                       Suites: trixie trixie-updates\nComponents: main\n";
        assert_eq!(from_stanzas(stanzas).as_deref(), Some("http://b.example/debian"));
    }

    #[test]
    fn what_is_not_debians_archive_is_passed_over() {
        for other in [
            "deb http://vendor.example bookworm main",
            "deb http://archive.example/ubuntu noble main",
            "deb cdrom:[Debian]/debian bookworm main",
            "deb http://a.example/debian bookworm-security main",
        ] {
            assert_eq!(from_lines(other), None, "{other}");
        }
        let switched_off = "Types: deb\nURIs: http://b.example/debian\nSuites: trixie\nEnabled: no\n";
        assert_eq!(from_stanzas(switched_off), None);
    }
}
