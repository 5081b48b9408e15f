//! What a log still has below its unapplied tail, for members that lag behind: which entries, of which terms, and those that
//! are being read back from the WAL.
//!
//! Invariant: the raft crate gets an entry's term from memory for all that it may ask for (raft 0.7.0 panics otherwise), and
//! the entry itself once it was read: until then it has to wait (`LogTemporarilyUnavailable`), and is asked again with
//! the context it gave.

use std::cell::RefCell;
use std::collections::VecDeque;

use corduroy_wal::{Lsn, Term};
use raft::GetEntriesContext;
use raft::eraftpb::{Entry, Snapshot};

use super::membership::MemberId;
use crate::planted::{self, PlantedBug};

/// Terms of consecutive entries: the first entry of each run, and its term.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TermRuns(Vec<(Lsn, Term)>);

impl TermRuns {
    /// Those of the entries `[from, to]`, whose terms never go back; `term_of` is asked a few times a run.
    pub fn found(from: Lsn, to: Lsn, term_of: impl Fn(Lsn) -> Term) -> Self {
        let mut runs = Self::default();
        let mut lsn = from;
        while lsn <= to {
            let term = term_of(lsn);
            runs.push(lsn, term);
            // The last entry of the run lies in `same..=beyond - 1`.
            let (mut same, mut beyond) = (lsn, to.next());
            while same.next() < beyond {
                let middle = Lsn(same.get().midpoint(beyond.get()));
                if term_of(middle) == term { same = middle } else { beyond = middle }
            }
            lsn = beyond;
        }
        runs
    }

    /// An entry follows.
    pub fn push(&mut self, lsn: Lsn, term: Term) {
        match self.0.last() {
            Some((_, last)) if *last == term => {}
            Some((first, last)) => {
                assert!(*first < lsn && *last < term, "entry {lsn} of term {term} follows {first} of {last}");
                self.0.push((lsn, term));
            }
            None => self.0.push((lsn, term)),
        }
    }

    /// The term of an entry that is among them or behind them.
    #[must_use]
    pub fn term(&self, lsn: Lsn) -> Option<Term> {
        let lsn = if planted::is(PlantedBug::TermsOffByOne) { Lsn(lsn.get().saturating_sub(1)) } else { lsn };
        let behind = self.0.partition_point(|(first, _)| *first <= lsn);
        self.0.get(behind.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// The first entry that Raft has written.
    fn first_of_raft(&self) -> Option<Lsn> {
        self.0.iter().find(|(_, term)| *term > Term::ZERO).map(|(first, _)| *first)
    }

    /// Entries below are not asked for any more.
    fn drop_below(&mut self, lsn: Lsn) {
        let behind = self.0.partition_point(|(first, _)| *first <= lsn);
        self.0.drain(..behind.saturating_sub(1));
    }
}

/// Entries to be read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The first.
    pub from: Lsn,
    /// The last.
    pub to: Lsn,
}

#[derive(Default)]
struct Fetch {
    /// What the crate asked for in vain, in the order it did, and on whose behalf.
    wanted: VecDeque<Wanted>,
    contexts: Vec<(Lsn, GetEntriesContext)>,
    /// Whether a read is under way.
    is_reading: bool,
    /// What was read: there while the crate asks again.
    entries: Vec<Entry>,
}

/// Images of the state for members that need what the log does not have any more.
#[derive(Default)]
struct Images {
    /// Members that one is to be made for.
    asked: Vec<MemberId>,
    /// Those there are: what is announced to the crate of each.
    there: Vec<(MemberId, Snapshot)>,
}

/// Entries of one message at most: small ones take more in it than their payloads, which its limit counts.
pub const ENTRIES_A_MESSAGE: usize = 4096;

/// Members that may ask for entries at once; what a further one asks for it asks again later.
const CONTEXTS_MAX: usize = 16;
/// Of them, those that ask for the same entries.
const CONTEXTS_EACH: usize = 4;

/// What stands below a log's unapplied tail.
pub struct History {
    first: Lsn,
    prev_term: Term,
    terms: TermRuns,
    /// See [`History::keep_the_start`].
    keeps_start: bool,
    fetch: RefCell<Fetch>,
    images: RefCell<Images>,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { first, prev_term, terms, .. } = self;
        write!(f, "History {{ first: {first}, prev_term: {prev_term}, terms: {terms:?} }}")
    }
}

