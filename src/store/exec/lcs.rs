//! LCS: on the spot where its table is small, by a job where it is large.

use std::sync::Arc;

use crate::store::disk::DiskLevel;
use crate::store::exec::{Exec, Run, Stop};
use crate::store::jobs::{Job, Task};
use crate::store::memory::row::Row;
use crate::store::memory::subsequences::{Answer, Question, Values};
use crate::store::op::{ErrorKind, Outcome, SharedBytes};
use crate::store::state::Store;
use crate::store::text::lcs::{Lcs, longest_common};

/// The table may have so many cells, one for each pair of prefixes: as Redis has them, with a limit that keeps one command
/// below a second.
const MAX_CELLS: usize = 64 << 20;
/// Cells of a table that are filled on the spot.
const FEW_CELLS: usize = 1 << 18;

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

impl<L: DiskLevel> Store<L> {
    /// Jobs have ended, so that ops that wait are tried again; or they are to be, since there is room again.
    pub(in crate::store) fn age_subsequences(&mut self, jobs_ended: bool) {
        if self.ledger.subsequences.age(jobs_ended, self.options.max_reply_bytes) {
            self.jobs.push(Job { disk: self.disk.clone(), task: Task::Nothing });
        }
    }

    /// Makes jobs of what ops wait for.
    pub(in crate::store) fn begin_subsequences(&mut self) {
        let wanted = self.ledger.subsequences.begin_wanted();
        let tasks = wanted.map(|(number, a, b, ask)| Task::Subsequence { number, a, b, ask });
        self.jobs.extend(tasks.map(|task| Job { disk: self.disk.clone(), task }));
    }
}

#[cfg(test)]
impl<L: DiskLevel> Store<L> {
    /// How many are under way or done, and what they hold.
    pub(in crate::store) fn subsequences(&self) -> (usize, usize) {
        let all = &self.ledger.subsequences;
        (all.len(), all.held_bytes())
    }
}
