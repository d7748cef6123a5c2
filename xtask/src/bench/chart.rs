//! Results as an SVG: for each chosen figure a bar per contender, with the spread of its rounds.
//!
//! Readable on light and on dark pages: no background, and colours that follow `prefers-color-scheme`. The bare wire is
//! named in the heading instead of drawn, since its bar would make all others short.

use std::fmt::Write;

use super::contenders::Kind;
use super::figures::Figure;
use super::report::{label, median};
use super::results::{Entry, Results};
use super::stats::Spread;

const FIGURES: [&str; 4] = ["bulk-1-forward", "segmented-1-forward", "small-one", "rtt-idle-p50"];

const WIDTH: usize = 760;
const LABELS: usize = 200;
/// Where the longest bar ends; its value follows.
const BARS_END: usize = 680;
const ROW: usize = 24;
const BAR: usize = 14;
const HEADING: usize = 34;
const FOOT_LINE: usize = 18;

const STYLE: &str = "\
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }\n\
    .title { font-weight: 600 }\n\
    .note { fill: #59636e; font-size: 12px }\n\
    .veil { fill: #1a7f5a }\n\
    .null-cipher { fill: #8fc7b0 }\n\
    .peer { fill: #9aa4af }\n\
    .spread { stroke: #1f2328; stroke-width: 1 }\n\
    @media (prefers-color-scheme: dark) {\n\
      text { fill: #f0f6fc }\n\
      .note { fill: #9198a1 }\n\
      .veil { fill: #3fb98a }\n\
      .null-cipher { fill: #2c6b54 }\n\
      .peer { fill: #6e7681 }\n\
      .spread { stroke: #f0f6fc }\n\
    }\n";

/// One chart of all panels for which there is anything to show.
pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    let mut top = 10;
    for figure in FIGURES.iter().filter_map(|key| results.figure(key)) {
        top = panel(&mut body, top, results, figure);
    }
    let rounds = format!("{}; {}", results.settings.line(), results.date);
    for (line, text) in [results.machine.line(), rounds].iter().enumerate() {
        let y = top + 14 + line * FOOT_LINE;
        let _ = writeln!(body, r#"<text class="note" x="10" y="{y}">{}</text>"#, escape(text));
    }
    let height = top + 2 * FOOT_LINE + 10;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"VEIL beside its peers\">\n<style>\n{STYLE}</style>\n{body}</svg>\n"
    )
}

/// Draws a figure at `top` and returns where the next one begins.
fn panel(out: &mut String, top: usize, results: &Results, figure: &Figure) -> usize {
    let drawn = |entry: &&Entry| entry.kind != Kind::Raw && entry.figures.contains_key(&figure.key);
    let rows: Vec<(&Entry, &Spread)> = results
        .contenders
        .iter()
        .filter(drawn)
        .filter_map(|e| Some((e, e.figures.get(&figure.key)?)))
        .collect();
    if rows.is_empty() {
        return top;
    }
    let raw = results.raw(&figure.key).map_or(String::new(), |raw| format!("; bare wire {}", median(raw)));
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        r#"<text x="10" y="{}"><tspan class="title">{}</tspan><tspan class="note" dx="8">{}, {}{raw}</tspan></text>"#,
        top + 16,
        escape(&figure.title),
        escape(&figure.unit),
        figure.better.word(),
    );
    let longest = rows.iter().map(|(_, spread)| spread.max).fold(f64::MIN_POSITIVE, f64::max);
    let scale = |value: f64| value / longest * (BARS_END - LABELS) as f64;
    for (row, (entry, spread)) in rows.iter().enumerate() {
        let y = top + HEADING + row * ROW;
        bar(out, y, entry, [spread.median, spread.min, spread.max].map(scale), &median(spread));
    }
    top + HEADING + rows.len() * ROW + 10
}

fn bar(out: &mut String, y: usize, entry: &Entry, [median, min, max]: [f64; 3], value: &str) {
    let class = match entry.kind {
        Kind::Veil => "veil",
        Kind::NullCipher => "null-cipher",
        Kind::Peer | Kind::Raw => "peer",
    };
    let (text, middle, left) = (y + BAR - 3, y + BAR / 2, LABELS as f64);
    let name = escape(&label(entry));
    let _ = writeln!(out, r#"<text x="{}" y="{text}" text-anchor="end">{name}</text>"#, LABELS - 10);
    let _ = writeln!(
        out,
        r#"<rect class="{class}" x="{LABELS}" y="{y}" width="{median:.1}" height="{BAR}" rx="2"/>"#
    );
    let (from, to) = (left + min, left + max);
    let _ =
        writeln!(out, r#"<line class="spread" x1="{from:.1}" y1="{middle}" x2="{to:.1}" y2="{middle}"/>"#);
    let _ = writeln!(out, r#"<text x="{:.1}" y="{text}">{value}</text>"#, to + 8.0);
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::sample;

    /// Every tag is closed in order, and no bare `<` or `&` is left in between.
    fn check_well_formed(xml: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = xml;
        while let Some((text, tail)) = rest.split_once('<') {
            for entity in text.split('&').skip(1) {
                assert!(
                    ["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)),
                    "&{entity}"
                );
            }
            let (tag, tail) = tail.split_once('>').expect("a tag ends");
            assert!(!tag.contains('<') && tag.matches('"').count() % 2 == 0, "<{tag}>");
            rest = tail;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split_ascii_whitespace().next().expect("a tag has a name"));
            }
        }
        assert!(open.is_empty(), "not closed: {open:?}");
    }

    #[test]
    fn the_chart_is_well_formed_whatever_programs_call_themselves() {
        let mut results = sample();
        results.contenders[3].name = r#"<"&'>"#.into();
        let svg = svg(&results);
        check_well_formed(&svg);
        assert!(svg.contains("&lt;&quot;&amp;'&gt;"), "{svg}");
    }

    #[test]
    #[should_panic(expected = "not closed")]
    fn the_check_itself_sees_an_open_tag() {
        check_well_formed("<svg><text>a</text>");
    }

    #[test]
    fn bars_are_as_long_as_their_values_and_the_bare_wire_is_only_named() {
        let svg = svg(&sample());
        // The scale ends at the null cipher's 12: VEIL's 8.8 is that part of 480.
        assert!(svg.contains(r#"<rect class="veil" x="200" y="44" width="352.0""#), "{svg}");
        assert!(svg.contains("bare wire 22.0") && !svg.contains(">raw<"), "{svg}");
        // Two panels: throughput has four bars, latency three.
        assert_eq!(svg.matches("<rect").count(), 4 + 3);
    }
}
