//! The lower level on crate `lsm-tree`: hand-overs come in by its ingestion interface; its memtable and its own
//! sequence numbers stay unused by us.
//!
//! Rules kept (each a trap of the crate): the watermark of a compaction is above every version, since nobody holds
//! snapshots; block cache and descriptor table are shared by all trees of a node; all calls are made from jobs; reads
//! name a sequence number above every version, so that they always find the latest one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use lsm_tree::compaction::Leveled;
use lsm_tree::compaction::filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict};
use lsm_tree::{
    AbstractTree, AnyTree, Cache, Config, DescriptorTable, Guard, SeqNo, SequenceNumberCounter, Table,
};

use super::manifest::{self, Manifest};
use super::room::{DiskRoom, MARGIN_BYTES, is_no_room};
use super::{
    Binding, IngestError, Lower, LowerError, LowerRow, LowerStats, OWNER_BYTES, Room, ingested_bytes,
};

/// Above every sequence number in use; the top bit is the crate's own.
const ABOVE_ALL: SeqNo = (1 << 63) - 1;
/// Above every key.
const LAST_KEY: &[u8] = &[u8::MAX];
/// Merges in one call of `compact`.
const COMPACTIONS_A_CALL: u32 = 4;
/// Runs in level 0 above which an ingestion compacts first, so that reads do not have to look into ever more runs.
const MAX_L0_RUNS: usize = 16;

/// A tree up to this size is rewritten whole when a keyspace was flushed; in a larger one what is left of it goes with
/// the merges to come.
const REWRITE_BYTES: u64 = 256 << 20;
/// What one merge writes at most, roughly.
const MERGE_BYTES: u64 = 512 << 20;
/// What a row takes in a table beside its bytes, roughly.
const ROW_BYTES: u64 = 32;
/// The tables that such a rewrite makes.
const TABLE_BYTES: u64 = 64 << 20;

/// The rows of flushed keyspaces, which merges leave out: key ranges, from their first key to above their last.
#[derive(Clone, Default)]
struct DeadRanges(Arc<RwLock<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl DeadRanges {
    fn add(&self, from: &[u8], to: &[u8]) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(from.to_vec(), to.to_vec());
    }

    fn contains(&self, key: &[u8]) -> bool {
        let ranges = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let at_or_before = (std::ops::Bound::Unbounded, std::ops::Bound::Included(key));
        ranges.range::<[u8], _>(at_or_before).next_back().is_some_and(|(_, to)| key < to.as_slice())
    }

    /// The ranges between them, in order.
    fn gaps(&self) -> Vec<Range> {
        let ranges = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (mut gaps, mut from) = (Vec::new(), Vec::new());
        for (dead, to) in ranges.iter() {
            gaps.push((from, dead.clone()));
            from = to.clone();
        }
        gaps.push((from, LAST_KEY.to_vec()));
        gaps
    }
}

impl Factory for DeadRanges {
    fn name(&self) -> &'static str {
        "flushed-keyspaces"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(self.clone())
    }
}

impl CompactionFilter for DeadRanges {
    /// All versions of such a row are dead, so none can come back when one goes.
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        Ok(if self.contains(item.key()) { Verdict::Destroy } else { Verdict::Keep })
    }
}

/// What the trees of a node share.
#[derive(Clone)]
pub struct LsmShared {
    cache: Arc<Cache>,
    descriptors: Arc<DescriptorTable>,
}

impl LsmShared {
    /// A block cache of `cache_bytes` and at most `open_files` open table files.
    #[must_use]
    pub fn new(cache_bytes: u64, open_files: usize) -> Self {
        let descriptors = Arc::new(DescriptorTable::new(open_files.max(16)));
        Self { cache: Arc::new(Cache::with_capacity_bytes(cache_bytes)), descriptors }
    }
}

/// What errors say was tried.
const ROOM: &str = "asking for the room left in";
const RESERVE: &str = "giving the reserve up in";

/// What a version's change may take.
const VERSION_BYTES: u64 = 512 << 10;
/// Left of the reserve by flushes of rows, for those that have none to write.
const LAST_BYTES: u64 = 1 << 20;

/// Runs in level 0 above which no ingestion is taken, as the crate counts them in a byte; and one of hardly any rows, which
/// may be what lets others go.
const L0_RUNS_END: usize = 200;
const L0_RUNS_LAST: usize = 250;
const HARDLY_ANY_BYTES: u64 = 64 << 10;

