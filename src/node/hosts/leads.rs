//! Leads of groups that begin and end, in the log: one line each; where many move at once, one line for all that follow.
//!
//! Invariant: each is in a line of its own or in the sum of one, and there are [`LINES_MAX`] lines and one sum in a second.

use std::cell::Cell;

use corduroy_shards::{LeadChange, LeadCounts, LeadKind};

/// Lines of their own in a second.
const LINES_MAX: u32 = 16;
const SECOND_NS: u64 = 1_000_000_000;

/// See the file's head.
#[derive(Debug, Default)]
pub struct LeadLog {
    /// The second that is under way, and the lines that it has.
    since_ns: Cell<u64>,
    lines: Cell<u32>,
    /// What had no line of its own.
    more: Cell<LeadCounts>,
}

/// What becomes of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shown {
    Line,
    InSum,
}

impl LeadLog {
    /// Logs a change, or keeps it for the sum.
    pub fn note(&self, change: LeadChange, now_ns: u64) {
        if self.take(change, now_ns) == Shown::InSum {
            return;
        }
        let LeadChange { partition, kind, term, lasted_ns } = change;
        let (partition, term, ms) = (partition.0, term.get(), lasted_ns / 1_000_000);
        match kind {
            LeadKind::Elected => tracing::info!(partition, term, "leads, {ms} ms after the change before"),
            LeadKind::Transferred => {
                tracing::info!(partition, term, "has transferred the lead after {ms} ms")
            }
            LeadKind::Lost => tracing::warn!(partition, term, "has lost the lead after {ms} ms"),
        }
    }

    fn take(&self, change: LeadChange, now_ns: u64) -> Shown {
        self.flush(now_ns);
        if self.lines.get() < LINES_MAX {
            if self.lines.replace(self.lines.get() + 1) == 0 {
                self.since_ns.set(now_ns);
            }
            return Shown::Line;
        }
        let mut more = self.more.get();
        more.add(change.kind, change.lasted_ns);
        self.more.set(more);
        Shown::InSum
    }

    /// Logs the sum of what had no line of its own, once its second is over. Returns whether one is kept.
    pub fn flush(&self, now_ns: u64) -> bool {
        if now_ns.saturating_sub(self.since_ns.get()) < SECOND_NS {
            return self.more.get() != LeadCounts::default();
        }
        self.lines.set(0);
        let LeadCounts { elected, transferred, lost, .. } = self.more.take();
        if elected + transferred + lost > 0 {
            tracing::info!(
                elected,
                transferred,
                lost,
                "more leads have begun and ended than are logged one by one"
            );
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use corduroy_shards::PartitionId;
    use corduroy_wal::Term;

    use super::*;

    fn lead(kind: LeadKind) -> LeadChange {
        LeadChange { partition: PartitionId(2), kind, term: Term(3), lasted_ns: 5_000_000 }
    }

    #[test]
    fn many_at_once_are_a_few_lines_and_a_sum() {
        let log = LeadLog::default();
        let at = 7 * SECOND_NS;
        for _ in 0..LINES_MAX {
            assert_eq!(log.take(lead(LeadKind::Elected), at), Shown::Line);
        }
        assert!(!log.flush(at + 1), "nothing is kept");
        for kind in [LeadKind::Elected, LeadKind::Transferred, LeadKind::Lost, LeadKind::Lost] {
            assert_eq!(log.take(lead(kind), at + SECOND_NS - 1), Shown::InSum);
        }
        let more = LeadCounts { elected: 1, transferred: 1, lost: 2, lasted_ms: 15 };
        assert_eq!(log.more.get(), more);
        assert!(log.flush(at + SECOND_NS - 1), "its second is not over");
        assert!(!log.flush(at + SECOND_NS));
        assert_eq!(log.more.get(), LeadCounts::default());
        assert_eq!(log.take(lead(LeadKind::Lost), at + SECOND_NS), Shown::Line);
    }
}
