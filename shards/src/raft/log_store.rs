//! What Raft reads its log from: the entries from the first unapplied to the last, in memory. The raft crate's bare
//! numbers end here.
//!
//! Invariant: entries are contiguous from `first`; what is applied is dropped, so that `first` is one above the
//! highest entry that the state machine has. Applied history is in the WAL only; a group of one never asks for it, and
//! what others read of it goes through [`History`].
//! Entries stand here before the WAL has made them durable: what is durable is Raft's own bookkeeping.

use std::collections::VecDeque;

use corduroy_wal::device::prefetch_front;
use corduroy_wal::{EntryKind, EntryRef, HardState, Lsn, OwnedEntry, Term};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState as RaftHardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use super::guard::Fault;
use super::history::{ENTRIES_A_MESSAGE, History, TermRuns};
use super::membership::MemberId;
use crate::entry::stamp_ms;

/// The unapplied tail of one log, and the state that Raft starts from.
#[derive(Debug)]
pub struct LogStore {
    first: Lsn,
    prev_term: Term,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// What is below `first`; `None`: nobody will ask for it.
    history: Option<Box<History>>,
    /// What the crate asks for once, when it starts.
    start: Option<Box<(HardState, ConfState)>>,
}

impl LogStore {
    /// A tail that follows the entry `applied` of term `applied_term`.
    #[must_use]
    pub fn new(applied: Lsn, applied_term: Term, hard_state: HardState, conf: ConfState) -> Self {
        Self {
            first: applied.next(),
            prev_term: applied_term,
            entries: VecDeque::new(),
            bytes: 0,
            history: None,
            start: Some(Box::new((hard_state, conf))),
        }
    }

    /// What other members may ask for is below.
    pub fn set_history(&mut self, history: History) {
        assert!(
            history.first() <= self.first,
            "the log begins at {}, its tail at {}",
            history.first(),
            self.first
        );
        self.history = Some(Box::new(history));
    }

    /// See [`LogStore::set_history`].
    pub fn history_mut(&mut self) -> Option<&mut History> {
        self.history.as_deref_mut()
    }

    /// What was applied of it, as far as the log has it.
    #[must_use]
    pub fn history(&self) -> Option<&History> {
        self.history.as_deref()
    }

    /// The term of the entry below the lowest that is held.
    #[must_use]
    pub const fn prev_term(&self) -> Term {
        self.prev_term
    }

    /// Drops what only a start needs.
    pub fn forget_start(&mut self) {
        self.start = None;
    }

    /// Gives back the memory of the tail if it is empty.
    pub fn rest(&mut self) {
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    /// Has the tail fetched into the processor's caches.
    pub fn prefetch_parts(&self) {
        prefetch_front(&self.entries);
    }

    /// The lowest entry held, or the one that would come next.
    #[must_use]
    pub const fn first(&self) -> Lsn {
        self.first
    }

    /// The highest entry.
    #[must_use]
    pub fn last(&self) -> Lsn {
        Lsn(self.first.get() + self.entries.len() as u64 - 1)
    }

    /// The term of the highest entry.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.entries.back().map_or(self.prev_term, |entry| Term(entry.term))
    }

