//! The index: what each log holds and where. (LogId, Lsn) -> position and term, without touching a disk.
//!
//! Two levels, one algebra. A [`SegmentIndex`] is the effect of one segment's records; it is what a footer stores, and
//! what a scan rebuilds. The [`Index`] is the effect of all live segments, merged oldest first. While running, the
//! heads (`last`, hard state, configuration) move at append and the positions at the frame's start.

use std::collections::HashMap;

use crate::format::record::{RecordKind, RecordMeta};
use crate::ids::{LogId, Lsn, SegmentSeq, Term};
use crate::mix::IdHash;
use crate::planted::{self, Planted};
use crate::record::{HardState, LogState};
use crate::runs::{Run, Runs};
use crate::segment::Segments;

pub(crate) type LogMap<V> = HashMap<LogId, V, IdHash>;

/// The effect of one segment's records on one log.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct LogPart {
    /// The log was removed in this segment; what follows is a new incarnation.
    pub removed: bool,
    /// What the last State record said: first, last, term before first.
    pub base: Option<(Lsn, Lsn, Term)>,
    /// The newest hard state in the segment.
    pub hard_state: Option<HardState>,
    /// The newest configuration in the segment.
    pub conf: Option<Box<[u8]>>,
    /// The term before the first run.
    pub prev_term: Term,
    /// The entries that the segment adds (and that replace older ones from their first on).
    pub runs: Runs,
    /// New positions of entries that the log holds; all lie below the runs' first, and gaps lie between them.
    pub copies: Option<Box<Runs>>,
}

impl LogPart {
    /// Takes one record in; `runs` are its entries' positions.
    pub fn apply(&mut self, record: &RecordMeta<'_>, runs: impl Iterator<Item = Run>) {
        match record.kind {
            RecordKind::Tombstone => {
                *self = Self { removed: true, ..Self::default() };
                return;
            }
            RecordKind::State => {
                self.base = Some((record.first, record.last, record.prev_term));
                if self.runs.first().is_some_and(|first| first < record.first) {
                    self.prev_term = record.prev_term;
                }
                for runs in [Some(&mut self.runs), self.copies.as_deref_mut()].into_iter().flatten() {
                    runs.drop_below(record.first, |_| {});
                    runs.truncate(record.last.next(), |_| {});
                }
            }
            RecordKind::Copy => {
                runs.for_each(|run| self.copies.get_or_insert_default().put(run, |_| {}));
                return;
            }
            RecordKind::Append => {}
        }
        if record.hard_state.is_some() {
            self.hard_state = record.hard_state;
        }
        if let Some(conf) = record.conf {
            self.conf = Some(conf.into());
        }
        if record.kind == RecordKind::Append && record.count > 0 {
            if self.runs.last().is_some_and(|last| last.next() < record.first) {
                self.runs.clear(|_| {});
            }
            self.runs.truncate(record.first, |_| {});
            self.copies.iter_mut().for_each(|copies| copies.truncate(record.first, |_| {}));
            if self.runs.is_empty() {
                self.prev_term = record.prev_term;
            }
            runs.for_each(|run| self.runs.push(run));
        }
    }
}

/// The effect of one segment's records.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct SegmentIndex {
    pub logs: LogMap<LogPart>,
}

impl SegmentIndex {
    pub fn apply(&mut self, record: &RecordMeta<'_>, runs: impl Iterator<Item = Run>) {
        self.logs.entry(record.log).or_default().apply(record, runs);
    }

    /// Whether a footer that is made of this leads to a run.
    #[cfg(feature = "sim")]
    pub fn holds(&self, log: LogId, run: &Run) -> bool {
        let holds = |runs: &Runs| runs.find(run.first).is_some() && runs.find(run.last()).is_some();
        self.logs.get(&log).is_some_and(|part| holds(&part.runs) || part.copies.as_deref().is_some_and(holds))
    }

    /// Asserts that all of it lies in `segment`, and in front of `end`.
    #[cfg(feature = "sim")]
    pub fn check(&self, segment: SegmentSeq, end: u32) {
        for (log, part) in &self.logs {
            part.runs.check();
            let copies = part.copies.iter().flat_map(|copies| copies.iter());
            for run in part.runs.iter().chain(copies) {
                assert_eq!(run.segment, segment, "the active segment's entries of log {log}");
                assert!(run.end <= end, "entries of log {log} lie behind the active segment's end, {end}");
            }
        }
    }
}

