//! `cargo xtask run`: from a checkout to a running daemon. Builds as the user, then hands the terminal to `veil`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::elevate::as_root;

#[derive(Args)]
pub struct Options {
    /// The network interface that faces the other side, such as eth0
    #[arg(long, value_name = "IF")]
    iface: String,
    /// The daemon's configuration; written if it does not exist
    #[arg(long, value_name = "FILE", default_value = "veil.toml")]
    config: PathBuf,
    /// How datagrams are carried
    #[arg(long, value_parser = ["auto", "udp", "xdp"])]
    link: Option<String>,
    /// How the work is spread
    #[arg(long, value_parser = ["auto", "single", "pipeline"])]
    threads: Option<String>,
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(
        Path::new("/sys/class/net").join(&options.iface).exists(),
        "there is no network interface {:?}: `ip link` lists those there are",
        options.iface
    );
    let veil = crate::program::build(options.link.as_deref())?;
    if !options.config.exists() {
        write_first_config(&veil, options)?;
    }
    if !Path::new("/dev/net/tun").exists() {
        let status = as_root("modprobe")?.arg("tun").status().context("starting modprobe")?;
        ensure!(status.success(), "this kernel has no TUN device: `modprobe tun` failed ({status})");
    }
    let mut command = as_root(&veil)?;
    command.args(["run", "--iface", &options.iface, "--config"]).arg(&options.config);
    for (name, value) in [("--link", &options.link), ("--threads", &options.threads)] {
        if let Some(value) = value {
            command.args([name, value]);
        }
    }
    // Becomes veil (or sudo), so that Ctrl-C and the exit code are its own.
    Err(command.exec()).with_context(|| format!("starting {}", command.get_program().display()))
}

/// A configuration without peers and, unless there is one, a key beside it; then what to do next.
fn write_first_config(veil: &Path, options: &Options) -> Result<()> {
    let key = options.config.with_file_name("veil.key");
    if !key.exists() {
        let private = veil_lab::run(Command::new(veil).arg("genkey"))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&key)
            .with_context(|| format!("creating {}", key.display()))?;
        file.write_all(private.as_bytes()).with_context(|| format!("writing {}", key.display()))?;
    }
    let public = public_key(veil, &key)?;
    fs::write(&options.config, first_config(&options.iface))
        .with_context(|| format!("writing {}", options.config.display()))?;
    println!(
        "Wrote {} and {}.\n\n\
         This side's public key:  {public}\n\n\
         Next step: do the same on the other machine (with 10.8.0.2/24 there), add each side's\n\
         [[peer]] section at the end of its {} with the other's public key,\n\
         and start this command again. Until then the tunnel is up and has nobody to talk to.\n",
        options.config.display(),
        key.display(),
        options.config.display()
    );
    Ok(())
}

fn public_key(veil: &Path, key: &Path) -> Result<String> {
    let key = fs::File::open(key).with_context(|| format!("opening {}", key.display()))?;
    Ok(veil_lab::run(Command::new(veil).arg("pubkey").stdin(Stdio::from(key)))?.trim().to_owned())
}

fn first_config(iface: &str) -> String {
    format!(
        "\
[interface]
name = \"veil0\"
private-key-file = \"veil.key\"
listen = \"[::]:4433\"
addresses = [\"10.8.0.1/24\"]

[link]
mode = \"auto\"
interface = {iface:?}

# One section for each peer.
#
# [[peer]]
# name = \"laptop\"
# public-key = \"the other side's public key\"
# allowed-ips = [\"10.8.0.2/32\"]            # the inner addresses that are this peer's
# endpoint = \"host.example.org:4433\"      # at least one side must know where the other is
# persistent-keepalive = 25                # for a side behind NAT
"
    )
}
