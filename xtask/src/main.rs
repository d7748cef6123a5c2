//! `cargo xtask`: the commands a person or CI types while working on VEIL, one small file each.
//!
//! It must build on a machine that has nothing yet but cargo and a C compiler, because it is what sets the machine
//! up: so it links neither `veil` nor anything that needs headers, and runs `veil` as a program.

mod bench;
mod build_ebpf;
mod ci;
mod demo;
mod elevate;
mod instruments;
mod interrupt;
mod needs;
mod program;
mod run;
mod setup;
mod test;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "VEIL's errands.",
    before_help = "  VEIL: an encrypted tunnel over one UDP port\n\n  host -> tun -> [ seal ] -> UDP ~~~~~~ UDP -> [ open ] -> tun -> host",
    after_help = "New here?           cargo xtask demo       two hosts in a box, a minute, nothing left behind\n\
                  Have two machines?  cargo xtask run --iface eth0\n\
                  Changed something?  cargo xtask test"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Watch a tunnel work: two network namespaces on this machine, a daemon in each
    Demo(demo::Options),
    /// Build and start the daemon on this machine, writing a first configuration if there is none
    Run(run::Options),
    /// Say what this machine lacks, and with --install get it
    Setup(setup::Options),
    /// Run every test; those that need root say so when they are skipped
    Test(test::Options),
    /// Measure VEIL beside the bare wire and its peers; an idle machine and an hour, or --quick
    Bench(bench::Options),
    /// Build the eBPF program anew; only who changes it needs to
    BuildEbpf,
    /// What CI runs: the tests, in every mode and link, many more random ones, under sanitizers and with zero-copy, the
    /// eBPF program built anew, then formatting, lints, documentation and licences
    Ci(ci::Options),
    /// Remove what tests that were killed have left behind
    #[command(hide = true)]
    Sweep,
}

fn main() -> ExitCode {
    match Arguments::parse().command.map_or_else(help, dispatch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn help() -> Result<()> {
    Ok(Arguments::command().print_help()?)
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Demo(options) => demo::demo(&options),
        Command::Run(options) => run::run(&options),
        Command::Setup(options) => setup::setup(&options),
        Command::Test(options) => test::test(&options),
        Command::Bench(options) => bench::bench(&options),
        Command::BuildEbpf => build_ebpf::build_ebpf(),
        Command::Ci(options) => ci::ci(&options),
        Command::Sweep => {
            test::sweep();
            Ok(())
        }
    }
}

/// The workspace's top folder.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// A cargo command in the workspace, by the cargo that runs us.
fn cargo() -> std::process::Command {
    let program = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = std::process::Command::new(program);
    command.current_dir(workspace());
    command
}