/// What is known of one log. An idle log has no heap memory but its configuration's bytes.
#[derive(Default, Debug)]
pub(crate) struct LogEntry {
    /// Differs between a log that was removed and one of the same id that came after it.
    pub incarnation: u32,
    /// The lowest entry that can be read; `last + 1` if there is none.
    pub first: Lsn,
    /// The highest entry appended.
    pub last: Lsn,
    /// The term of the entry before `first`.
    pub prev_term: Term,
    /// Records with entries that have no position yet.
    pub waiting: u32,
    /// Entries that have a position; `runs.last() < last` while a batch waits to be submitted.
    pub runs: Runs,
    pub hard_state: Option<HardState>,
    pub conf: Option<Box<[u8]>>,
    /// The segments that hold the newest hard state, the newest configuration, and proof of `first` while there are
    /// no runs. Each must be written again before its segment may go.
    pub hard_state_home: SegmentSeq,
    pub conf_home: SegmentSeq,
    pub base_home: SegmentSeq,
}

impl LogEntry {
    pub fn state(&self) -> LogState {
        LogState {
            first: self.first,
            last: self.last,
            prev_term: self.prev_term,
            hard_state: self.hard_state,
            conf: self.conf.as_deref().map(<[u8]>::to_vec),
        }
    }

    /// Whether the log needs something from a segment up to `segment` that is not an entry.
    pub fn needs_state_in(&self, segment: SegmentSeq) -> bool {
        (self.hard_state.is_some() && self.hard_state_home <= segment)
            || (self.conf.is_some() && self.conf_home <= segment)
            || (self.runs.is_empty() && self.base_home <= segment)
    }

    /// Asserts what holds of a log between any two calls. `waiting` records with entries have no position yet; `is_spoken_of`:
    /// whether any record without a position is of the log.
    #[cfg(feature = "sim")]
    pub fn check(&self, log: LogId, waiting: u32, is_spoken_of: bool, segments: &Segments) {
        self.runs.check();
        assert_eq!(self.waiting, waiting, "log {log} counts the records that wait for a position");
        assert!(
            self.first <= self.last.next(),
            "log {log} begins at {}, behind its end {}",
            self.first,
            self.last
        );
        if let Some(front) = self.runs.iter().next() {
            assert_eq!(front.first, self.first, "log {log} begins where its first run does");
            assert_eq!(front.prev_term, self.prev_term, "log {log} knows the term in front of its first run");
        }
        if waiting == 0 {
            let end = self.runs.last().map_or(self.first, Lsn::next);
            assert_eq!(end, self.last.next(), "log {log} ends where its last run does");
        }
        let (oldest, next) = (segments.oldest_live(), segments.next_seq());
        for (what, home, is_needed) in [
            ("hard state", self.hard_state_home, self.hard_state.is_some()),
            ("configuration", self.conf_home, self.conf.is_some()),
            ("end", self.base_home, self.runs.is_empty()),
        ] {
            assert!(home < next, "the {what} of log {log} stands in segment {home}, which there is not");
            let is_held = is_spoken_of || home >= oldest;
            assert!(
                !is_needed || is_held,
                "the {what} of log {log} stands in segment {home}, which is not live"
            );
        }
    }

    /// Copies of entries have a position now; those that were released since need none.
    pub fn take_copies(&mut self, runs: impl Iterator<Item = Run>, segments: &mut Segments) {
        let first = self.first;
        for run in runs.filter_map(|run| run.part(first, run.last())) {
            let holds = self.runs.first().is_some_and(|held| held <= run.first)
                && self.runs.last().is_some_and(|held| run.last() <= held);
            assert!(holds, "entries up to {} are copied, but not held", run.last());
            segments.add_live(&run);
            self.runs.put(run, |old| segments.drop_live(old));
        }
    }

    /// Takes in what one later segment says; may leave gaps, which copies in segments behind may fill. Used by recovery
    /// only.
    fn merge(&mut self, segment: SegmentSeq, part: LogPart) {
        if let Some((first, last, prev_term)) = part.base {
            self.runs.drop_below(first, |_| {});
            self.runs.truncate(last.next(), |_| {});
            // Entries that it speaks of may have been released since, and their segments freed.
            if self.runs.is_empty() || self.first < first {
                (self.first, self.prev_term) = (first, prev_term);
            }
            self.last = self.runs.last().unwrap_or(Lsn(first.get() - 1));
            if first > last {
                self.base_home = segment;
            }
        }
        assert!(part.runs.iter().all(|run| run.segment == segment), "a segment's effects lie in it");
        if let Some(first) = part.runs.first() {
            self.runs.truncate(first, |_| {});
            part.runs.iter().for_each(|run| self.runs.put(*run, |_| {}));
            self.last = part.runs.last().unwrap_or(self.last);
            self.base_home = segment;
        }
        part.copies.iter().flat_map(|copies| copies.iter()).for_each(|copy| self.runs.put(*copy, |_| {}));
        if part.hard_state.is_some() && !planted::is(Planted::SkipHardState) {
            self.hard_state = part.hard_state;
            self.hard_state_home = segment;
        }
        if part.conf.is_some() {
            self.conf = part.conf;
            self.conf_home = segment;
        }
    }

