//! Multi-Raft on cores: replicas of many partitions over one write-ahead log a shard.
//!
//! In reading order: [`machine`] (what entries are applied to), [`shard::io`] (what goes into a shard and comes out), [`entry`] (an entry's payload), [`raft`] (one replica), [`net`] (what two nodes send to each other), [`wires`] (the
//! sockets that it goes over), [`shard`] (the heart:
//! all replicas of a shard, turn by turn).

mod budget;
pub mod clock;
mod conns;
mod detached;
pub mod entry;
mod error;
pub mod forward;
mod fresh;
pub mod ids;
pub mod image;
mod inbox;
mod letters;
pub mod liveness;
pub mod machine;
pub mod net;
pub mod options;
mod outputs;
mod parked;
pub mod peer_event;
pub mod planted;
pub mod raft;
pub mod rejection;
mod reply;
mod room;
pub mod routing;
pub mod runtime;
mod screening;
pub mod shard;
#[cfg(feature = "sim")]
pub mod sim;
pub mod stages;
pub mod status;
mod step;
mod table;
#[cfg(test)]
mod tests;
mod waiting;
pub mod wires;

pub use ::raft::StateRole as Role;
pub use ::raft::eraftpb::Message as RaftMessage;
pub use clock::{ClockReport, Now};
pub use corduroy_wal as wal;
pub use ids::{KeyspaceId, PartitionId, ShardId, StorageId, Ticket};
pub use machine::{Applied, Kind, Prepared, StateMachine, Step, Unreadable, Urgency, Wait};
pub use options::{Limits, ShardOptions};
pub use raft::changes::{Change, ChangeRefusal};
pub use raft::contact::Contact;
pub use raft::leadership::{LeadChange, LeadCounts, LeadKind};
pub use raft::requests::{MemberCounts, MemberOutcome, MemberRequest};
pub use raft::snapshot::transfers::ImageOptions;
pub use raft::start::Origin;
pub use rejection::Rejection;
pub use shard::Shard;
pub use shard::io::{Input, Outputs, PeerMessage, Reply, ShardError};
pub use stages::{Stage, StageStamps};
pub use status::{Counters, ReplicaStatus, ShardStatus};
