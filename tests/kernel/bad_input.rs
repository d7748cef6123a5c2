//! Whatever is wrong: an exit code, one line that says what, where and the cure, and a host as it was before.

use std::fs::{self, File, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use veil_lab::{Lab, Node, require_privileges, require_program, run, veil_binary};

const REFUSED_WITHIN: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;

/// One way to be wrong.
struct Case {
    name: &'static str,
    /// Spoils the node and returns what must live while the daemon starts.
    spoil: fn(&mut Node) -> Result<Option<UdpSocket>>,
    /// Further arguments to `veil run`.
    arguments: &'static [&'static str],
    /// What the one line must contain, whatever the case: what is wrong, where, and the cure.
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "an unknown configuration key",
        spoil: |node| replace(node, "listen =", "mtuu = 1400\nlisten ="),
        arguments: &[],
        says: &["mtuu", "veil.toml"],
    },
    Case {
        name: "a file that is no TOML",
        spoil: |node| replace(node, "[interface]", "[interface"),
        arguments: &[],
        says: &["veil.toml"],
    },
    Case {
        name: "a private key that is none",
        spoil: |node| {
            fs::write(node.folder().join("veil.key"), "certainly not a key\n")?;
            Ok(None)
        },
        arguments: &[],
        says: &["veil.key", "genkey"],
    },
    Case {
        name: "a public key that is none",
        spoil: |node| replace(node, "public-key = \"", "public-key = \"AAAA"),
        arguments: &[],
        says: &["public-key", "veil.toml"],
    },
    Case {
        name: "a key file that everybody can read",
        spoil: |node| {
            fs::set_permissions(node.folder().join("veil.key"), Permissions::from_mode(0o644))?;
            Ok(None)
        },
        arguments: &[],
        says: &["veil.key", "chmod"],
    },
    Case {
        name: "a missing key file",
        spoil: |node| {
            fs::remove_file(node.folder().join("veil.key"))?;
            Ok(None)
        },
        arguments: &[],
        says: &["veil.key"],
    },
    Case {
        name: "a port in use",
        spoil: |node| {
            let _inside = node.namespace.enter()?;
            Ok(Some(UdpSocket::bind("0.0.0.0:4433")?))
        },
        arguments: &[],
        says: &["4433", "in use"],
    },
    Case {
        name: "two peers with the same allowed IPs",
        spoil: |node| {
            let peer = node.config.split_once("[[peer]]").context("no peer")?.1.to_owned();
            let key = veil_lab::Keys::generate()?.public;
            let old = peer.split("public-key = \"").nth(1).and_then(|rest| rest.split('"').next());
            let twin = peer.replace(old.context("no key")?, &key).replacen("name = \"", "name = \"twin-", 1);
            node.config.push_str(&format!("\n[[peer]]{twin}"));
            Ok(None)
        },
        arguments: &[],
        says: &["10.8.0.2/32", "twin-"],
    },
    Case {
        name: "an endpoint name that nobody knows",
        spoil: |node| replace(node, "endpoint = \"10.99.0.2:", "endpoint = \"no-such-host.invalid:"),
        arguments: &[],
        says: &["no-such-host.invalid"],
    },
    Case {
        name: "an endpoint inside the tunnel",
        spoil: |node| replace(node, "endpoint = \"10.99.0.2:", "endpoint = \"10.8.0.2:"),
        arguments: &[],
        says: &["10.8.0.2", "allowed"],
    },
    Case {
        name: "AF_XDP without a NIC",
        spoil: |_| Ok(None),
        arguments: &["--link", "xdp"],
        says: &["--link xdp", "--iface"],
    },
    Case {
        name: "a core that does not exist",
        spoil: |node| replace(node, "[[peer]]", "[threads]\ncores = [0, 0, 1023]\n\n[[peer]]"),
        arguments: &["--threads", "pipeline"],
        says: &["cores", "no core 1023", "choose of 0"],
    },
];

#[test]
fn bad_input_gives_one_clear_line_and_leaves_nothing_behind() -> Result<()> {
    if !require_privileges("bad_input_gives_one_clear_line_and_leaves_nothing_behind") {
        return Ok(());
    }
    let mut failures = Vec::new();
    for case in CASES {
        if let Err(error) = refuse(case) {
            failures.push(format!("{}: {error:#}", case.name));
        }
    }
    ensure!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), CASES.len(), failures.join("\n"));
    Ok(())
}

