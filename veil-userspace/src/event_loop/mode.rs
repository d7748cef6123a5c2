//! Which threading mode, and why.

use super::cores::ENOUGH;
use crate::config::ThreadsChoice;

/// Which thread steps which stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadingMode {
    /// One thread steps all of them in turn: least latency, and least work where cores are few.
    SingleThreaded,
    /// RX, process and TX have a thread each, and what happens beside them another.
    Pipeline,
}

impl ThreadingMode {
    /// The mode to run in where this process may use `cores` cores, and the reason, for `veil show`.
    pub fn choose(choice: ThreadsChoice, cores: usize) -> (Self, String) {
        let few = format!("{cores} core{}, pipeline from {ENOUGH} up", if cores == 1 { "" } else { "s" });
        match choice {
            ThreadsChoice::Single => (ThreadingMode::SingleThreaded, "as asked".into()),
            ThreadsChoice::Pipeline => (ThreadingMode::Pipeline, "as asked".into()),
            ThreadsChoice::Auto if cores < ENOUGH => (ThreadingMode::SingleThreaded, few),
            ThreadsChoice::Auto => (ThreadingMode::Pipeline, format!("{cores} cores")),
        }
    }

    /// What `veil show` calls it.
    pub fn name(self) -> &'static str {
        match self {
            ThreadingMode::SingleThreaded => "single",
            ThreadingMode::Pipeline => "pipeline",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_goes_by_the_cores_and_what_is_asked_is_done() {
        let chosen = |choice, cores| {
            let (mode, reason) = ThreadingMode::choose(choice, cores);
            (mode.name(), reason)
        };
        assert_eq!(chosen(ThreadsChoice::Auto, 3), ("single", "3 cores, pipeline from 4 up".into()));
        assert_eq!(chosen(ThreadsChoice::Auto, 1), ("single", "1 core, pipeline from 4 up".into()));
        assert_eq!(chosen(ThreadsChoice::Auto, 4), ("pipeline", "4 cores".into()));
        assert_eq!(chosen(ThreadsChoice::Pipeline, 1), ("pipeline", "as asked".into()));
        assert_eq!(chosen(ThreadsChoice::Single, 64), ("single", "as asked".into()));
    }
}