/// One shard's tree.
#[derive(Clone)]
pub struct LsmLower {
    tree: AnyTree,
    folder: Arc<PathBuf>,
    dead: DeadRanges,
    /// Dead ranges whose tables are still to be dropped.
    undropped: Arc<Mutex<Vec<Range>>>,
    room: Arc<DiskRoom>,
    /// The version whose rewrite found no room, and the room there was: not tried again before one has changed.
    unfit: Arc<Mutex<Option<(u64, u64)>>>,
}

/// Keys from the first on, below the second.
type Range = (Vec<u8>, Vec<u8>);

/// How an attempt to write has ended where that is no failure.
enum Written<T> {
    Done(T),
    /// The disk was full; what was written is removed.
    NoRoom,
}

impl LsmLower {
    /// Makes an empty folder the state of `owner`: its tree is made when it is opened for the first time.
    ///
    /// # Errors
    /// [`LowerError::Io`].
    pub fn format(path: &Path, owner: [u8; OWNER_BYTES]) -> Result<(), LowerError> {
        Manifest::new(owner).write(path)
    }

    /// Whose the folder `path` is; `None` if it does not say.
    ///
    /// # Errors
    /// [`LowerError`], if its manifest cannot be read.
    pub fn owner(path: &Path) -> Result<Option<[u8; OWNER_BYTES]>, LowerError> {
        Ok(Manifest::read(path)?.map(|manifest| manifest.owner))
    }

    /// Opens the tree in the folder `path`, if it is bound as `binding` says; makes it in a folder that was just
    /// formatted.
    ///
    /// # Errors
    /// [`LowerError`], with the file or folder and what is wrong with it.
    pub fn open(path: &Path, shared: &LsmShared, binding: &Binding) -> Result<Self, LowerError> {
        let manifest = match Manifest::read(path)? {
            Some(manifest) => manifest,
            None if binding.may_adopt => Manifest::new(binding.owner),
            None => {
                let file = path.join(manifest::FILE);
                let what = "it is missing, or the folder is empty; restore the folder from a backup";
                return Err(LowerError::damaged(&file, what));
            }
        };
        if manifest.owner != binding.owner {
            let (folder, found) = (path.to_owned(), Box::new(manifest.owner));
            return Err(LowerError::Foreign { folder, found });
        }
        let (sequence, visible) = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
        let dead = DeadRanges::default();
        let tree = Config::new(path, sequence.clone(), visible.clone())
            .use_cache(Arc::clone(&shared.cache))
            .use_descriptor_table(Some(Arc::clone(&shared.descriptors)))
            .with_compaction_filter_factory(Some(Arc::new(dead.clone())))
            .open()
            .map_err(|error| LowerError::of_tree("opening the tree", path, error))?;
        let next = tree.get_highest_seqno().map_or(1, |highest| highest + 1);
        sequence.set(next);
        visible.set(next);
        let room =
            DiskRoom::open(path).map_err(|error| LowerError::io("making the reserve in", path, &error))?;
        Ok(Self {
            tree,
            folder: Arc::new(path.to_owned()),
            dead,
            undropped: Arc::default(),
            room: Arc::new(room),
            unfit: Arc::default(),
        })
    }

