//! What is kept of a replica that was taken off its shard.
//!
//! Invariant: what is applied is not applied again in this process.

use corduroy_wal::{BatchSeq, Lsn};

use crate::clock::PartitionClock;
use crate::entry::Cursor;

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
