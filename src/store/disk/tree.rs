//! One shard's tree behind the guard: what is read is read as it was written, or is an error; what changes the tree is
//! noted in the manifest; what a change leaves half done is opened anew from the files.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use lsm_tree::config::{BlockSizePolicy, PinningPolicy};
use lsm_tree::{
    AbstractTree, AnyTree, Cache, Config, DescriptorTable, Guard, SeqNo, SequenceNumberCounter, Table,
    UserKey, UserValue,
};

use super::blocks::PageCache;
use super::dead::{DeadRanges, Merging};
use super::error::{Binding, DiskError, OWNER_BYTES};
use super::folder::{Change, StateFolder};
use super::index::{Budget, Budgets};
use super::pace::{Haste, Pace, Wait};
use super::removal::Removed;
use super::room::{DiskRoom, is_no_room};
use super::view::Latest;
use super::{DiskRow, check, gap, guard, manifest};

/// Above every sequence number in use; the top bit is the crate's own.
pub(super) const ABOVE_ALL: SeqNo = (1 << 63) - 1;
/// Rows of a table that are read to find out whether it is the damaged one.
const LOCATE_ROWS: usize = 1 << 16;

/// What the trees of a node share.
#[derive(Clone)]
pub struct LsmShared {
    cache: Arc<Cache>,
    pub(super) descriptors: Arc<DescriptorTable>,
    pub(super) budgets: Budgets,
}

/// Rows that make a block. To read one, all of its block is copied and checked; the half of it takes a fifth less processor time
/// a GET, and twice as much memory for where blocks are.
const BLOCK_BYTES: u32 = 2 << 10;

/// Of the memory for blocks, the part that is for indexes; the rest is for the library's cache.
const INDEX_SHARE: (u64, u64) = (7, 8);

impl LsmShared {
    /// `cache_bytes` for blocks and indexes, and at most `open_files` open table files.
    #[must_use]
    pub fn new(cache_bytes: u64, open_files: usize) -> Self {
        let index_bytes = cache_bytes / INDEX_SHARE.1 * INDEX_SHARE.0;
        let kept_files = open_files / 2;
        Self {
            cache: Arc::new(Cache::with_capacity_bytes(cache_bytes - index_bytes)),
            descriptors: Arc::new(DescriptorTable::new((open_files - kept_files).max(16))),
            budgets: Budgets {
                index_bytes: Arc::new(Budget::new(index_bytes)),
                files: Arc::new(Budget::new(kept_files as u64)),
            },
        }
    }

    /// Bytes of indexes.
    #[cfg(test)]
    pub(super) fn index_bytes(&self) -> u64 {
        self.budgets.index_bytes.used()
    }

    /// Bytes of blocks in the cache.
    #[cfg(test)]
    pub(super) fn cached_bytes(&self) -> u64 {
        self.cache.size()
    }
}

/// What a tree holds, as of its last change: to be had without the tree's locks, which a job holds while it syncs a table.
#[derive(Default)]
struct Held {
    disk_bytes: AtomicU64,
    tables: AtomicU64,
    damaged_tables: AtomicU64,
}

/// How an attempt to write has ended where that is no failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Written<T> {
    Done(T),
    /// The disk was full; what was written is removed.
    NoRoom,
}

/// See the file's head.
pub(super) struct GuardedTree {
    pub(super) shared: LsmShared,
    owner: [u8; OWNER_BYTES],
    path: PathBuf,
    opened: RwLock<Opened>,
    /// Held shared by changes of the tree, alone while it is opened anew.
    changes: RwLock<()>,
    /// A change ended in a way after which the tree in memory must not be changed again.
    must_reopen: AtomicBool,
    dead: DeadRanges,
    /// Files that were found damaged, and what is wrong with each.
    damaged: Mutex<BTreeMap<PathBuf, String>>,
    damaged_reads: AtomicU64,
    held: Held,
    pub(super) latest: Latest,
    pub(super) page_cache: PageCache,
    pub(super) haste: Arc<Haste>,
}

/// A tree, and the folder that it was opened from.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) tree: AnyTree,
    pub(super) folder: Arc<StateFolder>,
}