    /// Bytes of payloads held.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// An entry, if it is held.
    #[must_use]
    pub fn get(&self, lsn: Lsn) -> Option<&Entry> {
        let index = lsn.get().checked_sub(self.first.get())?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// Appends entries, replacing what they overlap.
    ///
    /// # Errors
    /// [`Fault`] if they leave a gap or would replace an applied entry.
    pub fn append(&mut self, entries: impl IntoIterator<Item = Entry>) -> Result<(), Fault> {
        for entry in entries {
            let lsn = Lsn(entry.index);
            if lsn < self.first || lsn > self.last().next() {
                return Err(Fault(format!(
                    "entry {lsn} does not fit the log, whose unapplied part is {}..={}",
                    self.first,
                    self.last()
                )));
            }
            while self.last() >= lsn {
                let dropped = self.entries.pop_back().expect("last >= first, so the tail is not empty");
                self.bytes -= dropped.data.len();
            }
            self.bytes += entry.data.len();
            if self.entries.capacity() == 0 {
                // Thousands of groups that wake together hold one entry each.
                self.entries.reserve_exact(1);
            }
            self.entries.push_back(entry);
        }
        Ok(())
    }

    /// Appends entries read back from the WAL.
    ///
    /// # Errors
    /// As [`LogStore::append`].
    pub fn load(&mut self, entries: Vec<OwnedEntry>) -> Result<(), Fault> {
        self.append(entries.into_iter().map(of_wal))
    }

    /// An image of the state stands for all entries up to `lsn`, and there are none behind it.
    pub fn restore(&mut self, lsn: Lsn, term: Term) {
        assert!(lsn >= self.first, "an image as of entry {lsn} replaces what is applied");
        (self.first, self.prev_term, self.bytes) = (lsn.next(), term, 0);
        self.entries = VecDeque::new();
        self.set_history(History::new(self.first, term, TermRuns::default()));
    }

    /// Drops what is applied.
    ///
    /// # Panics
    /// If `applied` is above the last entry.
    pub fn trim(&mut self, applied: Lsn) {
        assert!(applied <= self.last(), "entry {applied} is applied, but the log ends at {}", self.last());
        while self.first <= applied {
            let entry = self.entries.pop_front().expect("applied is at most the last entry");
            self.bytes -= entry.data.len();
            self.prev_term = Term(entry.term);
            if let Some(history) = &mut self.history {
                history.push(self.first, self.prev_term);
            }
            self.first = self.first.next();
        }
        assert!(self.first > applied, "entry {applied} is applied, but still held");
    }

    /// Compares the tail with what is known of it.
    ///
    /// # Panics
    /// If entries do not follow one another from the first, terms go back, or bytes are miscounted.
    pub fn check(&self) {
        let (mut lsn, mut term, mut bytes) = (self.first, self.prev_term, 0);
        for entry in &self.entries {
            assert_eq!(Lsn(entry.index), lsn, "entries follow one another");
            assert!(Term(entry.term) >= term, "entry {lsn}: term {} follows term {term}", entry.term);
            (lsn, term, bytes) = (lsn.next(), Term(entry.term), bytes + entry.data.len());
        }
        assert_eq!(self.bytes, bytes, "bytes of the tail");
    }

    /// The highest stamp among entries `[from, to]`, in ms since 1970; `None`: none of them has one.
    #[must_use]
    pub fn highest_stamp_ms(&self, from: Lsn, to: Lsn) -> Option<u64> {
        let held = (from.get()..=to.get()).filter_map(|lsn| self.get(Lsn(lsn)));
        let stamped = held.filter(|entry| entry.get_entry_type() == EntryType::EntryNormal);
        stamped.filter_map(|entry| stamp_ms(&entry.data)).max()
    }

    /// Entries `[from, to]`, all of which are held, as the WAL wants them.
    pub fn records(&self, from: Lsn, to: Lsn) -> impl ExactSizeIterator<Item = EntryRef<'_>> + Clone {
        assert!(from > to || from >= self.first && to <= self.last(), "{from}..={to} is not held");
        let index = |lsn: Lsn| {
            usize::try_from(lsn.get().saturating_sub(self.first.get())).expect("a tail fits in memory")
        };
        self.entries.range(index(from)..index(to.next())).map(|entry| EntryRef {
            lsn: Lsn(entry.index),
            term: Term(entry.term),
            kind: entry_kind(entry.get_entry_type()),
            data: &entry.data,
        })
    }
}

/// What the WAL calls an entry's type.
#[must_use]
pub const fn entry_kind(entry_type: EntryType) -> EntryKind {
    match entry_type {
        EntryType::EntryNormal => EntryKind::Normal,
        EntryType::EntryConfChange => EntryKind::ConfChange,
        EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
    }
}

const fn entry_type(kind: EntryKind) -> EntryType {
    match kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
    }
}

