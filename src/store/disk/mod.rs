//! The disk level of the state: an ordered, durable map that takes a flush whole or not at all.
//!
//! Called from jobs only (its calls block), but for those that say otherwise. [`LsmLevel`] is the real one, [`MemLevel`] the simulator's. The bytes that
//! lie in it are in `format`.

mod blocks;
pub mod check;
mod dead;
mod dump;
mod error;
mod folder;
pub(super) mod format;
mod gap;
mod guard;
mod index;
mod inspect;
mod lsm;
mod manifest;
mod mem;
mod merge;
mod pace;
mod partition_row;
mod pinned;
mod removal;
mod room;
mod rows;
mod scrub;
mod staged;
#[cfg(test)]
mod tests;
mod tree;
mod view;

pub(super) use check::ADVICE;
pub use dump::{Content, DumpedRow, dump};
pub use error::{Binding, DiskError, OWNER_BYTES};
pub use inspect::{Finding, Inspection, TableFacts, inspect, is_state};
pub use lsm::{LsmLevel, LsmShared};
pub use mem::MemLevel;
pub use pace::Pace;
pub(super) use pace::{memory_haste, percent};

/// A key and its value; `None` removes the key.
pub type DiskRow = (Vec<u8>, Option<Vec<u8>>);

/// What is read of a row: its value, or that there is none.
pub type ReadRow<'r> = Result<Option<&'r [u8]>, DiskError>;

/// Figures of a disk level.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DiskStats {
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Tables (files).
    pub tables: u64,
    /// Of those, the ones in which damage was found.
    pub damaged_tables: u64,
    /// Reads that met damage since the start.
    pub damaged_reads: u64,
    /// Bytes of tables that were compared with what was written since the start, in the background.
    pub verified_bytes: u64,
    /// How often all tables were.
    pub verified_rounds: u64,
}

/// What is to be found out of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sought {
    /// Their values.
    Values,
    /// Whether they exist, alone: the value that is read of one that does may be one that it had before.
    Existence,
}

/// How much haste jobs are to make for the sake of requests, in percent.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct WantedHaste {
    /// The flush under way.
    pub flush: u8,
    /// Merges: at the least, since what the disk level holds may want more.
    pub merge: u8,
}

/// The room that a disk level has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// There is so little that only what deletes may be written: the reserve is in use, or about to be.
    pub is_short: bool,
    /// What may be written without touching the reserve.
    pub free_bytes: u64,
    /// What may be written at most, of what deletes.
    pub usable_bytes: u64,
    /// Of that, what rows must leave for a flush without any: the one of an emptied keyspace.
    pub last_bytes: u64,
    /// Changed bytes after which it is worth looking again.
    pub step_bytes: u64,
}

impl Room {
    /// No bound.
    pub const PLENTY: Self = Self {
        is_short: false,
        free_bytes: u64::MAX,
        usable_bytes: u64::MAX,
        last_bytes: 0,
        step_bytes: u64::MAX,
    };
}

/// What an ingestion of rows that take `bytes` writes at most, roughly.
#[must_use]
pub const fn ingested_bytes(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 8).saturating_add(64 << 10)
}

/// Why rows could not be taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IngestError {
    /// The disk has no room for them. What was written of them has been removed; try again when there may be some.
    #[error("state: no room for a flush: it needs {needed_bytes} bytes, the disk has {free_bytes}")]
    NoRoom {
        /// What the rows would need, with a margin.
        needed_bytes: u64,
        /// What the disk has left.
        free_bytes: u64,
    },
    /// Anything else: nothing of it counts, and the rows are written again with the next flush.
    #[error(transparent)]
    Failed(#[from] DiskError),
}

/// What a core has read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreRead {
    /// Whether there is a row.
    pub is_there: bool,
    /// Bytes of blocks that were read for it.
    pub read_bytes: usize,
}

