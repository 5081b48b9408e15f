//! What goes into a shard and what comes out of it.
//!
//! Invariant: every request handed in comes out as exactly one [`Reply`], whatever happens to its replica.

use raft::eraftpb::Message;

pub use crate::error::ShardError;
use crate::ids::{PartitionId, StorageId, Ticket};
use crate::machine::Kind;
pub use crate::outputs::{Outputs, PeerMessage};
pub use crate::raft::changes::{Change, ChangeRefusal};
pub use crate::raft::requests::{MemberOutcome, MemberRequest};
pub use crate::rejection::Rejection;
pub use crate::reply::Reply;

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
