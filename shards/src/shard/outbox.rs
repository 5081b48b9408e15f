//! Outcomes on their way out.
//!
//! Invariant: whoever pushes an outcome has taken its request out of the counts; a request is answered once.

use corduroy_wal::Lsn;

use super::io::{Rejection, Reply};
#[cfg(feature = "sim")]
use super::options::PlantedBug;
use super::stages::Answered;
use crate::ids::{PartitionId, Ticket};

/// Outcomes and reports of a turn.
#[derive(Debug)]
pub(crate) struct Outbox<O> {
    pub replies: Vec<(Ticket, Reply<O>)>,
    /// Bytes that the steps of this part of the turn took.
    pub bytes: usize,
    pub answered: Vec<Answered>,
    pub fenced: Vec<(PartitionId, String)>,
    #[cfg(feature = "sim")]
    pub bug: Option<PlantedBug>,
    #[cfg(feature = "sim")]
    done: u64,
}

impl<O> Default for Outbox<O> {
    fn default() -> Self {
        Self {
            replies: Vec::new(),
            bytes: 0,
            answered: Vec::new(),
            fenced: Vec::new(),
            #[cfg(feature = "sim")]
            bug: None,
            #[cfg(feature = "sim")]
            done: 0,
        }
    }
}

impl<O> Outbox<O> {
    pub fn done(&mut self, ticket: Ticket, lsn: Lsn, outcome: O) {
        #[cfg(feature = "sim")]
        if self.is_bugged(ticket) {
            return;
        }
        self.replies.push((ticket, Reply::Done { lsn, outcome }));
    }

    pub fn reject(&mut self, ticket: Ticket, why: Rejection) {
        self.replies.push((ticket, Reply::Rejected(why)));
    }

    /// Plays the planted bugs on outcomes. Returns whether this one is to be lost.
    #[cfg(feature = "sim")]
    fn is_bugged(&mut self, ticket: Ticket) -> bool {
        self.done += 1;
        if !self.done.is_multiple_of(64) {
            return false;
        }
        if self.bug == Some(PlantedBug::SecondOutcome) {
            self.replies.push((ticket, Reply::Unknown));
        }
        self.bug == Some(PlantedBug::LostOutcome)
    }
}
