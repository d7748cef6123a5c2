//! What runs now and how far it is, on stderr: one line that is written over on a terminal, a line per step elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

pub struct Progress {
    total: usize,
    begun: usize,
    start: Instant,
    live: bool,
}

impl Progress {
    pub fn new(total: usize) -> Progress {
        Progress { total, begun: 0, start: Instant::now(), live: io::stderr().is_terminal() }
    }

    /// The next step begins.
    pub fn step(&mut self, what: &str) {
        let line = line(self.begun, self.total, self.start.elapsed(), what);
        self.begun += 1;
        let (before, after) = if self.live { ("\r\x1b[K", "") } else { ("", "\n") };
        // A display that cannot be shown is no reason to stop measuring.
        let _ = write!(io::stderr(), "{before}{line}{after}").and_then(|()| io::stderr().flush());
    }

    /// Something to read that stays.
    pub fn say(&self, what: &str) {
        let before = if self.live { "\r\x1b[K" } else { "" };
        let _ = writeln!(io::stderr(), "{before}{what}");
    }

    /// So many steps will not happen.
    pub fn skip(&mut self, steps: usize) {
        self.begun += steps;
    }

    /// Leaves the line clean.
    pub fn end(&self) {
        if self.live {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(done: usize, total: usize, elapsed: Duration, what: &str) -> String {
    const BAR: usize = 20;
    let full = done * BAR / total.max(1);
    let bar = "#".repeat(full) + &".".repeat(BAR - full.min(BAR));
    let left = if done == 0 {
        String::new()
    } else {
        format!(", about {} left", clock(elapsed * (total - done) as u32 / done as u32))
    };
    format!("[{bar}] {:>3} %  {what}  ({}{left})", done * 100 / total.max(1), clock(elapsed))
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_and_how_long() {
        assert_eq!(
            line(5, 20, Duration::from_secs(65), "round 1 of 3  raw  bulk"),
            "[#####...............]  25 %  round 1 of 3  raw  bulk  (1:05, about 3:15 left)"
        );
        assert_eq!(line(0, 20, Duration::ZERO, "x"), "[....................]   0 %  x  (0:00)");
        assert!(line(0, 0, Duration::ZERO, "x").contains("  0 %"));
    }
}
