//! OpenVPN, one end of two: peer to peer over UDP, AES-256-GCM, everything in user space, everything else as it comes.
//!
//! Both ends use one self-signed certificate, known to each other by its fingerprint (openvpn(8), `--peer-fingerprint`): the
//! handshake needs one, and these last a minute inside one machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use veil_lab::{Namespace, run};

use super::program::Program;

const PORT: &str = "1194";

/// The certificate and its key, in a folder that goes with the lab.
pub struct Identity {
    key: PathBuf,
    certificate: PathBuf,
    fingerprint: String,
}

impl Identity {
    /// Made by openssl, which OpenVPN's own packages use as well.
    pub fn generate(folder: &Path) -> Result<Identity> {
        let (key, certificate) = (folder.join("openvpn.key"), folder.join("openvpn.crt"));
        let mut request = Command::new("openssl");
        request.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        request.args(["-days", "2", "-subj", "/CN=bench", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
        run(&mut request).context("making a certificate for OpenVPN")?;
        let mut print = Command::new("openssl");
        print.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&certificate);
        let fingerprint = fingerprint(&run(&mut print)?).context("openssl printed no fingerprint")?;
        Ok(Identity { key, certificate, fingerprint })
    }
}

/// The value in "sha256 Fingerprint=AA:BB:.."
fn fingerprint(printed: &str) -> Option<String> {
    Some(printed.trim().split_once('=')?.1.to_owned())
}

/// Where one end is and where the other one: outer addresses, then inner ones. `[own, other]` each.
pub struct Ends {
    pub outer: [Ipv4Addr; 2],
    pub inner: [Ipv4Addr; 2],
    /// One end of a TLS handshake must be its server.
    pub server: bool,
}

pub fn start(
    program: &Path,
    namespace: &Namespace,
    interface: &str,
    ends: &Ends,
    identity: &Identity,
    folder: &Path,
) -> Result<Program> {
    let mut command = namespace.command(program);
    command.args(arguments(interface, ends, &identity.fingerprint));
    command.arg("--cert").arg(&identity.certificate).arg("--key").arg(&identity.key);
    Program::start(command, &folder.join(format!("{interface}.log")))
}

fn arguments(interface: &str, ends: &Ends, fingerprint: &str) -> Vec<String> {
    let [_, remote] = ends.outer.map(|address| address.to_string());
    let [own, other] = ends.inner.map(|address| address.to_string());
    // Data channel offload would move the work into the kernel.
    let mut words = vec!["--dev", interface, "--dev-type", "tun", "--disable-dco", "--proto", "udp"];
    words.extend(["--remote", &remote, PORT, "--port", PORT, "--ifconfig", &own, &other]);
    words.extend(["--data-ciphers", "AES-256-GCM", "--peer-fingerprint", fingerprint, "--verb", "1"]);
    words.extend(if ends.server { ["--tls-server", "--dh", "none"].as_slice() } else { &["--tls-client"] });
    words.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_end_serves_and_each_knows_the_other() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let line = |own, other, server| {
            arguments("tun7", &Ends { outer: [own, other], inner: [own, other], server }, "AA:BB").join(" ")
        };
        let (left, right) = (line(a, b, false), line(b, a, true));
        assert!(
            left.contains("--remote 10.0.0.2 1194") && left.contains("--ifconfig 10.0.0.1 10.0.0.2"),
            "{left}"
        );
        assert!(
            right.contains("--remote 10.0.0.1 1194") && right.contains("--ifconfig 10.0.0.2 10.0.0.1"),
            "{right}"
        );
        assert!(left.ends_with("--tls-client") && right.ends_with("--tls-server --dh none"));
        assert!(left.contains("--disable-dco") && left.contains("--peer-fingerprint AA:BB"));
    }

    #[test]
    fn the_fingerprint_is_what_follows_the_equals_sign() {
        assert_eq!(fingerprint("sha256 Fingerprint=AA:BB\n").as_deref(), Some("AA:BB"));
        assert_eq!(fingerprint("nothing"), None);
    }
}
