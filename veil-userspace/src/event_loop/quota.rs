//! What a turn of the single-threaded loop moves in one direction before it looks at the other.
//!
//! Owned by the event loop for as long as it works on that direction.

/// Calls, each of which brings little, so that nothing waits for what came with it. In bulk they are about a mebibyte:
/// shorter turns answer in more pieces, each of which wakes somebody at the other end.
const CALLS: usize = 16;
/// Runs, or packets from the host.
const RUNS: usize = 256;
/// Datagrams, of which a call to an AF_XDP socket brings many.
const DATAGRAMS: usize = 1024;

/// How much has been moved; with the call that reaches a limit, it is enough.
#[derive(Debug, Default)]
pub struct Quota {
    calls: usize,
    runs: usize,
    datagrams: usize,
}

impl Quota {
    /// Whether one more call may be made.
    pub fn is_left(&self) -> bool {
        self.calls < CALLS && self.runs < RUNS && self.datagrams < DATAGRAMS
    }

    /// Enters what one call has brought.
    pub fn use_up(&mut self, runs: usize, datagrams: usize) {
        self.calls += 1;
        self.runs += runs;
        self.datagrams += datagrams;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_by_calls_by_runs_or_by_datagrams_whichever_is_first() {
        for (runs, datagrams, calls) in [(0, 0, 16), (1, 44, 16), (64, 64, 4), (6, 256, 4), (64, 4096, 1)] {
            let (mut quota, mut made) = (Quota::default(), 0);
            while quota.is_left() {
                quota.use_up(runs, datagrams);
                made += 1;
            }
            assert_eq!(made, calls, "{runs} runs of {datagrams} datagrams per call");
        }
    }
}
