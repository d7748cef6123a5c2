//! Huge pages that the host reserves for a lab beyond its own, and takes back: all of the host that a lab changes outside
//! its namespaces.
//!
//! A note says how many, so that [`sweep_leftovers`](crate::sweep_leftovers) can take back what a killed run has reserved.
//! They are subtracted: others may have changed the number meanwhile.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// How many of the usual size the host has reserved (Documentation/admin-guide/mm/hugetlbpage.rst).
const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
/// Once written to, the host moves together what is in use, so that large pieces are free
/// (Documentation/admin-guide/sysctl/vm.rst).
const COMPACT: &str = "/proc/sys/vm/compact_memory";
/// Where notes are: like the reservation, they do not outlive a restart of the machine.
pub(crate) const NOTES: &str = "/run";
/// What the name of every note ends with.
pub(crate) const NOTE: &str = "huge-pages";

/// Reserved huge pages. Dropping it has the host take them back as soon as nobody uses them.
#[derive(Debug)]
pub struct HugePages {
    pages: u64,
    note: PathBuf,
}

impl HugePages {
    /// Has the host reserve `pages` more; `maker` begins the note's name. Needs root.
    pub(crate) fn reserve(maker: &str, pages: u64) -> Result<HugePages> {
        let reserved = Path::new(RESERVED);
        let before = number(reserved).context("this kernel knows no huge pages")?;
        // Not every kernel can; it may have enough of them as it is.
        let _ = fs::write(COMPACT, "1");
        fs::write(reserved, (before + pages).to_string()).with_context(|| format!("writing {RESERVED}"))?;
        let got = number(reserved)?.saturating_sub(before);
        let note = Path::new(NOTES).join(format!("{maker}{NOTE}"));
        let this = HugePages { pages: got, note };
        ensure!(got == pages, "the host has memory for {got} huge pages only");
        fs::write(&this.note, got.to_string()).with_context(|| format!("writing {}", this.note.display()))?;
        Ok(this)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // A drop has nobody to tell; with the note there, the next sweep tries again.
        if take_back(Path::new(RESERVED), self.pages).is_ok() {
            let _ = fs::remove_file(&self.note);
        }
    }
}

/// Takes back what a note says, and removes it.
pub(crate) fn sweep(note: &Path) -> Result<()> {
    take_back(Path::new(RESERVED), number(note)?)?;
    Ok(fs::remove_file(note)?)
}

fn take_back(reserved: &Path, pages: u64) -> Result<()> {
    let rest = number(reserved)?.saturating_sub(pages);
    Ok(fs::write(reserved, rest.to_string())?)
}

fn number(file: &Path) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    text.trim().parse().with_context(|| format!("{} is odd: {text:?}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_reserved_stays() {
        let folder = std::env::temp_dir().join(format!("veil-{}-0-pages-test", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let reserved = folder.join("nr_hugepages");
        for (before, after) in [("256\n", 128), ("128\n", 0), ("5\n", 0)] {
            fs::write(&reserved, before).unwrap();
            take_back(&reserved, 128).unwrap();
            assert_eq!(number(&reserved).unwrap(), after, "{before}");
        }
        fs::write(&reserved, "many").unwrap();
        assert!(take_back(&reserved, 1).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
