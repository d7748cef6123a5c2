//! Results as text: a table per figure for the terminal, and one small Markdown table for README.

use std::fmt::Write;

use super::contenders::Kind;
use super::figures::{Better, Figure};
use super::predict;
use super::results::{Entry, Results};

/// Every figure but the details, each with ratios against the bare wire and the best peer.
pub fn text(results: &Results) -> String {
    let mut out = format!("{}\n{}\n", results.machine.line(), results.settings.line());
    let width = results.contenders.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    for figure in results.figures.iter().filter(|figure| !figure.detail) {
        if results.contenders.iter().any(|entry| entry.figures.contains_key(&figure.key)) {
            block(&mut out, results, figure, width);
        }
    }
    out + &compared(results) + &predict::text(results) + &absent(results)
}

/// VEIL's modes beside what they are judged by.
fn compared(results: &Results) -> String {
    let mut out = String::new();
    for one in &results.comparisons {
        let _ = write!(out, "  {}  {}: {} {}", one.contender, one.title, number(one.value), one.unit);
        if let Some(bar) = one.bar {
            let bound = if bar.better == Better::More { "at least" } else { "at most" };
            let met = if bar.is_met_by(one.value) { "met" } else { "missed" };
            let _ = write!(out, "  ({bound} {}: {met})", number(bar.value));
        }
        out.push('\n');
    }
    if out.is_empty() { out } else { format!("\nCompared (medians):\n{out}") }
}