/// An entry that was read from the WAL, in the raft crate's words.
#[must_use]
pub fn of_wal(entry: OwnedEntry) -> Entry {
    Entry {
        entry_type: entry_type(entry.kind),
        term: entry.term.get(),
        index: entry.lsn.get(),
        data: entry.data.into(),
        ..Entry::default()
    }
}

/// Hard state in the raft crate's words.
#[must_use]
pub fn to_raft(state: HardState) -> RaftHardState {
    RaftHardState {
        term: state.term.get(),
        vote: state.vote,
        commit: state.commit.get(),
        ..RaftHardState::default()
    }
}

/// Hard state in ours.
#[must_use]
pub const fn from_raft(state: &RaftHardState) -> HardState {
    HardState { term: Term(state.term), vote: state.vote, commit: Lsn(state.commit) }
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let (hard_state, conf) = self.start.as_deref().expect("the crate asks for it before it has started");
        Ok(RaftState::new(to_raft(*hard_state), conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if context.can_async() && self.history.as_ref().is_some_and(|history| !history.serves(Lsn(low))) {
            return Err(Error::Store(StorageError::Compacted));
        }
        let Some(history) = self.history.as_ref().filter(|_| low < self.first.get()) else {
            return self.held(low, high, max_size.into());
        };
        if !context.can_async() {
            // A Ready names again what was applied before it was taken; nobody looks at it.
            let first = self.first.get();
            return if high > first { self.held(first, high, max_size.into()) } else { Ok(Vec::new()) };
        }
        let entries = history.entries(Lsn(low), Lsn(high.min(self.first.get())), context);
        entries.ok_or(Error::Store(StorageError::LogTemporarilyUnavailable))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index + 1 == self.first.get() {
            return Ok(self.prev_term.get());
        }
        if index < self.first.get() {
            let term = self.history.as_ref().and_then(|history| history.term(Lsn(index)));
            return term.map(Term::get).ok_or(Error::Store(StorageError::Compacted));
        }
        self.get(Lsn(index)).map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.history.as_ref().map_or(self.first, |history| history.first()).get())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().get())
    }

    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let image = self.history.as_ref().and_then(|history| history.image_for(MemberId(to)));
        image.ok_or(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

impl LogStore {
    /// Entries of the tail, from `low` up to `high`, not included, and no more than `limit` bytes but for the first.
    fn held(&self, low: u64, high: u64, limit: Option<u64>) -> raft::Result<Vec<Entry>> {
        if low < self.first.get() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last().get() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let most =
            if limit.is_some_and(|limit| limit < raft::NO_LIMIT) { ENTRIES_A_MESSAGE } else { usize::MAX };
        let limit = limit.unwrap_or(raft::NO_LIMIT);
        let mut bytes = 0;
        let mut found = Vec::new();
        let held = (low..high).map_while(|index| self.get(Lsn(index))).take(most);
        for entry in held {
            bytes += entry.data.len() as u64;
            if bytes > limit && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        Entry { index, term, data: vec![7; bytes].into(), ..Entry::default() }
    }

    fn store(applied: u64, entries: &[(u64, u64)]) -> LogStore {
        let mut store = LogStore::new(
            Lsn(applied),
            Term(1),
            HardState::default(),
            ConfState { voters: vec![1], ..ConfState::default() },
        );
        store.append(entries.iter().map(|(index, term)| entry(*index, *term, 10))).unwrap();
        store
    }

    fn read(store: &LogStore, low: u64, high: u64, limit: Option<u64>) -> raft::Result<Vec<u64>> {
        let entries = store.entries(low, high, limit, GetEntriesContext::empty(false))?;
        Ok(entries.iter().map(|entry| entry.index).collect())
    }

    #[test]
    fn an_empty_log_starts_at_one() {
        let store = store(0, &[]);
        assert_eq!((store.first_index().unwrap(), store.last_index().unwrap()), (1, 0));
        assert_eq!(store.last(), Lsn::ZERO);
    }

    #[test]
    fn nothing_left_after_a_restart_keeps_position_and_term() {
        let store = store(3, &[]);
        assert_eq!((store.first_index().unwrap(), store.last_index().unwrap()), (4, 3));
        assert_eq!(store.term(3).unwrap(), 1);
        assert_eq!(store.last_term(), Term(1));
    }

    #[test]
    fn ranges_and_limits() {
        let store = store(2, &[(3, 1), (4, 1), (5, 2)]);
        assert_eq!(read(&store, 3, 6, None).unwrap(), [3, 4, 5]);
        assert_eq!(read(&store, 4, 6, Some(20)).unwrap(), [4, 5]);
        assert_eq!(read(&store, 3, 6, Some(20)).unwrap(), [3, 4]);
        assert_eq!(read(&store, 3, 6, Some(0)).unwrap(), [3], "at least one");
        assert_eq!(read(&store, 4, 4, None).unwrap(), [0u64; 0]);
        assert_eq!(read(&store, 2, 4, None), Err(Error::Store(StorageError::Compacted)));
        assert_eq!(read(&store, 3, 7, None), Err(Error::Store(StorageError::Unavailable)));
    }

    #[test]
    #[should_panic(expected = "entry 4: term 1 follows term 2")]
    fn a_term_that_goes_back_is_found() {
        store(2, &[(3, 2), (4, 1)]).check();
    }

    #[test]
    #[should_panic(expected = "3..=5 is not held")]
    fn records_are_made_of_what_is_held() {
        let store = store(2, &[(3, 1), (4, 1)]);
        store.check();
        assert_eq!(store.records(Lsn(3), Lsn(4)).len(), 2);
        let _records = store.records(Lsn(3), Lsn(5));
    }

    #[test]
    fn terms_of_every_position() {
        let store = store(2, &[(3, 1), (4, 2)]);
        assert_eq!(store.term(1), Err(Error::Store(StorageError::Compacted)));
        assert_eq!(store.term(2), Ok(1));
        assert_eq!(store.term(3), Ok(1));
        assert_eq!(store.term(4), Ok(2));
        assert_eq!(store.term(5), Err(Error::Store(StorageError::Unavailable)));
    }

    #[test]
    fn overlaps_replace_and_gaps_are_refused() {
        let mut store = store(2, &[(3, 1), (4, 1), (5, 1)]);
        store.append([entry(4, 2, 5)]).unwrap();
        assert_eq!((store.last(), store.last_term(), store.bytes()), (Lsn(4), Term(2), 15));
        store.append([entry(4, 3, 1), entry(5, 3, 1)]).unwrap();
        assert_eq!((store.last(), store.last_term(), store.bytes()), (Lsn(5), Term(3), 12));
        assert!(store.append([entry(7, 3, 1)]).is_err(), "a gap");
        assert!(store.append([entry(2, 3, 1)]).is_err(), "an applied entry");
    }

    #[test]
    fn trimming_keeps_the_term_before() {
        let mut store = store(0, &[(1, 1), (2, 4), (3, 5)]);
        store.trim(Lsn(2));
        assert_eq!((store.first(), store.term(2), store.bytes()), (Lsn(3), Ok(4), 10));
        store.trim(Lsn(1));
        assert_eq!(store.first(), Lsn(3));
        store.trim(Lsn(3));
        assert_eq!((store.last(), store.last_term(), store.bytes()), (Lsn(3), Term(5), 0));
    }

    #[test]
    fn records_are_what_was_appended() {
        let mut store = store(2, &[(3, 1), (4, 1)]);
        store
            .load(vec![OwnedEntry { lsn: Lsn(5), term: Term(2), kind: EntryKind::ConfChange, data: vec![9] }])
            .unwrap();
        let records: Vec<_> =
            store.records(Lsn(4), Lsn(5)).map(|e| (e.lsn, e.term, e.kind, e.data.len())).collect();
        assert_eq!(
            records,
            [(Lsn(4), Term(1), EntryKind::Normal, 10), (Lsn(5), Term(2), EntryKind::ConfChange, 1)]
        );
        assert_eq!(store.records(Lsn(6), Lsn(5)).len(), 0);
    }
}