impl History {
    /// Of a log that has entries from `first` on, behind one of term `prev_term`.
    #[must_use]
    pub fn new(first: Lsn, prev_term: Term, terms: TermRuns) -> Self {
        let (fetch, images) = (RefCell::default(), RefCell::default());
        Self { first, prev_term, terms, keeps_start: false, fetch, images }
    }

    /// The lowest entry that the log has.
    #[must_use]
    pub const fn first(&self) -> Lsn {
        self.first
    }

    /// Whether members are served entries from `low` on.
    #[must_use]
    pub fn serves(&self, low: Lsn) -> bool {
        low >= self.first && (low > Lsn(1) || !self.keeps_start)
    }

    /// An entry was applied, and left the tail.
    pub fn push(&mut self, lsn: Lsn, term: Term) {
        self.terms.push(lsn, term);
        if self.keeps_start {
            self.keep_the_start();
        }
    }

    /// Serves neither the first entry from now on, nor what was written without Raft, nor what follows that: who needs it
    /// starts from an image of the state.
    pub fn keep_the_start(&mut self) {
        self.keeps_start = true;
        if self.prev_term > Term::ZERO {
            return;
        }
        if let Some(first) = self.terms.first_of_raft() {
            self.release(first.max(self.first).next());
        }
    }

    /// The term of an entry below the tail; `None`: the log has it no more.
    #[must_use]
    pub fn term(&self, lsn: Lsn) -> Option<Term> {
        if lsn.next() == self.first {
            return Some(self.prev_term);
        }
        if lsn < self.first { None } else { self.terms.term(lsn) }
    }

    /// The log has nothing below `first` any more.
    pub fn release(&mut self, first: Lsn) {
        if first <= self.first {
            return;
        }
        let before = Lsn(first.get() - 1);
        self.prev_term = self.terms.term(before).expect("what is released was there");
        self.first = first;
        self.terms.drop_below(first);
    }

    /// Entries from `low` up to `high`, not included, that were read back. If they were not, they are asked for.
    pub fn entries(&self, low: Lsn, high: Lsn, context: GetEntriesContext) -> Option<Vec<Entry>> {
        let mut fetch = self.fetch.borrow_mut();
        let at = fetch.entries.partition_point(|entry| entry.index < low.get());
        let found = fetch.entries.get(at..).unwrap_or_default();
        let found = found.iter().take_while(|entry| entry.index < high.get()).take(ENTRIES_A_MESSAGE);
        let found: Vec<Entry> = found.cloned().collect();
        if found.first().is_some_and(|entry| entry.index == low.get()) {
            return Some(found);
        }
        // One that asks again and again leaves the others their turn.
        let asked = fetch.contexts.iter().filter(|(from, _)| *from == low).count();
        if fetch.contexts.len() < CONTEXTS_MAX && asked < CONTEXTS_EACH {
            fetch.contexts.push((low, context));
        }
        // One after the other: who is far behind asks again at once, and waits until the others have had theirs.
        if fetch.wanted.len() < CONTEXTS_MAX && fetch.wanted.iter().all(|wanted| wanted.from != low) {
            let to = Lsn(low.get() + ENTRIES_A_MESSAGE as u64 - 1).min(Lsn(high.get() - 1));
            fetch.wanted.push_back(Wanted { from: low, to });
        }
        None
    }

    /// What is announced to the crate of the image for a member, once. If there is none, it is asked for.
    pub fn image_for(&self, member: MemberId) -> Option<Snapshot> {
        let mut images = self.images.borrow_mut();
        if let Some(at) = images.there.iter().position(|(of, _)| *of == member) {
            return Some(images.there.swap_remove(at).1);
        }
        if !images.asked.contains(&member) {
            images.asked.push(member);
        }
        None
    }

    /// Whether images are asked for.
    #[must_use]
    pub fn asks_for_images(&self) -> bool {
        !self.images.borrow().asked.is_empty()
    }

    /// Members that the crate asked for an image for.
    pub fn take_asked(&mut self) -> Vec<MemberId> {
        std::mem::take(&mut self.images.get_mut().asked)
    }

    /// There is an image for a member, or there is none any more.
    pub fn set_image(&mut self, member: MemberId, image: Option<Snapshot>) {
        let there = &mut self.images.get_mut().there;
        there.retain(|(of, _)| *of != member);
        there.extend(image.map(|image| (member, image)));
    }

