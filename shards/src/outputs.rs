//! What a turn of a shard brought, for its driver to carry out.
//!
//! Invariant: all of it is there when the turn returns; the driver takes it in any order, but each kind in its own.

use corduroy_wal::Lsn;
use raft::eraftpb::Message;

use crate::clock::ClockReport;
use crate::ids::{PartitionId, StorageId, Ticket};
use crate::machine::StateMachine;
use crate::raft::leadership::LeadChange;
use crate::raft::requests::MemberOutcome;
use crate::reply::Reply;
use crate::stages::{self, Answered, StageStamps};

/// A message of a replica to another member of its group.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerMessage {
    /// Of which group.
    pub partition: PartitionId,
    /// The storage that the member is on which it is for.
    pub to: StorageId,
    /// The message. It may leave at once: what it says is durable.
    pub message: Message,
}

/// What a turn brought, for the driver to carry out.
#[derive(Debug)]
pub struct Outputs<M: StateMachine> {
    /// Outcomes, in the order that they were decided.
    pub replies: Vec<(Ticket, Reply<M::Outcome>)>,
    /// Outcomes of requests about members.
    pub members: Vec<(Ticket, MemberOutcome)>,
    /// Replicas that were removed from their groups, and by which entry. Their data may go.
    pub removed: Vec<(PartitionId, Lsn)>,
    /// Leads of groups with several members that have begun or ended, in the order that they did.
    pub leads: Vec<LeadChange>,
    /// Messages to other members of groups, in the order in which each member is to have them.
    pub messages: Vec<PeerMessage>,
    /// Work for the blocking pool.
    pub jobs: Vec<M::Job>,
    /// Replicas that were fenced or could not start, and why.
    pub fenced: Vec<(PartitionId, String)>,
    /// Stamps have got ahead of the wall clock, or have come together with it again.
    pub clock: Option<ClockReport>,
    /// Turn again at once: more work is left than a turn may do.
    pub again: bool,
    /// Turn again at this monotonic time at the latest, if any timer runs.
    pub wake_at_ns: Option<u64>,
    /// When replies passed their stages, by their numbers.
    answered: Vec<Answered>,
}

impl<M: StateMachine> Default for Outputs<M> {
    fn default() -> Self {
        Self {
            replies: Vec::new(),
            members: Vec::new(),
            removed: Vec::new(),
            leads: Vec::new(),
            messages: Vec::new(),
            jobs: Vec::new(),
            fenced: Vec::new(),
            clock: None,
            again: false,
            wake_at_ns: None,
            answered: Vec::new(),
        }
    }
}

impl<M: StateMachine> Outputs<M> {
    /// Takes all outcomes, in order; with those of logged entries comes when they passed their stages.
    pub fn take_replies(
        &mut self,
    ) -> impl Iterator<Item = (Ticket, Reply<M::Outcome>, Option<StageStamps>)> + use<'_, M> {
        stages::with_stamps(&mut self.replies, &mut self.answered)
    }

    /// Adds a turn's outcomes behind those that were not taken yet.
    pub(crate) fn add_replies(
        &mut self,
        replies: &mut Vec<(Ticket, Reply<M::Outcome>)>,
        answered: &mut Vec<Answered>,
    ) {
        stages::append((&mut self.replies, &mut self.answered), (replies, answered));
    }
}
