//! Outcomes on their way out.
//!
//! Invariant: whoever pushes an outcome has taken its request out of the counts; a request is answered once.

use corduroy_wal::Lsn;

use super::io::{PeerMessage, Rejection, Reply};
use crate::ids::{PartitionId, Ticket};
use crate::planted::{self, PlantedBug};
use crate::raft::leadership::LeadChange;
use crate::stages::Answered;

/// Outcomes and reports of a turn.
#[derive(Debug)]
pub(crate) struct Outbox<O> {
    pub replies: Vec<(Ticket, Reply<O>)>,
    /// Bytes that the steps of this part of the turn took.
    pub bytes: usize,
    pub answered: Vec<Answered>,
    pub messages: Vec<PeerMessage>,
    pub fenced: Vec<(PartitionId, String)>,
    pub removed: Vec<(PartitionId, Lsn)>,
    pub leads: Vec<LeadChange>,
}

impl<O> Default for Outbox<O> {
    fn default() -> Self {
        let (replies, answered, messages) = (Vec::new(), Vec::new(), Vec::new());
        let (fenced, removed, leads) = (Vec::new(), Vec::new(), Vec::new());
        Self { replies, bytes: 0, answered, messages, fenced, removed, leads }
    }
}

impl<O> Outbox<O> {
    /// Ends a part of a turn, reads or entries: each may bring so much, so that entries go on however much clients read.
    /// Reads that are parked since a part brought all it may are tried in the next turn.
    pub const fn next_part(&mut self) {
        self.bytes = 0;
    }

    pub fn done(&mut self, ticket: Ticket, lsn: Lsn, outcome: O) {
        if planted::strikes(PlantedBug::LostOutcome) {
            return;
        }
        if planted::strikes(PlantedBug::SecondOutcome) {
            self.replies.push((ticket, Reply::Unknown));
        }
        self.replies.push((ticket, Reply::Done { lsn, outcome }));
    }

    pub fn reject(&mut self, ticket: Ticket, why: Rejection) {
        self.replies.push((ticket, Reply::Rejected(why)));
    }
}
