//! Multi-Raft on cores: replicas of many partitions over one write-ahead log a shard.

pub mod ids;
pub mod machine;
pub mod runtime;
pub mod shard;

pub use corduroy_wal as wal;
pub use ids::{PartitionId, ShardId, Ticket};
pub use machine::{Applied, Kind, StateMachine, Step};
pub use shard::{Input, Now, Outputs, Rejection, Reply, Shard};