    /// What the system refused in the tree's folder.
    fn refused(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> LowerError {
        move |error| LowerError::io(what, &self.folder, &error)
    }

    /// Writes to the tree. After an error that says that the disk is full, nothing of it is left: neither in the tree's
    /// memory, which changes as a version is on the disk, nor, by this, as files.
    fn write<T>(
        &self,
        what: &'static str,
        act: impl FnOnce() -> lsm_tree::Result<T>,
    ) -> Result<Written<T>, LowerError> {
        self.room.begin_write();
        let next_table = self.tree.next_table_id();
        let result = act();
        let failed_from = result.is_err().then_some(next_table);
        let named = || self.tree.current_version().iter_tables().map(Table::id).collect();
        self.room
            .end_write(failed_from, named)
            .map_err(self.refused("removing what a full disk cut off in"))?;
        match result {
            Ok(value) => Ok(Written::Done(value)),
            Err(lsm_tree::Error::Io(error)) if is_no_room(&error) => {
                self.check_version()?;
                Ok(Written::NoRoom)
            }
            Err(error) => Err(LowerError::of_tree(what, &self.folder, error)),
        }
    }

    /// The version on the disk must be the one in memory: writing goes on from that.
    fn check_version(&self) -> Result<(), LowerError> {
        let current = self.folder.join("current");
        let on_disk = std::fs::read(&current).map_err(|error| LowerError::io("reading", &current, &error))?;
        let on_disk = on_disk.first_chunk::<8>().map(|id| u64::from_le_bytes(*id));
        let in_memory = self.tree.current_version().id();
        if on_disk == Some(in_memory) {
            return Ok(());
        }
        let what = format!("a full disk cut a change off: it names version {on_disk:?}, not {in_memory}");
        Err(LowerError::damaged(&current, what))
    }

    /// Lets the rows of flushed keyspaces go: whole tables at once, the rest when it is merged. What finds no room is
    /// tried again with the next compaction.
    fn drop_dead(&self, dead: &[Range]) -> Result<(), LowerError> {
        let mut ranges = std::mem::take(&mut *self.undropped());
        for (from, to) in dead {
            self.dead.add(from, to);
            ranges.push((from.clone(), to.clone()));
        }
        while let Some((from, to)) = ranges.pop() {
            let drop = || self.tree.drop_range(from.as_slice()..to.as_slice());
            let mut dropped = self.write("dropping flushed rows", drop)?;
            if matches!(dropped, Written::NoRoom) {
                self.give_reserve_up()?;
                dropped = self.write("dropping flushed rows", drop)?;
            }
            if matches!(dropped, Written::NoRoom) {
                ranges.push((from, to));
                self.undropped().append(&mut ranges);
                return Ok(());
            }
            self.forget_versions()?;
            let is_empty = self.tree.range(from.as_slice()..to.as_slice(), ABOVE_ALL, None).next().is_none();
            if !is_empty && self.tree.disk_space() <= REWRITE_BYTES {
                self.rewrite()?;
            }
        }
        Ok(())
    }

    fn undropped(&self) -> MutexGuard<'_, Vec<Range>> {
        self.undropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets versions before the present one go, and with them the tables that only they name. A merge does so by itself;
    /// the crate's `drop_range` keeps them.
    fn forget_versions(&self) -> Result<(), LowerError> {
        let mut versions = self.tree.get_version_history_lock();
        versions
            .maintenance(&self.folder, ABOVE_ALL)
            .map_err(|error| LowerError::of_tree("removing an old version", &self.folder, error))
    }

    /// Writes the whole tree again without what is dead in it, if what is left fits. Returns whether it did.
    fn rewrite(&self) -> Result<bool, LowerError> {
        let version = self.tree.current_version().id();
        let usable_bytes = self.usable_bytes()?;
        let was_unfit = *self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        if was_unfit.is_some_and(|(then, room)| then == version && usable_bytes <= room + room / 8) {
            return Ok(false);
        }
        let live_bytes = self.live_bytes(usable_bytes)?;
        if live_bytes < usable_bytes && self.claim(live_bytes, true)? {
            let rewritten =
                self.write("a merge of the whole state", || self.tree.major_compact(TABLE_BYTES, ABOVE_ALL))?;
            if matches!(rewritten, Written::Done(())) {
                return Ok(self.tree.current_version().id() != version);
            }
        }
        *self.unfit.lock().unwrap_or_else(PoisonError::into_inner) = Some((version, usable_bytes));
        Ok(false)
    }

    /// What the rows that live would take as tables, or `limit` if that is less: of a small tree they are counted, of a
    /// large one it is told from the number of tombstones.
    fn live_bytes(&self, limit: u64) -> Result<u64, LowerError> {
        if self.tree.disk_space() <= REWRITE_BYTES {
            let mut bytes = 0u64;
            for (from, to) in self.dead.gaps() {
                self.scan(&from, &to, &mut |key, value| {
                    bytes += (key.len() + value.len()) as u64 + ROW_BYTES;
                    ingested_bytes(bytes) < limit
                })?;
            }
            return Ok(ingested_bytes(bytes).min(limit));
        }
        let version = self.tree.current_version();
        let (mut items, mut tombstones) = (0, 0);
        for table in version.iter_tables() {
            items += table.metadata.item_count;
            tombstones += table.metadata.tombstone_count;
        }
        // Each tombstone takes at most one row with it.
        let rows = items.saturating_sub(tombstones).max(1);
        let row_bytes = self.tree.disk_space() / rows + 1;
        Ok((rows.saturating_sub(tombstones) * row_bytes).min(limit))
    }

    fn usable_bytes(&self) -> Result<u64, LowerError> {
        self.room.usable_bytes().map_err(self.refused(ROOM))
    }

    fn free_bytes(&self) -> Result<u64, LowerError> {
        self.room.free_bytes().map_err(self.refused(ROOM))
    }

    fn give_reserve_up(&self) -> Result<(), LowerError> {
        self.room.release(VERSION_BYTES).map_err(self.refused(RESERVE))
    }

    /// Whether there is room for `bytes`; for what deletes, the reserve's included.
    fn claim(&self, bytes: u64, deletes: bool) -> Result<bool, LowerError> {
        let claimed = self.room.claim(bytes, deletes);
        Ok(claimed.map_err(self.refused(RESERVE))?.is_ok())
    }

    /// One merge, if there is one to do and room for what it may write: not more than is there, nor than one level's
    /// share of it.
    fn merge_once(&self) -> Result<bool, LowerError> {
        if self.free_bytes()? < self.tree.disk_space().min(MERGE_BYTES) + MARGIN_BYTES {
            return Ok(false);
        }
        let before = self.tree.current_version().id();
        let strategy = Arc::new(Leveled::default());
        let merged =
            self.write("a merge", || self.tree.compact(Arc::clone(&strategy) as Arc<_>, ABOVE_ALL))?;
        Ok(matches!(merged, Written::Done(())) && self.tree.current_version().id() != before)
    }

    /// Writes rows as new tables and the version that names them.
    fn take_rows(&self, rows: &mut dyn Iterator<Item = LowerRow>) -> lsm_tree::Result<()> {
        let mut ingestion = self.tree.ingestion()?;
        for (key, value) in rows {
            match value {
                Some(value) => ingestion.write(key, value)?,
                None => ingestion.write_tombstone(key)?,
            }
        }
        ingestion.finish()
    }
}

impl Lower for LsmLower {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LowerError> {
        let value = self
            .tree
            .get(key, ABOVE_ALL)
            .map_err(|error| LowerError::of_tree("reading a row", &self.folder, error))?;
        Ok(value.map(|value| value.to_vec()))
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
        for item in self.tree.range(from..to, ABOVE_ALL, None) {
            let (key, value) = item
                .into_inner()
                .map_err(|error| LowerError::of_tree("reading rows", &self.folder, error))?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn ingest(
        &self,
        bytes: u64,
        deletes: bool,
        rows: &mut dyn Iterator<Item = LowerRow>,
    ) -> Result<(), IngestError> {
        while self.tree.l0_run_count() > MAX_L0_RUNS && self.merge_once().map_err(IngestError::Failed)? {}
        let needed_bytes = ingested_bytes(bytes);
        let no_room = || {
            let free_bytes = self.free_bytes().map_err(IngestError::Failed)?;
            Err(IngestError::NoRoom { needed_bytes, free_bytes })
        };
        let most_runs = if bytes <= HARDLY_ANY_BYTES { L0_RUNS_LAST } else { L0_RUNS_END };
        if self.tree.l0_run_count() >= most_runs
            || !self.claim(needed_bytes, deletes).map_err(IngestError::Failed)?
        {
            return no_room();
        }
        let written = self.write("writing a hand-over", || self.take_rows(rows));
        match written.map_err(IngestError::Failed)? {
            Written::Done(()) => Ok(()),
            Written::NoRoom => no_room(),
        }
    }

    fn room(&self) -> Result<Room, LowerError> {
        let is_short = !self.room.restore().map_err(self.refused("making the reserve in"))?;
        Ok(Room {
            is_short,
            free_bytes: self.free_bytes()?.saturating_sub(MARGIN_BYTES),
            usable_bytes: self.usable_bytes()?,
            last_bytes: LAST_BYTES,
            step_bytes: self.room.step_bytes(),
        })
    }

    fn compact(&self, dead: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, LowerError> {
        self.drop_dead(dead)?;
        for _ in 0..COMPACTIONS_A_CALL {
            if !self.merge_once()? {
                // Merges of levels may have no room where one of all that still lives has.
                return if self.room()?.is_short { self.rewrite() } else { Ok(false) };
            }
        }
        Ok(true)
    }

    fn stats(&self) -> LowerStats {
        LowerStats { disk_bytes: self.tree.disk_space(), tables: self.tree.table_count() as u64 }
    }
}
