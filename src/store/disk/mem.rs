//! The disk level in memory, for the simulator and the tests. Clones share the map, so it survives the store that
//! used it, as a disk does; an ingestion is seen whole or not at all. Rows can be damaged, and restored.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corduroy_wal::mix::scramble;

use super::format::RowLocation;
use super::{
    CoreRead, DiskError, DiskLevel, DiskRow, DiskStats, IngestError, KeyRange, Pace, Pinned, ReadRow, Room,
    Sought, Staging, WantedHaste, get_one_by_one, ingested_bytes,
};
use crate::store::memory::meta::PartitionMeta;

/// What the keys of keys' rows begin with.
const ROW_TAG: u8 = 2;
/// What is left free for what deletes.
const RESERVE_BYTES: u64 = 128 << 10;

/// A `BTreeMap` behind a lock.
#[derive(Clone, Debug)]
pub struct MemLevel {
    map: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    /// What its rows may take.
    capacity_bytes: Arc<AtomicU64>,
    damage: Arc<Mutex<Damage>>,
    /// Of a thousand reads of a core, those that find their row at hand; and the state of what draws them.
    at_hand: Arc<Mutex<(u64, u64)>>,
    /// See [`MemLevel::keep_rows`].
    keeps_rows: Arc<AtomicBool>,
}

/// Rows that cannot be read, as long as they are not written over.
#[derive(Debug, Default)]
struct Damage {
    keys: BTreeSet<Vec<u8>>,
    /// They are read all the same, other than they were written.
    is_served: bool,
}

impl Default for MemLevel {
    fn default() -> Self {
        Self {
            map: Arc::default(),
            capacity_bytes: Arc::new(AtomicU64::new(u64::MAX)),
            damage: Arc::default(),
            at_hand: Arc::default(),
            keeps_rows: Arc::default(),
        }
    }
}

