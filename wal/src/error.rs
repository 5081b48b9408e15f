//! Everything that can go wrong with a WAL; each message says what happened, to what, and what to do.

use std::io;

use crate::device::SlotId;
use crate::device::folder::slot_file_name;
use crate::ids::{LogId, Lsn, WalPosition};
use crate::options::OWNER_BYTES;

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
        "WAL damaged at segment {position} ({}){}: {why}; the data there was acknowledged and is not cut off. {remedy}",
        slot_file_name(*slot), named(logs)
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
    /// The folder is another owner's.
    #[error(
        "WAL folder {folder} belongs to another owner ({}; expected {}); put the folder back that belongs here",
        hex(found.as_slice()), hex(expected.as_slice())
    )]
    Foreign {
        /// The folder, or what stands for it.
        folder: String,
        /// The owner that its manifest names.
        found: Box<[u8; OWNER_BYTES]>,
        /// The owner that was to be.
        expected: Box<[u8; OWNER_BYTES]>,
    },
    /// The folder's manifest is missing, cannot be read, or names what is not there.
    #[error("WAL damaged: {file}: {why}. {remedy}")]
    Lost {
        /// The file that is missing or damaged.
        file: String,
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

/// Logs as an operator names them: `, logs 2, 7`; nothing where none is known.
fn named(logs: &[LogId]) -> String {
    let numbers: Vec<_> = logs.iter().map(|log| log.0.to_string()).collect();
    if numbers.is_empty() { String::new() } else { format!(", logs {}", numbers.join(", ")) }
}

/// Bytes as digits, the zeros at their end left out.
fn hex(bytes: &[u8]) -> String {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    bytes.iter().take(used).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SegmentSeq;

    #[test]
    fn damage_is_named_by_file_and_numbers() {
        let text_of = |logs: &[u64]| {
            let damaged = WalError::Damaged {
                position: WalPosition { segment: SegmentSeq(3), offset: 4096 },
                slot: SlotId(7),
                logs: logs.iter().copied().map(LogId).collect(),
                why: "a checksum is wrong".into(),
                remedy: "Restore it.",
            };
            damaged.to_string()
        };
        let (some, none) = (text_of(&[2, 9]), text_of(&[]));
        let start = "WAL damaged at segment 3:4096 (slot-000007.wal)";
        assert!(some.starts_with(&format!("{start}, logs 2, 9: a checksum")), "{some}");
        assert!(none.starts_with(&format!("{start}: a checksum")), "{none}");
    }
}
