//! The `veil` that `run` and `demo` use: with AF_XDP where this machine can build that, else for UDP alone, and a line
//! that says so.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use veil_lab::Profile;

use crate::needs::{For, lacking};

/// How `veil` is built.
#[derive(Debug, PartialEq, Eq)]
enum Build {
    Whole,
    /// Without AF_XDP; the line says why, what that costs and what helps.
    UdpOnly(String),
}

/// Builds the optimised `veil`, and returns where it is. `link` is what the user asked for, if anything.
pub fn build(link: Option<&str>) -> Result<PathBuf> {
    match choose(&lacking(For::AfXdp), link)? {
        Build::Whole => veil_lab::build_veil(Profile::Release),
        Build::UdpOnly(line) => {
            println!("{line}");
            veil_lab::build_udp_only_veil(Profile::Release)
        }
    }
}

/// Decides by what is missing for AF_XDP. `--link xdp` without it would be built in vain.
fn choose(lacking: &[&str], link: Option<&str>) -> Result<Build> {
    if lacking.is_empty() {
        return Ok(Build::Whole);
    }
    let missing = format!("not here: {}", lacking.join(", "));
    let cure = "`cargo xtask setup --install` gets what it takes";
    ensure!(link != Some("xdp"), "--link xdp needs AF_XDP, which cannot be built ({missing}): {cure}");
    Ok(Build::UdpOnly(format!(
        "Building without AF_XDP ({missing}): the tunnel works, by UDP sockets alone, never past the kernel's stack; {cure}."
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_all_there_everything_is_built() {
        for link in [None, Some("auto"), Some("udp"), Some("xdp")] {
            assert_eq!(choose(&[], link).unwrap(), Build::Whole);
        }
    }

    #[test]
    fn without_it_udp_is_built_and_a_line_says_so() {
        for link in [None, Some("auto"), Some("udp")] {
            let Build::UdpOnly(line) = choose(&["clang", "zlib headers"], link).unwrap() else {
                panic!("AF_XDP is built without clang");
            };
            for word in
                ["without AF_XDP", "clang, zlib headers", "UDP sockets alone", "cargo xtask setup --install"]
            {
                assert!(line.contains(word), "{word:?} is not in: {line}");
            }
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn af_xdp_alone_is_not_replaced_by_udp() {
        let error = choose(&["libclang"], Some("xdp")).unwrap_err().to_string();
        for word in ["--link xdp", "libclang", "cargo xtask setup --install"] {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
    }
}
