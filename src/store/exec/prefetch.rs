//! Rows that the CPU fetches ahead of the ops that look them up.
//!
//! A row that was not used for a while lies in no cache of the CPU, and a lookup waits for memory twice: for the row, then
//! for its bytes. Looked up together, many rows are waited for at the same time. Nothing of what is found is kept, so what
//! ops do meanwhile does not matter: at worst a row is fetched in vain.

use corduroy_shards::PartitionId;
use corduroy_wal::device::prefetch as prefetch_bytes;
use smallvec::SmallVec;

use crate::store::disk::DiskLevel;
use crate::store::exec::Exec;
use crate::store::memory::table::{Table, prefetch};
use crate::store::op::Op;
use crate::store::op::PREFETCH_KEYS;
use crate::store::state::Store;

/// Rows that are fetched together: the tables they are in, and the hashes of their keys.
type Keys<'t> = SmallVec<[(&'t Table, u64); PREFETCH_KEYS]>;

impl<L: DiskLevel> Store<L> {
    /// Fetches the rows of the first ops; returns of how many. One of more keys than fit is left to itself.
    pub(in crate::store) fn prefetch_rows<'o>(
        &self,
        ops: impl Iterator<Item = (PartitionId, &'o [u8])>,
    ) -> usize {
        let (mut keys, mut fetched) = (Keys::new(), 0);
        let (mut last_id, mut partition) = (None, None);
        for (id, op) in ops {
            if last_id != Some(id) {
                (last_id, partition) = (Some(id), self.partitions.get(&id));
                // Where many follow one another, each was last used long ago.
                partition.into_iter().for_each(|partition| prefetch_bytes(&**partition));
            }
            let whole = keys.len();
            if let (Some(table), Ok(op)) = (partition.map(|found| &found.table), Op::decode(op)) {
                let room = PREFETCH_KEYS - whole;
                keys.extend(op.keys(true).take(room + 1).map(|key| (table, self.seed.hash(key))));
            }
            if keys.len() > PREFETCH_KEYS {
                keys.truncate(whole);
                break;
            }
            fetched += 1;
            if keys.len() == PREFETCH_KEYS {
                break;
            }
        }
        prefetch(&keys);
        fetched.max(1)
    }

    /// Has the CPU fetch the rows of keys that are about to be looked up, [`PREFETCH_KEYS`](crate::store::PREFETCH_KEYS) at most.
    pub fn prefetch_keys<'k>(&self, keys: impl Iterator<Item = (PartitionId, &'k [u8])>) {
        let keys = keys.filter_map(|(id, key)| Some((&self.partitions.get(&id)?.table, self.seed.hash(key))));
        prefetch(&keys.collect::<Keys<'_>>());
    }
}

impl Exec<'_> {
    /// Fetches the rows of the next keys, and takes these off.
    pub(in crate::store) fn prefetch<'k>(&self, keys: &mut impl Iterator<Item = &'k [u8]>) {
        let table = &self.partition.table;
        let keys: Keys<'_> = keys.take(PREFETCH_KEYS).map(|key| (table, self.seed.hash(key))).collect();
        prefetch(&keys);
    }
}
