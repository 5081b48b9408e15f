//! The shard's replicas and the lists of those that have something to do.
//!
//! Invariant: an idle replica stands on no list: a turn costs what is active, whatever the number of partitions.

use super::replica_slot::Slot;
use crate::table::{QueueName, Table};

/// All replicas of a shard.
pub(crate) type Replicas = Table<Slot, List>;

/// Something that a replica may have to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum List {
    /// Start: the first election.
    Begin = 0,
    /// Batches wait to be proposed.
    Propose,
    /// Batches were begun since the last turn.
    Age,
    /// Its node may have a Ready.
    Ready,
    /// Entries wait to be applied.
    Apply,
    /// Something waits for whatever job of the state machine ends next.
    Blocked,
    /// Parked reads may be tried.
    Due,
    /// Ticks or deadlines run.
    Watched,
    /// It has applied more than the state machine has persisted.
    Unpersisted,
}

impl QueueName for List {
    const COUNT: usize = Self::Unpersisted as usize + 1;

    fn number(self) -> usize {
        self as usize
    }
}
