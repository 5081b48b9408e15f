//! Multi-Raft on cores: replicas of many partitions over one write-ahead log a shard.
//!
//! In reading order: [`machine`] (what entries are applied to), [`io`] (what goes into a shard and comes out),
//! [`entry`] (an entry's payload), [`raft`] (one replica), [`shard`] (the heart: all replicas of a shard, turn by
//! turn), with the slots of its replicas and apply beside it.

mod alarms;
mod apply;
pub mod clock;
mod closing;
pub mod entry;
pub mod ids;
pub mod io;
pub mod machine;
pub mod options;
mod parked;
pub mod raft;
mod room;
pub mod routing;
pub mod runtime;
mod screen;
pub mod shard;
#[cfg(feature = "sim")]
pub mod sim;
mod slot;
pub mod stages;
pub mod status;
#[cfg(test)]
mod tests;
mod waits;

pub use ::raft::StateRole as Role;
pub use clock::{ClockReport, Now};
pub use corduroy_wal as wal;
pub use ids::{PartitionId, ShardId, Ticket};
pub use io::{Input, Outputs, Rejection, Reply, ShardError};
pub use machine::{Applied, Kind, Prepared, StateMachine, Step, Unreadable, Wait};
pub use options::{Limits, ShardOptions};
pub use raft::proposals::StageStamps;
pub use shard::Shard;
pub use status::{Counters, Groups, ReplicaStatus, ShardStatus};
