//! Runs: contiguous entries of one log and one term that lie close together in one segment. The index, the footers
//! and recovery all speak in runs, so memory follows bytes written, not entries.

use std::collections::VecDeque;

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
    /// The segment they lie in.
    pub segment: SegmentSeq,
    /// How many; not zero.
    pub count: u32,
    /// Where the first record that holds some of them starts, in bytes from the segment's start.
    pub offset: u32,
    /// Where the last such record ends.
    pub end: u32,
    /// The run does not grow any more: entries that followed were replaced, so older versions of the next ones may lie
    /// behind `offset`; or its last frame cannot be read across.
    pub cut: bool,
}

impl Run {
    /// The last entry.
    pub fn last(&self) -> Lsn {
        Lsn(self.first.get() + u64::from(self.count) - 1)
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
            self.end = next.end;
        }
        joins
    }
}

/// The runs of a log in order; contiguous. Without heap memory while empty.
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

    /// The run that holds an entry.
    pub fn find(&self, lsn: Lsn) -> Option<&Run> {
        let after = self.0.partition_point(|run| run.first <= lsn);
        self.0.get(after.checked_sub(1)?).filter(|run| lsn <= run.last())
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

    /// Drops the entries below `first`; tells how many of which segment.
    pub fn drop_below(&mut self, first: Lsn, mut dropped: impl FnMut(SegmentSeq, u64)) {
        while let Some(front) = self.0.front_mut() {
            if front.first >= first {
                return;
            }
            if front.last() >= first {
                let gone = first.get() - front.first.get();
                dropped(front.segment, gone);
                front.first = first;
                front.count -= u32::try_from(gone).expect("fewer than the run holds");
                return;
            }
            dropped(front.segment, u64::from(front.count));
            self.0.pop_front();
        }
        self.0 = VecDeque::new();
    }

    /// Drops the entries from `from` on; tells how many of which segment.
    pub fn truncate(&mut self, from: Lsn, mut dropped: impl FnMut(SegmentSeq, u64)) {
        let mut any = false;
        while let Some(back) = self.0.back_mut() {
            if back.last() < from {
                back.cut |= any;
                return;
            }
            if back.first < from {
                let kept = u32::try_from(from.get() - back.first.get()).expect("fewer than the run holds");
                dropped(back.segment, u64::from(back.count - kept));
                back.count = kept;
                back.cut = true;
                return;
            }
            any = true;
            dropped(back.segment, u64::from(back.count));
            self.0.pop_back();
        }
        self.0 = VecDeque::new();
    }

    pub fn clear(&mut self, mut dropped: impl FnMut(SegmentSeq, u64)) {
        self.0.iter().for_each(|run| dropped(run.segment, u64::from(run.count)));
        self.0 = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u32, segment: u64, offset: u32) -> Run {
        Run {
            first: Lsn(first),
            term: Term(1),
            segment: SegmentSeq(segment),
            count,
            offset,
            end: offset + 100 * count,
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
        runs.truncate(Lsn(5), |_, _| {});
        runs.push(run(5, 4, 1, 5000));
        assert_eq!(runs.iter().len(), 1, "nothing was replaced");
        runs.truncate(Lsn(5), |_, _| {});
        runs.push(run(5, 4, 1, 6000));
        assert_eq!(runs.iter().len(), 2);
    }

    #[test]
    fn both_ends_are_cut_to_the_entry_and_counted() {
        let mut runs = Runs::default();
        runs.push(run(1, 10, 1, 4096));
        runs.push(run(11, 10, 2, 4096));
        let mut gone = Vec::new();
        runs.drop_below(Lsn(4), |segment, count| gone.push((segment.get(), count)));
        runs.truncate(Lsn(9), |segment, count| gone.push((segment.get(), count)));
        assert_eq!(gone, [(1, 3), (2, 10), (1, 2)]);
        assert_eq!((runs.first(), runs.last()), (Some(Lsn(4)), Some(Lsn(8))));
        runs.drop_below(Lsn(100), |_, _| {});
        assert!(runs.is_empty());
    }
}
