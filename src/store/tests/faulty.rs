//! A disk level in memory of which some keys, or all, cannot be read.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::*;
use crate::store::disk::{
    CoreRead, DiskRow, DiskStats, IngestError, KeyRange, Pace, Pinned, ReadRow, Room, Sought, Staging,
    WantedHaste, get_one_by_one,
};

/// Why something cannot be read: nothing of it, or some keys.
#[derive(Default)]
struct Faults {
    all: Option<DiskError>,
    damaged: Vec<String>,
    /// Flushes that find no room, though there seems to be some.
    refused_flushes: u32,
    /// The rows of the next ingestion end in an error.
    unread_rows: bool,
    /// The haste announced last.
    haste: WantedHaste,
}

/// See the file's head. Clones share the map and what is wrong with it.
#[derive(Clone, Default)]
pub(super) struct Faulty {
    disk: MemLevel,
    faults: Arc<Mutex<Faults>>,
}

impl Faulty {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("no panic")
    }

    /// Why nothing can be read from now on; `None`: it can be.
    pub(super) fn set(&self, broken: Option<DiskError>) {
        self.faults().all = broken;
    }

    /// So many flushes find no room, though there is some when they have ended.
    pub(super) fn refuse_flushes(&self, flushes: u32) {
        self.faults().refused_flushes = flushes;
    }

    /// The rows of the next ingestion cannot be read to their end.
    pub(super) fn refuse_rows(&self) {
        self.faults().unread_rows = true;
    }

    /// The haste announced last.
    pub(super) fn haste(&self) -> WantedHaste {
        self.faults().haste
    }

    /// As [`MemLevel::set_at_hand`].
    pub(super) fn set_at_hand(&self, per_mille: u64, seed: u64) {
        self.disk.set_at_hand(per_mille, seed);
    }

    /// Leaves so much room on the disk.
    pub(super) fn leave(&self, bytes: u64) {
        self.disk.set_capacity(self.disk.stats().disk_bytes + bytes);
    }

    /// Whatever is asked of a key that ends so is damaged from now on.
    pub(super) fn damage(&self, key: &str) {
        self.faults().damaged.push(key.to_owned());
    }

    /// `is_damaged`: whether what is asked for lies where one of the damaged keys does.
    fn check(&self, is_damaged: impl Fn(&str) -> bool) -> Result<(), DiskError> {
        let faults = self.faults();
        if faults.damaged.iter().any(|key| is_damaged(key)) {
            return Err(DiskError::damaged(Path::new("tables/7"), "a block of it"));
        }
        faults.all.clone().map_or(Ok(()), Err)
    }
}

impl DiskLevel for Faulty {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.check(|damaged| key.ends_with(damaged.as_bytes()))?;
        self.disk.get(key)
    }

    fn get_each(
        &self,
        keys: &mut dyn Iterator<Item = Vec<u8>>,
        _: Sought,
        visit: &mut dyn FnMut(ReadRow<'_>) -> bool,
    ) {
        get_one_by_one(self, keys, visit);
    }

    fn get_now(&self, key: &[u8], row: &mut Vec<u8>) -> Option<CoreRead> {
        self.check(|damaged| key.ends_with(damaged.as_bytes())).ok()?;
        self.disk.get_now(key, row)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskError> {
        // The partitions' own rows are read at the start, and are whole.
        self.check(|_| from.first() != Some(&1))?;
        self.disk.scan(from, to, visit)
    }

    fn pin(
        &self,
        head: &[u8],
        rows: &mut dyn FnMut(&[u8]) -> Option<KeyRange>,
    ) -> Result<Option<Pinned>, DiskError> {
        self.check(|damaged| head.ends_with(damaged.as_bytes()))?;
        self.disk.pin(head, rows)
    }

    fn stage(&self) -> Result<Box<dyn Staging>, DiskError> {
        self.disk.stage()
    }

    fn ingest_each(
        &self,
        bytes: u64,
        deletes: bool,
        rows: &mut dyn Iterator<Item = Result<DiskRow, DiskError>>,
    ) -> Result<(), IngestError> {
        let mut faults = self.faults();
        if std::mem::take(&mut faults.unread_rows) {
            drop(faults);
            let why = DiskError::damaged(Path::new("memory"), "it reads otherwise");
            return self.disk.ingest_each(bytes, deletes, &mut rows.take(3).chain([Err(why)]));
        }
        if faults.refused_flushes > 0 {
            faults.refused_flushes -= 1;
            return Err(IngestError::NoRoom { needed_bytes: bytes, free_bytes: 0 });
        }
        drop(faults);
        self.disk.ingest_each(bytes, deletes, rows)
    }

    fn pace(&self) -> Option<Pace> {
        self.disk.pace()
    }

    fn hurry(&self, haste: WantedHaste) {
        self.faults().haste = haste;
        self.disk.hurry(haste);
    }

    fn room(&self) -> Result<Room, DiskError> {
        self.disk.room()
    }

    fn compact(&self, dead: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, DiskError> {
        self.disk.compact(dead)
    }

    fn verify(&self) -> bool {
        self.disk.verify()
    }

    fn stats(&self) -> DiskStats {
        self.disk.stats()
    }
}
