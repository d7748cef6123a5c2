//! The command line: what the user may ask for, and how the answer or the error is printed.
//!
//! `main` calls this and nothing else. Invariants: an error is one line on stderr, "error: what: cause: cure", with exit
//! code 1; keys go to the output unbuffered, so that no copy stays behind; a reader that goes away ends the program
//! quietly.

use crate::config::{Config, LinkMode, ThreadsChoice, XdpMode};
use crate::control::show;
use crate::daemon::{self, RunOptions};
#[cfg(feature = "xdp")]
use crate::doctor;
use crate::host::SystemEntropy;
use crate::keyfile;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing::level_filters::LevelFilter;
use veil_proto::Entropy;
use veil_proto::crypto::{PrivateKey, generate_x25519_keypair};
use zeroize::Zeroizing;

#[cfg(not(veil_null_cipher))]
const VERSION: &str = env!("CARGO_PKG_VERSION");
#[cfg(veil_null_cipher)]
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " NULL CIPHER: measures only, encrypts nothing");

/// An encrypted UDP tunnel: a VPN with one small configuration file per machine.
#[derive(Parser)]
#[command(name = "veil", version = VERSION, after_help = FIRST_STEPS, arg_required_else_help = true)]
#[command(infer_subcommands = true, disable_help_subcommand = true)]
struct Cli {
    /// Log more: what happens to peers and sessions (VEIL_LOG=trace logs everything)
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

const FIRST_STEPS: &str = "\
First steps, on each of the two machines:
  umask 077; veil genkey > veil.key       make this machine's key
  veil pubkey < veil.key                  print what the other machine must know of it
  $EDITOR veil.toml                       write the configuration (see README.md)
  veil check                              see whether it is right
  sudo veil run                           start the tunnel; Ctrl-C stops it and leaves nothing behind";

#[derive(Subcommand)]
enum Command {
    /// Print a new private key
    #[command(after_help = "Keep it in a file only you can read:\n  (umask 077; veil genkey > veil.key)")]
    Genkey,
    /// Read a private key and print its public key
    #[command(
        after_help = "The public key is what the other end puts into its configuration:\n  veil pubkey < veil.key"
    )]
    Pubkey,
    /// Print a new pre-shared key (also good as a network secret)
    #[command(
        after_help = "Both ends of a peering need the same one:\n  (umask 077; veil genpsk > laptop.psk)"
    )]
    Genpsk,
    /// Run a tunnel until Ctrl-C or SIGTERM
    #[command(
        after_help = "Needs CAP_NET_ADMIN (sudo). Everything set up on the machine is undone at the end."
    )]
    Run(Run),
    /// Show a running tunnel: its peers, their traffic, and what was dropped and why
    Show(Show),
    /// Check a configuration and its key files, without running anything
    Check(ConfigFile),
    /// Say what an interface offers to AF_XDP, how VEIL would use it, and why not better
    #[command(after_help = "Changes nothing on the interface. As root it says more.")]
    Doctor(Doctor),
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration
    #[arg(short, long, value_name = "FILE", default_value = "veil.toml")]
    config: PathBuf,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    file: ConfigFile,
    /// The network card AF_XDP shall use; the UDP link needs none [default: interface in the configuration]
    #[arg(short, long, value_name = "IF")]
    iface: Option<String>,
    /// What carries the datagrams [default: mode in the configuration]
    #[arg(short, long, value_enum, value_name = "LINK")]
    link: Option<LinkMode>,
    /// Where AF_XDP's program runs [default: the configuration's, else native]
    #[arg(long, value_enum, value_name = "MODE")]
    xdp_mode: Option<XdpMode>,
    /// How the work is spread over threads [default: mode in the configuration]
    #[arg(short, long, value_enum, value_name = "MODE")]
    threads: Option<ThreadsChoice>,
    /// Where `veil show` asks [default: /run/veil/NAME.sock]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Where peers' last timestamps and endpoints are kept [default: /var/lib/veil/NAME.state]
    #[arg(long, value_name = "PATH")]
    state: Option<PathBuf>,
}

