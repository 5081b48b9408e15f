//! Rows of a keyspace, as the disk level has them.

use corduroy_shards::PartitionId;

use crate::store::disk::format::{keyspace_end, read_row_key, read_row_value, row_key};
use crate::store::disk::{DiskError, DiskLevel, Sought};
use crate::store::memory::row::Stamp;

/// Keys that are looked up in one version of the disk level: while one is in use, the tables that a merge has replaced
/// stay.
const KEYS_AT_ONCE: usize = 256;

/// A keyspace of a partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::store) struct Keyspace {
    pub(in crate::store) partition: PartitionId,
    pub(in crate::store) flush_version: u64,
}

impl Keyspace {
    /// The key of a key's row.
    pub(in crate::store) fn row_key(self, hash: u64, key: &[u8]) -> Vec<u8> {
        row_key(self.partition, self.flush_version, hash, key)
    }
}

/// The stamps of keys that are about to be, or were, written blindly, one after another; `None` for one that is not below.
/// Where a damaged block hides that, it counts as one that is not: its key has been written over, and the number of keys
/// may only be one too high. Were it too low, a keyspace could look empty that is not. Where only `Existence` is sought, a
/// stamp may be one that the key had before.
pub(in crate::store) fn stamps_of<L: DiskLevel, K>(
    disk: &L,
    keys: &[K],
    sought: Sought,
    row_of: impl Fn(&K) -> (Keyspace, u64, &[u8]),
    mut visit: impl FnMut(&K, Option<Stamp>),
) -> Result<(), DiskError> {
    for keys in keys.chunks(KEYS_AT_ONCE) {
        let mut row_keys = keys.iter().map(|key| {
            let (keyspace, hash, key) = row_of(key);
            keyspace.row_key(hash, key)
        });
        let (mut at, mut refused) = (keys.iter(), None);
        disk.get_each(&mut row_keys, sought, &mut |read| {
            let Some(key) = at.next() else { return false };
            let (keyspace, _, _) = row_of(key);
            match stamp(keyspace, read) {
                Ok(stamp) => visit(key, stamp),
                Err(why) => refused = Some(why),
            }
            refused.is_none()
        });
        if let Some(why) = refused {
            return Err(why);
        }
    }
    Ok(())
}

fn stamp(keyspace: Keyspace, read: Result<Option<&[u8]>, DiskError>) -> Result<Option<Stamp>, DiskError> {
    match read.and_then(|row| row.map(|row| read_value(keyspace, row)).transpose()) {
        Ok(row) => Ok(row.map(|(stamp, _)| stamp)),
        Err(error @ DiskError::Io { .. }) => Err(error),
        Err(
            DiskError::Damaged { .. }
            | DiskError::Foreign { .. }
            | DiskError::Newer { .. }
            | DiskError::Layout { .. }
            | DiskError::Panicked { .. },
        ) => Ok(None),
    }
}

/// A row's stamp and value.
pub(in crate::store) fn read_value(keyspace: Keyspace, row: &[u8]) -> Result<(Stamp, &[u8]), DiskError> {
    read_row_value(row).ok_or_else(|| unreadable(keyspace))
}

fn unreadable(keyspace: Keyspace) -> DiskError {
    DiskError::layout(format!("a row of partition {}", keyspace.partition))
}

/// Visits the rows of a keyspace from a hash on, until `visit` returns false.
pub(in crate::store) fn walk<L: DiskLevel>(
    disk: &L,
    keyspace: Keyspace,
    from: u64,
    mut visit: impl FnMut(u64, &[u8], Stamp, &[u8]) -> bool,
) -> Result<(), DiskError> {
    let start = row_key(keyspace.partition, keyspace.flush_version, from, b"");
    let mut broken = false;
    disk.scan(&start, &keyspace_end(keyspace.partition, keyspace.flush_version), &mut |key, value| match (
        read_row_key(key),
        read_row_value(value),
    ) {
        (Some((hash, key)), Some((stamp, value))) => visit(hash, key, stamp, value),
        _ => {
            broken = true;
            false
        }
    })?;
    if broken { Err(unreadable(keyspace)) } else { Ok(()) }
}
