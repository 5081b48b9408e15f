//! Reading rows into memory without being asked: the warm-up after a start.
//!
//! Invariant: a page becomes complete only if all rows of its hashes were read in one go, from the first hash
//! on, and nothing was evicted meanwhile. It ends where memory is nearly full.

use crate::store::disk::{DiskError, DiskLevel};
use crate::store::jobs::{Job, Loaded, Task};
use crate::store::lookups::stored::{Keyspace, walk};
use crate::store::memory::row::{NO_EXPIRY, REFERENCED};
use crate::store::state::Store;

/// Rows that one job of the warm-up reads, and the bytes of values at which it ends sooner.
const WARM_ROWS: usize = 2048;
const WARM_BYTES: usize = 1 << 20;

/// The warm-up of a partition.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Warming {
    keyspace: Keyspace,
    /// The next hash to read; `None` while a job is under way.
    next: Option<u64>,
    /// The store's count of evictions when it began.
    evicted: u64,
}

impl<L: DiskLevel> Store<L> {
    /// Goes on with the warm-up, one job at a time.
    pub(in crate::store) fn warm(&mut self) {
        let Some(id) = self.upkeep.cold.front().copied() else { return };
        let partition = self.partitions.get(&id).expect("a cold partition exists");
        let keyspace = Keyspace { partition: id, flush_version: partition.flush_version };
        let evicted = self.ledger.totals.evicted;
        let warming = self.upkeep.warming.get_or_insert(Warming { keyspace, next: Some(0), evicted });
        let Some(from) = warming.next else { return };
        let is_full = self.ledger.used_bytes > self.options.memory_bytes / 5 * 4;
        if is_full || warming.evicted != evicted {
            self.upkeep.cold.clear();
            self.upkeep.warming = None;
            return;
        }
        if warming.keyspace != keyspace {
            // Flushed: there is nothing below any more.
            self.upkeep.cold.pop_front();
            self.upkeep.warming = None;
            return;
        }
        warming.next = None;
        let asked = self.ledger.completed;
        self.lookups.ask(asked);
        self.jobs.push(Job { disk: self.disk.clone(), task: Task::Warm { keyspace, from, asked } });
    }

    /// Takes what a job of the warm-up read.
    pub(in crate::store) fn put_warmed(&mut self, keyspace: Keyspace, from: u64, to: u64, rows: &[Loaded]) {
        for row in rows {
            self.put_loaded(keyspace, row, REFERENCED);
        }
        let evicted = self.ledger.totals.evicted;
        let Some(warming) = &mut self.upkeep.warming else { return };
        warming.next = to.checked_add(1);
        let (is_done, is_whole) = (warming.next.is_none(), warming.evicted == evicted);
        if is_done {
            self.upkeep.warming = None;
            self.upkeep.cold.pop_front();
        }
        if is_whole && let Some(partition) = self.partition_of(keyspace) {
            partition.table.page_mut(0);
            partition.table.complete_pages(from, to);
            if is_done && partition.table.is_all_complete() {
                partition.min_expire_below_ms = NO_EXPIRY;
            }
        }
        self.announce(keyspace.partition);
    }
}

/// A stretch of rows, and its last hash.
pub(in crate::store) fn warm<L: DiskLevel>(
    disk: &L,
    keyspace: Keyspace,
    from: u64,
) -> Result<(Vec<Loaded>, u64), DiskError> {
    let (mut rows, mut bytes, mut to): (Vec<Loaded>, usize, u64) = (Vec::new(), 0, u64::MAX);
    walk(disk, keyspace, from, |hash, key, stamp, value| {
        let is_full = rows.len() >= WARM_ROWS || bytes >= WARM_BYTES;
        if is_full && rows.last().is_some_and(|last| last.hash != hash) {
            to = hash - 1;
            return false;
        }
        bytes += key.len() + value.len();
        rows.push(Loaded { hash, key: key.to_vec(), value: Some((stamp, value.to_vec())) });
        true
    })?;
    Ok((rows, to))
}
