//! Runs: contiguous entries of one log and one term that lie close together in one segment. The index, the footers
//! and recovery all speak in runs, so memory follows bytes written, not entries.

use std::collections::VecDeque;

use crate::device::prefetch;
use crate::ids::{Lsn, SegmentSeq, Term};

/// Runs grow across records while they span at most this many bytes; a read fetches a run in one piece.
pub(crate) const RUN_SPAN_BYTES: u32 = 128 << 10;

/// Some entries of a log, and where to look for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// The first entry.
    pub first: Lsn,
    /// The term of all of them.
    pub term: Term,
    /// The term of the entry before the first.
    pub prev_term: Term,
    /// The segment they lie in.
    pub segment: SegmentSeq,
    /// How many; not zero.
    pub count: u32,
    /// Where the first record that holds some of them starts, in bytes from the segment's start.
    pub offset: u32,
    /// Where the last such record ends.
    pub end: u32,
    /// What the entries take of their records, in bytes.
    pub bytes: u32,
    /// The run does not grow any more: entries that followed were replaced, so older versions of the next ones may lie
    /// behind `offset`; or its last frame cannot be read across.
    pub cut: bool,
}

impl Run {
    /// The last entry.
    pub fn last(&self) -> Lsn {
        Lsn(self.first.get() + u64::from(self.count) - 1)
    }

    /// The part from `from` to `to`, both inclusive; `None` if nothing of the run lies there.
    pub fn part(&self, from: Lsn, to: Lsn) -> Option<Self> {
        let (first, last) = (self.first.max(from), self.last().min(to));
        let count =
            u32::try_from((last.get() + 1).checked_sub(first.get())?).expect("fewer than the run holds");
        let bytes = |entries: u64| {
            let share = u64::from(self.bytes) * entries / u64::from(self.count);
            u32::try_from(share).expect("at most the run's bytes")
        };
        // Differences of what lies in front: so the bytes of all parts add up to those of the run.
        let before = first.get() - self.first.get();
        let bytes = bytes(before + u64::from(count)) - bytes(before);
        let prev_term = if before > 0 { self.term } else { self.prev_term };
        assert!(bytes <= self.bytes, "a part of the run at entry {} is larger than the run", self.first);
        (count > 0).then_some(Self { first, prev_term, count, bytes, ..*self })
    }

    /// Asserts what holds of any run of a log.
    #[cfg(feature = "sim")]
    fn check(&self) {
        let Run { first, count, offset, end, prev_term, term, .. } = self;
        assert!(*count > 0, "the run at entry {first} is empty");
        assert!(*first > Lsn::ZERO, "a run begins before the first entry");
        assert!(offset < end, "the run at entry {first} lies at {offset} and ends at {end}");
        assert!(prev_term <= term, "the run at entry {first} goes back to term {term}");
    }

    /// Takes `next` in, if it continues this run closely enough.
    fn absorb(&mut self, next: &Run) -> bool {
        let joins = !self.cut
            && self.segment == next.segment
            && self.term == next.term
            && self.last().next() == next.first
            && self.offset <= next.offset
            && next.end.saturating_sub(self.offset) <= RUN_SPAN_BYTES;
        if joins {
            self.count += next.count;
            self.bytes = self.bytes.saturating_add(next.bytes);
            self.end = next.end;
        }
        joins
    }
}

/// The runs of a log in order, and contiguous but during recovery. Without heap memory while empty.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Runs(VecDeque<Run>);

impl Runs {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Run> + ExactSizeIterator {
        self.0.iter()
    }

    pub fn first(&self) -> Option<Lsn> {
        self.0.front().map(|run| run.first)
    }

    pub fn last(&self) -> Option<Lsn> {
        self.0.back().map(Run::last)
    }

    /// The run that holds an entry. Every append asks for the newest one: it is found without a search, which among
    /// thousands of runs is a chain of cache misses.
    pub fn find(&self, lsn: Lsn) -> Option<&Run> {
        let newest = self.0.back()?;
        if newest.first <= lsn {
            return Some(newest).filter(|run| lsn <= run.last());
        }
        let after = self.0.partition_point(|run| run.first <= lsn);
        self.0.get(after.checked_sub(1)?).filter(|run| lsn <= run.last())
    }

    /// Has the newest run fetched into the processor's caches.
    pub fn prefetch(&self) {
        self.0.back().into_iter().for_each(prefetch);
    }

