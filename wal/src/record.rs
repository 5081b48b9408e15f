//! What a log hands to the WAL and gets back: entries, hard state, and the state found at opening.
//!
//! All of one Raft `Ready` (entries, hard state, configuration state) is one *record*, and a record is
//! atomic: after a crash it is there whole or not at all.

use crate::ids::{LogId, Lsn, Term};

/// What an entry's bytes are. The WAL stores it and does not look at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A command of the state machine.
    Normal = 0,
    /// A Raft configuration change (`ConfChange`).
    ConfChange = 1,
    /// A Raft configuration change (`ConfChangeV2`).
    ConfChangeV2 = 2,
}

/// One entry to append, borrowed from its owner.
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    /// Its number in the log.
    pub lsn: Lsn,
    /// The term it was proposed in.
    pub term: Term,
    /// What `data` is.
    pub kind: EntryKind,
    /// The payload.
    pub data: &'a [u8],
}

/// One entry read back from the log; its checksum was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedEntry {
    /// Its number in the log.
    pub lsn: Lsn,
    /// The term it was proposed in.
    pub term: Term,
    /// What `data` is.
    pub kind: EntryKind,
    /// The payload.
    pub data: Vec<u8>,
}

/// Raft's hard state: what a replica must never forget.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// The member id voted for in `term`; 0 for none.
    pub vote: u64,
    /// The highest entry known to be committed.
    pub commit: Lsn,
}

/// Everything of a record but its entries.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordHead<'a> {
    /// The log the record belongs to.
    pub log: LogId,
    /// The new hard state, where it changed.
    pub hard_state: Option<HardState>,
    /// The new configuration state, where it changed: bytes that only the log's owner reads.
    pub conf: Option<&'a [u8]>,
}

/// What the WAL knows of one log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogState {
    /// The lowest entry that can still be read. `last + 1` if the log holds none.
    pub first: Lsn,
    /// The highest entry appended; `Lsn::ZERO` for a log that never had one.
    pub last: Lsn,
    /// The term of the entry before `first` (0 if there was none).
    pub prev_term: Term,
    /// The last hard state written, if any ever was.
    pub hard_state: Option<HardState>,
    /// The last configuration state written, if any ever was.
    pub conf: Option<Vec<u8>>,
}