impl Opened {
    /// Makes new tables have numbers from this one on: whoever still reads a version of before removes files by their names,
    /// which no new table may have.
    fn spend_table_ids(&self, next: u64) {
        match &self.tree {
            AnyTree::Standard(tree) => tree.table_id_counter.fetch_max(next),
            AnyTree::Blob(_) => unreachable!("trees with values apart are refused when they are opened"),
        }
    }

    fn open(
        path: &Path,
        shared: &LsmShared,
        dead: &DeadRanges,
        haste: &Arc<Haste>,
        binding: &Binding,
    ) -> Result<Self, DiskError> {
        let folder = Arc::new(StateFolder::open(path, binding)?);
        let (sequence, visible) = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
        let merging = Merging { dead: dead.clone(), haste: Arc::clone(haste), folder: path.to_owned() };
        // In blocks of some KiB each: a lookup reads the one that it needs, not a whole table's filter. What is pinned of a
        // table is only where those are.
        let config = Config::new(path, sequence.clone(), visible.clone())
            .filter_block_partitioning_policy(PinningPolicy::all(true))
            .index_block_partitioning_policy(PinningPolicy::all(true))
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
            .use_cache(Arc::clone(&shared.cache))
            .use_descriptor_table(Some(Arc::clone(&shared.descriptors)))
            .with_compaction_filter_factory(Some(Arc::new(merging)));
        let tree = guard::reading("opening the tree", path, || config.open())?;
        let next = tree.get_highest_seqno().map_or(1, |highest| highest + 1);
        sequence.set(next);
        visible.set(next);
        folder.opened(&tree)?;
        Ok(Self { tree, folder })
    }
}

