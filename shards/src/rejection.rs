//! Why a request was definitely not done.
//!
//! Invariant: whoever gets one may send its request again without doing it twice.

use crate::ids::{PartitionId, StorageId};
use crate::raft::replica::ReplicaError;
use crate::step::Unreadable;

/// Why a request was definitely not done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejection {
    /// No such partition on this shard.
    #[error("partition {0} is not on this shard")]
    NoPartition(PartitionId),
    /// Too much is waiting already.
    #[error("too many requests are waiting: {0}")]
    Overloaded(&'static str),
    /// The disk (or the log's limit) is full.
    #[error("no space left for the log or the state")]
    DiskFull,
    /// No leader could be had in time.
    #[error("no leader for partition {0}")]
    NoLeader(PartitionId),
    /// Another replica leads: ask there.
    #[error("partition {0} is led by its replica on storage {1}")]
    NotLeader(PartitionId, StorageId),
    /// The entry was replaced by another leader's before it was committed.
    #[error("the entry was obsoleted by another leader's")]
    Obsoleted,
    /// The replica was fenced or stopped before the entry was appended.
    #[error("replica of partition {0} is stopped: {1}")]
    ReplicaStopped(PartitionId, String),
    /// What the request needs of the state is damaged on the disk.
    #[error("partition {0}: {1}")]
    Damaged(PartitionId, String),
    /// What the request needs of the state could not be read now.
    #[error("partition {0}: {1}")]
    Unreadable(PartitionId, String),
    /// A change of the group's members, or a transfer of its lead, was refused.
    #[error("partition {0}: {1}")]
    Refused(PartitionId, String),
    /// The request is larger than an entry may be.
    #[error("the request of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

impl Rejection {
    /// Of a request of the partition that needs what cannot be read.
    #[must_use]
    pub fn unreadable(partition: PartitionId, why: Unreadable) -> Self {
        match why {
            Unreadable::Damaged(what) => Self::Damaged(partition, what),
            Unreadable::Refused(what) => Self::Unreadable(partition, what),
        }
    }
}

impl From<&ReplicaError> for Rejection {
    fn from(error: &ReplicaError) -> Self {
        match error {
            ReplicaError::ReadyTimeout { partition, .. } => Self::NoLeader(*partition),
            ReplicaError::ReplicaStopped { partition, why } => Self::ReplicaStopped(*partition, why.clone()),
            ReplicaError::Obsoleted { .. } => Self::Obsoleted,
        }
    }
}
