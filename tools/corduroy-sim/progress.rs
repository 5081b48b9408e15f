//! How far a batch is, printed on stderr while it is played: one line that changes on a terminal, else one now and then.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use corduroy_shards::sim::Summary;

/// From line to line.
const ON_A_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(10);

/// When to print, and what.
#[derive(Debug)]
struct Pace {
    every: Duration,
    next: Duration,
    seeds: u64,
}

impl Pace {
    /// The line that is due after so long, if one is.
    fn line(&mut self, after: Duration, played: u64, failed: usize) -> Option<String> {
        if after < self.next {
            return None;
        }
        self.next = after + self.every;
        let left = after.as_secs_f64() / played.max(1) as f64 * self.seeds.saturating_sub(played) as f64;
        Some(format!(
            "{played} of {} seeds after {:.0} s, about {left:.0} s to go; {failed} failed",
            self.seeds,
            after.as_secs_f64()
        ))
    }
}

/// Prints how far a batch is.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    on_a_terminal: bool,
    pace: Mutex<Pace>,
}

impl Progress {
    /// Of so many seeds.
    #[must_use]
    pub fn of(seeds: u64) -> Self {
        let on_a_terminal = std::io::stderr().is_terminal();
        let every = if on_a_terminal { ON_A_TERMINAL } else { ELSEWHERE };
        let pace = Pace { every, next: every, seeds };
        Self { begun: Instant::now(), on_a_terminal, pace: Mutex::new(pace) }
    }

    /// So far it has come.
    pub fn seen(&self, summary: &Summary) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = pace.line(self.begun.elapsed(), summary.played, summary.failed.len()) {
            let (before, after) = if self.on_a_terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
            // What cannot be shown is no reason to stop.
            let _shown = write!(std::io::stderr(), "{before}{line}{after}");
        }
    }

    /// It is over.
    pub fn end(self) {
        if self.on_a_terminal {
            let _cleared = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_when_it_is_due_and_no_sooner() {
        let mut pace = Pace { every: ELSEWHERE, next: ELSEWHERE, seeds: 1000 };
        let lines: Vec<Option<String>> =
            [1, 9, 10, 11, 19, 25, 34, 35].map(|s| pace.line(Duration::from_secs(s), s * 10, 0)).into();
        let due: Vec<bool> = lines.iter().map(Option::is_some).collect();
        assert_eq!(due, [false, false, true, false, false, true, false, true]);
        let first = "100 of 1000 seeds after 10 s, about 90 s to go; 0 failed";
        assert_eq!(lines[2].as_deref(), Some(first));
    }
}
