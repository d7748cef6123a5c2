//! What a killed run left behind: namespaces, scratch folders, daemons' state files and notes of reserved huge pages named
//! after a process that no longer exists.

use std::fs;
use std::path::Path;

use crate::huge_pages;
use crate::namespace::Namespace;

/// What every namespace and scratch folder of every lab begins with; the process id follows.
pub(crate) const PREFIX: &str = "veil-";

/// Where daemons, ours and those we are compared with, keep files named after their interface.
const DAEMON_FOLDERS: [&str; 3] = ["/var/lib/veil", "/run/veil", "/var/run/wireguard"];

/// The beginning of every interface name of lab `number` of process `pid`, short because names are (15 bytes).
pub(crate) fn interface_prefix(pid: u32, number: usize) -> String {
    format!("v{pid}-{number}")
}

/// Removes the files that daemons with an interface chosen by `ours` keep outside their folder.
pub(crate) fn remove_daemon_files(ours: impl Fn(&str) -> bool) {
    for folder in DAEMON_FOLDERS {
        for name in names(Path::new(folder)).filter(|name| ours(name)) {
            // Best effort, like all cleaning up here.
            let _ = fs::remove_file(Path::new(folder).join(name));
        }
    }
}

/// Removes what labs of dead processes left, and returns the names. Whatever cannot be removed is left alone.
pub fn sweep_leftovers() -> Vec<String> {
    let mut swept = Vec::new();
    for name in orphans(Path::new("/run/netns")) {
        Namespace::existing(&name).remove();
        swept.push(name);
    }
    for name in orphans(&std::env::temp_dir()) {
        if fs::remove_dir_all(std::env::temp_dir().join(&name)).is_ok() {
            swept.push(name);
        }
    }
    for name in
        orphans(Path::new(huge_pages::NOTES)).into_iter().filter(|name| name.ends_with(huge_pages::NOTE))
    {
        if huge_pages::sweep(&Path::new(huge_pages::NOTES).join(&name)).is_ok() {
            swept.push(name);
        }
    }
    remove_daemon_files(|name| interface_maker(name).is_some_and(|pid| !alive(pid)));
    swept
}

fn orphans(folder: &Path) -> Vec<String> {
    names(folder).filter(|name| maker(name).is_some_and(|pid| !alive(pid))).collect()
}

/// The names in a folder; none if it is absent.
fn names(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The process id in a file named after an interface of ours: `v<pid>-<number><node>.<ending>`.
fn interface_maker(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix('v')?.split_once('-')?;
    rest.starts_with(|first: char| first.is_ascii_digit()).then(|| pid.parse().ok())?
}

/// The process id in a name of ours: `veil-<pid>-<number>-<rest>`.
fn maker(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let (number, _) = rest.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

fn alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_a_process_and_a_number_are_ours() {
        assert_eq!(maker("veil-4711-0-a"), Some(4711));
        for foreign in ["veil", "veil-", "veil-4711", "veil-4711-a", "veil-x-0-a", "other-4711-0-a"] {
            assert_eq!(maker(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn files_of_our_interfaces_are_told_from_others() {
        assert_eq!(interface_maker(&(interface_prefix(4711, 3) + "hub.state")), Some(4711));
        for foreign in ["veil0.state", "v-0.sock", "v4711.state", "v4711-x.state", "vpn-0.state"] {
            assert_eq!(interface_maker(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn this_process_is_alive_and_an_impossible_one_is_not() {
        assert!(alive(std::process::id()));
        assert!(!alive(u32::MAX));
    }
}
