//! One shard's write-ahead log, shared by all the replicas (logs) that live in the shard.

mod batch;
pub mod device;
pub mod error;
pub mod format;
mod group_commit;
pub mod ids;
mod index;
pub mod inspect;
pub mod options;
pub mod planted;
mod pump;
mod reader;
mod reclaim;
pub mod record;
mod recovery;
mod runs;
mod scan;
mod segment;
pub mod wal;

pub use error::WalError;
pub use ids::{BatchSeq, LogId, Lsn, SegmentSeq, Term, WalPosition};
pub use options::{Options, ReadToken, Recovered, Space, WalEvent, WalStats};
pub use record::{EntryKind, EntryRef, HardState, LogState, OwnedEntry, RecordHead};
pub use wal::Wal;
