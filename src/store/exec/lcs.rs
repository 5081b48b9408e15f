//! LCS: the longest common subsequence of two values, by the table that Redis fills too, so that ties fall alike.
//!
//! A job fills a large table, while others are served. Its outcome is given if the values are still the same: so it is as of
//! the moment at which it is given, whoever asked for it first.

use std::sync::Arc;

use corduroy_shards::PartitionId;

use super::kept::{Asked, Bounds, Held, Idle, Kept};
use super::write::length;
use crate::store::disk::DiskLevel;
use crate::store::exec::{Exec, Run, Stop};
use crate::store::jobs::{Job, Task};
use crate::store::memory::row::Row;
use crate::store::op::{ErrorKind, Outcome, SharedBytes};
use crate::store::state::Store;

/// The table may have so many cells, one for each pair of prefixes: as Redis has them, with a limit that keeps one command
/// below a second.
const MAX_CELLS: usize = 64 << 20;
/// Cells of a table that are filled on the spot.
const FEW_CELLS: usize = 1 << 18;
/// Jobs that may find that the values have changed meanwhile; then the op does it by itself.
const MAX_TRIES: u32 = 3;
/// Jobs that end without the outcome being asked for, until it is given up: its op is tried again each time.
const MAX_IDLE_JOBS: u32 = 64;
/// Those under way and done, at which an LCS waits until one has been answered.
const MAX_SUBSEQUENCES: usize = 16;

/// What LCS was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) struct Lcs {
    pub(in crate::store) len: bool,
    pub(in crate::store) idx: bool,
    pub(in crate::store) min_match_len: u64,
    pub(in crate::store) with_match_len: bool,
}

impl Exec<'_> {
    pub(in crate::store) fn lcs(&mut self, a: &[u8], b: &[u8], ask: Lcs) -> Run {
        self.know([a, b])?;
        let keys = (a, b);
        let (a, a_version) = share_of(self.live(a)?);
        let (b, b_version) = share_of(self.live(b)?);
        let cells = (a.len() + 1).checked_mul(b.len() + 1);
        let too_long = Stop::Error(ErrorKind::SubsequenceTooLong);
        let cells = cells.filter(|cells| *cells <= MAX_CELLS).ok_or(too_long)?;
        // Inside a transaction it has to be done now.
        if cells > FEW_CELLS && !self.committed {
            let of = Question { partition: self.partition.id, a: keys.0.to_vec(), b: keys.1.to_vec(), ask };
            let values = Values { a: a.clone(), b: b.clone(), versions: (a_version, b_version) };
            match self.ledger.subsequences.ask(of, values, self.options.max_reply_bytes) {
                Answer::Known(outcome) => return Ok(outcome),
                Answer::Wait => return Err(Stop::Blocked),
                Answer::Changing => {}
            }
        }
        self.moved_bytes += cells;
        Ok(longest_common(a.as_slice(), b.as_slice(), ask))
    }
}

/// A share of a row's value, and its version.
fn share_of(row: Option<&Row>) -> (SharedBytes, u64) {
    let Some(row) = row else { return (SharedBytes::new(Arc::default(), 0..0), 0) };
    let share = if let Outcome::Shared(share) = row.answer(..) {
        share
    } else {
        SharedBytes::new(Arc::new(row.value().to_vec()), 0..row.value().len())
    };
    (share, row.version)
}

/// What is asked for: the keys, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Question {
    partition: PartitionId,
    a: Vec<u8>,
    b: Vec<u8>,
    ask: Lcs,
}

/// The values of its keys.
#[derive(Clone, Debug)]
struct Values {
    a: SharedBytes,
    b: SharedBytes,
    versions: (u64, u64),
}

#[derive(Debug)]
enum State {
    Wanted(Values),
    UnderWay,
    Done(Outcome),
}

/// One that a job does, or has done.
#[derive(Debug)]
struct Subsequence {
    number: u64,
    of: Question,
    versions: (u64, u64),
    state: State,
    tries: u32,
    /// What the values and their table take, or the outcome, and the keys.
    bytes: usize,
}

