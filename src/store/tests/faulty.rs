//! A lower level in memory of which some keys, or all, cannot be read.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::*;
use crate::store::lower::{IngestError, LowerRow, LowerStats, Pace, Room};

/// Why something cannot be read: nothing of it, or some keys.
#[derive(Default)]
struct Faults {
    all: Option<LowerError>,
    damaged: Vec<String>,
    /// Flushes that find no room, though there seems to be some.
    refused_flushes: u32,
    /// The haste announced last.
    haste: u8,
}

/// See the file's head. Clones share the map and what is wrong with it.
#[derive(Clone, Default)]
pub(super) struct Faulty {
    lower: MemLower,
    faults: Arc<Mutex<Faults>>,
}

impl Faulty {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("no panic")
    }

    /// Why nothing can be read from now on; `None`: it can be.
    pub(super) fn set(&self, broken: Option<LowerError>) {
        self.faults().all = broken;
    }

    /// So many flushes find no room, though there is some when they have ended.
    pub(super) fn refuse_flushes(&self, flushes: u32) {
        self.faults().refused_flushes = flushes;
    }

    /// The haste announced last.
    pub(super) fn haste(&self) -> u8 {
        self.faults().haste
    }

    /// Leaves so much room on the disk.
    pub(super) fn leave(&self, bytes: u64) {
        self.lower.set_capacity(self.lower.stats().disk_bytes + bytes);
    }

    /// Whatever is asked of a key that ends so is damaged from now on.
    pub(super) fn damage(&self, key: &str) {
        self.faults().damaged.push(key.to_owned());
    }

    /// `is_damaged`: whether what is asked for lies where one of the damaged keys does.
    fn check(&self, is_damaged: impl Fn(&str) -> bool) -> Result<(), LowerError> {
        let faults = self.faults();
        if faults.damaged.iter().any(|key| is_damaged(key)) {
            return Err(LowerError::damaged(Path::new("tables/7"), "a block of it"));
        }
        faults.all.clone().map_or(Ok(()), Err)
    }
}

impl Lower for Faulty {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LowerError> {
        self.check(|damaged| key.ends_with(damaged.as_bytes()))?;
        self.lower.get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), LowerError> {
        // The partitions' own rows are read at the start, and are whole.
        self.check(|_| from.first() != Some(&1))?;
        self.lower.scan(from, to, visit)
    }

    fn ingest(
        &self,
        bytes: u64,
        deletes: bool,
        rows: &mut dyn Iterator<Item = LowerRow>,
    ) -> Result<(), IngestError> {
        let mut faults = self.faults();
        if faults.refused_flushes > 0 {
            faults.refused_flushes -= 1;
            return Err(IngestError::NoRoom { needed_bytes: bytes, free_bytes: 0 });
        }
        drop(faults);
        self.lower.ingest(bytes, deletes, rows)
    }

    fn pace(&self) -> Option<Pace> {
        self.lower.pace()
    }

    fn hurry(&self, percent: u8) {
        self.faults().haste = percent;
        self.lower.hurry(percent);
    }

    fn room(&self) -> Result<Room, LowerError> {
        self.lower.room()
    }

    fn compact(&self, dead: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, LowerError> {
        self.lower.compact(dead)
    }

    fn verify(&self) -> bool {
        self.lower.verify()
    }

    fn stats(&self) -> LowerStats {
        self.lower.stats()
    }
}