fn block(out: &mut String, results: &Results, figure: &Figure, width: usize) {
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(out, "\n{} ({}, {})", figure.title, figure.unit, figure.better.word());
    let (raw, best) = (results.raw(&figure.key), results.best_peer(figure));
    let _ = writeln!(
        out,
        "  {:width$} {:>9} {:>9} {:>9} {:>9} {:>13}",
        "", "median", "min", "max", "/ raw", "/ best peer"
    );
    for entry in &results.contenders {
        let Some(spread) = entry.figures.get(&figure.key) else { continue };
        let [median, min, max] = [spread.median, spread.min, spread.max].map(number);
        let (to_raw, to_best) = (ratio(spread.median, raw), ratio(spread.median, best));
        let line = format!("  {:width$} {median:>9} {min:>9} {max:>9} {to_raw:>9} {to_best:>13}", entry.name);
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// Who was not measured, or not in every round, and why.
fn absent(results: &Results) -> String {
    let mut out = String::new();
    for entry in &results.contenders {
        for why in entry.missing.iter().chain(&entry.failures) {
            let _ = writeln!(out, "  {}: {}", entry.name, why.trim());
        }
    }
    if out.is_empty() { out } else { format!("\nNot measured:\n{out}") }
}

/// The columns of README's table: heading, and how a cell is made.
type Column = (&'static str, fn(&Entry) -> Option<String>);

const COLUMNS: &[Column] = &[
    ("TCP 1 stream, Gbit/s", |entry| cell(entry, "bulk-1-forward")),
    ("4 streams", |entry| cell(entry, "bulk-4-forward")),
    ("Gbit per core-second", |entry| {
        // The file has seconds per gigabit, of both daemons.
        entry
            .median("bulk-1-forward-cpu")
            .filter(|seconds| *seconds > 0.0)
            .map(|seconds| number(1.0 / seconds))
    }),
    ("1 stream, segmented wire", |entry| cell(entry, "segmented-1-forward")),
    ("64 B UDP, kpps", |entry| cell(entry, "small-one")),
    ("many flows", |entry| cell(entry, "small-many")),
    ("idle RTT p50 / p99, ms", |entry| {
        Some(format!("{} / {}", cell(entry, "rtt-idle-p50")?, cell(entry, "rtt-idle-p99")?))
    }),
    ("RTT under load p50, ms", |entry| cell(entry, "rtt-bulk-p50")),
    ("the same at 100 Mbit/s, ms", |entry| cell(entry, "rtt-shaped-p50")),
];

/// README's table; columns and rows that nobody measured are left out.
pub fn markdown(results: &Results) -> String {
    let rows: Vec<&Entry> = results.contenders.iter().filter(|entry| !entry.figures.is_empty()).collect();
    let measured = |column: &&Column| rows.iter().any(|entry| (column.1)(entry).is_some());
    let columns: Vec<&Column> = COLUMNS.iter().filter(measured).collect();
    let mut out = String::from("| |");
    for (heading, _) in &columns {
        let _ = write!(out, " {heading} |");
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(columns.len()));
    out.push('\n');
    for entry in rows {
        let _ = write!(out, "| {} |", label(entry).replace('|', "\\|"));
        for (_, make) in &columns {
            let _ = write!(out, " {} |", make(entry).unwrap_or_else(|| "-".into()));
        }
        out.push('\n');
    }
    let _ = writeln!(out, "\n{}; {}; {}.", results.machine.line(), results.settings.line(), results.date);
    out
}

/// The name, and for peers which version it was.
pub fn label(entry: &Entry) -> String {
    match &entry.version {
        Some(version) if entry.kind == Kind::Peer => {
            // "boringtun 0.7.0" of boringtun: the name once.
            let version = version.split(' ').next_back().unwrap_or(version);
            format!("{} {version}", entry.name)
        }
        _ => entry.name.clone(),
    }
}

fn cell(entry: &Entry, key: &str) -> Option<String> {
    entry.median(key).map(number)
}

fn ratio(value: f64, to: Option<f64>) -> String {
    match to {
        Some(to) if to > 0.0 => format!("{} x", number(value / to)),
        _ => String::new(),
    }
}

/// Three or four digits that mean something.
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::compare;
    use crate::bench::results::tests::sample;

    #[test]
    fn numbers_have_as_many_digits_as_they_deserve() {
        let shown = [1234.5, 99.96, 9.876, 0.08012, 0.0].map(number);
        assert_eq!(shown, ["1234", "100.0", "9.88", "0.080", "0.000"]);
    }

    #[test]
    fn the_table_compares_with_the_bare_wire_and_the_best_peer() {
        let text = text(&sample());
        let line = |start: &str| {
            let found = text.lines().find(|line| line.trim_start().starts_with(start));
            found.unwrap_or_else(|| panic!("{start} in {text}")).split_ascii_whitespace().collect::<Vec<_>>()
        };
        // 8.8 of 22 Gbit/s, and twice the 4.4 of the faster peer.
        assert_eq!(
            line("veil-udp-single"),
            ["veil-udp-single", "8.80", "8.00", "9.00", "0.400", "x", "2.00", "x"]
        );
        assert_eq!(line("fast"), ["fast", "4.40", "2.00", "5.00", "0.200", "x", "1.00", "x"]);
        assert!(text.contains("veil-udp-pipeline: not built: the pipeline"), "{text}");
        assert!(text.contains("good for a first look only"), "a quick run says so:\n{text}");
        assert!(!text.contains("64-byte UDP"), "what nobody measured has no table");
    }

    #[test]
    fn a_bar_stands_beside_what_it_judges() {
        let mut results = sample();
        let bar = compare::Bar::at_least(0.58);
        let (contender, title, unit) = ("veil".into(), "share".into(), "x".into());
        results.comparisons = vec![compare::Comparison { contender, title, value: 0.5, unit, bar }];
        let text = text(&results);
        assert!(text.contains("  veil  share: 0.500 x  (at least 0.580: missed)\n"), "{text}");
    }

    #[test]
    fn the_markdown_table_is_rectangular_and_leaves_out_what_nobody_measured() {
        let mut results = sample();
        results.contenders[3].name = "a|b".into();
        let markdown = markdown(&results);
        let rows: Vec<&str> = markdown.lines().take_while(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 2 + 5, "{markdown}");
        assert_eq!(
            rows[0], "| | TCP 1 stream, Gbit/s | Gbit per core-second |",
            "p99 is missing, so is its column"
        );
        for row in &rows {
            assert_eq!(row.replace("\\|", "").matches('|').count(), 4, "{row}");
        }
        assert_eq!(rows[3], "| veil-udp-single | 8.80 | 4.00 |");
        assert_eq!(rows[5], "| a\\|b 1 | 4.40 | - |");
    }
}
