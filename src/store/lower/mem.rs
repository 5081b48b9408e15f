//! The lower level in memory, for the simulator and the tests. Clones share the map, so it survives the store that
//! used it, as a disk does; an ingestion is seen whole or not at all.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{IngestError, Lower, LowerError, LowerRow, LowerStats, Room, ingested_bytes};

/// What is left free for what deletes.
const RESERVE_BYTES: u64 = 128 << 10;

/// A `BTreeMap` behind a lock.
#[derive(Clone, Debug)]
pub struct MemLower {
    map: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    /// What its rows may take.
    capacity_bytes: Arc<AtomicU64>,
}

impl Default for MemLower {
    fn default() -> Self {
        Self { map: Arc::default(), capacity_bytes: Arc::new(AtomicU64::new(u64::MAX)) }
    }
}

impl MemLower {
    fn map(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it take so many bytes of keys and values at most from now on; what is there already stays.
    pub fn set_capacity(&self, bytes: u64) {
        self.capacity_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Lets every ingestion from now on find no room, or some again.
    pub fn set_full(&self, is_full: bool) {
        self.set_capacity(if is_full { 0 } else { u64::MAX });
    }

    fn left_bytes(&self) -> u64 {
        self.capacity_bytes.load(Ordering::Relaxed).saturating_sub(self.stats().disk_bytes)
    }

    /// What it holds, as a copy.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.map().clone()
    }
}

impl Lower for MemLower {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LowerError> {
        Ok(self.map().get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), LowerError> {
        if from >= to {
            return Ok(());
        }
        let map = self.map();
        let mut range = map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        range.all(|(key, value)| visit(key, value));
        Ok(())
    }

    fn ingest(
        &self,
        bytes: u64,
        deletes: bool,
        rows: &mut dyn Iterator<Item = LowerRow>,
    ) -> Result<(), IngestError> {
        let (needed_bytes, free_bytes) = (ingested_bytes(bytes), self.left_bytes());
        let kept_bytes = if deletes { 0 } else { RESERVE_BYTES };
        if free_bytes < needed_bytes.saturating_add(kept_bytes) {
            return Err(IngestError::NoRoom { needed_bytes, free_bytes });
        }
        let rows: Vec<LowerRow> = rows.collect();
        assert!(rows.is_sorted_by(|(a, _), (b, _)| a < b), "an ingestion takes ascending keys, each once");
        let mut map = self.map();
        for (key, value) in rows {
            match value {
                Some(value) => _ = map.insert(key, value),
                None => _ = map.remove(&key),
            }
        }
        Ok(())
    }

    fn room(&self) -> Result<Room, LowerError> {
        let usable_bytes = self.left_bytes();
        Ok(Room {
            is_short: usable_bytes < RESERVE_BYTES,
            free_bytes: usable_bytes.saturating_sub(RESERVE_BYTES),
            usable_bytes,
            last_bytes: RESERVE_BYTES / 2,
            step_bytes: if usable_bytes > u64::MAX / 2 { u64::MAX } else { RESERVE_BYTES / 4 },
        })
    }

    fn compact(&self, dead: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, LowerError> {
        let mut map = self.map();
        for (from, to) in dead {
            map.retain(|key, _| key < from || key >= to);
        }
        Ok(false)
    }

    fn stats(&self) -> LowerStats {
        let map = self.map();
        let bytes = map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        LowerStats { disk_bytes: bytes as u64, tables: 1 }
    }
}
