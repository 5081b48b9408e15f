//! LCS under way, and done: what jobs fill large tables for, while others are served.
//!
//! Invariant: an outcome is given only while the values are those that it was made of. So it is as of the moment at which it
//! is given, whoever asked for it first.

use corduroy_shards::PartitionId;

use super::kept::{Asked, Bounds, Held, Idle, Kept};
use crate::store::op::{Outcome, SharedBytes};
use crate::store::text::lcs::{Lcs, table_bytes};

/// Jobs that may find that the values have changed meanwhile; then the op does it by itself.
const MAX_TRIES: u32 = 3;
/// Jobs that end without the outcome being asked for, until it is given up: its op is tried again each time.
const MAX_IDLE_JOBS: u32 = 64;
/// Those under way and done, at which an LCS waits until one has been answered.
const MAX_SUBSEQUENCES: usize = 16;

/// What is asked for: the keys, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::store) struct Question {
    pub(in crate::store) partition: PartitionId,
    pub(in crate::store) a: Vec<u8>,
    pub(in crate::store) b: Vec<u8>,
    pub(in crate::store) ask: Lcs,
}

/// The values of its keys.
#[derive(Clone, Debug)]
pub(in crate::store) struct Values {
    pub(in crate::store) a: SharedBytes,
    pub(in crate::store) b: SharedBytes,
    pub(in crate::store) versions: (u64, u64),
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

pub(in crate::store) enum Answer {
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

    pub(in crate::store) fn ask(&mut self, of: Question, values: Values, max_bytes: usize) -> Answer {
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

    /// Those that a job is to do now: number, values, and how.
    pub(in crate::store) fn begin_wanted(
        &mut self,
    ) -> impl Iterator<Item = (u64, SharedBytes, SharedBytes, Lcs)> {
        self.all.iter_mut().filter_map(|wanted| match std::mem::replace(&mut wanted.state, State::UnderWay) {
            State::Wanted(Values { a, b, .. }) => Some((wanted.number, a, b, wanted.of.ask)),
            other => {
                wanted.state = other;
                None
            }
        })
    }

    /// Jobs have ended, so that ops that wait are tried again; or they are to be, since there is room again. Returns whether
    /// somebody who waits can go on, and no job would have it tried.
    pub(in crate::store) fn age(&mut self, jobs_ended: bool, max_bytes: usize) -> bool {
        if jobs_ended {
            self.all.age();
        }
        self.all.take_wake(bounds(max_bytes))
    }

    /// How many are under way or done.
    #[cfg(test)]
    pub(in crate::store) fn len(&self) -> usize {
        self.all.len()
    }

    /// A job has done one; nobody may want it any more.
    pub(in crate::store) fn done(&mut self, number: u64, outcome: Outcome) {
        if let Some(known) = self.all.iter_mut().find(|known| known.number == number) {
            known.bytes = known.of.held_bytes() + outcome.cost_bytes();
            known.state = State::Done(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_table_of_a_job_counts_and_takes_a_bit_a_cell() {
        let share = |len| SharedBytes::new(Arc::new(vec![b'x'; len]), 0..len);
        let (mut all, a, b) = (Subsequences::default(), share(8000), share(8000));
        let of = Question {
            partition: PartitionId(1),
            a: b"a".to_vec(),
            b: b"b".to_vec(),
            ask: Lcs { len: false, idx: false, min_match_len: 0, with_match_len: false },
        };
        let held_bytes = of.held_bytes();
        let values = Values { a, b, versions: (1, 2) };
        assert!(matches!(all.ask(of, values, 1 << 30), Answer::Wait));
        let table_bytes = all.held_bytes() - held_bytes - 16_000;
        assert!((8_000_000..8_100_000).contains(&table_bytes), "{table_bytes} bytes for 64 million cells");
    }
}
