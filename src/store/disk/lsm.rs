//! The disk level on crate `lsm-tree`: flushes come in by its ingestion interface; its memtable and its own
//! sequence numbers stay unused by us.
//!
//! Rules kept (each a trap of the crate): the watermark of a compaction is above every version, since nobody holds
//! snapshots; block cache and descriptor table are shared by all trees of a core; all calls are made from jobs; reads
//! name a sequence number above every version, so that they always find the latest one.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lsm_tree::{AbstractTree, AnyTree};

use super::check;
use super::dead::{DeadRanges, Range};
use super::manifest::Manifest;
use super::merge::Turns;
use super::pace::{Pace, Wait};
use super::room::{DiskRoom, HARDLY_ANY_BYTES, LAST_BYTES, MARGIN_BYTES, left_by};
use super::scrub::Scrub;
use super::staged::StagedFile;
pub use super::tree::LsmShared;
use super::tree::{ABOVE_ALL, GuardedTree, Written};
use super::{
    Binding, CoreRead, DiskError, DiskLevel, DiskRow, DiskStats, IngestError, KeyRange, OWNER_BYTES, Pinned,
    ReadRow, Room, Sought, Staging, WantedHaste, ingested_bytes,
};

/// Merges in one call of `compact`.
const COMPACTIONS_A_CALL: u32 = 4;
/// Runs in level 0 above which an ingestion compacts first, so that reads do not have to look into ever more runs.
const MAX_L0_RUNS: usize = 32;

/// A tree up to this size is rewritten whole when a keyspace was flushed; in a larger one what is left of it goes with
/// the merges to come.
const REWRITE_BYTES: u64 = 256 << 20;
/// What a row takes in a table beside its bytes, roughly.
const ROW_BYTES: u64 = 32;
/// The tables that such a rewrite makes.
const TABLE_BYTES: u64 = 64 << 20;

/// What errors say was tried.
const ROOM: &str = "asking for the room left in";
const RESERVE: &str = "giving the reserve up in";

/// What a version's change may take.
const VERSION_BYTES: u64 = 512 << 10;

/// Runs in level 0 above which no ingestion is taken, as the crate counts them in a byte; and one of hardly any rows, which
/// may be what lets others go.
const L0_RUNS_END: usize = 200;
const L0_RUNS_LAST: usize = 250;

/// One shard's tree.
#[derive(Clone)]
pub struct LsmLevel {
    pub(super) tree: Arc<GuardedTree>,
    dead: DeadRanges,
    /// The version in which there was nothing to merge.
    pub(super) merged: Arc<AtomicU64>,
    pub(super) turns: Arc<Turns>,
    /// Dead ranges whose tables are still to be dropped.
    undropped: Arc<Mutex<Vec<Range>>>,
    pub(super) room: Arc<DiskRoom>,
    /// The version whose rewrite found no room, and the room there was: not tried again before one has changed.
    unfit: Arc<Mutex<Option<(u64, u64)>>>,
    /// The version that a rewrite made: another one would make the same of it.
    rewritten: Arc<AtomicU64>,
    scrub: Arc<Scrub>,
}

impl LsmLevel {
    /// Makes a folder without a manifest the state of `owner`, as it is. The tree of an empty one is made when it is opened
    /// for the first time.
    ///
    /// # Errors
    /// [`DiskError`], if what it holds does not agree with itself or the manifest cannot be written.
    pub fn format(path: &Path, owner: [u8; OWNER_BYTES]) -> Result<(), DiskError> {
        let mut manifest = Manifest::new(owner);
        if let Some(found) = check::compare_unnamed(path)? {
            manifest.tree = Some(check::marks(path, &found)?);
        }
        manifest.write(path)
    }

    /// The files in the folder `path` that say whose it is: two copies.
    #[must_use]
    pub fn manifests(path: &Path) -> [std::path::PathBuf; 2] {
        super::manifest::COPIES.map(|name| path.join(name))
    }

    /// Whose the folder `path` is; `None` if it does not say.
    ///
    /// # Errors
    /// [`DiskError`], if its manifest cannot be read.
    pub fn owner(path: &Path) -> Result<Option<[u8; OWNER_BYTES]>, DiskError> {
        Ok(Manifest::read(path)?.map(|manifest| manifest.owner))
    }

