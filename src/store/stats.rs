//! Figures of a store for INFO and the metrics, and the hash by which two replicas' states are compared.

use corduroy_shards::PartitionId;
use corduroy_wal::Lsn;

use super::disk::format::{keyspace_end, read_row_key, read_row_value, row_key};
use super::disk::{DiskError, DiskLevel, DiskStats};
use super::hash::HashSeed;
use super::state::Store;
use crate::store::memory::partition::Partition;
use crate::store::memory::row::Stamp;

/// One partition's keys.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct KeyspaceStats {
    /// Keys stored, expired ones that were not removed yet included. Too high by at most `unresolved_keys`.
    pub keys: u64,
    /// Those with a time to live.
    pub expiring_keys: u64,
    /// Keys written blindly, of which it is not known yet whether they had existed below.
    pub unresolved_keys: u64,
    /// The last entry applied.
    pub applied: Lsn,
    /// The last entry that survives without the log.
    pub persisted: Lsn,
}

/// A whole store.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct StoreStats {
    /// Partitions that have state.
    pub partitions: u64,
    /// As [`KeyspaceStats::keys`], of all partitions.
    pub keys: u64,
    /// As [`KeyspaceStats::expiring_keys`], of all partitions.
    pub expiring_keys: u64,
    /// Memory of the rows.
    pub used_bytes: u64,
    /// Of that, changes that no flush has captured.
    pub dirty_bytes: u64,
    /// Rows on their way below: as copies, but for values of 256 bytes and more, which are shared with the rows in memory
    /// until those change.
    pub captured_bytes: u64,
    /// Answers of KEYS and LCS under way.
    pub answer_bytes: u64,
    /// Rows dropped from memory since the start.
    pub evicted_keys: u64,
    /// Keys read from below since the start.
    pub loaded_keys: u64,
    /// Of those, the ones that the core itself has read, without a job.
    pub keys_read_on_core: u64,
    /// Expired keys removed since the start.
    pub expired_keys: u64,
    /// Flushes completed since the start.
    pub flushes: u64,
    /// Rows that they wrote.
    pub flushed_rows: u64,
    /// Flushes that found no room on the disk.
    pub undone_flushes: u64,
    /// The disk has no room for the state: writes other than deletes are refused.
    pub is_full: bool,
    /// The disk level.
    pub disk: DiskStats,
}

impl<L: DiskLevel> Store<L> {
    /// Figures of one partition. Cheap.
    #[must_use]
    pub fn keyspace_stats(&self, partition: PartitionId) -> KeyspaceStats {
        self.partitions.get(&partition).map_or_else(KeyspaceStats::default, |partition| KeyspaceStats {
            keys: partition.keys,
            expiring_keys: partition.expiring,
            unresolved_keys: partition.unknown,
            applied: partition.applied,
            persisted: partition.persisted,
        })
    }

    /// Figures of the whole store. Cheap.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let totals = &self.ledger.totals;
        StoreStats {
            partitions: self.partitions.len() as u64,
            keys: self.ledger.keys.get(),
            expiring_keys: self.ledger.expiring.get(),
            used_bytes: self.ledger.used_bytes as u64,
            dirty_bytes: self.ledger.dirty_bytes as u64,
            captured_bytes: self.ledger.captured_bytes as u64,
            answer_bytes: self.ledger.made_bytes() as u64,
            evicted_keys: totals.evicted,
            loaded_keys: totals.loads,
            keys_read_on_core: totals.loads_on_core,
            expired_keys: totals.expired,
            flushes: totals.flushes,
            flushed_rows: totals.flushed_rows,
            undone_flushes: self.upkeep.space.undone,
            is_full: self.is_short_of_room(),
            disk: self.disk.stats(),
        }
    }

    /// A hash of all that a partition's log has made of it: equal on two replicas that applied the same entries,
    /// whatever their flushes, evictions and removals of expired rows. Reads the disk level, so it blocks.
    ///
    /// # Errors
    /// [`DiskError`], with what could not be read.
    pub fn state_hash(&self, id: PartitionId) -> Result<u64, DiskError> {
        let nothing = Partition::new(id);
        let partition = self.partitions.get(&id).map_or(&nothing, Box::as_ref);
        let mut head = Vec::new();
        for number in [partition.applied.0, partition.clock_ms] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        head.push(u8::from(partition.is_written));
        partition.absent.encode(&mut head);
        let mut sum = FIXED.hash(&head);
        let live =
            partition.table.pages().flat_map(|page| &page.rows).filter(|row| row.is_live(partition.clock_ms));
        for row in live {
            sum = sum.wrapping_add(row_hash(row.key(), row.value(), row.stamp()));
        }
        let (from, to) =
            (row_key(id, partition.flush_version, 0, b""), keyspace_end(id, partition.flush_version));
        self.disk.scan(&from, &to, &mut |key, value| {
            if let (Some((hash, key)), Some((stamp, value))) = (read_row_key(key), read_row_value(value)) {
                let resident = partition.table.page(hash).is_some_and(|page| page.find(hash, key).is_some());
                if !resident && stamp.expire_at_ms > partition.clock_ms {
                    sum = sum.wrapping_add(row_hash(key, value, stamp));
                }
            }
            true
        })?;
        Ok(sum)
    }
}

/// The seed of state hashes: the same everywhere.
const FIXED: HashSeed = HashSeed([0, 0]);

fn row_hash(key: &[u8], value: &[u8], stamp: Stamp) -> u64 {
    let numbers =
        [FIXED.hash(key), FIXED.hash(value), stamp.version, stamp.expire_at_ms, stamp.encoding as u64];
    FIXED.hash(numbers.map(u64::to_le_bytes).as_flattened())
}
