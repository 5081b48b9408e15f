//! The outcome of a request.
//!
//! Invariant: "rejected" is said only of what was certainly not done.

use corduroy_wal::Lsn;

use crate::planted::{self, PlantedBug};
use crate::raft::proposals::Work;
use crate::rejection::Rejection;

/// The one outcome of a request.
#[derive(Debug)]
pub enum Reply<O> {
    /// Done; durable on a majority and applied (or, for a read, linearizable).
    Done {
        /// The entry that carried it; for a read, the applied LSN it saw.
        lsn: Lsn,
        /// What the state machine answered.
        outcome: O,
    },
    /// Definitely not done.
    Rejected(Rejection),
    /// It may or may not have been done, or be done yet.
    Unknown,
}

impl<O> Reply<O> {
    /// The answer to a request whose entry may be in the log: it is certain of reads alone that they were not done.
    pub(crate) fn of_logged(work: Work, why: &Rejection) -> Self {
        match work {
            Work::Write if !planted::is(PlantedBug::UnknownCalledRefused) => Self::Unknown,
            Work::Write | Work::Read { .. } => Self::Rejected(why.clone()),
        }
    }
}