    /// Opens the tree in the folder `path`, if it is bound as `binding` says and as its manifest describes it; makes it
    /// in a folder that was just formatted.
    ///
    /// # Errors
    /// [`DiskError`], with the file or folder and what is wrong with it.
    pub fn open(path: &Path, shared: &LsmShared, binding: &Binding) -> Result<Self, DiskError> {
        let dead = DeadRanges::default();
        let tree = GuardedTree::open(path, shared, dead.clone(), binding)?;
        let room =
            DiskRoom::open(path).map_err(|error| DiskError::io("making the reserve in", path, &error))?;
        Ok(Self {
            tree: Arc::new(tree),
            dead,
            merged: Arc::new(AtomicU64::new(u64::MAX)),
            turns: Arc::default(),
            undropped: Arc::default(),
            room: Arc::new(room),
            unfit: Arc::default(),
            rewritten: Arc::new(AtomicU64::new(u64::MAX)),
            scrub: Arc::default(),
        })
    }

    /// What the system refused in the tree's folder.
    fn refused(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> DiskError {
        move |error| DiskError::io(what, self.tree.path(), &error)
    }

    pub(super) fn compaction<T>(
        &self,
        what: &'static str,
        act: impl FnOnce(&AnyTree) -> lsm_tree::Result<T>,
    ) -> Result<Written<T>, DiskError> {
        self.tree.compact(what, &self.room, act)
    }

    pub(super) fn version(&self) -> Result<u64, DiskError> {
        self.tree.look(|tree| tree.current_version().id())
    }

    pub(super) fn disk_space(&self) -> Result<u64, DiskError> {
        self.tree.look(AnyTree::disk_space)
    }

    /// Lets the rows of flushed keyspaces go: whole tables at once, the rest when it is merged. What finds no room is
    /// tried again with the next compaction.
    fn drop_dead(&self, dead: &[Range]) -> Result<(), DiskError> {
        let mut ranges = std::mem::take(&mut *self.undropped());
        for (from, to) in dead {
            self.dead.add(from, to);
            self.rewritten.store(u64::MAX, Ordering::Relaxed);
            ranges.push((from.clone(), to.clone()));
        }
        while let Some(range) = ranges.pop() {
            let dropped = self.drop_range(&range);
            if !matches!(dropped, Ok(Written::Done(()))) {
                ranges.push(range);
                self.undropped().append(&mut ranges);
                return dropped.map(drop);
            }
        }
        Ok(())
    }

    /// Lets the rows of one flushed keyspace go, if there is room for that.
    fn drop_range(&self, (from, to): &Range) -> Result<Written<()>, DiskError> {
        // A merge lets earlier versions go by itself, and with them the tables that only they name. This keeps them.
        let drop = |tree: &AnyTree| {
            tree.drop_range(from.as_slice()..to.as_slice())?;
            tree.get_version_history_lock().maintenance(self.tree.path(), ABOVE_ALL)
        };
        let mut dropped = self.compaction("dropping flushed rows", drop)?;
        if matches!(dropped, Written::NoRoom) {
            self.give_reserve_up()?;
            dropped = self.compaction("dropping flushed rows", drop)?;
        }
        if matches!(dropped, Written::NoRoom) {
            return Ok(dropped);
        }
        let mut is_empty = true;
        self.tree.scan(from, to, &mut |_, _| {
            is_empty = false;
            false
        })?;
        if !is_empty && self.disk_space()? <= REWRITE_BYTES {
            self.rewrite()?;
        }
        Ok(dropped)
    }

    fn undropped(&self) -> MutexGuard<'_, Vec<Range>> {
        self.undropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the whole tree again without what is dead in it, if what is left fits. Returns whether it did.
    pub(super) fn rewrite(&self) -> Result<bool, DiskError> {
        if !self.tree.damage().is_empty() {
            return Ok(false);
        }
        let version = self.version()?;
        if self.rewritten.load(Ordering::Relaxed) == version || self.disk_space()? == 0 {
            return Ok(false);
        }
        let usable_bytes = self.usable_bytes()?;
        let was_unfit = *self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        if was_unfit.is_some_and(|(then, room)| then == version && usable_bytes <= room + room / 8) {
            return Ok(false);
        }
        let live_bytes = self.live_bytes(usable_bytes)?;
        if live_bytes >= usable_bytes.saturating_sub(left_by(live_bytes)) {
            *self.unfit.lock().unwrap_or_else(PoisonError::into_inner) = Some((version, usable_bytes));
            return Ok(false);
        }
        // What does not fit after all, since somebody took the room meanwhile, fits once it is free again: that is tried
        // again.
        if !self.claim(live_bytes, true)? {
            return Ok(false);
        }
        let rewritten =
            self.compaction("a merge of the whole state", |tree| tree.major_compact(TABLE_BYTES, ABOVE_ALL));
        if self.checked(rewritten)? != Written::Done(()) {
            return Ok(false);
        }
        let (made, l0_runs) = self.tree.look(|tree| {
            let version = tree.current_version();
            (version.id(), version.iter_levels().next().map_or(0, |level| level.run_count()))
        })?;
        // A flush that came in meanwhile stands above what was rewritten.
        if made != version && l0_runs == 0 {
            self.rewritten.store(made, Ordering::Relaxed);
        }
        Ok(made != version)
    }

    /// What the rows that live would take as tables, or `limit` if that is less: of a small tree they are counted, of a
    /// large one it is estimated from the number of tombstones.
    fn live_bytes(&self, limit: u64) -> Result<u64, DiskError> {
        let disk_bytes = self.disk_space()?;
        if disk_bytes <= REWRITE_BYTES {
            let mut bytes = 0u64;
            for (from, to) in self.dead.gaps() {
                self.tree.scan(&from, &to, &mut |key, value| {
                    bytes += (key.len() + value.len()) as u64 + ROW_BYTES;
                    ingested_bytes(bytes) < limit
                })?;
            }
            return Ok(ingested_bytes(bytes).min(limit));
        }
        let (items, tombstones) = self.tree.look(|tree| {
            tree.current_version().iter_tables().fold((0, 0), |(items, tombstones), table| {
                (items + table.metadata.item_count, tombstones + table.metadata.tombstone_count)
            })
        })?;
        // Each tombstone takes at most one row with it.
        let rows = u64::saturating_sub(items, tombstones).max(1);
        let row_bytes = disk_bytes / rows + 1;
        Ok((rows.saturating_sub(tombstones) * row_bytes).min(limit))
    }

    /// Whether a small tree that holds much that was overwritten could not be rewritten any more after a flush of so
    /// many bytes: what is dead would take its space for ever then, while what is live has not grown.
    fn would_choke(&self, needed_bytes: u64) -> bool {
        let chokes = || {
            let (disk_bytes, free_bytes) = (self.disk_space()?, self.free_bytes()?);
            if disk_bytes > REWRITE_BYTES || free_bytes >= needed_bytes + disk_bytes + MARGIN_BYTES {
                return Ok::<_, DiskError>(false);
            }
            let live_bytes = self.live_bytes(disk_bytes)?;
            let is_mostly_live = disk_bytes <= live_bytes + live_bytes / 4;
            Ok(!is_mostly_live && free_bytes < needed_bytes + live_bytes + MARGIN_BYTES)
        };
        // Of a damaged tree it is not known, and it is not rewritten.
        chokes().unwrap_or(false)
    }

    fn usable_bytes(&self) -> Result<u64, DiskError> {
        self.room.usable_bytes().map_err(self.refused(ROOM))
    }

    pub(super) fn free_bytes(&self) -> Result<u64, DiskError> {
        self.room.free_bytes().map_err(self.refused(ROOM))
    }

    fn give_reserve_up(&self) -> Result<(), DiskError> {
        self.room.release(VERSION_BYTES).map_err(self.refused(RESERVE))
    }

    /// Whether there is room for `bytes`; for what deletes, the reserve's included.
    pub(super) fn claim(&self, bytes: u64, deletes: bool) -> Result<bool, DiskError> {
        let claimed = self.room.claim(bytes, deletes);
        Ok(claimed.map_err(self.refused(RESERVE))?.is_ok())
    }
}

impl DiskLevel for LsmLevel {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.tree.get(key)
    }

