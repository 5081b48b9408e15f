//! What a start reads from the disk level: the store's own row, and the row of each partition, how far it has applied.
//!
//! They begin the first block of every flush's table. Without the newest of them nothing can be applied and nothing served:
//! entries applied twice, or left out, would be other data. Older ones, which merges have not removed yet, are not needed:
//! where damage among them keeps the rows from being listed, each is looked up by itself, newest table first.

use corduroy_shards::PartitionId;

use super::disk::format::{PARTITIONS_END, STORE_KEY, partition_key, read_partition_key, read_store_value};
use super::disk::{ADVICE, DiskError, DiskLevel};
use super::hash::HashSeed;
use crate::store::memory::meta::PartitionMeta;

pub(super) type Restored = Vec<(PartitionId, PartitionMeta)>;

/// The seed of the store's hash, by which its keys are ordered; `None`: nothing was flushed yet.
///
/// # Errors
/// [`DiskError`], with what could not be read.
pub fn seed(disk: &impl DiskLevel) -> Result<Option<HashSeed>, DiskError> {
    let value = disk.get(STORE_KEY).map_err(|error| needed(error, "how its keys are ordered"))?;
    let seed =
        |value: Vec<u8>| read_store_value(&value).ok_or_else(|| DiskError::layout("the store's own row"));
    value.map(seed).transpose()
}

/// The partitions that there is state of. `expected`: those that there may be any of.
pub(super) fn partitions(disk: &impl DiskLevel, expected: &[PartitionId]) -> Result<Restored, DiskError> {
    let mut rows = Vec::new();
    let listed = disk.scan(&partition_key(PartitionId(0)), PARTITIONS_END, &mut |key, value| {
        rows.push((read_partition_key(key), value.to_vec()));
        true
    });
    match listed {
        Ok(()) => {}
        Err(DiskError::Damaged { .. }) if !expected.is_empty() => {
            rows.clear();
            for &id in expected {
                let what = || format!("how far partition {id} has applied its log");
                let value = disk.get(&partition_key(id)).map_err(|error| needed(error, &what()))?;
                rows.extend(value.map(|value| (Some(id), value)));
            }
        }
        Err(error) => return Err(needed(error, "which partitions there are")),
    }
    let decode = |(id, value): (Option<PartitionId>, Vec<u8>)| id.zip(PartitionMeta::decode(&value));
    rows.into_iter().map(|row| decode(row).ok_or_else(|| DiskError::layout("a partition's row"))).collect()
}

/// The error of a row that no start can do without.
fn needed(error: DiskError, row: &str) -> DiskError {
    if let DiskError::Damaged { file, what } = &error {
        let why = "without which the shard cannot be served";
        return DiskError::damaged(file, format!("{what}; that block says {row}, {why}; {ADVICE}"));
    }
    error
}