impl Asked for Subsequence {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn goes_on(&self, _: Idle) -> bool {
        self.stays()
    }

    /// Its job holds the values, whoever still wants the outcome.
    fn stays(&self) -> bool {
        match self.state {
            State::Wanted(_) | State::UnderWay => true,
            State::Done(_) => false,
        }
    }
}

enum Answer {
    Known(Outcome),
    Wait,
    /// The values change too often for a job.
    Changing,
}

/// All that jobs do, or have done.
#[derive(Debug, Default)]
pub(in crate::store) struct Subsequences {
    all: Kept<Subsequence>,
    last: u64,
}

/// What all of them may take.
const fn bounds(max_bytes: usize) -> Bounds {
    Bounds { count: MAX_SUBSEQUENCES, bytes: max_bytes }
}

impl Question {
    fn held_bytes(&self) -> usize {
        size_of::<Held<Subsequence>>() + self.a.len() + self.b.len()
    }
}

impl Subsequences {
    /// What they take in memory, roughly.
    pub(in crate::store) fn held_bytes(&self) -> usize {
        self.all.bytes()
    }

    fn ask(&mut self, of: Question, values: Values, max_bytes: usize) -> Answer {
        if let Some(known) = self.all.iter_mut().find(|known| known.of == of) {
            known.idle.asked();
            if known.stays() {
                return Answer::Wait;
            }
        }
        let tries = match self.all.take(|known| known.of == of).map(|held| held.item) {
            None if !self.all.make_room(bounds(max_bytes)) => {
                self.all.want_room();
                return Answer::Wait;
            }
            None => 0,
            Some(Subsequence { versions, state: State::Done(outcome), .. })
                if versions == values.versions =>
            {
                return Answer::Known(outcome);
            }
            Some(changed) if changed.tries >= MAX_TRIES => return Answer::Changing,
            Some(changed) => changed.tries,
        };
        self.begin(of, values, tries + 1);
        Answer::Wait
    }

    fn begin(&mut self, of: Question, values: Values, tries: u32) {
        self.last += 1;
        let (number, versions) = (self.last, values.versions);
        let (a, b) = (&values.a, &values.b);
        let bytes = of.held_bytes() + a.len() + b.len() + table_bytes(a.len(), b.len());
        let state = State::Wanted(values);
        let one = Subsequence { number, of, versions, state, tries, bytes };
        self.all.push(one, Idle::new(MAX_IDLE_JOBS));
    }

    /// A job has done one; nobody may want it any more.
    pub(in crate::store) fn done(&mut self, number: u64, outcome: Outcome) {
        if let Some(known) = self.all.iter_mut().find(|known| known.number == number) {
            known.bytes = known.of.held_bytes() + outcome.cost_bytes();
            known.state = State::Done(outcome);
        }
    }
}

impl<L: DiskLevel> Store<L> {
    /// Jobs have ended, so that ops that wait are tried again; or they are to be, since there is room again.
    pub(in crate::store) fn age_subsequences(&mut self, jobs_ended: bool) {
        let all = &mut self.ledger.subsequences.all;
        if jobs_ended {
            all.age();
        }
        if all.take_wake(bounds(self.options.max_reply_bytes)) {
            self.jobs.push(Job { disk: self.disk.clone(), task: Task::Nothing });
        }
    }

    /// Makes jobs of what ops wait for.
    pub(in crate::store) fn begin_subsequences(&mut self) {
        for wanted in self.ledger.subsequences.all.iter_mut() {
            if let State::Wanted(Values { a, b, .. }) = &wanted.state {
                let (a, b, ask) = (a.clone(), b.clone(), wanted.of.ask);
                let task = Task::Subsequence { number: wanted.number, a, b, ask };
                self.jobs.push(Job { disk: self.disk.clone(), task });
                wanted.state = State::UnderWay;
            }
        }
    }
}

#[cfg(test)]
impl<L: DiskLevel> Store<L> {
    /// How many are under way or done, and what they hold.
    pub(in crate::store) fn subsequences(&self) -> (usize, usize) {
        let all = &self.ledger.subsequences.all;
        (all.len(), all.bytes())
    }
}

