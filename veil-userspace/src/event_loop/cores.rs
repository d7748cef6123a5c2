//! Which core a thread runs on.

use anyhow::{Result, bail, ensure};
use core_affinity::CoreId;

/// Threads that `[threads] cores` speaks of: RX, process, TX.
pub const PINNED: usize = 3;
/// From so many cores on the stages get threads of their own, and cores: those three, and one for all else.
pub const ENOUGH: usize = 4;

/// The cores that this process may use.
pub fn usable() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// The core of each stage: as configured, or the last three where there are enough; none: wherever the system likes.
///
/// # Errors
/// A core that does not exist or may not be used, or not as many as there are stages.
pub fn of_stages(configured: Option<&[usize]>, usable: &[usize]) -> Result<Option<[usize; PINNED]>> {
    let Some(configured) = configured else {
        let last = usable.len().checked_sub(PINNED).filter(|_| usable.len() >= ENOUGH);
        return Ok(last.and_then(|at| usable[at..].try_into().ok()));
    };
    if configured.is_empty() {
        return Ok(None);
    }
    if let Some(core) = configured.iter().find(|core| !usable.contains(core)) {
        let usable: Vec<_> = usable.iter().map(usize::to_string).collect();
        bail!(
            "[threads] cores: there is no core {core} that this process may use: choose of {}",
            usable.join(", ")
        );
    }
    let cores = <[usize; PINNED]>::try_from(configured);
    ensure!(
        cores.is_ok(),
        "[threads] cores: three cores are needed, for receiving, processing and transmitting, not {}: \
         name three (one may be named twice), or [] to leave it to the system",
        configured.len()
    );
    Ok(cores.ok())
}

/// Keeps this thread on `core`; where the system refuses, it is said and the thread goes where it likes.
pub fn pin(core: Option<usize>) {
    if let Some(id) = core
        && !core_affinity::set_for_current(CoreId { id })
    {
        tracing::warn!("cannot keep a thread on core {id}: it runs wherever the system likes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_three_of_enough_cores_are_taken_and_none_of_few() {
        assert_eq!(of_stages(None, &[0, 1, 2]).unwrap(), None);
        assert_eq!(of_stages(None, &[0, 2, 4, 6, 8]).unwrap(), Some([4, 6, 8]));
        assert_eq!(of_stages(Some(&[]), &[0, 1, 2, 3]).unwrap(), None);
        assert_eq!(of_stages(Some(&[1, 0, 1]), &[0, 1]).unwrap(), Some([1, 0, 1]));
    }

    #[test]
    fn a_core_that_is_not_there_is_named_with_those_that_are() {
        let text = of_stages(Some(&[0, 1, 9]), &[0, 1]).unwrap_err().to_string();
        assert!(text.contains("no core 9") && text.ends_with("choose of 0, 1"), "{text}");
        let text = of_stages(Some(&[0]), &[0, 1]).unwrap_err().to_string();
        assert!(text.contains("three cores are needed") && text.contains("not 1"), "{text}");
    }
}
