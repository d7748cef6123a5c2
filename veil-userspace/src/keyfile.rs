//! Files that hold secrets: private keys, pre-shared keys, the network secret, a configuration with a key in it.
//!
//! Called by the configuration and by `veil pubkey`. Two invariants: what is read lives in wiping memory that never
//! grows (growing would leave a copy behind), and a secret that others on this machine can read is refused.

use anyhow::{Context, Result, bail};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use veil_proto::crypto::KeyError;
use zeroize::Zeroizing;

/// A key file holds 44 characters; this leaves room for stray whitespace.
const KEY_FILE_MAX: usize = 4096;
/// Group or others may read, or write and so replace.
const OPEN_TO_OTHERS: u32 = 0o066;

/// The key in the file at `path`, parsed by `parse`. `what` names it in errors ("private key"), `cure` is the command
/// that makes such a file.
pub fn read_key<K>(
    path: &Path,
    what: &str,
    cure: &str,
    parse: impl Fn(&str) -> Result<K, KeyError>,
) -> Result<K> {
    let shown = path.display();
    let mut file = File::open(path).with_context(|| {
        format!("{shown}: cannot read the {what}: check the path, or make one with `{cure}`")
    })?;
    let metadata = file.metadata().with_context(|| format!("{shown}: cannot read the {what}"))?;
    check_permissions(path, &metadata, what)?;
    let bytes =
        read_bounded(&mut file, KEY_FILE_MAX).with_context(|| format!("{shown}: cannot read the {what}"))?;
    let text = std::str::from_utf8(&bytes).unwrap_or("\u{fffd}");
    parse(text.trim()).with_context(|| format!("{shown}: this is no {what} (make one with `{cure}`)"))
}

/// Refuses a file that anybody but its owner can read or write. Pipes and terminals pass: nobody else holds them.
pub fn check_permissions(path: &Path, metadata: &Metadata, what: &str) -> Result<()> {
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_file() && mode & OPEN_TO_OTHERS != 0 {
        let shown = path.display();
        bail!(
            "{shown}: other users can get at the {what} in this file (mode {mode:04o}): run `chmod 600 {shown}`"
        );
    }
    Ok(())
}

/// Everything in `reader`, into memory that is wiped and was allocated once; more than `limit` bytes are an error.
pub fn read_bounded(reader: &mut impl Read, limit: usize) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; limit + 1]);
    let mut len = 0;
    loop {
        match reader.read(&mut bytes[len..]) {
            Ok(0) if len <= limit => break,
            Ok(0) => return Err(std::io::Error::other(format!("larger than {limit} bytes"))),
            Ok(n) => len += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use veil_proto::crypto::PrivateKey;

    const KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";

    fn read(path: &Path) -> Result<PrivateKey, String> {
        let key = read_key(path, "private key", "veil genkey", PrivateKey::from_base64);
        key.map_err(|e| format!("{e:#}").replace(&path.display().to_string(), "FILE"))
    }

    fn file(content: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_key_is_read_with_the_newline_after_it() {
        let file = file(&format!("{KEY}\n"), 0o600);
        assert_eq!(*read(file.path()).unwrap_or_else(|e| panic!("{e}")).to_base64(), KEY);
    }

    #[test]
    fn a_key_others_can_reach_is_refused_with_the_cure() {
        for mode in [0o604, 0o640, 0o644, 0o660, 0o602] {
            let error = read(file(KEY, mode).path()).err().unwrap();
            let wanted = format!(
                "FILE: other users can get at the private key in this file (mode {mode:04o}): run `chmod 600 FILE`"
            );
            assert_eq!(error, wanted);
        }
    }

    #[test]
    fn what_is_no_key_is_named_with_the_cure() {
        let error = read(file("hello", 0o600).path()).err().unwrap();
        assert!(
            error.starts_with("FILE: this is no private key (make one with `veil genkey`): wrong length"),
            "{error}"
        );
        let error = read(file(&"A".repeat(5000), 0o600).path()).err().unwrap();
        assert_eq!(error, "FILE: cannot read the private key: larger than 4096 bytes");
        let error = read(Path::new("/nonexistent/k")).err().unwrap();
        let wanted =
            "FILE: cannot read the private key: check the path, or make one with `veil genkey`: No such file";
        assert!(error.starts_with(wanted), "{error}");
    }
}
