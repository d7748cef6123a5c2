//! Results as text: a table per figure for the terminal, and one small Markdown table for README.

use std::fmt::Write;

use super::contenders::Kind;
use super::figures::{Better, Figure};
use super::predict;
use super::results::{Entry, Results};
use super::stats::Spread;

/// Every figure but the details, each with ratios against the bare wire and the best peer.
pub fn text(results: &Results) -> String {
    let mut out = format!("{}\n{}\n", results.machine.line(), results.settings.line());
    let width = results.contenders.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    for figure in results.figures.iter().filter(|figure| !figure.detail) {
        if results.contenders.iter().any(|entry| entry.figures.contains_key(&figure.key)) {
            block(&mut out, results, figure, width);
        }
    }
    out + &compared(results) + &predict::text(results) + &absent(results, "  ")
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
        let (median, [min, max]) = (median(spread), [spread.min, spread.max].map(number));
        let (to_raw, to_best) = (ratio(spread, raw), ratio(spread, best));
        let few = few(spread, results).map_or(String::new(), |few| format!("  {few} rounds"));
        let line =
            format!("  {:width$} {median:>9} {min:>9} {max:>9} {to_raw:>9} {to_best:>13}{few}", entry.name);
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// "2 of 5": of how many rounds a figure is, if not of all.
fn few(spread: &Spread, results: &Results) -> Option<String> {
    let (samples, rounds) = (spread.samples.len(), results.settings.rounds);
    (samples < rounds as usize).then(|| format!("{samples} of {rounds}"))
}

/// Who was not measured, or not in every round, and why; each line begins with `bullet`.
fn absent(results: &Results, bullet: &str) -> String {
    let mut out = String::new();
    for entry in &results.contenders {
        for why in entry.missing.iter().chain(&entry.failures) {
            let _ = writeln!(out, "{bullet}{}: {}", entry.name, why.trim());
        }
    }
    if out.is_empty() { out } else { format!("\nNot measured, or not in every round:\n{out}") }
}

/// The columns of README's table: heading, and how a cell is made.
type Column = (&'static str, fn(&Row) -> Option<String>);

/// A contender in README's table.
struct Row<'a> {
    entry: &'a Entry,
    results: &'a Results,
}

impl Row<'_> {
    fn cell(&self, key: &str) -> Option<String> {
        self.cell_of(key, median)
    }

    /// One that shows the median by way of `shown`.
    fn cell_of(&self, key: &str, shown: impl Fn(&Spread) -> String) -> Option<String> {
        let spread = self.entry.figures.get(key)?;
        let few = few(spread, self.results).map_or(String::new(), |few| format!(" ({few})"));
        Some(shown(spread) + &few)
    }
}

const COLUMNS: &[Column] = &[
    ("TCP 1 stream, Gbit/s", |row| row.cell("bulk-1-forward")),
    ("4 streams", |row| row.cell("bulk-4-forward")),
    ("Gbit per core-second", |row| {
        // The file has seconds per gigabit, of both daemons.
        let key = "bulk-1-forward-cpu";
        row.entry.median(key).filter(|seconds| *seconds > 0.0)?;
        row.cell_of(key, |seconds| number(1.0 / seconds.median))
    }),
    ("1 stream, segmented wire", |row| row.cell("segmented-1-forward")),
    ("64 B UDP, kpps", |row| row.cell("small-one")),
    ("many flows", |row| row.cell("small-many")),
    ("idle RTT p50 / p99, ms", |row| {
        Some(format!("{} / {}", row.cell("rtt-idle-p50")?, row.cell("rtt-idle-p99")?))
    }),
    ("RTT under load p50, ms", |row| row.cell("rtt-bulk-p50")),
    ("the same at 100 Mbit/s, ms", |row| row.cell("rtt-shaped-p50")),
];

/// README's table; columns and rows that nobody measured are left out, and who has gaps is listed below it.
pub fn markdown(results: &Results) -> String {
    let entries = results.contenders.iter().filter(|entry| !entry.figures.is_empty());
    let rows: Vec<Row> = entries.map(|entry| Row { entry, results }).collect();
    let measured = |column: &&Column| rows.iter().any(|row| (column.1)(row).is_some());
    let columns: Vec<&Column> = COLUMNS.iter().filter(measured).collect();
    let mut out = String::from("| |");
    for (heading, _) in &columns {
        let _ = write!(out, " {heading} |");
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(columns.len()));
    out.push('\n');
    for row in rows {
        let _ = write!(out, "| {} |", label(row.entry).replace('|', "\\|"));
        for (_, make) in &columns {
            let _ = write!(out, " {} |", make(&row).unwrap_or_else(|| "-".into()));
        }
        out.push('\n');
    }
    let _ = writeln!(out, "\n{}; {}; {}.", results.machine.line(), results.settings.line(), results.date);
    out + &absent(results, "- ")
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

/// The median as tables show it: "≥ 246" where no sender could ask for more.
pub fn median(spread: &Spread) -> String {
    let at_least = if spread.at_least { "≥ " } else { "" };
    format!("{at_least}{}", number(spread.median))
}

/// Of medians. What is divided by one that may be too small is at most this; of two that may be, nothing is known.
fn ratio(spread: &Spread, to: Option<&Spread>) -> String {
    let Some(to) = to.filter(|to| to.median > 0.0) else { return String::new() };
    let bound = match (spread.at_least, to.at_least) {
        (false, false) => "",
        (true, false) => "≥ ",
        (false, true) => "≤ ",
        (true, true) => return String::new(),
    };
    format!("{bound}{} x", number(spread.median / to.median))
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
    fn both_tables_say_what_is_not_of_every_round_and_why() {
        let mut results = sample();
        let fast = &mut results.contenders[3];
        fast.figures.insert("bulk-1-forward".into(), Spread::of(&[4.0, 5.0]).expect("two samples"));
        fast.failures.push("bulk: iperf3: busy".into());
        let (text, markdown) = (text(&results), markdown(&results));
        assert!(text.contains("1.00 x  2 of 3 rounds\n"), "{text}");
        assert!(text.contains("\n  fast: bulk: iperf3: busy\n"), "{text}");
        assert!(markdown.contains("| fast 1 | 4.50 (2 of 3) | - |\n"), "{markdown}");
        assert!(
            markdown.contains("\n- fast: bulk: iperf3: busy\n- veil-udp-pipeline: not built"),
            "{markdown}"
        );
        assert_eq!([&text, &markdown].map(|table| table.matches("2 of 3").count()), [1, 1]);
    }

    #[test]
    fn a_rate_that_the_sender_has_bounded_is_marked_as_the_least_it_can_be() {
        let mut results = sample();
        for (contender, rate, at_least) in [(0, 246.0, true), (1, 123.0, false), (3, 123.0, false)] {
            let mut spread = Spread::of(&[rate; 3]).expect("three samples");
            spread.at_least = at_least;
            results.contenders[contender].figures.insert("small-one".into(), spread);
        }
        let (text, markdown) = (text(&results), markdown(&results));
        let line = |start: &str| {
            let mut lines = text.lines().skip_while(|line| !line.contains("64-byte UDP"));
            let line = lines.find(|line| line.trim_start().starts_with(start)).unwrap_or_default();
            line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("raw"), "raw ≥ 246 246 246 ≥ 2.00 x", "{text}");
        assert_eq!(line("veil-udp-single"), "veil-udp-single 123 123 123 ≤ 0.500 x 1.00 x", "{text}");
        assert!(
            markdown.lines().any(|line| line.starts_with("| raw |") && line.contains("| ≥ 246 |")),
            "{markdown}"
        );
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
