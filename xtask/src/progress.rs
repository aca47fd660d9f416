//! A bar of steps on stderr, if that is a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::time::Instant;

const WIDTH: usize = 24;

/// Shows how many of a known number of steps are done.
pub(crate) struct Bar {
    steps: usize,
    start: Instant,
    is_shown: bool,
}

impl Bar {
    pub(crate) fn new(steps: usize) -> Self {
        Self { steps, start: Instant::now(), is_shown: stderr().is_terminal() }
    }

    /// `done` steps are done, and `what` is next.
    pub(crate) fn show(&mut self, done: usize, what: &str) {
        if self.is_shown {
            let seconds = self.start.elapsed().as_secs();
            // Progress that cannot be shown is no fault.
            let _ = write!(stderr(), "\r\x1b[K{}", line(done, self.steps, seconds, what));
            let _ = stderr().flush();
        }
    }

    /// Makes room for other output.
    pub(crate) fn clear(&mut self) {
        if self.is_shown {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

fn line(done: usize, steps: usize, seconds: u64, what: &str) -> String {
    let filled = done * WIDTH / steps.max(1);
    let bar = "#".repeat(filled) + &"-".repeat(WIDTH - filled);
    format!("{bar} {done}/{steps} [{seconds} s] {what}")
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn bars_fill() {
        assert_eq!(line(0, 2, 0, "a"), "------------------------ 0/2 [0 s] a");
        assert_eq!(line(2, 2, 7, "b"), "######################## 2/2 [7 s] b");
        assert_eq!(line(1, 2, 1, "c").matches('#').count(), 12);
    }
}
