//! `cargo xtask bench`: VEIL beside the bare wire and its peers, all in one run on this machine.
//!
//! Two processes: this one, as the user, builds, finds the peers and writes the results; a second one, as root, gets the
//! [`Plan`] as an argument, measures, and hands its figures back on stdout. Nothing in the checkout ends up owned by root.

mod added;
mod awake;
mod bulk;
mod calls;
mod chart;
mod compare;
mod contenders;
mod copies;
mod cpu;
mod figures;
mod flood;
mod helper;
mod iperf;
mod latency;
mod machine;
mod measure;
mod openvpn;
mod peers;
mod plan;
mod predict;
mod program;
mod progress;
mod raw_xdp;
mod report;
mod results;
mod small;
mod stages;
mod stats;
mod topology;
mod wireguard;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::elevate::as_root;
use crate::interrupt;
use copies::Copies;
use figures::Group;
use machine::Machine;
use plan::{Plan, Settings};
use results::{Entry, Results};

/// More of the processors' time than this at work before a run, and its figures are worth little.
const BUSY: f64 = 0.05;

#[derive(Args)]
#[command(after_help = "\
Measured: TCP by iperf3 (-C cubic), 64-byte UDP at 1 % loss or less, round trip times, the CPU time both daemons use; of
VEIL, the time a packet spends inside its daemons and the system calls it takes to move a gigabyte;
each round measures one contender after the other. Results go to bench/results/. An idle machine is needed: whatever else
runs is in the figures.

Contenders: raw (the veth pair alone), veil-LINK-THREADS, null-cipher (veil built without its cipher), gotatun, boringtun,
wireguard-go, openvpn, and any other WireGuard program by --peer.

  cargo xtask bench --quick --only veil,raw,wireguard-go --figures bulk
  cargo xtask bench --peer wireguard-go=../wireguard-go/wireguard-go
  cargo xtask bench --from bench/results/FILE.json --readme")]
pub struct Options {
    /// A first look: 3 short rounds instead of 5 long ones
    #[arg(long)]
    quick: bool,
    /// Only these contenders; `veil` means each of its modes
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these figures
    #[arg(long, value_enum, value_name = "FIGURE,..", value_delimiter = ',')]
    figures: Vec<Group>,
    /// Measure this WireGuard program too (it must take `-f INTERFACE` and speak UAPI)
    #[arg(long, value_name = "NAME=PATH", value_parser = name_and_path)]
    peer: Vec<(String, PathBuf)>,
    /// Let idle cores sleep meanwhile; else they are kept awake (/dev/cpu_dma_latency), for all contenders alike
    #[arg(long)]
    let_cores_sleep: bool,
    /// First install the peers that are missing, from crates and Debian; takes minutes
    #[arg(long)]
    install_peers: bool,
    /// Print README's Markdown table instead of all tables
    #[arg(long)]
    readme: bool,
    /// Measure nothing: show and draw an older results file again
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The plan, for the process that measures
    #[arg(long, hide = true)]
    measure: Option<String>,
}

/// What the measuring process hands back.
#[derive(Serialize, Deserialize)]
struct Measured {
    complete: bool,
    contenders: Vec<Entry>,
}

pub fn bench(options: &Options) -> Result<()> {
    if let Some(plan) = &options.measure {
        return measure_as_root(plan);
    }
    if let Some(path) = &options.from {
        let results = Results::load(path)?;
        return show(&results, options, path);
    }
    for program in ["ip", "iperf3"] {
        ensure!(
            veil_lab::has_program(program),
            "{program} is missing: `cargo xtask setup --install` gets it"
        );
    }
    let groups = groups(options)?;
    if options.install_peers {
        peers::install()?;
    }
    let mut contenders = contenders::find(&options.only, &options.peer)?;
    if groups.contains(&Group::RawXdp) {
        for raw in contenders.iter_mut().filter(|contender| contender.kind == contenders::Kind::Raw) {
            raw.program = Some(contenders::build_raw_xdp()?);
        }
    }
    let flooded = contenders.iter().any(|contender| Group::Flood.is_for(contender));
    let mut flood = (flooded && groups.contains(&Group::Flood)).then(contenders::build_flood).transpose()?;
    // Until the end of the run.
    let mut copies = Copies::new()?;
    for contender in &mut contenders {
        if let Some(program) = &mut contender.program {
            let copy = copies.of(program)?;
            (*program, contender.sha256) = (copy.path, copy.sha256);
        }
    }
    if let Some(program) = &mut flood {
        *program = copies.of(program)?.path;
    }
    let awake = !options.let_cores_sleep && awake::possible();
    if !awake && !options.let_cores_sleep {
        eprintln!(
            "the cores cannot be kept awake here (no cpuidle driver, or no PM QoS): they may sleep meanwhile"
        );
    }
    let plan = Plan { settings: Settings::new(options.quick, awake), groups, contenders, flood };
    let machine = Machine::look()?;
    if let Some(busy) = machine.busy.filter(|busy| *busy > BUSY) {
        eprintln!(
            "warning: {:.0} % of the processors' time is others' work, which will be in the figures",
            busy * 100.0
        );
    }
    let measured = hand_to_root(&plan)?;
    let mut results = Results {
        date: machine::today(),
        machine,
        settings: plan.settings,
        figures: figures::figures(),
        contenders: measured.contenders,
        comparisons: Vec::new(),
        predictions: Vec::new(),
    };
    results.comparisons = compare::comparisons(&results);
    results.predictions = predict::predictions(&results);
    if !measured.complete {
        let spreads = results.contenders.iter().flat_map(|entry| entry.figures.values());
        results.settings.rounds = spreads.map(|spread| spread.samples.len() as u32).max().unwrap_or(0);
        if results.settings.rounds > 0 {
            println!("{}", report::text(&results));
        }
        bail!("not everything was measured, so nothing was written");
    }
    if results.is_empty() {
        println!("{}", report::text(&results));
        bail!("nothing was measured, so nothing was written");
    }
    let path = results.save(&crate::workspace().join("bench/results"))?;
    show(&results, options, &path)
}