#[derive(Args)]
struct Show {
    /// The tunnel's interface; not needed when only one is running
    #[arg(value_name = "NAME", conflicts_with = "control")]
    name: Option<String>,
    /// Print JSON, for programs
    #[arg(short, long)]
    json: bool,
    /// The control socket to ask, when `veil run` was given one
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

#[derive(Args)]
struct Doctor {
    /// The network card
    #[arg(short, long, value_name = "IF")]
    iface: String,
    /// As if generic mode were asked for
    #[arg(long)]
    generic: bool,
    /// Print JSON, for programs
    #[arg(short, long)]
    json: bool,
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match init_logging(cli.verbose).and_then(|()| dispatch(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Whether stderr still takes the line changes nothing about the exit code.
            let _ = writeln!(io::stderr(), "error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Genkey => print_key(&generate_x25519_keypair(&mut SystemEntropy::new()).private.to_base64()),
        Command::Pubkey => pubkey(),
        Command::Genpsk => genpsk(),
        Command::Run(args) => run(args),
        Command::Show(args) => show(args),
        Command::Check(args) => check(args),
        Command::Doctor(args) => doctor(args),
    }
}

fn pubkey() -> Result<()> {
    if io::stdin().is_terminal() {
        eprintln!("Paste a private key, then press Enter and Ctrl-D:");
    }
    // Through a file of our own: std's stdin keeps what it read in a buffer nobody wipes.
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned().context("cannot read stdin")?);
    let bytes = keyfile::read_bounded(&mut stdin, 4096).context("cannot read a private key from stdin")?;
    let text = std::str::from_utf8(&bytes).unwrap_or("\u{fffd}");
    let key = PrivateKey::from_base64(text.trim()).context(
        "stdin holds no private key: make one with `veil genkey`, pass it with `veil pubkey < FILE`",
    )?;
    print(&format!("{}\n", key.public()))
}

fn genpsk() -> Result<()> {
    let mut key = Zeroizing::new([0; 32]);
    SystemEntropy::new().fill(key.as_mut_slice());
    let mut text = Zeroizing::new(String::with_capacity(64));
    STANDARD.encode_string(key.as_slice(), &mut text);
    print_key(&text)
}

fn run(args: Run) -> Result<()> {
    // Before the configuration is read: what the command line asks for must be possible in any case.
    if let Some(link) = args.link {
        link.check_built_in("--link xdp")?;
    }
    let config = Config::load(&args.file.config)?;
    let link = args.link.unwrap_or(config.link.mode);
    link.check_built_in(&format!("{}: [link] mode = \"xdp\"", args.file.config.display()))?;
    let threads = args.threads.unwrap_or(config.threads.mode);
    let Run { iface, xdp_mode, control, state, .. } = args;
    let options = RunOptions { iface, link, xdp_mode, threads, control, state };
    daemon::run(config, options)
}

fn show(args: Show) -> Result<()> {
    let path = match args.control {
        Some(path) => path,
        None => show::locate(args.name.as_deref())?,
    };
    let snapshot = show::fetch(&path)?;
    if args.json {
        return print_json(&snapshot);
    }
    print(&show::render(&snapshot, colours_wanted(&io::stdout())))
}

fn check(args: ConfigFile) -> Result<()> {
    let config = Config::load(&args.config)?;
    let shown = args.config.display();
    config.link.mode.check_built_in(&format!("{shown}: [link] mode = \"xdp\""))?;
    let peers = match config.peers.len() {
        0 => "no peers yet".to_owned(),
        1 => "1 peer".to_owned(),
        n => format!("{n} peers"),
    };
    let key = config.private_key.public();
    let addresses: Vec<_> = config.addresses.iter().map(ToString::to_string).collect();
    let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") };
    print(&format!(
        "{shown} is right: {} with {addresses}, listening on {}, {peers}\npublic key {key}\n",
        config.name, config.listen
    ))
}

#[cfg(feature = "xdp")]
fn doctor(args: Doctor) -> Result<()> {
    let report = doctor::examine(&args.iface, args.generic)?;
    if args.json {
        return print_json(&report);
    }
    print(&doctor::render(&report, colours_wanted(&io::stdout())))
}

#[cfg(not(feature = "xdp"))]
fn doctor(_: Doctor) -> Result<()> {
    bail!(
        "this program was built without AF_XDP, so that its only link is UDP: build it with the feature `xdp`"
    )
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    text.push('\n');
    print(&text)
}

/// Prints a secret; says so when it lands in a file that others can read.
fn print_key(key: &str) -> Result<()> {
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned().context("cannot write to stdout")?);
    if let Ok(metadata) = stdout.metadata()
        && metadata.is_file()
        && metadata.permissions().mode() & 0o066 != 0
    {
        eprintln!(
            "warning: other users can get at the file this key goes to: run `chmod 600` on it, or `umask 077` first"
        );
    }
    let mut line = Zeroizing::new(String::with_capacity(key.len() + 1));
    line.push_str(key);
    line.push('\n');
    stdout.write_all(line.as_bytes()).context("cannot write to stdout")
}

fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// Whether the error is that nobody reads our output any more (`veil show | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let written = error.to_string() == "cannot write to stdout";
    written
        && error
            .root_cause()
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The whole chain of causes on one line.
fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Log lines go to stderr: information by default, more with `-v`, whatever `VEIL_LOG` names when it is set.
fn init_logging(verbose: bool) -> Result<()> {
    let level = match std::env::var("VEIL_LOG") {
        Ok(text) if !text.is_empty() => match text.parse::<LevelFilter>() {
            Ok(level) => level,
            Err(_) => bail!("VEIL_LOG={text} is no log level: choose off, error, warn, info, debug or trace"),
        },
        _ if verbose => LevelFilter::DEBUG,
        _ => LevelFilter::INFO,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(colours_wanted(&io::stderr()))
        .with_target(level >= LevelFilter::DEBUG)
        .init();
    Ok(())
}

fn colours_wanted(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_the_documented_options() {
        let args =
            ["veil", "run", "--config", "a.toml", "--iface", "eth0", "--link", "udp", "--threads", "single"];
        let Ok(Cli { command: Command::Run(run), .. }) = Cli::try_parse_from(args) else {
            panic!("not parsed")
        };
        assert_eq!((run.file.config, run.iface.as_deref()), ("a.toml".into(), Some("eth0")));
        assert_eq!((run.link, run.threads), (Some(LinkMode::Udp), Some(ThreadsChoice::Single)));
    }

    #[test]
    fn what_is_not_built_in_is_refused_before_anything_is_read() {
        let cli = Cli::try_parse_from(["veil", "run", "--config", "/nonexistent", "--link", "xdp"]);
        let error = dispatch(cli.unwrap_or_else(|e| panic!("{e}")).command).unwrap_err();
        let refused = one_line(&error)
            .starts_with("--link xdp: this program was built without AF_XDP: use `udp` or `auto`");
        assert_eq!(refused, cfg!(not(feature = "xdp")), "{error}");
    }

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = anyhow::anyhow!("first\n  second").context("what");
        assert_eq!(one_line(&error), "what: first second");
    }
}