    /// Adds a run behind the last one.
    pub fn push(&mut self, run: Run) {
        assert!(run.count > 0, "a run holds entries");
        if let Some(back) = self.0.back_mut() {
            assert_eq!(back.last().next(), run.first, "the runs of a log are contiguous");
            if back.absorb(&run) {
                return;
            }
        }
        self.add(run);
    }

    fn add(&mut self, run: Run) {
        // Most logs are idle, with a single run.
        self.0.reserve_exact(usize::from(self.0.capacity() == 0));
        self.0.push_back(run);
    }

    /// Ends the last run: what follows it starts a run of its own.
    pub fn cut(&mut self) {
        if let Some(back) = self.0.back_mut() {
            back.cut = true;
        }
    }

    /// Drops the entries below `first`; `dropped` gets their runs.
    pub fn drop_below(&mut self, first: Lsn, mut dropped: impl FnMut(&Run)) {
        while let Some(front) = self.0.front_mut() {
            if front.first >= first {
                return;
            }
            if let Some(kept) = front.part(first, front.last()) {
                front.part(front.first, Lsn(first.get() - 1)).iter().for_each(dropped);
                *front = kept;
                return;
            }
            dropped(front);
            self.0.pop_front();
        }
        self.0 = VecDeque::new();
    }

    /// Drops the entries from `from` on; `dropped` gets their runs.
    pub fn truncate(&mut self, from: Lsn, mut dropped: impl FnMut(&Run)) {
        let mut any = false;
        while let Some(back) = self.0.back_mut() {
            if back.last() < from {
                back.cut |= any;
                return;
            }
            if back.first < from
                && let Some(kept) = back.part(back.first, Lsn(from.get() - 1))
            {
                back.part(from, back.last()).iter().for_each(dropped);
                *back = Run { cut: true, ..kept };
                return;
            }
            any = true;
            dropped(back);
            self.0.pop_back();
        }
        self.0 = VecDeque::new();
    }

    pub fn clear(&mut self, dropped: impl FnMut(&Run)) {
        self.0.iter().for_each(dropped);
        self.0 = VecDeque::new();
    }

    /// Sets the position of some entries, wherever they lay before; `dropped` gets the runs that it replaces.
    pub fn put(&mut self, run: Run, mut dropped: impl FnMut(&Run)) {
        assert!(run.count > 0, "a run holds entries");
        let from = self.0.partition_point(|old| old.last() < run.first);
        let to = self.0.partition_point(|old| old.first <= run.last());
        let behind = self.0.split_off(to);
        let mut rest = None;
        let overlapped: Vec<Run> = self.0.drain(from..).collect();
        for old in overlapped {
            old.part(run.first, run.last()).iter().for_each(&mut dropped);
            if old.first < run.first
                && let Some(front) = old.part(old.first, Lsn(run.first.get() - 1))
            {
                self.0.push_back(Run { cut: true, ..front });
            }
            rest = old.part(run.last().next(), old.last());
        }
        self.add(run);
        self.0.extend(rest);
        self.0.extend(behind);
    }

    /// Asserts that the runs are contiguous, and that each knows the term in front of it.
    #[cfg(feature = "sim")]
    pub fn check(&self) {
        self.0.iter().for_each(Run::check);
        for (run, next) in self.0.iter().zip(self.0.iter().skip(1)) {
            assert_eq!(run.last().next(), next.first, "there is a gap between two runs");
            assert_eq!(run.term, next.prev_term, "the run at entry {} has another term in front", next.first);
        }
        assert!(!self.0.is_empty() || self.0.capacity() == 0, "no runs take heap memory");
    }

