//! Rows that the CPU fetches ahead of the ops that look them up.
//!
//! A row that was not used for a while lies in no cache of the CPU, and a lookup waits for memory twice: for the row, then
//! for its bytes. Looked up together, many rows are waited for at the same time. Nothing of what is found is kept, so what
//! ops do meanwhile does not matter: at worst a row is fetched in vain.

use corduroy_shards::PartitionId;
use smallvec::SmallVec;

use crate::store::disk::DiskLevel;
use crate::store::exec::Exec;
use crate::store::memory::table::PREFETCH_ROWS;
use crate::store::op::Op;
use crate::store::state::Store;

/// Hashes of keys whose rows are fetched together.
type Hashes = SmallVec<[u64; PREFETCH_ROWS]>;

impl<L: DiskLevel> Store<L> {
    /// Fetches the rows of the first ops; returns of how many. One of more keys than fit is left to itself.
    pub(in crate::store) fn prefetch_rows<'o>(
        &self,
        id: PartitionId,
        ops: impl Iterator<Item = &'o [u8]>,
    ) -> usize {
        let Some(partition) = self.partitions.get(&id) else { return ops.count().max(1) };
        let (mut hashes, mut fetched) = (Hashes::new(), 0);
        for op in ops {
            let whole = hashes.len();
            if let Ok(op) = Op::decode(op) {
                let room = PREFETCH_ROWS - whole;
                hashes.extend(op.keys(true).take(room + 1).map(|key| self.seed.hash(key)));
            }
            if hashes.len() > PREFETCH_ROWS {
                hashes.truncate(whole);
                break;
            }
            fetched += 1;
            if hashes.len() == PREFETCH_ROWS {
                break;
            }
        }
        partition.table.prefetch(&hashes);
        fetched.max(1)
    }
}

impl Exec<'_> {
    /// Fetches the rows of the next keys, and takes these off.
    pub(in crate::store) fn prefetch<'k>(&self, keys: &mut impl Iterator<Item = &'k [u8]>) {
        let hashes: Hashes = keys.take(PREFETCH_ROWS).map(|key| self.seed.hash(key)).collect();
        self.partition.table.prefetch(&hashes);
    }
}
