//! One shard's write-ahead log, shared by all the replicas (logs) that live in the shard.

pub mod device;
pub mod ids;
pub mod record;
pub mod wal;

pub use ids::{BatchSeq, LogId, Lsn, SegmentSeq, Term, WalPosition};
pub use record::{EntryKind, EntryRef, HardState, LogState, OwnedEntry, RecordHead};
pub use wal::{Options, ReadToken, Recovered, Space, Wal, WalError, WalEvent};
