//! A log kept without Raft (replication off): entries are appended as they come, and are committed once durable.
//!
//! Invariant: the log stays one that Raft can take over and hand back. Entries carry the term of the last entry that
//! Raft wrote (0 if it never did), so terms never go back, and no hard state is written, so what Raft left stands.

use std::collections::VecDeque;

use bytes::Bytes;
use corduroy_wal::{Lsn, Term};
use raft::eraftpb::Entry;

use super::guard::Fault;
use super::log_store::LogStore;
use super::ready::Persist;

/// A log of one's own.
#[derive(Debug)]
pub struct Solo {
    store: LogStore,
    term: Term,
    taken: Lsn,
    durable: Lsn,
    number: u64,
    in_flight: VecDeque<(u64, Lsn)>,
}

impl Solo {
    /// Over a log whose unapplied tail is in `store`; all of it was found durable.
    #[must_use]
    pub fn new(store: LogStore) -> Self {
        let last = store.last();
        Self {
            term: store.last_term(),
            taken: last,
            durable: last,
            number: 0,
            in_flight: VecDeque::new(),
            store,
        }
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// [`Fault`] if the store refuses it.
    pub fn propose(&mut self, data: Bytes) -> Result<(Lsn, Term), Fault> {
        let lsn = self.store.last().next();
        let entry = Entry { index: lsn.get(), term: self.term.get(), data, ..Entry::default() };
        self.store.append([entry])?;
        Ok((lsn, self.term))
    }

    /// Whether entries were appended since [`Solo::take`].
    #[must_use]
    pub fn needs_record(&self) -> bool {
        self.taken < self.store.last()
    }

    /// What was appended since the last call, as a record to write.
    pub fn take(&mut self) -> Option<Persist> {
        let (from, to) = (self.taken.next(), self.store.last());
        if from > to {
            return None;
        }
        self.taken = to;
        self.number += 1;
        self.in_flight.push_back((self.number, to));
        Some(Persist { number: self.number, from, to, hard_state: None, conf: None, reset: None })
    }

    /// All records up to this one are durable; so their entries are committed.
    pub fn persisted(&mut self, number: u64) {
        while let Some((_, to)) = self.in_flight.front().copied().filter(|(taken, _)| *taken <= number) {
            self.in_flight.pop_front();
            assert!(to >= self.durable, "entry {to} was written behind entry {}", self.durable);
            self.durable = to;
        }
    }

    /// Entries up to `lsn` are applied and may be dropped.
    pub fn applied(&mut self, lsn: Lsn) {
        self.store.trim(lsn);
    }

    /// Gives back the memory of empty queues.
    pub fn rest(&mut self) {
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        self.store.rest();
    }

    /// # Panics
    /// If more is durable than was taken, or more was taken than there is.
    pub fn check(&self) {
        self.store.check();
        let (durable, taken, last) = (self.durable, self.taken, self.store.last());
        assert!(durable <= taken && taken <= last, "durable {durable}, taken {taken}, last {last}");
        assert!(self.in_flight.iter().is_sorted(), "records are written in their order");
    }

    /// The highest durable entry.
    #[must_use]
    pub const fn durable(&self) -> Lsn {
        self.durable
    }

    /// The term that entries carry.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Records that are not durable yet.
    #[must_use]
    pub fn unpersisted(&self) -> usize {
        self.in_flight.len()
    }

    /// The log.
    #[must_use]
    pub const fn store(&self) -> &LogStore {
        &self.store
    }
}