    /// All segments were merged: what lies below a gap was released.
    fn close_gaps(&mut self) {
        self.runs.close_gaps();
        if let (Some(front), Some(last)) = (self.runs.iter().next(), self.runs.last()) {
            (self.first, self.prev_term, self.last) = (front.first, front.prev_term, last);
        }
    }
}

/// All logs of the WAL.
#[derive(Default, Debug)]
pub(crate) struct Index {
    logs: LogMap<LogEntry>,
    incarnations: u32,
}

impl Index {
    pub fn get(&self, log: LogId) -> Option<&LogEntry> {
        self.logs.get(&log)
    }

    pub fn get_mut(&mut self, log: LogId) -> Option<&mut LogEntry> {
        self.logs.get_mut(&log)
    }

    /// The log's entry, made if there is none: a log that starts at entry 1.
    pub fn entry(&mut self, log: LogId) -> &mut LogEntry {
        let incarnations = &mut self.incarnations;
        self.logs.entry(log).or_insert_with(|| {
            *incarnations = incarnations.wrapping_add(1);
            LogEntry { incarnation: *incarnations, first: Lsn(1), ..LogEntry::default() }
        })
    }

    pub fn remove(&mut self, log: LogId) -> Option<LogEntry> {
        self.logs.remove(&log)
    }