/// The way back from the ends of two values, along which their longest common subsequence lies: for each pair of prefixes, a
/// bit that is set if the first one without its last byte has more in common with the second one than the other way round.
#[derive(Default)]
struct Ways {
    words: Vec<u64>,
    /// The bits of the last word, while it is filled.
    last: u64,
    bits: usize,
}

impl Ways {
    #[inline]
    fn push(&mut self, is_up: bool) {
        self.last |= u64::from(is_up) << (self.bits % 64);
        self.bits += 1;
        if self.bits.is_multiple_of(64) {
            self.words.push(std::mem::take(&mut self.last));
        }
    }

    fn is_up(&self, bit: usize) -> bool {
        let word = self.words.get(bit / 64).copied().unwrap_or(self.last);
        word >> (bit % 64) & 1 == 1
    }
}

/// What the table for values of these lengths takes in memory.
const fn table_bytes(a_len: usize, b_len: usize) -> usize {
    a_len * b_len / 8 + (b_len + 1) * size_of::<u32>()
}

/// Fills the table, row by row: hands `way` the bits of [`Ways`] in order, and returns the length.
fn fill(a: &[u8], b: &[u8], mut way: impl FnMut(bool)) -> usize {
    let mut row = vec![0u32; b.len() + 1];
    for a_byte in a {
        let (mut corner, mut left) = (0, 0);
        for (b_byte, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let up = *cell;
            way(up > left);
            *cell = if a_byte == b_byte { corner + 1 } else { left.max(up) };
            (corner, left) = (up, *cell);
        }
    }
    row.last().map_or(0, |length| *length as usize)
}

/// A run of bytes common to both: the last byte's index in each, and the run's length.
struct Match {
    a_end: usize,
    b_end: usize,
    len: usize,
}

