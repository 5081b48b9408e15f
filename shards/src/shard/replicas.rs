//! The shard's replicas and the lists of those that have something to do.
//!
//! Invariant: an idle replica stands on no list: a turn costs what is active, whatever the number of partitions.

use corduroy_wal::{BatchSeq, Lsn};

use super::replica_slot::Slot;
use crate::clock::PartitionClock;
use crate::entry::Cursor;
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

/// Where a replica stood that was taken off: the next one of its partition in this process goes on there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detached {
    /// What the state machine has applied, and the highest stamp in it.
    pub applied: Lsn,
    pub stamp_ms: u64,
    /// How much of the entry behind that.
    pub cursor: Cursor,
    pub clock: PartitionClock,
    /// The last batch with a record of it: its log is not to be opened before that is durable.
    pub batch: Option<BatchSeq>,
}
