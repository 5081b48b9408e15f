//! The invariants of a store: every figure that is kept beside the rows, counted anew from them. For tests and the
//! simulator, which ask for it between turns and when a process ends.

use corduroy_shards::PartitionId;

use super::disk::{DiskError, DiskLevel};
use super::lookups::stored::{Keyspace, walk};
use super::state::Store;
use crate::store::memory::partition::Partition;
use crate::store::memory::row::{DIRTY, NO_EXPIRY, Row, TOMBSTONE, UNKNOWN};

/// What a partition's rows say, as far as a figure is kept of it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Counted {
    keys: u64,
    expiring: u64,
    unknown: u64,
}

impl Counted {
    fn add(&mut self, expire_at_ms: u64) {
        self.keys += 1;
        self.expiring += u64::from(expire_at_ms != NO_EXPIRY);
    }
}

impl<L: DiskLevel> Store<L> {
    /// Compares what is counted, and the times at which rows expire, with the rows in memory.
    ///
    /// # Panics
    /// If a figure is not that of the rows.
    pub fn check(&self) {
        let (mut used_bytes, mut dirty_bytes) = (0, 0);
        let detached = self.ledger.detached.iter().map(|detached| &detached.table);
        for table in self.partitions.values().map(|partition| &partition.table).chain(detached) {
            table.check();
            for row in table.pages().flat_map(|page| &page.rows) {
                used_bytes += row.cost_bytes();
                dirty_bytes += if row.has(DIRTY) { row.cost_bytes() } else { 0 };
            }
        }
        assert_eq!(self.ledger.used_bytes, used_bytes, "bytes of all rows");
        assert_eq!(self.ledger.dirty_bytes, dirty_bytes, "bytes of changed rows");
        let sum =
            |of: fn(&Partition) -> u64| self.partitions.values().map(|partition| of(partition)).sum::<u64>();
        assert_eq!(self.ledger.keys.get(), sum(|partition| partition.keys), "keys of all partitions");
        let expiring = sum(|partition| partition.expiring);
        assert_eq!(self.ledger.expiring.get(), expiring, "expiring keys of all partitions");
        self.loads.check();
        assert!(
            self.ledger.captured_bytes == 0 || self.ledger.has_running_flush(),
            "{} bytes are on their way below, and no flush is",
            self.ledger.captured_bytes
        );
        assert!(
            self.ledger.kept_bytes == 0 || self.ledger.has_running_flush(),
            "{} bytes are kept for a flush, and there is none",
            self.ledger.kept_bytes
        );
        self.partitions.values().for_each(|partition| self.check_partition(partition));
    }

    fn check_partition(&self, partition: &Partition) {
        let id = partition.id;
        let queued = self.upkeep.walks.iter().filter(|queued| **queued == id).count();
        assert_eq!(partition.walks as usize, queued, "partition {id}: walks");
        let (mut counted, mut min_expire_ms) = (Counted::default(), NO_EXPIRY);
        for row in partition.table.pages().flat_map(|page| &page.rows) {
            counted.unknown += u64::from(row.has(UNKNOWN));
            if row.has(TOMBSTONE) {
                assert_eq!(row.expire_at_ms, NO_EXPIRY, "partition {id}: a tombstone expires");
                continue;
            }
            counted.add(row.expire_at_ms);
            // A walk under way has yet to find out when the rows ahead of it expire.
            if !self.upkeep.is_ahead_of_walk(id, row.hash) {
                min_expire_ms = min_expire_ms.min(row.expire_at_ms);
            }
        }
        assert!(
            partition.min_expire_ms <= min_expire_ms,
            "partition {id}: a row expires at {min_expire_ms}, none is expected to before {}",
            partition.min_expire_ms
        );
        if !self.ledger.has_running_flush() {
            assert_eq!(partition.unknown, counted.unknown, "partition {id}: unknown keys");
            let found = partition.unknown_keys(usize::MAX).len() as u64;
            assert_eq!(found, counted.unknown, "partition {id}: unknown keys that can be asked for");
        }
        Self::check_counts(partition, counted, partition.table.is_all_complete());
        // While an entry is applied, or a walk looks for the next row that expires, the time may still change.
        if partition.ops_in_entry == 0
            && partition.walks == 0
            && let Some(wanted_ms) = partition.wanted_at_ms()
        {
            let announced_ms = partition.alarm_ms;
            assert!(
                announced_ms <= wanted_ms,
                "partition {id} wants an entry at {wanted_ms}, and has announced {announced_ms}"
            );
        }
    }

    /// Blind writes that are not resolved may count a key twice, and nothing else may. With `is_whole`, no row is missing
    /// in what was counted.
    fn check_counts(partition: &Partition, counted: Counted, is_whole: bool) {
        let figures =
            [("keys", partition.keys, counted.keys), ("expiring keys", partition.expiring, counted.expiring)];
        for (what, kept, counted) in figures {
            let most = if is_whole { counted + partition.unknown } else { u64::MAX };
            assert!(
                (counted..=most).contains(&kept),
                "partition {}: {kept} {what}, of which {counted} are found, and {} are unknown",
                partition.id,
                partition.unknown
            );
        }
    }

    /// Compares what is counted with the rows of both levels. Reads the disk one, so it blocks.
    ///
    /// # Errors
    /// [`DiskError`], with what could not be read.
    ///
    /// # Panics
    /// If a figure is not that of the rows.
    pub fn check_below(&self) -> Result<(), DiskError> {
        self.partitions.keys().try_for_each(|id| self.check_partition_below(*id))
    }

    fn check_partition_below(&self, id: PartitionId) -> Result<(), DiskError> {
        let Some(partition) = self.partitions.get(&id) else { return Ok(()) };
        let here = |row: &&Row| !row.has(TOMBSTONE);
        let (mut counted, mut min_expire_below_ms) = (Counted::default(), NO_EXPIRY);
        let rows = partition.table.pages().flat_map(|page| &page.rows);
        rows.filter(here).for_each(|row| counted.add(row.expire_at_ms));
        let keyspace = Keyspace { partition: id, flush_version: partition.flush_version };
        walk(&self.disk, keyspace, 0, |hash, key, stamp, _| {
            if partition.table.page(hash).is_none_or(|page| page.find(hash, key).is_none()) {
                assert!(!partition.table.is_complete(hash), "partition {id}: a complete page lacks {key:?}");
                counted.add(stamp.expire_at_ms);
                min_expire_below_ms = min_expire_below_ms.min(stamp.expire_at_ms);
            }
            true
        })?;
        Self::check_counts(partition, counted, true);
        assert!(
            partition.min_expire_below_ms <= min_expire_below_ms || self.upkeep.sweeps.is_queued(id),
            "partition {id}: a row below expires at {min_expire_below_ms}, none is expected to before {}",
            partition.min_expire_below_ms
        );
        Ok(())
    }
}