impl GuardedTree {
    /// Opens the tree in a folder that is bound as `binding` says.
    pub(super) fn open(
        path: &Path,
        shared: &LsmShared,
        dead: DeadRanges,
        binding: &Binding,
    ) -> Result<Self, DiskError> {
        let haste = Arc::default();
        let tree = Self {
            shared: shared.clone(),
            owner: binding.owner,
            path: path.to_owned(),
            opened: RwLock::new(Opened::open(path, shared, &dead, &haste, binding)?),
            changes: RwLock::default(),
            must_reopen: AtomicBool::new(false),
            dead,
            damaged: Mutex::default(),
            damaged_reads: AtomicU64::new(0),
            held: Held::default(),
            latest: Latest::default(),
            page_cache: PageCache::default(),
            haste,
        };
        tree.renew_view();
        tree.note_held();
        Ok(tree)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn opened(&self) -> Opened {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The tree to read from and to change: opened anew where that is due.
    pub(super) fn usable(&self) -> Result<Opened, DiskError> {
        if self.must_reopen.load(Ordering::Acquire) {
            let _alone = self.changes.write().unwrap_or_else(PoisonError::into_inner);
            if self.must_reopen.load(Ordering::Acquire) {
                let binding = Binding { owner: self.owner, may_adopt: false };
                let opened = Opened::open(&self.path, &self.shared, &self.dead, &self.haste, &binding)?;
                opened.spend_table_ids(self.opened().tree.next_table_id());
                *self.opened.write().unwrap_or_else(PoisonError::into_inner) = opened;
                self.must_reopen.store(false, Ordering::Release);
                self.renew_view();
                self.note_held();
            }
        }
        Ok(self.opened())
    }

    /// Looks at the tree without reading its tables.
    pub(super) fn look<T>(&self, figure: impl FnOnce(&AnyTree) -> T) -> Result<T, DiskError> {
        let tree = self.usable()?.tree;
        guard::reading("looking at the tree", &self.path, || Ok(figure(&tree)))
    }

    /// Changes the tree, and notes that in the manifest. After an error that says that the disk is full, nothing of it is
    /// left: neither in the tree's memory, which changes as a version is on the disk, nor, by this, as files. If the
    /// change ended in a panic, or the files and the tree in memory disagree after an error, the tree is opened anew
    /// before the next one.
    pub(super) fn change<T>(
        &self,
        what: &'static str,
        change: Change,
        room: &DiskRoom,
        act: impl FnOnce(&AnyTree) -> lsm_tree::Result<T>,
    ) -> Result<Written<T>, DiskError> {
        drop(self.usable()?);
        let _running = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        let Opened { tree, folder, .. } = self.opened();
        match guard::changing("noting a change", &self.path, || folder.begin(change, &tree)) {
            Ok(()) => {}
            Err(error) if error.is_no_room() => return Ok(Written::NoRoom),
            Err(error) => return Err(error),
        }
        room.begin_write();
        let next_table = tree.next_table_id();
        self.haste.set_next_table(next_table);
        let result = guard::changing(what, &self.path, || Ok(act(&tree)));
        let is_noted = guard::changing("noting a change", &self.path, || {
            folder.end(change, &tree);
            Ok(folder.agrees(&tree))
        });
        let failed = !matches!(result, Ok(Ok(_)));
        if result.is_err() || (failed && is_noted != Ok(true)) {
            self.must_reopen.store(true, Ordering::Release);
        }
        // Before anybody learns of the change: who reads next reads what it has made.
        self.renew_view();
        // What the files name is returned only where they agree with memory; opening anew removes the rest.
        let failed_from = (failed && is_noted == Ok(true)).then_some(next_table);
        let named = || tree.current_version().iter_tables().map(Table::id).collect();
        let cleared = guard::changing("removing what a change left", &self.path, || {
            room.end_write(failed_from, named)
                .map_err(|error| DiskError::io("removing what a change left in", &self.path, &error))
        });
        self.note_held();
        match result? {
            Ok(value) => Ok(Written::Done(value)),
            Err(lsm_tree::Error::Io(error)) if is_no_room(&error) && is_noted == Ok(true) => {
                cleared.map(|()| Written::NoRoom)
            }
            Err(error) => Err(DiskError::of_tree(what, &self.path, error)),
        }
    }

    /// Has reads look into the tables that the tree has now; into none while it must be opened anew.
    fn renew_view(&self) {
        let tree = self.opened().tree;
        let renewed = guard::reading("looking at the tree", &self.path, || {
            self.latest.renew(&tree);
            Ok(())
        });
        if renewed.is_err() || self.must_reopen.load(Ordering::Acquire) {
            self.latest.clear();
        }
    }

    /// Writes rows as new tables and the version that names them.
    pub(super) fn ingest(
        &self,
        room: &DiskRoom,
        rows: &mut dyn Iterator<Item = Result<DiskRow, DiskError>>,
    ) -> Result<Written<()>, DiskError> {
        let mut failed = None;
        let written = self.change("writing a flush", Change::Ingestion, room, |tree| {
            let (mut pace, mut ingestion) = (self.pace(Wait::Flush), tree.ingestion()?);
            for row in rows {
                let (key, value) = row.map_err(|error| {
                    failed = Some(error);
                    std::io::Error::other("a row that was to be written could not be read")
                })?;
                pace.step(key.len() + value.as_ref().map_or(0, Vec::len));
                match value {
                    Some(value) => ingestion.write(key, value)?,
                    None => ingestion.write_tombstone(key)?,
                }
            }
            ingestion.finish()
        });
        failed.map_or(written, Err)
    }

    /// A change that replaces tables. Those that it leaves out are freed bit by bit.
    pub(super) fn compact<T>(
        &self,
        what: &'static str,
        room: &DiskRoom,
        act: impl FnOnce(&AnyTree) -> lsm_tree::Result<T>,
    ) -> Result<Written<T>, DiskError> {
        let mut removed = Removed::default();
        let changed = self.change(what, Change::Compaction, room, |tree| removed.by(tree, &self.path, act));
        removed.free(&self.haste);
        changed
    }

    /// The pace of a job that begins now.
    pub(super) fn pace(&self, wait: Wait) -> Pace {
        Pace::new(&self.haste, wait, self.path.clone())
    }

    /// Visits rows in order. What visits them is not the library's: its panics are not contained.
    pub(super) fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskError> {
        if from >= to {
            return Ok(());
        }
        let tree = self.usable()?.tree;
        let mut items =
            guard::reading("reading rows", &self.path, || Ok(tree.range(from..to, ABOVE_ALL, None)))?;
        let mut last: UserKey = from.into();
        loop {
            let next = || -> lsm_tree::Result<Option<(UserKey, UserValue)>> {
                items.next().map(Guard::into_inner).transpose()
            };
            match guard::reading("reading rows", &self.path, next) {
                Ok(None) => return Ok(()),
                Ok(Some((key, value))) => {
                    if !visit(&key, &value) {
                        return Ok(());
                    }
                    last = key;
                }
                Err(error) => return Err(self.locate(&tree, &last, Bound::Excluded(to), error)),
            }
        }
    }

    /// Names the table in an error of reading keys in a range, and keeps in mind if it is damaged.
    pub(super) fn locate(
        &self,
        tree: &AnyTree,
        from: &[u8],
        to: Bound<&[u8]>,
        error: DiskError,
    ) -> DiskError {
        let is_refused = matches!(error, DiskError::Io { .. });
        if !is_refused {
            self.damaged_reads.fetch_add(1, Ordering::Relaxed);
        }
        let version = guard::reading("looking at the tree", &self.path, || Ok(tree.current_version()));
        let Ok(version) = version else { return error };
        for table in version.iter_tables() {
            let bounds: (Bound<UserKey>, Bound<UserKey>) = (Bound::Included(from.into()), to.map(Into::into));
            let read = guard::reading("reading a table", &self.path, || {
                table.range(bounds).take(LOCATE_ROWS).try_for_each(|row| row.map(drop))
            });
            let file = manifest::table_file(&self.path, table.id());
            match (read, &error) {
                (Err(DiskError::Io { .. }), DiskError::Io { what, kind, text, .. }) => {
                    return DiskError::Io { what, path: file, kind: *kind, text: text.clone() };
                }
                (Err(DiskError::Damaged { .. }), DiskError::Damaged { what, .. }) => {
                    if !self.damaged_files().contains_key(&file) {
                        let rows = gap::find(table).map(|gap| format!("{what}; {}", gap.in_words()));
                        let what = rows.as_ref().unwrap_or(what);
                        self.note_damage(&file, &format!("{what}; {}", check::ADVICE));
                    }
                    return DiskError::damaged(&file, what.clone());
                }
                (Ok(()) | Err(_), _) => {}
            }
        }
        error
    }

    fn damaged_files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, String>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads that met damage.
    pub(super) fn damaged_reads(&self) -> u64 {
        self.damaged_reads.load(Ordering::Relaxed)
    }

    /// Keeps in mind, and logs once, that a file is damaged.
    pub(super) fn note_damage(&self, file: &Path, what: &str) {
        if self.damaged_files().insert(file.to_owned(), what.to_owned()).is_none() {
            tracing::error!(
                "state: {} is damaged: {what}; what needs the damaged part answers DAMAGED",
                file.display()
            );
            self.note_held();
        }
    }

    /// Notes what the tree holds. Waits for changes of it, so for jobs only.
    fn note_held(&self) {
        let tree = self.opened().tree;
        let looked = guard::reading("looking at the tree", &self.path, || {
            Ok((tree.disk_space(), tree.table_count() as u64, tree.l0_run_count()))
        });
        let (disk_bytes, tables, l0_runs) = looked.unwrap_or_default();
        self.haste.set_l0_runs(l0_runs);
        self.held.disk_bytes.store(disk_bytes, Ordering::Relaxed);
        self.held.tables.store(tables, Ordering::Relaxed);
        self.held.damaged_tables.store(self.damage().len() as u64, Ordering::Relaxed);
    }

    /// What it holds, as of the last change: bytes on the disk, tables, and damaged ones among them. Waits for nothing.
    pub(super) fn held(&self) -> (u64, u64, u64) {
        let Held { disk_bytes, tables, damaged_tables } = &self.held;
        let figure = |of: &AtomicU64| of.load(Ordering::Relaxed);
        (figure(disk_bytes), figure(tables), figure(damaged_tables))
    }

    /// The files that were found damaged and are still part of the tree.
    pub(super) fn damage(&self) -> Vec<(PathBuf, String)> {
        let mut damaged = self.damaged_files();
        if damaged.is_empty() {
            return Vec::new();
        }
        let tree = self.opened().tree;
        let present = guard::reading("looking at the tree", &self.path, || {
            let version = tree.current_version();
            Ok(version.iter_tables().map(|table| manifest::table_file(&self.path, table.id())).collect())
        });
        if let Ok(present) = present {
            let present: std::collections::BTreeSet<PathBuf> = present;
            damaged.retain(|file, _| present.contains(file));
        }
        damaged.iter().map(|(file, what)| (file.clone(), what.clone())).collect()
    }
}
