//! Huge pages for the heap, in a program of its own: the test starts a child, which has all descriptors of the tests
//! beside it until its exec.
#![cfg(target_env = "gnu")]

use veil_userspace::heap::in_huge_pages;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Whether huge pages have been asked for where this address is.
fn is_advised(address: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut here = false;
    maps.lines().any(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let bounds = range.map(|(from, to)| [from, to].map(|bound| usize::from_str_radix(bound, 16)));
        if let Some([Ok(from), Ok(to)]) = bounds {
            here = (from..to).contains(&address);
        }
        here && line.starts_with("VmFlags:") && line.split(' ').any(|flag| flag == "hg")
    })
}

#[test]
fn what_is_allocated_next_lies_where_huge_pages_are_asked_for() {
    // In a process whose first thread runs the test: other threads have heaps of their own.
    const CHILD: &str = "VEIL_TEST_HEAP_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let test = "what_is_allocated_next_lies_where_huge_pages_are_asked_for";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let status = child.args(["--exact", test, "--test-threads=1"]).env(CHILD, "1").status().unwrap();
        assert!(status.success());
        return;
    }
    in_huge_pages(16 * HUGE).unwrap();
    let sessions: Vec<Box<[u8; 4096]>> = (0..4096).map(|_| Box::new([1; 4096])).collect();
    let some = || sessions.iter().step_by(64);
    let advised = some().filter(|session| is_advised(session.as_ptr().addr())).count();
    assert!(advised > some().count() / 2, "{advised} of {}", some().count());
}