    /// Drops what lies below a gap: entries in between were released, and their segments are no more.
    pub fn close_gaps(&mut self) {
        let mut first = None;
        for run in self.0.iter().rev() {
            if first.is_some_and(|first| run.last().next() != first) {
                break;
            }
            first = Some(run.first);
        }
        first.into_iter().for_each(|first| self.drop_below(first, |_| {}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u32, segment: u64, offset: u32) -> Run {
        Run {
            first: Lsn(first),
            term: Term(1),
            prev_term: Term(1),
            segment: SegmentSeq(segment),
            count,
            offset,
            end: offset + 100 * count,
            bytes: 100 * count,
            cut: false,
        }
    }

    #[test]
    fn neighbours_merge_and_far_ones_do_not() {
        let mut runs = Runs::default();
        runs.push(run(1, 10, 1, 4096));
        runs.push(run(11, 10, 1, 8192));
        assert_eq!(runs.iter().len(), 1);
        runs.push(run(21, 10, 1, 4096 + RUN_SPAN_BYTES));
        runs.push(run(31, 10, 2, 4096));
        assert_eq!(runs.iter().len(), 3);
        assert_eq!(runs.find(Lsn(20)).map(|run| run.offset), Some(4096));
        assert_eq!(runs.find(Lsn(31)).map(|run| run.segment), Some(SegmentSeq(2)));
        assert_eq!(runs.find(Lsn(41)), None);
    }

    #[test]
    fn a_run_does_not_grow_over_what_was_replaced() {
        let mut runs = Runs::default();
        runs.push(run(1, 4, 1, 4096));
        runs.truncate(Lsn(5), |_| {});
        runs.push(run(5, 4, 1, 5000));
        assert_eq!(runs.iter().len(), 1, "nothing was replaced");
        runs.truncate(Lsn(5), |_| {});
        runs.push(run(5, 4, 1, 6000));
        assert_eq!(runs.iter().len(), 2);
    }

    #[test]
    fn both_ends_are_cut_to_the_entry_and_counted() {
        let mut runs = Runs::default();
        runs.push(run(1, 10, 1, 4096));
        runs.push(run(11, 10, 2, 4096));
        let mut dropped = Vec::new();
        runs.drop_below(Lsn(4), |run| dropped.push((run.segment.get(), run.count)));
        runs.truncate(Lsn(9), |run| dropped.push((run.segment.get(), run.count)));
        assert_eq!(dropped, [(1, 3), (2, 10), (1, 2)]);
        assert_eq!((runs.first(), runs.last()), (Some(Lsn(4)), Some(Lsn(8))));
        runs.drop_below(Lsn(100), |_| {});
        assert!(runs.is_empty());
    }

    #[test]
    fn a_position_is_set_in_the_middle_and_the_bytes_add_up() {
        let mut runs = Runs::default();
        runs.push(run(1, 10, 1, 4096));
        runs.push(run(11, 10, 2, 4096));
        let mut dropped = Vec::new();
        runs.put(run(4, 9, 9, 8192), |run| dropped.push((run.segment.get(), run.count, run.bytes)));
        assert_eq!(dropped, [(1, 7, 700), (2, 2, 200)]);
        let held: Vec<_> =
            runs.iter().map(|run| (run.first.0, run.count, run.segment.0, run.bytes)).collect();
        assert_eq!(held, [(1, 3, 1, 300), (4, 9, 9, 900), (13, 8, 2, 800)]);
        runs.put(run(6, 2, 10, 4096), |_| {});
        let held: Vec<_> = runs.iter().map(|run| (run.first.0, run.count, run.segment.0)).collect();
        assert_eq!(held, [(1, 3, 1), (4, 2, 9), (6, 2, 10), (8, 5, 9), (13, 8, 2)]);
    }

    #[test]
    fn a_wrong_run_is_found() {
        type Spoil = fn(&mut Run);
        let spoils: [(&str, Spoil); 6] = [
            ("an entry too many", |run| run.count += 1),
            ("no entry", |run| run.count = 0),
            ("another first entry", |run| run.first = Lsn(2)),
            ("an end in front of its start", |run| run.end = run.offset),
            ("another term", |run| run.term = Term(2)),
            ("a term that is above its own in front", |run| run.prev_term = Term(2)),
        ];
        let some = || {
            let mut runs = Runs::default();
            runs.push(run(1, 10, 1, 4096));
            runs.push(run(11, 10, 2, 4096));
            runs
        };
        some().check();
        Runs::default().check();
        for (what, spoil) in spoils {
            let mut runs = some();
            spoil(&mut runs.0[0]);
            assert!(std::panic::catch_unwind(|| runs.check()).is_err(), "{what}");
        }
        assert!(
            std::panic::catch_unwind(|| Runs(VecDeque::with_capacity(4)).check()).is_err(),
            "memory for nothing"
        );
    }

    #[test]
    fn only_what_hangs_together_with_the_end_outlives_a_gap() {
        let mut runs = Runs::default();
        runs.put(run(8, 2, 2, 4096), |_| {});
        runs.put(run(1, 3, 1, 4096), |_| {});
        runs.put(run(10, 5, 3, 4096), |_| {});
        runs.close_gaps();
        assert_eq!((runs.first(), runs.last(), runs.iter().len()), (Some(Lsn(8)), Some(Lsn(14)), 2));
        runs.put(run(4, 4, 4, 4096), |_| {});
        runs.close_gaps();
        assert_eq!(runs.first(), Some(Lsn(4)));
    }
}