impl MemLevel {
    fn map(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it take so many bytes of keys and values at most from now on; what is there already stays.
    pub fn set_capacity(&self, bytes: u64) {
        self.capacity_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Lets so many of a thousand reads of a core find their row at hand from now on, as if it were in the page cache: none at
    /// first. The seed decides which.
    pub fn set_at_hand(&self, per_mille: u64, seed: u64) {
        *self.at_hand.lock().unwrap_or_else(PoisonError::into_inner) = (per_mille, seed);
    }

    fn is_at_hand(&self) -> bool {
        let mut at_hand = self.at_hand.lock().unwrap_or_else(PoisonError::into_inner);
        let (per_mille, state) = &mut *at_hand;
        *state = state.wrapping_add(1);
        scramble(*state) % 1000 < *per_mille
    }

    /// Lets an image that replaces a partition from now on leave the rows that it does not have: a mistake that tests have to
    /// find.
    pub fn keep_rows(&self) {
        self.keeps_rows.store(true, Ordering::Relaxed);
    }

    /// Rows of before of the partitions that these rows replace, as they are if they are kept.
    fn kept_rows(&self, rows: &[DiskRow]) -> Vec<DiskRow> {
        let meta = rows.get(1).and_then(|(_, value)| PartitionMeta::decode(value.as_ref()?));
        if !self.keeps_rows.load(Ordering::Relaxed) || meta.is_none_or(|meta| meta.installed.is_none()) {
            return Vec::new();
        }
        let last = rows.iter().rev().find_map(|(key, _)| RowLocation::read(key));
        let Some((now, ..)) = last else { return Vec::new() };
        let map = self.map();
        let before = map.iter().filter_map(|(key, value)| Some((RowLocation::read(key)?, value)));
        let of_it = before.filter(|((was, ..), _)| was.partition == now.partition && *was != now);
        of_it.map(|((_, hash, key), value)| (now.key(hash, key), Some(value.clone()))).collect()
    }

    /// Lets every ingestion from now on find no room, or some again.
    pub fn set_full(&self, is_full: bool) {
        self.set_capacity(if is_full { 0 } else { u64::MAX });
    }

    fn left_bytes(&self) -> u64 {
        self.capacity_bytes.load(Ordering::Relaxed).saturating_sub(self.stats().disk_bytes)
    }

    fn damaged(&self) -> MutexGuard<'_, Damage> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Damages some rows of keys, from the `first` one on (counted round), as a block of a table would be. Returns how many. With
    /// `is_served` they are read all the same, other than they were written: nobody notices.
    pub fn damage(&self, first: usize, rows: usize, is_served: bool) -> usize {
        let map = self.map();
        let keys: Vec<&Vec<u8>> = map.keys().filter(|key| key.first() == Some(&ROW_TAG)).collect();
        let from = first % keys.len().max(1);
        let mut damaged = self.damaged();
        damaged.is_served = is_served;
        let taken = keys.into_iter().skip(from).take(rows).map(|key| damaged.keys.insert(key.clone()));
        taken.filter(|is_new| *is_new).count()
    }

    /// Puts all rows back as they were written.
    pub fn restore(&self) {
        self.damaged().keys.clear();
    }

    /// What is read of a row.
    fn read(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, DiskError> {
        let damaged = self.damaged();
        let mut value = value.to_vec();
        if damaged.keys.contains(key) {
            if !damaged.is_served {
                return Err(DiskError::damaged(Path::new("memory"), "a row is damaged"));
            }
            value.iter_mut().next_back().into_iter().for_each(|byte| *byte ^= 1);
        }
        Ok(value)
    }

    /// What it holds, as a copy.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.map().clone()
    }
}

impl DiskLevel for MemLevel {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        let value = self.map().get(key).cloned();
        value.map(|value| self.read(key, &value)).transpose()
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
        if !self.is_at_hand() {
            return None;
        }
        let found = self.get(key).ok()?;
        let (is_there, read_bytes) = (found.is_some(), found.as_ref().map_or(1, Vec::len));
        *row = found.unwrap_or_default();
        Some(CoreRead { is_there, read_bytes })
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskError> {
        if from >= to {
            return Ok(());
        }
        let map = self.map();
        for (key, value) in map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if !visit(key, &self.read(key, value)?) {
                break;
            }
        }
        Ok(())
    }

    fn pin(
        &self,
        head: &[u8],
        rows: &mut dyn FnMut(&[u8]) -> Option<KeyRange>,
    ) -> Result<Option<Pinned>, DiskError> {
        let map = self.map();
        let Some(value) = map.get(head) else { return Ok(None) };
        let value = self.read(head, value)?;
        let Some((from, to)) = rows(&value) else { return Ok(None) };
        let pairs = map.range::<[u8], _>((Bound::Included(&from[..]), Bound::Excluded(&to[..])));
        let pairs: Vec<_> = pairs.map(|(key, value)| Ok((key.clone(), self.read(key, value)?))).collect();
        Ok(Some(Pinned { head: value, rows: Box::new(pairs.into_iter()) }))
    }

    fn stage(&self) -> Result<Box<dyn Staging>, DiskError> {
        Ok(Box::new(StagedBytes { level: self.clone(), bytes: Vec::new() }))
    }

    fn ingest_each(
        &self,
        bytes: u64,
        deletes: bool,
        rows: &mut dyn Iterator<Item = Result<DiskRow, DiskError>>,
    ) -> Result<(), IngestError> {
        let (needed_bytes, free_bytes) = (ingested_bytes(bytes), self.left_bytes());
        let kept_bytes = if deletes { 0 } else { RESERVE_BYTES };
        if free_bytes < needed_bytes.saturating_add(kept_bytes) {
            return Err(IngestError::NoRoom { needed_bytes, free_bytes });
        }
        let mut rows = rows.collect::<Result<Vec<DiskRow>, DiskError>>()?;
        let kept = self.kept_rows(&rows);
        if !kept.is_empty() {
            rows.extend(kept);
            rows.sort();
            rows.dedup_by(|(later, _), (earlier, _)| later == earlier);
        }
        assert!(rows.is_sorted_by(|(a, _), (b, _)| a < b), "an ingestion takes ascending keys, each once");
        let mut map = self.map();
        let mut damaged = self.damaged();
        for (key, value) in rows {
            damaged.keys.remove(&key);
            match value {
                Some(value) => _ = map.insert(key, value),
                None => _ = map.remove(&key),
            }
        }
        Ok(())
    }

    fn pace(&self) -> Option<Pace> {
        None
    }

    fn hurry(&self, _: WantedHaste) {}

    fn room(&self) -> Result<Room, DiskError> {
        let usable_bytes = self.left_bytes();
        Ok(Room {
            is_short: usable_bytes < RESERVE_BYTES,
            free_bytes: usable_bytes.saturating_sub(RESERVE_BYTES),
            usable_bytes,
            last_bytes: RESERVE_BYTES / 2,
            step_bytes: if usable_bytes > u64::MAX / 2 { u64::MAX } else { RESERVE_BYTES / 4 },
        })
    }

    fn compact(&self, dead: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, DiskError> {
        let mut map = self.map();
        for (from, to) in dead {
            map.retain(|key, _| key < from || key >= to);
            self.damaged().keys.retain(|key| key < from || key >= to);
        }
        Ok(false)
    }

    fn verify(&self) -> bool {
        true
    }

    fn stats(&self) -> DiskStats {
        let map = self.map();
        let bytes = map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        DiskStats { disk_bytes: bytes as u64, tables: 1, ..DiskStats::default() }
    }
}

/// Bytes that count against the level's room.
struct StagedBytes {
    level: MemLevel,
    bytes: Vec<u8>,
}

impl Staging for StagedBytes {
    fn append(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        let all = (self.bytes.len() + bytes.len()) as u64;
        if self.level.left_bytes() < all.saturating_add(RESERVE_BYTES) {
            let full = std::io::ErrorKind::StorageFull.into();
            return Err(DiskError::io("writing", Path::new("memory"), &full));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, at: u64, bytes: usize) -> Result<Vec<u8>, DiskError> {
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let read = self.bytes.get(from..from.saturating_add(bytes));
        read.map(<[u8]>::to_vec).ok_or_else(|| DiskError::damaged(Path::new("memory"), "it is cut off"))
    }
}