/// [`DiskLevel::get_each`], of a level that reads each key by itself.
pub(super) fn get_one_by_one(
    disk: &impl DiskLevel,
    keys: &mut dyn Iterator<Item = Vec<u8>>,
    visit: &mut dyn FnMut(ReadRow<'_>) -> bool,
) {
    for key in keys {
        let read = disk.get(&key);
        if !visit(read.as_ref().map(Option::as_deref).map_err(Clone::clone)) {
            return;
        }
    }
}

/// A pair of key and value that is read, in order.
pub type ReadPair = Result<(Vec<u8>, Vec<u8>), DiskError>;

/// One version of a disk level, as far as it was asked for. What it names stays on the disk as long as it is held; the last
/// one to hold it may remove files by that, so it is dropped in jobs only.
pub struct Pinned {
    /// The value of the key that was asked for.
    pub head: Vec<u8>,
    /// The pairs that go with it.
    pub rows: Box<dyn Iterator<Item = ReadPair> + Send>,
}

/// Bytes that are stored until they are read again: in no file that is left after a crash.
pub trait Staging: Send {
    /// Adds bytes.
    ///
    /// # Errors
    /// [`DiskError`], with what could not be written: there may be no room.
    fn append(&mut self, bytes: &[u8]) -> Result<(), DiskError>;

    /// Reads bytes that were added.
    ///
    /// # Errors
    /// [`DiskError`], with what could not be read.
    fn read(&mut self, at: u64, bytes: usize) -> Result<Vec<u8>, DiskError>;
}

/// From the first key on, below the second.
pub type KeyRange = (Vec<u8>, Vec<u8>);

/// An ordered, durable map. Clones are handles to the same map.
pub trait DiskLevel: Clone + Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// [`DiskError`], with what could not be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;

    /// Reads keys one after another; those that are in order cost least. `visit` gets what is `sought` of each as it comes,
    /// and ends it by returning false.
    fn get_each(
        &self,
        keys: &mut dyn Iterator<Item = Vec<u8>>,
        sought: Sought,
        visit: &mut dyn FnMut(ReadRow<'_>) -> bool,
    );

    /// Reads a row into `row`, if that can be done without waiting for anything. `None`: a job has to read it, which reports
    /// what is wrong if something is. Called from cores.
    fn get_now(&self, key: &[u8], row: &mut Vec<u8>) -> Option<CoreRead>;

    /// Visits the pairs with `from <= key < to` in key order, until `visit` returns false.
    ///
    /// # Errors
    /// [`DiskError`], with what could not be read.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskError>;

    /// Holds the version that the level has now: the value of `head`, and the pairs in the range that `rows` makes of it.
    /// `None`: there is no such key, or no range.
    ///
    /// # Errors
    /// [`DiskError`], with what could not be read.
    fn pin(
        &self,
        head: &[u8],
        rows: &mut dyn FnMut(&[u8]) -> Option<KeyRange>,
    ) -> Result<Option<Pinned>, DiskError>;

    /// Begins to store bytes beside the map. Dropped in jobs only.
    ///
    /// # Errors
    /// [`DiskError`], with what could not be made.
    fn stage(&self) -> Result<Box<dyn Staging>, DiskError>;

    /// Takes all rows (ascending keys, each once; `bytes` of keys and values) in one atomic step; durable on return. For
    /// rows among which there are deletes, the reserve may be used. Where one of them is an error, nothing is taken.
    ///
    /// # Errors
    /// `IngestError`. Nothing of it may be seen after a restart.
    fn ingest_each(
        &self,
        bytes: u64,
        deletes: bool,
        rows: &mut dyn Iterator<Item = Result<DiskRow, DiskError>>,
    ) -> Result<(), IngestError>;

    /// The same of rows that are at hand.
    ///
    /// # Errors
    /// The same.
    fn ingest(
        &self,
        bytes: u64,
        deletes: bool,
        rows: &mut dyn Iterator<Item = DiskRow>,
    ) -> Result<(), IngestError> {
        self.ingest_each(bytes, deletes, &mut rows.map(Ok))
    }

    /// The pace of a flush that begins to read; `None`: it needs none.
    fn pace(&self) -> Option<Pace>;

    /// How much haste jobs are to make from now on. The core says so, and waits for nothing.
    fn hurry(&self, haste: WantedHaste);

    /// The room there is. Makes the reserve again where it can.
    ///
    /// # Errors
    /// [`DiskError`], with what could not be read or written.
    fn room(&self) -> Result<Room, DiskError>;

    /// Does a bounded amount of compaction; where room is short, what makes some. `dead` lists key ranges (from, below)
    /// whose rows may go. Returns whether more is worth doing at once.
    ///
    /// # Errors
    /// [`DiskError`], with what could not be read or written.
    fn compact(&self, dead: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, DiskError>;

    /// Goes on comparing all that it holds with what was written, by a bounded piece. Returns whether it is through with it:
    /// then the next piece is the first one again. What is found is part of the figures, and logged.
    fn verify(&self) -> bool;

    /// Its figures, as of the last change. The core asks for them: it waits for no job.
    fn stats(&self) -> DiskStats;
}
