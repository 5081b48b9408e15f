//! What is kept of a partition beside its rows.

use corduroy_wal::{Lsn, Term};

use super::absent::AbsentKeys;

/// What is kept of a partition: the point of its history that the rows below stand for.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(in crate::store) struct PartitionMeta {
    pub(in crate::store) applied: Lsn,
    /// The history that the partition is on: 0 since it was made, another one since it was promoted from a copy.
    pub(in crate::store) history: u64,
    /// The version LSN of the last entry with operations: how far in its history it is.
    pub(in crate::store) source_lsn: Lsn,
    /// Of the entry above `applied`, the ops that are done too.
    pub(in crate::store) ops_done: u32,
    /// The version of the flush that began the default keyspace anew; 0: none did.
    pub(in crate::store) flush_version: u64,
    /// The highest stamp applied.
    pub(in crate::store) clock_ms: u64,
    pub(in crate::store) keys: u64,
    pub(in crate::store) expiring: u64,
    /// Rows were written since the last flush.
    pub(in crate::store) is_written: bool,
    /// Where keys went, for WATCH.
    pub(in crate::store) absent: AbsentKeys,
    /// The image that it was installed from as of `applied`, until an entry is applied: the log may not know of it yet.
    pub(in crate::store) installed: Option<Box<Installed>>,
}

/// What an image says of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::store) struct Installed {
    /// The term of the last entry that it includes.
    pub(in crate::store) term: Term,
    /// The configuration as of that entry.
    pub(in crate::store) configuration: Vec<u8>,
}