/// Prints the table and draws the chart beside the results file.
fn show(results: &Results, options: &Options, path: &std::path::Path) -> Result<()> {
    let table = if options.readme { report::markdown(results) } else { report::text(results) };
    println!("{table}");
    let chart = path.with_extension("svg");
    fs::write(&chart, chart::svg(results)).with_context(|| format!("writing {}", chart.display()))?;
    eprintln!("{} and {}", path.display(), chart.display());
    Ok(())
}

/// The figures asked for, in the order in which they do not disturb each other: the shaped wire stays shaped.
fn groups(options: &Options) -> Result<Vec<Group>> {
    let asked = |group: &Group| options.figures.is_empty() || options.figures.contains(group);
    let mut groups: Vec<Group> = Group::ALL.into_iter().filter(asked).collect();
    for (group, wire) in
        [(Group::Segmented, topology::Wire::Segmented), (Group::Shaped, topology::Wire::Shaped)]
    {
        if let (true, Err(why)) = (groups.contains(&group), topology::lacking(wire)) {
            ensure!(options.figures.is_empty(), "{}: {why}", group.word());
            eprintln!("left out: {} {why}", group.word());
            groups.retain(|kept| *kept != group);
        }
    }
    Ok(groups)
}

fn hand_to_root(plan: &Plan) -> Result<Measured> {
    if !veil_lab::is_root() {
        eprintln!("Network namespaces need root, so sudo may ask for your password.");
    }
    // Keys for VEIL's nodes are made by any build of it; a run without VEIL needs none.
    let veil = plan.contenders.iter().find(|contender| contender.kind == contenders::Kind::Veil);
    let veil = veil.or_else(|| plan.contenders.iter().find(|c| c.kind == contenders::Kind::NullCipher));
    let mut command = as_root("env")?;
    if let Some(program) = veil.and_then(|contender| contender.program.as_ref()) {
        command.arg(format!("VEIL_BIN={}", program.display()));
    }
    command.arg(std::env::current_exe()?).args(["bench", "--measure", &serde_json::to_string(plan)?]);
    // Ctrl-C reaches both; the other one takes its network down, and this one waits for it.
    interrupt::watch();
    let output =
        command.stdout(Stdio::piped()).spawn().context("starting the measurement")?.wait_with_output()?;
    match serde_json::from_slice(&output.stdout) {
        Ok(measured) => Ok(measured),
        Err(_) => bail!("the measurement ended without results ({})", output.status),
    }
}

fn measure_as_root(plan: &str) -> Result<()> {
    let plan: Plan = serde_json::from_str(plan).context("--measure takes a plan")?;
    interrupt::watch();
    let _awake = plan.settings.awake.then(awake::keep).transpose()?;
    let (contenders, outcome) = measure::measure(&plan);
    if let Err(error) = &outcome {
        eprintln!("\n{error:#}");
    }
    println!("{}", serde_json::to_string(&Measured { complete: outcome.is_ok(), contenders })?);
    Ok(())
}

fn name_and_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("expected NAME=PATH".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_documented_command_lines_parse() {
        let parse = |words: &str| Line::try_parse_from(words.split(' ')).map(|line| line.options);
        let options = parse("bench --quick --only veil,raw,wireguard-go --figures bulk,shaped").unwrap();
        assert!(options.quick && options.only == ["veil", "raw", "wireguard-go"]);
        assert_eq!(options.figures, [Group::Bulk, Group::Shaped]);
        let options = parse("bench --peer wireguard-go=../wg/wireguard-go").unwrap();
        assert_eq!(options.peer, [("wireguard-go".to_owned(), PathBuf::from("../wg/wireguard-go"))]);
        for wrong in ["bench --peer wireguard-go", "bench --peer =x", "bench --figures fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_plan_survives_the_command_line() {
        let plan = Plan {
            settings: Settings::new(true, false),
            groups: Group::ALL.to_vec(),
            contenders: contenders::find(&["raw".to_owned()], &[]).unwrap(),
            flood: None,
        };
        let again: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        assert_eq!((again.settings, again.groups), (plan.settings, plan.groups));
        assert_eq!(again.contenders[0].name, "raw");
    }
}
