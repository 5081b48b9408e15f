//! The node's ledger: what it holds for its clients, all connections of all cores together, and how much of it is too much.
//!
//! Each core counts its own connections (`src/node/front/account.rs`) and adds the difference here now and then, so that no
//! request pays for it. Invariant: after a core has counted, all clients together are within the limit, but for what
//! connections hold that are being closed and for the steps in which cores publish. The connection that holds the most goes
//! first.

use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering};

/// Outcomes from this size on are counted while they are under way to another core.
pub const COUNTED_OUTCOME_BYTES: usize = 4 << 10;

/// When too much is held, this part of the limit is freed beyond that.
const ROOM_PART: usize = 32;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Ledger {
    /// As published by the cores; one may take back what another has not added yet.
    total: AtomicIsize,
    /// Of that, what connections hold that are marked for closing.
    leaving: AtomicUsize,
    /// What all may hold.
    limit: AtomicUsize,
    /// Connections closed for want of room.
    evicted: AtomicU64,
    /// Large outcomes on their way from the core that made them to their connection's.
    under_way: AtomicUsize,
}

impl Ledger {
    /// Sets what all clients together may hold.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// What they may hold.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// What they hold, as published.
    pub fn total(&self) -> usize {
        usize::try_from(self.total.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Connections closed because all together held too much.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Adds what a core has counted since it did that last.
    pub fn add(&self, difference: isize) {
        self.total.fetch_add(difference, Ordering::Relaxed);
    }

    /// Counts a connection that is closed for want of room.
    pub fn count_evicted(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that holds so much is marked for closing.
    pub fn begin_leaving(&self, bytes: usize) {
        self.leaving.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It is closed, or is not marked after all.
    pub fn end_leaving(&self, bytes: usize) {
        self.leaving.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How much too much is held, beside what is about to be freed.
    pub fn excess(&self) -> usize {
        self.total().saturating_sub(self.leaving.load(Ordering::Relaxed)).saturating_sub(self.limit())
    }

    /// What has to be freed: if anything has, then somewhat more, since whoever frees looks at all connections first.
    pub fn wanted_room(&self) -> usize {
        match self.excess() {
            0 => 0,
            excess => excess + self.limit() / ROOM_PART,
        }
    }

    /// Counts an outcome that leaves its core.
    pub fn send_outcome(&self, bytes: usize) {
        self.under_way.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Counts an outcome that has come to its core. Returns whether cores that waited for it may go on.
    pub fn take_outcome(&self, bytes: usize) -> bool {
        let before = self.under_way.fetch_sub(bytes, Ordering::SeqCst);
        let limit = self.under_way_limit();
        before >= limit && before - bytes < limit
    }

    /// Whether so much is under way between cores that no more is to be made of it.
    pub fn is_full(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) >= self.under_way_limit()
    }

    fn under_way_limit(&self) -> usize {
        (self.limit() / 4).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_to_be_freed_is_no_excess() {
        let ledger = Ledger::default();
        ledger.set_limit(100);
        ledger.add(90);
        ledger.add(60);
        assert_eq!((ledger.total(), ledger.excess()), (150, 50));
        assert_eq!(ledger.wanted_room(), 50 + 100 / ROOM_PART);
        ledger.begin_leaving(60);
        assert_eq!((ledger.excess(), ledger.wanted_room()), (0, 0));
        ledger.add(-60);
        ledger.end_leaving(60);
        assert_eq!((ledger.total(), ledger.excess()), (90, 0));
    }

    #[test]
    fn outcomes_under_way_stop_and_free_those_who_make_them() {
        let ledger = Ledger::default();
        ledger.set_limit(400);
        ledger.send_outcome(60);
        assert!(!ledger.is_full());
        ledger.send_outcome(60);
        assert!(ledger.is_full());
        assert!(ledger.take_outcome(60), "the waiting ones are to be woken");
        assert!(!ledger.is_full());
        assert!(!ledger.take_outcome(60), "and only then");
    }
}
