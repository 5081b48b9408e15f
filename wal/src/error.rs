//! Everything that can go wrong with a WAL; each message says what happened, to what, and what to do.

use std::io;

use crate::device::SlotId;
use crate::ids::{LogId, Lsn, WalPosition};

/// Everything that can go wrong with a WAL.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The folder could not be read or written.
    #[error("WAL {what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Acknowledged bytes are not what was written.
    #[error(
        "WAL damaged at segment {position} ({slot:?}), logs {logs:?}: {why}; the data there was acknowledged and is not cut off. {remedy}"
    )]
    Damaged {
        /// Where the first bad byte's frame starts.
        position: WalPosition,
        /// Which file.
        slot: SlotId,
        /// Logs known or suspected to have entries there.
        logs: Vec<LogId>,
        /// What was found.
        why: String,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// A write or sync failed earlier; nothing more is accepted.
    #[error("WAL poisoned: {what} failed ({message}); restart to read back what the disk holds")]
    Poisoned {
        /// The operation that failed.
        what: &'static str,
        /// What the system said.
        message: String,
    },
    /// Entries asked for are below the first or above the last.
    #[error("log {log}: entry {lsn} is not in the WAL (it holds {first}..={last})")]
    OutOfRange {
        /// The log.
        log: LogId,
        /// The entry asked for.
        lsn: Lsn,
        /// The lowest there is.
        first: Lsn,
        /// The highest there is.
        last: Lsn,
    },
    /// An append left a gap, replaced a released entry, or went back in term.
    #[error("log {log}: {why}")]
    BadAppend {
        /// The log.
        log: LogId,
        /// What was wrong.
        why: String,
    },
    /// One entry or record is larger than a segment can take.
    #[error("log {log}: a record of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// The log.
        log: LogId,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}
