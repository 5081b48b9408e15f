//! The search for expired rows that only the disk level still has.
//!
//! It reads all rows of a partition, so it begins when one of them has expired for certain, and the longer it took, the
//! longer it is until the next one. What it finds is put into memory, from where the walk for expired rows removes it for
//! good; what comes behind is read once that is done. Invariant: no row below expires before `min_expire_below_ms` of its
//! partition, except while its sweep is under way.

use std::collections::VecDeque;

use corduroy_shards::PartitionId;

use crate::store::disk::DiskLevel;
use crate::store::jobs::{Expired, Job, Task};
use crate::store::lookups::stored::Keyspace;
use crate::store::memory::partition::SWEEP_BELOW_INTERVAL_MS;
use crate::store::memory::row::{NO_EXPIRY, REFERENCED};
use crate::store::state::Store;

/// A sweep reads no more rows a ms than this...
const ROWS_PER_MS: u64 = 50;
/// ... and no more bytes, the time until the next one included.
const BYTES_PER_MS: u64 = 10_000;
/// After failures the next one comes later and later, up to this.
const LONGEST_INTERVAL_MS: u64 = 3_600_000;

/// The sweeps of a store, one at a time.
#[derive(Default, Debug)]
pub(in crate::store) struct Sweeps {
    /// Partitions to be swept.
    waiting: VecDeque<PartitionId>,
    running: Option<Sweep>,
}

/// A sweep under way.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    keyspace: Keyspace,
    /// The next hash to read; `None` while a job is under way.
    next: Option<u64>,
    /// What it has met so far: the first time at which a row expires that has not yet, rows, bytes.
    min_expire_ms: u64,
    rows: u64,
    bytes: u64,
}

impl Sweeps {
    /// Whether a partition waits for its sweep, or has it under way.
    pub(in crate::store) fn is_queued(&self, id: corduroy_shards::PartitionId) -> bool {
        self.waiting.contains(&id)
    }
}

impl<L: DiskLevel> Store<L> {
    /// An entry has ended: has expired rows looked for, in memory and below, if it is time.
    pub(in crate::store) fn sweep_if_due(&mut self, id: corduroy_shards::PartitionId) {
        let partition = self.partitions.get_mut(&id).expect("only called for partitions that there are");
        let clock_ms = partition.clock_ms;
        if partition.alarm_ms <= clock_ms {
            partition.alarm_ms = NO_EXPIRY;
        }
        let wants_sweep_below = partition.expiring > 0 && partition.sweep_below_at_ms() <= clock_ms;
        if partition.sweep_at_ms() <= clock_ms {
            partition.swept_ms = clock_ms;
            self.queue_walk(id);
        }
        if wants_sweep_below {
            self.sweep_below(id);
        }
    }

    /// Has a partition swept that just ended an entry.
    fn sweep_below(&mut self, id: corduroy_shards::PartitionId) {
        let partition = self.partitions.get_mut(&id).expect("only called for partitions that there are");
        partition.swept_below_ms = partition.clock_ms;
        // From here on those count that are evicted while it runs.
        partition.min_expire_below_ms = NO_EXPIRY;
        if !self.upkeep.sweeps.waiting.contains(&id) {
            self.upkeep.sweeps.waiting.push_back(id);
        }
    }

    /// Goes on with the sweeps, one job at a time.
    pub(in crate::store) fn sweep_on(&mut self) {
        let Some(id) = self.upkeep.sweeps.waiting.front().copied() else { return };
        let partition = self.partitions.get(&id).expect("a partition never goes");
        let keyspace = Keyspace { partition: id, flush_version: partition.flush_version };
        let (clock_ms, is_walked) = (partition.clock_ms, partition.walks == 0);
        let fresh = Sweep { keyspace, next: Some(0), min_expire_ms: NO_EXPIRY, rows: 0, bytes: 0 };
        let sweep = self.upkeep.sweeps.running.get_or_insert(fresh);
        let Some(from) = sweep.next else { return };
        if sweep.keyspace != keyspace || partition.table.is_all_complete() {
            // Flushed, or in memory by now: there is nothing below that is not known.
            self.upkeep.sweeps.waiting.pop_front();
            self.upkeep.sweeps.running = None;
            return;
        }
        let is_full = self.ledger.dirty_bytes + self.ledger.captured_bytes > self.options.max_dirty_bytes / 2;
        if !is_walked || (is_full && self.ledger.has_running_flush()) {
            return;
        }
        sweep.next = None;
        let asked = self.ledger.completed;
        self.lookups.ask(asked);
        let task = Task::Expired { keyspace, from, clock_ms, asked };
        self.jobs.push(Job { disk: self.disk.clone(), task });
    }

    /// Takes what a job of a sweep found.
    pub(in crate::store) fn put_expired(&mut self, keyspace: Keyspace, found: &Expired) {
        for row in &found.rows {
            self.put_loaded(keyspace, row, REFERENCED);
        }
        let Some(sweep) = &mut self.upkeep.sweeps.running else { return };
        sweep.next = found.next;
        sweep.min_expire_ms = sweep.min_expire_ms.min(found.min_expire_ms);
        sweep.rows += found.rows_read;
        sweep.bytes += found.bytes_read;
        let sweep = *sweep;
        if found.next.is_none() {
            self.upkeep.sweeps.waiting.pop_front();
            self.upkeep.sweeps.running = None;
        }
        let Some(partition) = self.partition_of(keyspace) else { return };
        if found.next.is_none() {
            partition.min_expire_below_ms = partition.min_expire_below_ms.min(sweep.min_expire_ms);
            let took_ms = (sweep.rows / ROWS_PER_MS).max(sweep.bytes / BYTES_PER_MS);
            partition.sweep_below_after_ms = took_ms.max(SWEEP_BELOW_INTERVAL_MS);
        }
        // Now, before eviction drops them again.
        self.queue_walk(keyspace.partition);
    }

    /// A job of a sweep could not read: it ends, and what it would have found is left to a later one.
    pub(in crate::store) fn fail_sweep(&mut self, keyspace: Keyspace) {
        if self.upkeep.sweeps.running.take().is_some() {
            self.upkeep.sweeps.waiting.pop_front();
        }
        let Some(partition) = self.partition_of(keyspace) else { return };
        partition.min_expire_below_ms = 0;
        let after_ms = partition.sweep_below_after_ms.saturating_mul(2);
        partition.sweep_below_after_ms = after_ms.min(LONGEST_INTERVAL_MS);
        self.announce(keyspace.partition);
    }
}
