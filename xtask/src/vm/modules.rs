//! The kernel modules a guest needs, unpacked, in the order in which they load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A module and its machine code.
pub struct Module {
    pub name: String,
    pub content: Vec<u8>,
}

/// `wanted` and what they depend on, each after what it needs. `kernel` is an unpacked kernel, `busybox` a program.
pub fn modules(kernel: &Path, busybox: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let folder = folder(kernel)?;
    // Every module of this kernel, one path a line ("kernel/drivers/net/tun.o").
    let order = folder.join("modules.order");
    let order = fs::read_to_string(&order).with_context(|| format!("reading {}", order.display()))?;
    let mut loaded = Vec::new();
    for name in wanted {
        add(&folder, &order, busybox, name, &mut loaded)?;
    }
    Ok(loaded)
}

/// Where a kernel's image and modules are: its one folder under `lib/modules`.
pub fn folder(kernel: &Path) -> Result<PathBuf> {
    let modules = kernel.join("usr/lib/modules");
    let entry = fs::read_dir(&modules).with_context(|| format!("reading {}", modules.display()))?.next();
    Ok(entry.with_context(|| format!("{} is empty", modules.display()))??.path())
}

fn add(folder: &Path, order: &str, busybox: &Path, name: &str, loaded: &mut Vec<Module>) -> Result<()> {
    if loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let stem =
        |line: &str| Path::new(line).file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
    let line = order.lines().find(|line| stem(line) == name);
    let line = line.with_context(|| format!("this kernel has no module {name}"))?;
    let file = folder.join(line).with_extension("ko.xz");
    let output = Command::new(busybox).args(["xz", "-dc"]).arg(&file).output().context("starting busybox")?;
    ensure!(
        output.status.success(),
        "{}: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    for needed in depends(&output.stdout) {
        add(folder, order, busybox, &needed, loaded)?;
    }
    loaded.push(Module { name: name.to_owned(), content: output.stdout });
    Ok(())
}

/// What a module says it needs: `depends=a,b` in its information section, where entries end with a zero.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_read_from_it() {
        assert_eq!(
            depends(b"\x7fELF..\0depends=net_failover,i2c-core\0name=x\0"),
            ["net_failover", "i2c_core"]
        );
        assert!(depends(b"\0depends=\0name=x\0").is_empty());
        assert!(depends(b"\x7fELF").is_empty());
    }
}
