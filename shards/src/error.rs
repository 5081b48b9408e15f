//! What ends a shard, and with it the process.
//!
//! Invariant: one replica's fault is none of these; it is fenced, and the others go on.

use corduroy_wal::WalError;

use crate::ids::PartitionId;

/// What ends a shard, and with it the process.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The log failed; restart to read back what the disk holds.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The state machine could not write or read its files.
    #[error("the state cannot go on: {0}")]
    Machine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A partition was named twice.
    #[error("partition {0} is listed twice for this shard")]
    ListedTwice(PartitionId),
    /// It ended earlier with another error.
    #[error("the shard ended with an earlier error")]
    Ended,
}
