//! One shard's write-ahead log, shared by all the replicas (logs) that live in the shard.
//!
//! ```text
//! folder    slot files whose sizes double up to a limit, zero-written once, used again and again
//! slot      [ header block | frame | frame | ...              | footer ]
//! header    twice, in sectors 0 and 1: WAL id, segment number, salt, where the segment before ended, oldest live
//! frame     whole 4 KiB blocks, written once = one group commit:
//!           { magic crc salt batch durable oldest_live offset content_bytes records records_crc } record ...
//! record    { len crc log flags|kind count first last prev_term } [hard state] [conf] { len kind term data } ...
//! sector    every 512 bytes of a frame: 508 bytes of content, 4 bytes of stamp(salt, sector number)
//!           a record adds entries, states a log's bounds, ends a log, or repeats entries to free their old segment
//! footer    at the slot's end, after all frames are durable: per log runs, states; { ... crc }
//! ```
//!
//! **The walk of a frame.** `append` encodes a record into the open batch's device buffer; `submit` closes the batch,
//! gives it its position (rolling to a spare slot if it does not fit) and hands it to the device; `poll` collects what
//! has ended and moves the durable watermark over the contiguous prefix. Until then entries are read from the buffer.
//!
//! **Promises.**
//! * A batch is reported durable only if it and all before it are on the medium. A failed write or sync poisons the WAL.
//! * After a crash the log is a prefix of the batches, not shorter than what was reported, each record whole or absent.
//! * Bytes that are not what was written are cut off only if they cannot have been acknowledged: some sector of them never
//!   arrived (its stamp is not there), and nothing written later knows them as durable. All else is refused as damage. A
//!   damaged stamp alone is harmless, since checksums cover content only.
//! * What a log's end says about the end stands once more in the manifest: no frame of a new segment is reported
//!   durable before the manifest names the segment, and at a clean stop or at rest the manifest knows the last batch. A
//!   tail that it knows and that is missing is damage, wherever the damage is.
//! * Live entries of sealed segments are verified when they are read; a start that replays them therefore meets any
//!   damage. Released entries are no longer data.
//! * Bytes of an earlier use of a slot never come back: salts differ, writing after a restart goes on in a new segment
//!   whose header says where the old one ended (on a full disk in the old one, once what lies behind its end was
//!   overwritten with zeros), and a slot is reused only after a durable frame says it is free.

mod batch;
#[cfg(feature = "sim")]
mod check;
pub mod device;
pub mod error;
pub mod fields;
pub mod format;
mod group_commit;
mod growth;
pub mod ids;
mod index;
pub mod inspect;
mod manifest;
pub mod mix;
pub mod options;
pub mod planted;
mod pump;
mod reader;
mod reclaim;
pub mod record;
mod recovery;
mod reserve;
mod resume;
mod retention;
mod rewrite;
mod runs;
mod scan;
mod segment;
pub mod wal;

pub use error::WalError;
pub use ids::{BatchSeq, LogId, Lsn, SegmentSeq, Term, WalPosition};
pub use options::{Binding, Fit, OWNER_BYTES, Options, ReadToken, Recovered, Space, WalEvent, WalStats};
pub use record::{EntryKind, EntryRef, HardState, LogState, OwnedEntry, RecordHead};
pub use wal::Wal;
