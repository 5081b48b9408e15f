//! The facade: open, append records, submit one frame a turn, learn what is durable, read back, release.

use std::io;

use crate::device::{Device, SlotId};
use crate::ids::{BatchSeq, LogId, Lsn, Term, WalPosition};
use crate::record::{EntryRef, LogState, OwnedEntry, RecordHead};

/// The WAL's sizes and limits.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of a segment's file; a multiple of 1 MiB (tests go down to 64 KiB). Default 64 MiB.
    pub segment_bytes: u32,
    /// Zero-written slots kept ready. Default 2.
    pub spare_segments: usize,
    /// Frames in flight at most, 1 to 4. Default 2.
    pub max_in_flight: usize,
    /// Slots that may exist at most (0: no limit but the disk).
    pub max_segments: usize,
    /// Must differ at every opening (the core draws no random numbers itself): it salts the segments, so that
    /// bytes of an earlier life of a slot can never be taken for new ones.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, spare_segments: 2, max_in_flight: 2, max_segments: 0, seed: 0 }
    }
}

/// Names an asynchronous read; chosen by the caller.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReadToken(pub u64);

/// How much room there is for new records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Enough.
    Ok,
    /// The last spare is in hand and no more could be made (full disk, or `max_segments`): refuse new proposals;
    /// what must still be written (hard states, releases, rewrites) goes into the reserve.
    Full,
}

/// What [`Wal::poll`] reports.
#[derive(Debug)]
pub enum WalEvent {
    /// All batches up to this one are on the medium.
    Durable(BatchSeq),
    /// An asynchronous read has ended.
    Read {
        /// As given to [`Wal::read`].
        token: ReadToken,
        /// The entries, contiguous from the one asked for; at least one.
        result: Result<Vec<OwnedEntry>, WalError>,
    },
    /// The answer of [`Wal::space`] has changed.
    Space(Space),
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Segments read by footer alone.
    pub by_footer: u64,
    /// Segments scanned frame by frame.
    pub scanned: u64,
    /// Where a torn tail (never acknowledged) was cut, if one was.
    pub torn_tail: Option<WalPosition>,
}

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

/// One shard's WAL.
#[derive(Debug)]
pub struct Wal<D: Device> {
    device: D,
    options: Options,
}

#[allow(clippy::todo, unused_variables, missing_docs, clippy::missing_errors_doc)]
impl<D: Device> Wal<D> {
    /// Opens the WAL in the device's folder, or starts one where the folder is empty. Blocking: recovery.
    ///
    /// # Errors
    /// [`WalError::Io`], [`WalError::Damaged`].
    pub fn open(device: D, options: Options) -> Result<(Self, Recovered), WalError> {
        todo!()
    }

    /// The logs that hold anything (entries, hard state or configuration).
    pub fn logs(&self) -> Vec<LogId> {
        todo!()
    }

    /// What is known of a log, appended but not yet durable parts included.
    pub fn log_state(&self, log: LogId) -> Option<LogState> {
        todo!()
    }

    /// The term of an entry, from memory; also of the one before `first`.
    pub fn term(&self, log: LogId, lsn: Lsn) -> Option<Term> {
        todo!()
    }

    /// Reads entries `[from, to]` blocking; used at opening to load what the state machine has not got.
    pub fn read_blocking(&mut self, log: LogId, from: Lsn, to: Lsn) -> Result<Vec<OwnedEntry>, WalError> {
        todo!()
    }

    /// Whether a frame may be started now: a slot in flight is free, and there is a segment to write to.
    /// While this is false, keep gathering outside.
    pub fn can_submit(&self) -> bool {
        todo!()
    }

    /// Adds one record to the open batch. Entries must be contiguous and start at or below `last + 1`; what they
    /// overlap is replaced (Raft's log matching). Returns the batch that the record will ride in.
    pub fn append<'a>(
        &mut self,
        head: RecordHead<'_>,
        entries: impl ExactSizeIterator<Item = EntryRef<'a>> + Clone,
    ) -> Result<BatchSeq, WalError> {
        todo!()
    }

    /// Writes the open batch as one frame, if it holds anything. Call once a turn, only after [`Wal::can_submit`].
    pub fn submit(&mut self) -> Result<Option<BatchSeq>, WalError> {
        todo!()
    }

    /// Collects what the device has finished. After an error the WAL is poisoned for good.
    pub fn poll(&mut self, events: &mut Vec<WalEvent>) -> Result<(), WalError> {
        todo!()
    }

    /// The durable watermark.
    pub fn durable(&self) -> BatchSeq {
        todo!()
    }

    /// Batches submitted and not yet durable.
    pub fn in_flight(&self) -> usize {
        todo!()
    }

    /// Room for new records.
    pub fn space(&self) -> Space {
        todo!()
    }

    /// Starts reading entries from `from` up to `to` (inclusive) or `max_bytes`, at least one. Ends as
    /// [`WalEvent::Read`].
    pub fn read(
        &mut self,
        token: ReadToken,
        log: LogId,
        from: Lsn,
        to: Lsn,
        max_bytes: usize,
    ) -> Result<(), WalError> {
        todo!()
    }

    /// Says that entries up to `upto` (inclusive) are no longer needed by anybody.
    pub fn release(&mut self, log: LogId, upto: Lsn) {
        todo!()
    }

    /// Forgets a log for good: a tombstone goes into the open batch.
    pub fn remove(&mut self, log: LogId) -> Result<BatchSeq, WalError> {
        todo!()
    }

    /// Figures for INFO and metrics.
    pub fn stats(&self) -> WalStats {
        todo!()
    }

    /// The device, for drivers that wait on it.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, for the simulator.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }
}

/// Counters of one WAL since opening.
#[derive(Clone, Copy, Debug, Default)]
pub struct WalStats {
    /// Frames made durable.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of frames, padding included.
    pub bytes: u64,
    /// Segments that hold live data, the active one included.
    pub live_segments: u64,
    /// Zero-written or recycled slots ready for use.
    pub spare_segments: u64,
    /// Bytes rewritten by reclaim.
    pub rewritten_bytes: u64,
}
