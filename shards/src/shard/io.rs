//! What goes into a shard and what comes out of it.
//!
//! Invariant: every request handed in comes out as exactly one [`Reply`], whatever happens to its replica.

use corduroy_wal::Lsn;
use raft::eraftpb::Message;

use crate::clock::ClockReport;
pub use crate::error::ShardError;
use crate::ids::{PartitionId, StorageId, Ticket};
use crate::machine::{Kind, StateMachine};
pub use crate::raft::changes::{Change, ChangeRefusal};
pub use crate::raft::requests::{MemberOutcome, MemberRequest};
pub use crate::rejection::Rejection;
pub use crate::reply::Reply;
use crate::stages::{self, Answered, StageStamps};

/// A shard's inputs. Handling only queues; the work happens in the turn.
#[derive(Debug)]
pub enum Input<'a, J> {
    /// A request of a client for one partition.
    Request {
        /// The request's id.
        ticket: Ticket,
        /// For which partition.
        partition: PartitionId,
        /// Logged or not.
        kind: Kind,
        /// The operation, in the state machine's encoding.
        op: &'a [u8],
    },
    /// A request about the members of a group, for the replica that leads it.
    Members {
        /// The request's id.
        ticket: Ticket,
        /// Of which group.
        partition: PartitionId,
        /// What is asked.
        request: MemberRequest,
    },
    /// A job of the state machine has ended.
    JobDone(J),
    /// A message of another member of a group. Whoever hands it in knows that it comes from that storage of the cluster; of what
    /// is in it nothing is believed.
    Message {
        /// Of which group.
        partition: PartitionId,
        /// The storage that the sender is on.
        from: StorageId,
        /// The message.
        message: Box<Message>,
    },
    /// A message to the group's member on a storage could not be sent, or got lost on the way.
    Unreachable {
        /// Of which group.
        partition: PartitionId,
        /// The storage that the member is on.
        to: StorageId,
    },
}

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