pub(in crate::store) fn longest_common(a: &[u8], b: &[u8], ask: Lcs) -> Outcome {
    if ask.len && !ask.idx {
        return length(fill(a, b, |_| {}));
    }
    let mut ways = Ways { words: Vec::with_capacity(a.len() * b.len() / 64), ..Ways::default() };
    let total = fill(a, b, |is_up| ways.push(is_up));
    let (mut i, mut j) = (a.len(), b.len());
    let mut common = Vec::with_capacity(total);
    let mut matches: Vec<Match> = Vec::new();
    while i > 0 && j > 0 {
        let (a_byte, b_byte) = (a.get(i - 1), b.get(j - 1));
        if a_byte == b_byte {
            common.extend(a_byte);
            match matches.last_mut() {
                Some(run) if run.a_end + 1 == i + run.len && run.b_end + 1 == j + run.len => run.len += 1,
                _ => matches.push(Match { a_end: i - 1, b_end: j - 1, len: 1 }),
            }
            (i, j) = (i - 1, j - 1);
        } else if ways.is_up((i - 1) * b.len() + j - 1) {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    if !ask.idx {
        common.reverse();
        return Outcome::Bulk(common);
    }
    let min_len = ask.min_match_len.max(1);
    let matches = matches.iter().filter(|run| run.len as u64 >= min_len);
    let matches = matches.map(|run| run.outcome(ask.with_match_len)).collect();
    Outcome::Map(vec![
        (Outcome::Bulk(b"matches".to_vec()), Outcome::Array(matches)),
        (Outcome::Bulk(b"len".to_vec()), length(total)),
    ])
}

impl Match {
    fn outcome(&self, with_len: bool) -> Outcome {
        let range = |end: usize| Outcome::Array(vec![length(end + 1 - self.len), length(end)]);
        let mut parts = vec![range(self.a_end), range(self.b_end)];
        if with_len {
            parts.push(length(self.len));
        }
        Outcome::Array(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(len: bool, idx: bool, min_match_len: u64, with_match_len: bool) -> Lcs {
        Lcs { len, idx, min_match_len, with_match_len }
    }

    fn range(start: i64, end: i64) -> Outcome {
        Outcome::Array(vec![Outcome::Int(start), Outcome::Int(end)])
    }

    #[test]
    fn the_example_of_the_manual() {
        let (a, b) = (b"ohmytext", b"mynewtext");
        assert_eq!(longest_common(a, b, ask(false, false, 0, false)), Outcome::Bulk(b"mytext".to_vec()));
        assert_eq!(longest_common(a, b, ask(true, false, 0, false)), Outcome::Int(6));
        let expected = |matches| {
            Outcome::Map(vec![
                (Outcome::Bulk(b"matches".to_vec()), Outcome::Array(matches)),
                (Outcome::Bulk(b"len".to_vec()), Outcome::Int(6)),
            ])
        };
        let (text, my) = ([range(4, 7), range(5, 8)], [range(2, 3), range(0, 1)]);
        assert_eq!(
            longest_common(a, b, ask(false, true, 0, false)),
            expected(vec![Outcome::Array(text.to_vec()), Outcome::Array(my.to_vec())])
        );
        let with_len = [text[0].clone(), text[1].clone(), Outcome::Int(4)];
        assert_eq!(
            longest_common(a, b, ask(false, true, 4, true)),
            expected(vec![Outcome::Array(with_len.to_vec())])
        );
    }

    /// As Redis does it: with the lengths of all pairs of prefixes at hand.
    fn by_lengths(a: &[u8], b: &[u8]) -> Vec<u8> {
        let mut lengths = vec![vec![0u32; b.len() + 1]; a.len() + 1];
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                lengths[i][j] = match a[i - 1] == b[j - 1] {
                    true => lengths[i - 1][j - 1] + 1,
                    false => lengths[i - 1][j].max(lengths[i][j - 1]),
                };
            }
        }
        let (mut i, mut j, mut common) = (a.len(), b.len(), Vec::new());
        while i > 0 && j > 0 {
            if a[i - 1] == b[j - 1] {
                common.push(a[i - 1]);
                (i, j) = (i - 1, j - 1);
            } else if lengths[i - 1][j] > lengths[i][j - 1] {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        common.reverse();
        common
    }

    #[test]
    fn ties_fall_as_with_the_lengths_of_all_prefixes() {
        let text = |seed: u64, len: u64| -> Vec<u8> {
            (0..len).map(|at| b'a' + (corduroy_wal::mix::scramble(seed << 20 | at) % 3) as u8).collect()
        };
        for seed in 0..200 {
            let (a, b) = (text(2 * seed, seed % 41), text(2 * seed + 1, seed * 7 % 67));
            let expected = by_lengths(&a, &b);
            let total = i64::try_from(expected.len()).expect("short");
            assert_eq!(longest_common(&a, &b, ask(true, false, 0, false)), Outcome::Int(total));
            assert_eq!(longest_common(&a, &b, ask(false, false, 0, false)), Outcome::Bulk(expected));
        }
    }

    #[test]
    fn the_table_of_a_job_counts_and_takes_a_bit_a_cell() {
        let share = |len| SharedBytes::new(Arc::new(vec![b'x'; len]), 0..len);
        let (mut all, a, b) = (Subsequences::default(), share(8000), share(8000));
        let of = Question {
            partition: PartitionId(1),
            a: b"a".to_vec(),
            b: b"b".to_vec(),
            ask: ask(false, false, 0, false),
        };
        let held_bytes = of.held_bytes();
        let values = Values { a, b, versions: (1, 2) };
        assert!(matches!(all.ask(of, values, 1 << 30), Answer::Wait));
        let table_bytes = all.held_bytes() - held_bytes - 16_000;
        assert!((8_000_000..8_100_000).contains(&table_bytes), "{table_bytes} bytes for 64 million cells");
    }

    #[test]
    fn nothing_in_common() {
        assert_eq!(longest_common(b"abc", b"", ask(false, false, 0, false)), Outcome::Bulk(Vec::new()));
        assert_eq!(longest_common(b"abc", b"xyz", ask(true, false, 0, false)), Outcome::Int(0));
    }
}