    /// What is to be read now; [`History::read`] or [`History::give_up`] ends it.
    pub fn take_wanted(&mut self) -> Option<Wanted> {
        let fetch = self.fetch.get_mut();
        if fetch.is_reading {
            return None;
        }
        let wanted = fetch.wanted.pop_front()?;
        fetch.is_reading = true;
        Some(wanted)
    }

    /// Entries were read. Returns on whose behalf they are to be asked for again.
    pub fn read(&mut self, entries: Vec<Entry>) -> Vec<GetEntriesContext> {
        let fetch = self.fetch.get_mut();
        assert!(fetch.is_reading, "entries were read that nobody asked for");
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            fetch.wanted.retain(|wanted| !(first.index..=last.index).contains(&wanted.from.get()));
        }
        (fetch.is_reading, fetch.entries) = (false, entries);
        std::mem::take(&mut fetch.contexts).into_iter().map(|(_, context)| context).collect()
    }

    /// Nothing could be read: who asked in vain asks again.
    pub fn give_up(&mut self) {
        *self.fetch.get_mut() = Fetch::default();
    }

    /// They were asked for again: what was read is not kept.
    pub fn forget_read(&mut self) {
        self.fetch.get_mut().entries = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(terms: &[u64]) -> TermRuns {
        let of = |lsn: Lsn| Term(terms[usize::try_from(lsn.get()).unwrap() - 10]);
        TermRuns::found(Lsn(10), Lsn(9 + terms.len() as u64), of)
    }

    #[test]
    fn runs_are_found_by_their_ends() {
        for terms in [vec![], vec![1], vec![1, 1, 1], vec![1, 2, 3], vec![2, 2, 5, 5, 5, 9], vec![0, 0, 7]] {
            let runs = runs(&terms);
            for (lsn, term) in (10..).zip(&terms) {
                assert_eq!(runs.term(Lsn(lsn)), Some(Term(*term)), "{terms:?}");
            }
            assert_eq!(runs.term(Lsn(9)), None);
        }
    }

    #[test]
    fn what_is_released_keeps_the_term_before_it() {
        let mut history = History::new(Lsn(10), Term(1), runs(&[1, 1, 4, 4]));
        history.push(Lsn(14), Term(6));
        assert_eq!((history.term(Lsn(9)), history.term(Lsn(8))), (Some(Term(1)), None));
        history.release(Lsn(13));
        assert_eq!((history.first(), history.term(Lsn(12))), (Lsn(13), Some(Term(4))));
        assert_eq!((history.term(Lsn(11)), history.term(Lsn(13))), (None, Some(Term(4))));
        history.release(Lsn(15));
        assert_eq!((history.term(Lsn(14)), history.term(Lsn(13))), (Some(Term(6)), None));
    }

    #[test]
    fn entries_are_there_once_they_were_read() {
        let mut history = History::new(Lsn(10), Term(1), runs(&[1; 20]));
        let ask = |history: &History, low, high| {
            history.entries(Lsn(low), Lsn(high), GetEntriesContext::empty(true))
        };
        assert_eq!(ask(&history, 12, 20), None);
        assert_eq!(ask(&history, 12, 20), None);
        assert_eq!(ask(&history, 17, 20), None);
        assert_eq!(history.take_wanted(), Some(Wanted { from: Lsn(12), to: Lsn(19) }));
        assert_eq!(ask(&history, 11, 20), None);
        assert_eq!(history.take_wanted(), None, "one read at a time");
        let entry = |index| Entry { index, term: 1, ..Entry::default() };
        assert_eq!(history.read((10..16).map(entry).collect()).len(), 4);
        assert_eq!(ask(&history, 12, 20).map(|found| found.len()), Some(4));
        assert_eq!(ask(&history, 15, 16).map(|found| found.len()), Some(1));
        assert_eq!(ask(&history, 17, 20), None);
        history.forget_read();
        assert_eq!(ask(&history, 12, 20), None);
        assert_eq!(
            history.take_wanted(),
            Some(Wanted { from: Lsn(17), to: Lsn(19) }),
            "the other one's turn"
        );
        history.read(vec![entry(17)]);
        assert_eq!(history.take_wanted(), Some(Wanted { from: Lsn(12), to: Lsn(19) }));
        history.give_up();
        assert_eq!(ask(&history, 12, 13), None);
        assert!(history.take_wanted().is_some());
    }
}
