//! What all partitions of a store share: the memory accounts, the epochs of flush, and the running capture.
//!
//! A flush freezes a point of every touched partition (epoch + 1), then copies the rows that were dirty at that
//! point, slice by slice; a row about to change is copied first. So what a flush writes is exactly the state at
//! the freeze. Invariants: a row is dirty at the freeze iff it is dirty with an older epoch; `dirty_bytes` is the
//! cost of the dirty rows.

use std::collections::VecDeque;

use corduroy_shards::PartitionId;

use super::listings::Listings;
use super::meta::PartitionMeta;
use super::row::{BELOW, DIRTY, REFERENCED, Row, Stamp, TOMBSTONE, UNKNOWN};
use super::subsequences::Subsequences;
use super::sum::Sum;
use super::table::{Page, Table};
use crate::store::op::shared::Kept;

/// Rows that are passed over in a search for dirty ones, for a unit of a slice of upkeep; one that is looked at is one.
const PASSED_ROWS: u64 = 4;
/// Units of a row that is captured, beside what is copied for it.
const CAPTURED_UNITS: u64 = 6;
/// Bytes that are copied into fresh memory, for a unit.
const COPIED_BYTES: usize = 64;

/// A row on its way to the disk level.
#[derive(Debug)]
pub(in crate::store) struct Captured {
    pub(in crate::store) partition: PartitionId,
    pub(in crate::store) flush_version: u64,
    pub(in crate::store) hash: u64,
    pub(in crate::store) key: Vec<u8>,
    /// `None`: a tombstone.
    pub(in crate::store) value: Option<(Stamp, Kept)>,
    /// Whether the key exists below decides the partition's counts.
    pub(in crate::store) unknown: bool,
}

/// Captured rows that lie together in memory.
const CHUNK_ROWS: usize = 1024;

/// The rows of a capture, in chunks: a list in one piece would be moved as a whole whenever it outgrows its memory.
#[derive(Debug, Default)]
pub(in crate::store) struct CapturedRows(Vec<Vec<Captured>>);

impl CapturedRows {
    fn push(&mut self, row: Captured) {
        match self.0.last_mut().filter(|chunk| chunk.len() < CHUNK_ROWS) {
            Some(chunk) => chunk.push(row),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK_ROWS);
                chunk.push(row);
                self.0.push(chunk);
            }
        }
    }

    /// All of them in one list.
    pub(in crate::store) fn into_list(self) -> Vec<Captured> {
        let mut rows = Vec::with_capacity(self.0.iter().map(Vec::len).sum());
        self.0.into_iter().for_each(|mut chunk| rows.append(&mut chunk));
        rows
    }
}

/// What sharing a value takes.
const SHARE_BYTES: usize = 48;

/// A capture under way.
#[derive(Debug, Default)]
pub(in crate::store) struct Capture {
    /// The partitions as of the freeze, by id.
    pub(in crate::store) partitions: Vec<(PartitionId, PartitionMeta)>,
    /// The next one to walk, and from which hash.
    pub(in crate::store) next_partition: usize,
    pub(in crate::store) next_hash: u64,
    pub(in crate::store) rows: CapturedRows,
}

/// A keyspace that a flush cut off.
#[derive(Debug)]
pub(in crate::store) struct Detached {
    pub(in crate::store) partition: PartitionId,
    pub(in crate::store) flush_version: u64,
    pub(in crate::store) table: Table,
    /// The flush under way that still wants its rows.
    wanted_by: Option<u32>,
}

