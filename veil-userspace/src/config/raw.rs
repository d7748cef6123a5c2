//! The configuration file as TOML: which keys there are, each value with its position in the file.
//!
//! Called by `Config::load` only. Invariants: an unknown key is an error; a private key written in the file is copied
//! only into wiping memory; an error carries the line it is about and never the line's text.

use anyhow::{Result, anyhow};
use serde::Deserialize;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use zeroize::Zeroizing;

/// The file being read, for positions in errors.
pub struct Source<'a> {
    pub path: &'a Path,
    pub text: &'a str,
}

impl Source<'_> {
    /// An error about the value at `span`: "file:line: text".
    pub fn error(&self, span: Range<usize>, text: impl fmt::Display) -> anyhow::Error {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
        anyhow!("{}:{line}: {text}", self.path.display())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Raw {
    pub interface: Interface,
    #[serde(default)]
    pub link: Link,
    #[serde(default)]
    pub threads: Threads,
    #[serde(default)]
    pub timers: Timers,
    #[serde(default)]
    pub peer: Vec<Spanned<Peer>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Interface {
    pub name: Option<Spanned<String>>,
    pub private_key: Option<Spanned<Secret>>,
    pub private_key_file: Option<Spanned<String>>,
    pub network_secret_file: Option<Spanned<String>>,
    pub listen: Option<Spanned<String>>,
    pub addresses: Vec<Spanned<String>>,
    pub mtu: Option<Spanned<i64>>,
    pub offload: Option<bool>,
    pub finish_checksums: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Link {
    pub mode: Option<Spanned<String>>,
    pub interface: Option<Spanned<String>>,
    pub dscp: Option<Spanned<i64>>,
    pub gso: Option<bool>,
    pub gro: Option<bool>,
    pub xdp_mode: Option<Spanned<String>>,
    pub udp_checksum: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Threads {
    pub mode: Option<Spanned<String>>,
    pub cores: Option<Vec<Spanned<i64>>>,
    pub busy_poll: Option<bool>,
    pub cpu_latency: Option<Spanned<i64>>,
    pub nice: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Timers {
    pub rekey_after: Option<Spanned<i64>>,
    pub rotate_after: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Peer {
    pub name: Option<Spanned<String>>,
    pub public_key: Spanned<String>,
    pub preshared_key_file: Option<Spanned<String>>,
    pub allowed_ips: Spanned<Vec<Spanned<String>>>,
    pub endpoint: Option<Spanned<String>>,
    pub persistent_keepalive: Option<Spanned<i64>>,
    pub cipher: Option<Spanned<String>>,
    #[serde(default)]
    pub lease: bool,
    pub offer: Option<Spanned<Offer>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Offer {
    #[serde(default)]
    pub addresses: Vec<Spanned<String>>,
    #[serde(default)]
    pub routes: Vec<Spanned<String>>,
    #[serde(default)]
    pub dns: Vec<Spanned<String>>,
    pub mtu: Option<Spanned<i64>>,
    pub persistent_keepalive: Option<Spanned<i64>>,
}

/// A string in wiping memory.
pub struct Secret(pub Zeroizing<String>);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a key in base64")
            }

            fn visit_str<E>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(Zeroizing::new(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Secret, E> {
                Ok(Secret(Zeroizing::new(text)))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// The file as it stands, or its first mistake.
pub fn parse(source: &Source) -> Result<Raw> {
    // Through `DeTable`, because `toml::from_str` puts a copy of the whole file into its errors.
    let table = toml::de::DeTable::parse(source.text).map_err(|e| reworded(source, &e))?;
    Raw::deserialize(toml::de::Deserializer::from(table)).map_err(|e| reworded(source, &e))
}

/// The TOML library's message in this program's words, on one line.
fn reworded(source: &Source, error: &toml::de::Error) -> anyhow::Error {
    let message = error.message().replace('\n', ", ");
    let text = if let Some(rest) = message.strip_prefix("unknown field ") {
        match rest.split_once(", expected ") {
            Some((key, known)) => {
                let known = known.strip_prefix("one of ").unwrap_or(known);
                format!("unknown key {key}: remove it or correct it, known here: {known}")
            }
            None => format!("unknown key {rest}: remove it"),
        }
    } else if let Some(rest) = message.strip_prefix("missing field ") {
        format!("the key {rest} is missing: add it")
    } else {
        let simple = [
            ("expected i64", "expected a whole number"),
            ("expected a sequence", "expected a list in [ ]"),
            ("expected a boolean", "expected true or false"),
        ];
        simple.iter().fold(message, |text, (from, to)| text.replace(from, to))
    };
    source.error(error.span().unwrap_or(0..0), text)
}