    /// All log ids, in ascending order.
    pub fn ids(&self) -> Vec<LogId> {
        let mut ids: Vec<_> = self.logs.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub fn iter(&self) -> impl Iterator<Item = (LogId, &LogEntry)> {
        self.logs.iter().map(|(log, entry)| (*log, entry))
    }

    /// Takes in what one later segment says; [`Index::close_gaps`] comes behind the last one. Used by recovery only.
    pub fn merge(&mut self, segment: SegmentSeq, effects: SegmentIndex) {
        for (log, part) in effects.logs {
            if part.removed {
                self.logs.remove(&log);
            }
            let alive = part.base.is_some()
                || part.hard_state.is_some()
                || part.conf.is_some()
                || !part.runs.is_empty()
                || part.copies.is_some();
            if alive || self.logs.contains_key(&log) {
                let entry = self.entry(log);
                if entry.base_home == SegmentSeq::ZERO {
                    entry.base_home = segment;
                }
                entry.merge(segment, part);
            }
        }
    }
}

impl Index {
    /// All segments were merged.
    pub fn close_gaps(&mut self) {
        self.logs.values_mut().for_each(LogEntry::close_gaps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_idle_logs_stay_small() {
        let mut index = Index::default();
        for log in 0..10_000 {
            index.entry(LogId(log)).hard_state = Some(HardState::default());
        }
        let bytes = index.logs.capacity() * 8 / 7 * (size_of::<(LogId, LogEntry)>() + 1);
        assert!(bytes / 10_000 < 250, "{} bytes a log, entry of {}", bytes / 10_000, size_of::<LogEntry>());
    }

    fn append(first: u64, count: u32, segment: u64) -> (RecordMeta<'static>, Run) {
        let meta = RecordMeta {
            log: LogId(1),
            count,
            first: Lsn(first),
            last: Lsn(first + u64::from(count) - 1),
            prev_term: Term(segment - 1),
            ..RecordMeta::default()
        };
        let segment = SegmentSeq(segment);
        (
            meta,
            Run {
                first: meta.first,
                term: Term(segment.get()),
                prev_term: meta.prev_term,
                segment,
                count,
                offset: 4160,
                end: 5000,
                bytes: 840,
                cut: false,
            },
        )
    }

    fn state(first: u64, last: u64) -> RecordMeta<'static> {
        RecordMeta {
            log: LogId(1),
            kind: RecordKind::State,
            first: Lsn(first),
            last: Lsn(last),
            prev_term: Term(7),
            ..RecordMeta::default()
        }
    }

    fn merged(segments: &[(u64, SegmentIndex)]) -> Option<LogState> {
        let mut index = Index::default();
        segments.iter().for_each(|(seq, effects)| index.merge(SegmentSeq(*seq), effects.clone()));
        index.close_gaps();
        index.get(LogId(1)).map(LogEntry::state)
    }

    fn effects(records: &[(RecordMeta<'static>, Option<Run>)]) -> SegmentIndex {
        let mut effects = SegmentIndex::default();
        records.iter().for_each(|(meta, run)| effects.apply(meta, run.iter().copied()));
        effects
    }

    #[test]
    fn a_later_segment_replaces_the_suffix() {
        let (a, ra) = append(1, 100, 1);
        let (b, rb) = append(50, 11, 2);
        let found = merged(&[(1, effects(&[(a, Some(ra))])), (2, effects(&[(b, Some(rb))]))]).unwrap();
        assert_eq!((found.first, found.last), (Lsn(1), Lsn(60)));
    }

    #[test]
    fn an_overwritten_suffix_stays_away_when_the_overwrite_was_released() {
        let (a, ra) = append(1, 100, 1);
        let (b, rb) = append(50, 11, 2);
        let segments =
            [(1, effects(&[(a, Some(ra))])), (2, effects(&[(b, Some(rb)), (state(61, 60), None)]))];
        let found = merged(&segments).unwrap();
        assert_eq!((found.first, found.last, found.prev_term), (Lsn(61), Lsn(60), Term(7)));
    }

    #[test]
    fn a_gap_left_by_freed_segments_starts_the_log_anew() {
        let (a, ra) = append(1, 10, 1);
        let (b, rb) = append(21, 10, 3);
        let found = merged(&[(1, effects(&[(a, Some(ra))])), (3, effects(&[(b, Some(rb))]))]).unwrap();
        assert_eq!((found.first, found.last, found.prev_term), (Lsn(21), Lsn(30), Term(2)));
    }

    #[test]
    fn a_tombstone_ends_an_incarnation_and_a_new_one_may_follow() {
        let (a, ra) = append(1, 10, 1);
        let tombstone = RecordMeta { log: LogId(1), kind: RecordKind::Tombstone, ..RecordMeta::default() };
        let one = (1, effects(&[(a, Some(ra))]));
        assert_eq!(merged(&[one.clone(), (2, effects(&[(tombstone, None)]))]), None);
        let (b, rb) = append(1, 2, 2);
        let found = merged(&[one, (2, effects(&[(tombstone, None), (b, Some(rb))]))]).unwrap();
        assert_eq!((found.first, found.last), (Lsn(1), Lsn(2)));
    }

    fn copy(first: u64, count: u32, term: u64, segment: u64) -> (RecordMeta<'static>, Option<Run>) {
        let (meta, run) = append(first, count, segment);
        let (term, prev_term) = (Term(term), Term(if first == 1 { 0 } else { term }));
        (RecordMeta { kind: RecordKind::Copy, prev_term, ..meta }, Some(Run { term, prev_term, ..run }))
    }

    #[test]
    fn a_copy_stands_for_its_entries_whether_their_segment_is_there_or_freed() {
        let (a, ra) = append(1, 10, 1);
        let (b, rb) = append(11, 10, 2);
        let one = (1, effects(&[(a, Some(ra))]));
        let two = (2, effects(&[(b, Some(rb))]));
        // Written in two pieces, the later one first, with other entries in between.
        let (c, rc) = append(21, 5, 2);
        let three = (3, effects(&[copy(6, 5, 1, 3), (c, Some(Run { segment: SegmentSeq(3), ..rc }))]));
        let four = (4, effects(&[copy(1, 5, 1, 4)]));
        let all = [one, two, three, four];
        for freed in 0..2 {
            let found = merged(&all[freed..]).unwrap();
            assert_eq!(
                (found.first, found.last, found.prev_term),
                (Lsn(1), Lsn(25), Term(0)),
                "{freed} freed"
            );
        }
        // The first piece alone does not reach what comes behind.
        let found = merged(&all[1..3]).unwrap();
        assert_eq!((found.first, found.last, found.prev_term), (Lsn(6), Lsn(25), Term(1)));
    }

    #[test]
    fn an_overwrite_behind_a_copy_counts_and_one_before_it_is_kept() {
        let (a, ra) = append(1, 10, 1);
        let (b, rb) = append(8, 2, 3);
        let one = (1, effects(&[(a, Some(ra))]));
        for order in [[copy(1, 7, 1, 3), (b, Some(rb))], [(b, Some(rb)), copy(1, 7, 1, 3)]] {
            let found = merged(&[one.clone(), (3, effects(&order))]).unwrap();
            assert_eq!((found.first, found.last), (Lsn(1), Lsn(9)));
        }
        let found = merged(&[(2, effects(&[copy(1, 10, 1, 2)])), (3, effects(&[(b, Some(rb))]))]).unwrap();
        assert_eq!((found.first, found.last), (Lsn(1), Lsn(9)));
        let found = merged(&[(3, effects(&[copy(1, 10, 1, 3), (state(11, 10), None)]))]).unwrap();
        assert_eq!((found.first, found.last, found.prev_term), (Lsn(11), Lsn(10), Term(7)));
    }
}