/// Counters for INFO and the metrics.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(in crate::store) struct Totals {
    pub(in crate::store) evicted: u64,
    pub(in crate::store) loads: u64,
    pub(in crate::store) loads_on_core: u64,
    pub(in crate::store) expired: u64,
    pub(in crate::store) flushes: u64,
    pub(in crate::store) flushed_rows: u64,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(in crate::store) struct Ledger {
    /// The number of freezes so far.
    pub(in crate::store) epoch: u32,
    /// The last flush that is on the media.
    pub(in crate::store) completed: u32,
    /// The running capture; `None` once its job is made.
    pub(in crate::store) capture: Option<Capture>,
    /// Keyspaces to be freed.
    pub(in crate::store) detached: VecDeque<Detached>,
    /// Memory of all rows in tables.
    pub(in crate::store) used_bytes: usize,
    /// Of those, what no flush has captured.
    pub(in crate::store) dirty_bytes: usize,
    /// The cost of the rows that a flush under way has captured.
    pub(in crate::store) captured_bytes: usize,
    /// What those take beside the rows in tables: all but small values are shared with them until they change.
    pub(in crate::store) kept_bytes: usize,
    pub(in crate::store) totals: Totals,
    /// Keys of all partitions, as each counts them.
    pub(in crate::store) keys: Sum,
    /// Of those, the ones with a time to live.
    pub(in crate::store) expiring: Sum,
    /// KEYS under way, which follow every change.
    pub(in crate::store) listings: Listings,
    /// LCS under way.
    pub(in crate::store) subsequences: Subsequences,
}

impl Ledger {
    /// What counts against the memory that the state may take: rows, what a flush keeps beside them, and what is made over
    /// several turns.
    pub(in crate::store) fn held_bytes(&self) -> usize {
        self.used_bytes + self.kept_bytes + self.made_bytes()
    }

    /// A partition has come that was counted before.
    pub(in crate::store) const fn include(&mut self, meta: &PartitionMeta) {
        self.keys.include(meta.keys);
        self.expiring.include(meta.expiring);
    }

    /// What KEYS and LCS under way take.
    pub(in crate::store) fn made_bytes(&self) -> usize {
        self.listings.held_bytes() + self.subsequences.held_bytes()
    }

    /// Whether a flush is between its freeze and its completion.
    pub(in crate::store) fn has_running_flush(&self) -> bool {
        self.epoch != self.completed
    }

    /// Called before a row changes: gives the running flush the row as it was at the freeze. Returns the bytes that had
    /// to be copied for it.
    #[inline]
    pub(in crate::store) fn capture_before_change(
        &mut self,
        partition: PartitionId,
        flush_version: u64,
        row: &mut Row,
        page_dirty: &mut u32,
    ) -> usize {
        if self.capture.is_some() && row.has(DIRTY) && row.epoch < self.epoch {
            return self.capture_row(partition, flush_version, row, page_dirty);
        }
        0
    }

    /// Captures what the running capture wants of a page, one row at least. Returns whether that was all.
    pub(in crate::store) fn capture_page(
        &mut self,
        partition: PartitionId,
        flush_version: u64,
        page: &mut Page,
        units: &mut u64,
    ) -> bool {
        if page.dirty == 0 {
            return true;
        }
        *units = units.saturating_sub(page.rows.len() as u64 / PASSED_ROWS);
        let (epoch, mut has_captured) = (self.epoch, false);
        for row in page.rows.iter_mut().filter(|row| row.has(DIRTY) && row.epoch < epoch) {
            if has_captured && *units == 0 {
                return false;
            }
            let copied_bytes = self.capture_row(partition, flush_version, row, &mut page.dirty);
            *units = units.saturating_sub(CAPTURED_UNITS + (copied_bytes / COPIED_BYTES) as u64);
            has_captured = true;
        }
        true
    }

