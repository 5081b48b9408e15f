//! Rows that are read on the core: those whose blocks are at hand.
//!
//! Most of what an op wants of the disk level lies in the system's page cache. To take it from there costs less than to wake
//! a thread of the pool for it, so a blocked op is tried again at once where all of what it wants could be read so. Invariant:
//! what is read between two turns is bounded, so that the core's other work does not wait for it; the rest goes to jobs. And
//! nothing is dropped from memory between the reading of a row and its use, so it is no answer to be guarded
//! ([`safe_epoch`](super::Lookups::safe_epoch)).

use corduroy_shards::PartitionId;

use super::Want;
use super::asked::AskedFor;
use super::stored::Keyspace;
use crate::store::disk::format::read_row_value;
use crate::store::disk::{CoreRead, DiskLevel};
use crate::store::jobs::Loaded;
use crate::store::memory::partition::Found;
use crate::store::memory::row::{FRESH, Stamp};
use crate::store::state::Store;

/// A longer value is read in the turns of its shard: many connections may ask for much between two turns, and a turn brings
/// a bounded part of it.
const LOOK_BYTES: usize = 256 << 10;

/// Bytes of blocks that are read on the core between two turns, about 100 blocks: they take some 200 us. Where more is wanted
/// at a time it is worth waking the pool, which reads it beside the core.
const TURN_BYTES: usize = 320 << 10;
/// What a read costs beside its bytes.
const READ_BYTES: usize = 1 << 10;
/// What one that brings nothing costs.
const VAIN_BYTES: usize = 4 << 10;

/// What was found at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Looked<'s> {
    /// The value, if the key exists.
    pub value: Option<&'s [u8]>,
    /// Bytes of blocks that were read for it; 0: it was in memory.
    pub read_bytes: usize,
}

/// See the file's head.
#[derive(Debug)]
pub(in crate::store) struct AtHand {
    /// What may be read before the next turn.
    left_bytes: usize,
    asked_for: AskedFor,
    /// The row that was read last.
    row: Vec<u8>,
}

impl AtHand {
    /// Of a store that has so much memory for rows.
    pub(in crate::store) fn new(memory_bytes: usize) -> Self {
        Self { left_bytes: TURN_BYTES, asked_for: AskedFor::new(memory_bytes), row: Vec::new() }
    }

    /// A turn ends.
    pub(in crate::store) const fn next_turn(&mut self) {
        self.left_bytes = TURN_BYTES;
    }

    /// Reads a row, if its block is at hand and may be read now.
    fn read<L: DiskLevel>(
        &mut self,
        disk: &L,
        keyspace: Keyspace,
        (hash, key): (u64, &[u8]),
    ) -> Option<CoreRead> {
        if self.left_bytes == 0 {
            return None;
        }
        let read = disk.get_now(&keyspace.row_key(hash, key), &mut self.row);
        // One in vain costs too: the system may have begun to read ahead for it.
        let bytes = read.map_or(VAIN_BYTES, |read| read.read_bytes + READ_BYTES);
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        let read = read?;
        // One of another layout is an error, which a job reports.
        (!read.is_there || read_row_value(&self.row).is_some()).then_some(read)
    }

    /// The row that was read last, if there is one.
    fn row(&self, read: CoreRead) -> Option<(Stamp, &[u8])> {
        read_row_value(&self.row).filter(|_| read.is_there)
    }

    fn loaded(&self, read: CoreRead, (hash, key): (u64, &[u8])) -> Loaded {
        let value = self.row(read).map(|(stamp, value)| (stamp, value.to_vec()));
        Loaded { hash, key: key.to_vec(), value }
    }
}

impl<L: DiskLevel> Store<L> {
    /// Lends the value of a key to `with`, if it is at hand. What had to be read stays in memory if there is room, or if it
    /// was asked for of late.
    pub(in crate::store) fn look_at_hand<T>(
        &mut self,
        id: PartitionId,
        key: &[u8],
        now_ms: u64,
        with: impl FnOnce(Looked<'_>) -> T,
    ) -> Option<T> {
        let absent = Looked { value: None, read_bytes: 0 };
        let Some(partition) = self.partitions.get(&id) else { return Some(with(absent)) };
        let now_ms = now_ms.max(partition.clock_ms);
        let hash = self.seed.hash(key);
        match partition.find(hash, key, now_ms) {
            Found::Live(row) if row.value().len() > LOOK_BYTES => return None,
            Found::Live(row) => return Some(with(Looked { value: Some(row.value()), read_bytes: 0 })),
            Found::Absent => return Some(with(absent)),
            Found::Unknown => {}
        }
        let keyspace = Keyspace { partition: id, flush_version: partition.flush_version };
        let read = self.at_hand.read(&self.disk, keyspace, (hash, key))?;
        self.count_load();
        let live = self.at_hand.row(read).filter(|(stamp, _)| stamp.expire_at_ms > now_ms);
        let value = live.map(|(_, value)| value);
        let answer = with(Looked { value, read_bytes: read.read_bytes });
        if !self.is_about_to_evict() || self.at_hand.asked_for.note(hash) {
            let row = self.at_hand.loaded(read, (hash, key));
            self.put_loaded(keyspace, &row, 0);
            self.announce(id);
        }
        Some(answer)
    }

    /// Whether a turn is due after a look: memory is full, or an entry is wanted sooner.
    #[must_use]
    pub fn wants_turn(&self) -> bool {
        self.ledger.held_bytes() > self.options.memory_bytes || !self.upkeep.alarms.is_empty()
    }

    /// Reads keys that the last op wants, those whose blocks are at hand. Returns whether that was all that it wants: then it
    /// can be tried again.
    pub(in crate::store) fn load_at_hand(&mut self, id: PartitionId) -> bool {
        let Some(partition) = self.partitions.get(&id) else { return false };
        let keyspace = Keyspace { partition: id, flush_version: partition.flush_version };
        let mut wants = std::mem::take(&mut self.lookups.wants);
        let before = wants.len();
        wants.retain(|want| match want {
            Want::Key { hash, key } => !self.load_one(keyspace, *hash, key),
            Want::Range { .. } | Want::Matches { .. } | Want::Unknown => true,
        });
        if wants.len() < before {
            self.announce(id);
        }
        self.lookups.wants = wants;
        before > 0 && self.lookups.wants.is_empty()
    }

    const fn count_load(&mut self) {
        self.ledger.totals.loads += 1;
        self.ledger.totals.loads_on_core += 1;
    }

    fn load_one(&mut self, keyspace: Keyspace, hash: u64, key: &[u8]) -> bool {
        // One that a job is reading is not read twice.
        if self.loads.is_wanted(keyspace.partition, hash) {
            return false;
        }
        let Some(read) = self.at_hand.read(&self.disk, keyspace, (hash, key)) else { return false };
        self.count_load();
        let row = self.at_hand.loaded(read, (hash, key));
        self.put_loaded(keyspace, &row, FRESH);
        true
    }
}
