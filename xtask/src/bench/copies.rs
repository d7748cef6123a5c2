//! Copies of the programs that are measured: whoever builds during an hour's run changes nothing of it.
//!
//! Each keeps its name, which logs and threads show, and all are gone with the run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use veil_lab::{Lab, run};

/// As many hexadecimal digits tell two programs apart.
const DIGITS: usize = 16;

pub struct Copies {
    /// Its scratch folder, which is swept if this process is killed.
    lab: Lab,
    /// By the original's path.
    made: BTreeMap<PathBuf, Copy>,
}

#[derive(Clone)]
pub struct Copy {
    pub path: PathBuf,
    /// The beginning of it; `None` where `sha256sum` is missing.
    pub sha256: Option<String>,
}

impl Copies {
    pub fn new() -> Result<Copies> {
        Ok(Copies { lab: Lab::new("programs")?, made: BTreeMap::new() })
    }

    /// The copy of `program`, made when it is first asked for.
    pub fn of(&mut self, program: &Path) -> Result<Copy> {
        if let Some(copy) = self.made.get(program) {
            return Ok(copy.clone());
        }
        let name = program.file_name().with_context(|| format!("{} has no name", program.display()))?;
        let folder = self.lab.folder().join(self.made.len().to_string());
        fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let path = folder.join(name);
        fs::copy(program, &path).with_context(|| format!("copying {}", program.display()))?;
        let copy = Copy { sha256: sha256(&path), path };
        self.made.insert(program.to_owned(), copy.clone());
        Ok(copy)
    }
}

fn sha256(file: &Path) -> Option<String> {
    let said = run(Command::new("sha256sum").arg(file)).ok()?;
    said.get(..DIGITS).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_outlives_a_change_of_the_original_and_goes_with_the_run() {
        let lab = Lab::new("copies-test").unwrap();
        let original = lab.folder().join("program");
        fs::write(&original, "abc").unwrap();
        let mut copies = Copies::new().unwrap();
        let copy = copies.of(&original).unwrap();
        fs::write(&original, "another").unwrap();
        assert_eq!(copies.of(&original).unwrap().path, copy.path, "one copy for all who ask");
        assert!(copy.path.ends_with("program") && fs::read(&copy.path).unwrap() == b"abc");
        // FIPS 180-4 has this example.
        assert_eq!(copy.sha256.as_deref(), Some("ba7816bf8f01cfea"));
        drop(copies);
        assert!(!copy.path.exists());
    }
}