    /// Keeps a dirty row for the running flush; the row is clean from here on. Returns the bytes that had to be copied.
    pub(in crate::store) fn capture_row(
        &mut self,
        partition: PartitionId,
        flush_version: u64,
        row: &mut Row,
        page_dirty: &mut u32,
    ) -> usize {
        let value = (!row.has(TOMBSTONE)).then(|| (row.stamp(), row.capture()));
        let copied_bytes = value.as_ref().map_or(0, |(_, value)| value.copied_bytes());
        let unknown = row.has(UNKNOWN);
        let captured =
            Captured { partition, flush_version, hash: row.hash, key: row.key().to_vec(), value, unknown };
        self.dirty_bytes -= row.cost_bytes();
        self.captured_bytes += row.cost_bytes();
        let value_bytes = if copied_bytes > 0 { copied_bytes } else { SHARE_BYTES };
        self.kept_bytes += size_of::<Captured>() + row.key().len() + value_bytes;
        *page_dirty -= 1;
        row.clear(DIRTY | UNKNOWN);
        row.set(BELOW);
        row.epoch = self.epoch;
        let capture = self.capture.as_mut().expect("only called while capturing");
        capture.rows.push(captured);
        copied_bytes
    }

    /// What flushes get to write more if this row changes: nothing if the next one writes it anyway.
    pub(in crate::store) fn renewed_bytes(&self, row: &Row) -> usize {
        let is_awaited = self.capture.is_some() && row.epoch < self.epoch;
        if row.has(DIRTY) && !is_awaited { 0 } else { row.cost_bytes() }
    }

    /// Called after a row changed: it is dirty now. `cost_before`: its cost before the change.
    #[inline]
    pub(in crate::store) fn changed(&mut self, row: &mut Row, cost_before: usize, page_dirty: &mut u32) {
        let cost = row.cost_bytes();
        self.used_bytes = self.used_bytes + cost - cost_before;
        if row.has(DIRTY) {
            self.dirty_bytes -= cost_before;
        } else {
            self.leave_to_capture(row, cost_before);
            *page_dirty += 1;
        }
        self.dirty_bytes += cost;
        row.set(DIRTY | REFERENCED);
        row.epoch = self.epoch;
    }

    /// A row of this cost changes or goes: if a flush under way has captured it, what it was is kept for that alone.
    fn leave_to_capture(&mut self, row: &Row, cost: usize) {
        if self.has_running_flush() && row.epoch == self.epoch && !row.has(DIRTY) {
            self.kept_bytes += cost;
        }
    }

    /// What was captured is on the disk, or dirty again.
    pub(in crate::store) fn end_flush(&mut self) {
        self.completed = self.epoch;
        (self.captured_bytes, self.kept_bytes) = (0, 0);
    }

    /// A dirty row says just what the disk level says: it is clean.
    pub(in crate::store) fn no_need_to_capture(&mut self, row: &mut Row, page_dirty: &mut u32) {
        self.dirty_bytes -= row.cost_bytes();
        *page_dirty -= 1;
        row.clear(DIRTY);
        row.epoch = 0;
    }

    /// Takes over a keyspace that nobody needs any more, except a running capture.
    pub(in crate::store) fn detach(&mut self, partition: PartitionId, flush_version: u64, table: Table) {
        if table.page_count() > 0 {
            let wanted_by = self.capture.is_some().then_some(self.epoch);
            self.detached.push_back(Detached { partition, flush_version, table, wanted_by });
        }
    }

    /// Frees detached rows, and captures those that a running flush wants. Returns the units of work left; more
    /// than 0 if nothing is detached any more.
    pub(in crate::store) fn free_detached(&mut self, mut units: u64) -> u64 {
        while units > 0 {
            let Some(detached) = self.detached.front_mut() else { break };
            let Some(mut page) = detached.table.pop_page() else {
                self.detached.pop_front();
                continue;
            };
            let (partition, flush_version) = (detached.partition, detached.flush_version);
            let wanted = detached.wanted_by == Some(self.epoch);
            units = units.saturating_sub(1 + page.rows.len() as u64);
            let mut page_dirty = page.dirty;
            for row in &mut page.rows {
                self.used_bytes -= row.cost_bytes();
                if wanted {
                    self.capture_before_change(partition, flush_version, row, &mut page_dirty);
                }
                self.leave_to_capture(row, row.cost_bytes());
                if row.has(DIRTY) {
                    self.dirty_bytes -= row.cost_bytes();
                }
            }
        }
        units
    }
}
