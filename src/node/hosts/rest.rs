//! When a shard's log is at rest: then it writes down where it ends.
//!
//! Invariant: only what becomes durable puts it off. Requests that write nothing, on this shard or on others, do not; and
//! where all is written down, no time is due.

use std::cell::Cell;

use corduroy_wal::BatchSeq;

/// How long nothing becomes durable until the log is at rest.
pub const REST_NS: u64 = 5_000_000_000;

/// The rest of one shard's log.
#[derive(Debug, Default)]
pub struct Rest {
    durable: Cell<BatchSeq>,
    due_ns: Cell<Option<u64>>,
}

impl Rest {
    /// After a turn: how far the log is durable, and whether that is written down.
    pub fn follow(&self, durable: BatchSeq, is_marked: bool, now_ns: u64) {
        let has_grown = self.durable.replace(durable) != durable;
        if is_marked {
            self.due_ns.set(None);
        } else if has_grown || self.due_ns.get().is_none() {
            self.due_ns.set(Some(now_ns.saturating_add(REST_NS)));
        }
    }

    /// When the end is to be written down, on the monotonic clock.
    pub fn next_ns(&self) -> Option<u64> {
        self.due_ns.get()
    }

    /// Whether that is now; then it is not due any more.
    pub fn take_due(&self, now_ns: u64) -> bool {
        let is_due = self.due_ns.get().is_some_and(|at| at <= now_ns);
        if is_due {
            self.due_ns.set(None);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn only_what_becomes_durable_puts_a_rest_off() {
        let rest = Rest::default();
        assert!(!rest.take_due(u64::MAX), "nothing was written");
        rest.follow(BatchSeq(1), false, 0);
        rest.follow(BatchSeq(2), false, SECOND_NS);
        // Turns that write nothing: reads, jobs, ticks.
        (2..6).for_each(|second| rest.follow(BatchSeq(2), false, second * SECOND_NS));
        assert_eq!(rest.next_ns(), Some(SECOND_NS + REST_NS));
        assert!(!rest.take_due(SECOND_NS + REST_NS - 1));
        assert!(rest.take_due(SECOND_NS + REST_NS));
        assert!(!rest.take_due(u64::MAX), "once");
        // The turn that began to write it down, and the one that finished.
        rest.follow(BatchSeq(2), false, 6 * SECOND_NS);
        rest.follow(BatchSeq(2), true, 7 * SECOND_NS);
        (8..20).for_each(|second| rest.follow(BatchSeq(2), true, second * SECOND_NS));
        assert_eq!(rest.next_ns(), None, "a shard whose end is written down wakes nobody");
        rest.follow(BatchSeq(3), false, 20 * SECOND_NS);
        assert_eq!(rest.next_ns(), Some(20 * SECOND_NS + REST_NS));
    }
}