    fn get_each(
        &self,
        keys: &mut dyn Iterator<Item = Vec<u8>>,
        sought: Sought,
        visit: &mut dyn FnMut(ReadRow<'_>) -> bool,
    ) {
        self.tree.get_each(keys, sought, visit);
    }

    fn get_now(&self, key: &[u8], row: &mut Vec<u8>) -> Option<CoreRead> {
        self.tree.get_now(key, row)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskError> {
        self.tree.scan(from, to, visit)
    }

    fn pin(
        &self,
        head: &[u8],
        rows: &mut dyn FnMut(&[u8]) -> Option<KeyRange>,
    ) -> Result<Option<Pinned>, DiskError> {
        self.tree.pin(head, rows)
    }

    fn stage(&self) -> Result<Box<dyn Staging>, DiskError> {
        Ok(Box::new(StagedFile::new(self.clone())?))
    }

    fn ingest_each(
        &self,
        bytes: u64,
        deletes: bool,
        rows: &mut dyn Iterator<Item = Result<DiskRow, DiskError>>,
    ) -> Result<(), IngestError> {
        let runs = || self.tree.look(AnyTree::l0_run_count);
        // Beside damage, level 0 makes way while it may: before rows come above it.
        let waits = self.tree.haste.wait_for_merge();
        while runs()? > MAX_L0_RUNS || !self.tree.damage().is_empty() {
            match self.merge_once() {
                Ok(true) => {}
                // Rows can be taken all the same.
                Ok(false) | Err(DiskError::Damaged { .. } | DiskError::Panicked { .. }) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let needed_bytes = ingested_bytes(bytes);
        let no_room = || Err(IngestError::NoRoom { needed_bytes, free_bytes: self.free_bytes()? });
        let chokes = || !deletes && self.would_choke(needed_bytes);
        if chokes() {
            self.rewrite()?;
            if chokes() {
                return no_room();
            }
        }
        drop(waits);
        let most_runs = if needed_bytes <= HARDLY_ANY_BYTES { L0_RUNS_LAST } else { L0_RUNS_END };
        if runs()? >= most_runs || !self.claim(needed_bytes, deletes)? {
            return no_room();
        }
        let _ingesting = self.turns.ingest();
        match self.tree.ingest(&self.room, rows)? {
            Written::Done(()) => Ok(()),
            Written::NoRoom => no_room(),
        }
    }

    fn pace(&self) -> Option<Pace> {
        Some(self.tree.pace(Wait::Flush))
    }

    fn hurry(&self, haste: WantedHaste) {
        self.tree.haste.announce(haste);
    }

    fn room(&self) -> Result<Room, DiskError> {
        let is_short = !self.room.restore().map_err(self.refused("making the reserve in"))?;
        Ok(Room {
            is_short,
            free_bytes: self.free_bytes()?.saturating_sub(MARGIN_BYTES),
            usable_bytes: self.usable_bytes()?,
            last_bytes: LAST_BYTES,
            step_bytes: self.room.step_bytes(),
        })
    }

    fn compact(&self, dead: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, DiskError> {
        self.drop_dead(dead)?;
        for _ in 0..COMPACTIONS_A_CALL {
            if !self.merge_once()? {
                // Merges of levels may have no room where one of all that is still live has.
                return if self.room()?.is_short { self.rewrite() } else { Ok(false) };
            }
        }
        Ok(true)
    }

    fn verify(&self) -> bool {
        self.scrub.step(&self.tree).unwrap_or_else(|error| {
            tracing::warn!("{error}; the state is verified again later");
            true
        })
    }

    fn stats(&self) -> DiskStats {
        let (disk_bytes, tables, damaged_tables) = self.tree.held();
        let (verified_bytes, verified_rounds) = self.scrub.figures();
        DiskStats {
            disk_bytes,
            tables,
            damaged_tables,
            damaged_reads: self.tree.damaged_reads(),
            verified_bytes,
            verified_rounds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{OURS, open};
    use super::*;

    #[test]
    fn where_room_is_short_what_lives_is_rewritten_once_and_the_reserve_stays() {
        for rows in [0, 1000_u32] {
            let folder = tempfile::tempdir().expect("folder");
            LsmLevel::format(folder.path(), OURS.owner).expect("formats");
            let disk = open(folder.path()).expect("opens");
            let mut written = (0..rows).map(|row| (row.to_be_bytes().to_vec(), Some(vec![1; 100])));
            disk.ingest(200_000, false, &mut written).expect("there is room");
            let used_bytes = disk.disk_space().expect("looks");
            let capacity_bytes = disk.room.reserve_bytes + used_bytes + (1 << 20);
            disk.room.capacity_bytes.store(capacity_bytes, Ordering::Relaxed);
            assert!(disk.room().expect("is asked").is_short);
            let usable_bytes = disk.room().expect("is asked").usable_bytes;
            let calls = (0..100).take_while(|_| disk.compact(&[]).expect("merges")).count();
            assert!(calls < 4, "{rows} rows: {calls} times");
            assert!(disk.room().expect("is asked").usable_bytes + (64 << 10) >= usable_bytes);
            let all = (vec![0], vec![u8::MAX]);
            disk.compact(&[all]).expect("lets all go");
            assert_eq!(disk.stats().disk_bytes, 0, "{rows} rows");
        }
    }

    #[test]
    fn what_is_left_of_the_reserve_is_not_given_up_for_a_rewrite_that_cannot_fit() {
        let folder = tempfile::tempdir().expect("folder");
        LsmLevel::format(folder.path(), OURS.owner).expect("formats");
        let disk = open(folder.path()).expect("opens");
        let mut rows = (0..2000_u32).map(|row| (row.to_be_bytes().to_vec(), Some(vec![1; 1000])));
        disk.ingest(2 << 20, false, &mut rows).expect("there is room");
        // 356 KiB are left of it, and nothing beside it.
        disk.room.release(disk.room.reserve_bytes - (356 << 10)).expect("gives up");
        let used_bytes: u64 = ["", "tables"]
            .iter()
            .flat_map(|name| std::fs::read_dir(folder.path().join(name)).expect("a folder"))
            .map(|entry| entry.expect("an entry").metadata().expect("a file").len())
            .sum();
        disk.room.capacity_bytes.store(used_bytes, Ordering::Relaxed);
        let usable_bytes = disk.usable_bytes().expect("is asked");
        assert_eq!(usable_bytes, 100 << 10);
        assert!(!disk.rewrite().expect("nothing is tried"));
        assert_eq!(disk.usable_bytes().expect("is asked"), usable_bytes);
    }

    #[test]
    fn rows_that_are_written_over_and_over_do_not_fill_a_small_disk() {
        const ROWS: u32 = 1000;
        const VALUE_BYTES: usize = 16 << 10;
        let folder = tempfile::tempdir().expect("folder");
        LsmLevel::format(folder.path(), OURS.owner).expect("formats");
        let disk = open(folder.path()).expect("opens");
        let reserve_bytes =
            disk.room().expect("is asked").usable_bytes - disk.room().expect("is asked").free_bytes;
        // 16 MB live; twice that and a flush of 4 MB fit.
        let bytes = u64::from(ROWS) * (VALUE_BYTES as u64);
        disk.room.capacity_bytes.store(reserve_bytes + 2 * bytes + (16 << 20), Ordering::Relaxed);
        let mut refused = 0;
        for round in 0..60_u32 {
            let numbers = (0..ROWS / 4).map(|number| number * 4 + round % 4);
            let mut rows = numbers.map(|number| {
                (format!("key {number:05}").into_bytes(), Some(vec![round as u8; VALUE_BYTES]))
            });
            refused += u32::from(disk.ingest(bytes / 4, false, &mut rows).is_err());
        }
        assert_eq!(refused, 0);
        for number in 0..ROWS {
            let value = disk.get(format!("key {number:05}").as_bytes()).expect("reads").expect("is there");
            assert_eq!(value.first(), Some(&(56 + (number % 4) as u8)), "row {number}");
        }
    }
}
