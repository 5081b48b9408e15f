//! The lower level in memory, for the simulator and the tests. Clones share the map, so it survives the store that
//! used it, as a disk does; an ingestion is seen whole or not at all.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{IngestError, Lower, LowerError, LowerRow, LowerStats};

/// A `BTreeMap` behind a lock.
#[derive(Clone, Default, Debug)]
pub struct MemLower {
    map: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    is_full: Arc<AtomicBool>,
}

impl MemLower {
    fn map(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets every ingestion from now on find no room, or some again.
    pub fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
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

    fn ingest(&self, bytes: u64, rows: &mut dyn Iterator<Item = LowerRow>) -> Result<(), IngestError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(IngestError::NoRoom { needed_bytes: bytes, free_bytes: 0 });
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