#[test]
fn a_missing_configuration_file_is_named() -> Result<()> {
    if !require_privileges("a_missing_configuration_file_is_named") {
        return Ok(());
    }
    let (_lab, node) = scene()?;
    let config = node.folder().join("nowhere.toml");
    attempt(&node, run_command(&node, veil_binary()?, &config), &["nowhere.toml"])
}

#[test]
fn without_privileges_the_line_names_the_capability() -> Result<()> {
    let test = "without_privileges_the_line_names_the_capability";
    if !require_privileges(test) || !require_program(test, "setpriv") {
        return Ok(());
    }
    let (lab, node) = scene()?;
    let config = node.write_config()?;
    // Nobody may neither reach a build folder in a private home nor read root's files.
    let veil = lab.folder().join("veil");
    // Not by this process: what it has open for writing, a child of another thread has, too, until its exec, and so long
    // nobody may run it.
    run(Command::new("cp").arg("-p").arg(veil_binary()?).arg(&veil))?;
    for path in [node.folder(), &config, &node.folder().join("veil.key")] {
        chown(path, Some(NOBODY), Some(NOBODY))?;
    }
    let mut command = node.namespace.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]).arg(veil);
    attempt(&node, run_arguments(command, &node, &config), &["cap_net_admin"])
}

#[test]
fn a_kernel_without_tun_is_said_to_be_one() -> Result<()> {
    if !require_privileges("a_kernel_without_tun_is_said_to_be_one") {
        return Ok(());
    }
    let (_lab, node) = scene()?;
    let config = node.write_config()?;
    // `ip netns exec` gives each command a mount namespace of its own, so this hides the device from nobody else.
    let mut command = node.namespace.command("sh");
    command.args(["-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"]).arg(veil_binary()?);
    attempt(&node, run_arguments(command, &node, &config), &["/dev/net/tun", "modprobe"])
}

fn refuse(case: &Case) -> Result<()> {
    let (_lab, mut node) = scene()?;
    let _alive_meanwhile = (case.spoil)(&mut node)?;
    let config = node.write_config()?;
    let mut command = run_command(&node, veil_binary()?, &config);
    command.args(case.arguments);
    attempt(&node, command, case.says)
}

/// A host with a correct configuration and a peer that does not exist.
fn scene() -> Result<(Lab, Node)> {
    let lab = Lab::new("bad")?;
    let mut node = lab.node("l", &["10.8.0.1/24"])?;
    let other = lab.node("r", &["10.8.0.2/24"])?;
    node.add_peer(&other, Some("10.99.0.2:4433"));
    Ok((lab, node))
}

fn replace(node: &mut Node, from: &str, to: &str) -> Result<Option<UdpSocket>> {
    ensure!(node.config.contains(from), "{from:?} is not in the configuration");
    node.config = node.config.replacen(from, to, 1);
    Ok(None)
}

fn run_command(node: &Node, veil: &Path, config: &Path) -> Command {
    run_arguments(node.namespace.command(veil), node, config)
}

fn run_arguments(mut command: Command, node: &Node, config: &Path) -> Command {
    command.args(["run", "--config"]).arg(config).arg("--control").arg(node.folder().join("veil.sock"));
    command
}

/// Runs a daemon that must refuse to start, and checks what it said and what it left.
fn attempt(node: &Node, mut command: Command, says: &[&str]) -> Result<()> {
    let before = (node.namespace.kernel_state()?, files(node)?);
    let log = node.folder().with_extension("stderr");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).spawn()?;
    let deadline = Instant::now() + REFUSED_WITHIN;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("it started, or hung:\n{}", fs::read_to_string(&log)?);
        }
        thread::sleep(Duration::from_millis(10));
    };
    let said = fs::read_to_string(&log)?;
    ensure!(status.code().is_some_and(|code| code != 0), "it ended with {status}:\n{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("error:")).collect();
    let [line] = lines[..] else { bail!("{} lines begin with \"error:\":\n{said}", lines.len()) };
    ensure!(!said.contains("panicked"), "{said}");
    println!("{line}");
    for word in says {
        ensure!(line.to_lowercase().contains(word), "{word:?} is not in: {line}");
    }
    let after = (node.namespace.kernel_state()?, files(node)?);
    ensure!(before == after, "left behind:\n{before:#?}\n{after:#?}");
    Ok(())
}

/// Every file a daemon could have made: beside its configuration, and in the system's places under its name.
fn files(node: &Node) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(node.folder())?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    for folder in ["/run/veil", "/var/lib/veil"] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let ours = |path: &PathBuf| path.to_string_lossy().contains(&node.interface);
        found.extend(entries.map(|entry| entry.path()).filter(ours));
    }
    found.sort();
    Ok(found)
}
