//! `docs/protocol.md` and the sources say the same: every test that the page cites is there, and every drop has its name in it.

use std::fs;
use std::path::Path;

use veil_proto::DropReason;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn page() -> String {
    fs::read_to_string(Path::new(ROOT).join("docs/protocol.md")).expect("docs/protocol.md")
}

/// What stands between backquotes in a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether `source` has a function of this name with `#[test]` above it.
fn has_test(source: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_test = |at: usize| {
        let above = lines[..at].iter().rev();
        above
            .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
            .any(|line| *line == "#[test]")
    };
    lines.iter().enumerate().any(|(at, line)| line.starts_with(&head) && is_test(at))
}

/// What is wrong with a citation `file::test`; the file is below the root, or below `veil-userspace`.
fn complaint(citation: &str) -> Option<String> {
    let (file, test) = citation.split_once("::")?;
    let found = ["", "veil-userspace"].iter().map(|base| Path::new(ROOT).join(base).join(file));
    match found.filter_map(|path| fs::read_to_string(path).ok()).next() {
        None => Some(format!("{citation}: no such file")),
        Some(source) if !has_test(&source, test) => Some(format!("{citation}: no such test in the file")),
        Some(_) => None,
    }
}

#[test]
fn every_test_the_page_cites_exists() {
    let page = page();
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let citations: Vec<&str> = rows.flat_map(quoted).filter(|text| text.contains(".rs::")).collect();
    assert!(citations.len() > 80, "only {} citations were found", citations.len());
    let complaints: Vec<String> = citations.into_iter().filter_map(complaint).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn a_wrong_citation_is_noticed() {
    assert_eq!(complaint("tests/protocol/page.rs::a_wrong_citation_is_noticed"), None);
    assert!(complaint("tests/protocol/page.rs::complaint").is_some(), "a function, but no test");
    assert!(complaint("tests/protocol/page.rs::a_wrong_citation").is_some());
    assert!(complaint("tests/protocol/nowhere.rs::a_wrong_citation_is_noticed").is_some());
}

#[test]
fn every_drop_has_its_name_on_the_page() {
    let page = page();
    let missing = |reason: &&DropReason| !page.contains(&format!("`{}`", reason.name()));
    let missing: Vec<&str> = DropReason::ALL.iter().filter(missing).map(|reason| reason.name()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
