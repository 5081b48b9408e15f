//! The lower level on crate `lsm-tree`: hand-overs come in by its ingestion interface; its memtable and its own
//! sequence numbers stay unused by us.
//!
//! Rules kept (each a trap of the crate): the watermark of a compaction is above every version, since nobody holds
//! snapshots; block cache and descriptor table are shared by all trees of a node; all calls are made from jobs; reads
//! name a sequence number above every version, so that they always find the latest one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use lsm_tree::compaction::Leveled;
use lsm_tree::compaction::filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict};
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, DescriptorTable, Guard, SeqNo, SequenceNumberCounter};

use super::manifest::{self, Manifest};
use super::{Binding, IngestError, Lower, LowerError, LowerRow, LowerStats, OWNER_BYTES};

/// Above every sequence number in use; the top bit is the crate's own.
const ABOVE_ALL: SeqNo = (1 << 63) - 1;
/// Merges in one call of `compact`.
const COMPACTIONS_A_CALL: u32 = 4;
/// Runs in level 0 above which an ingestion compacts first, so that reads do not have to look into ever more runs.
const MAX_L0_RUNS: usize = 16;

/// A tree up to this size is rewritten whole when a keyspace was flushed; in a larger one what is left of it goes with
/// the merges to come.
const REWRITE_BYTES: u64 = 256 << 20;
/// What one merge writes at most, roughly.
const MERGE_BYTES: u64 = 512 << 20;
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

/// Left free on the disk by hand-overs and merges: a file system that runs full in the middle of one leaves files
/// behind that only a restart removes.
const MARGIN_BYTES: u64 = 8 << 20;

/// One shard's tree.
#[derive(Clone)]
pub struct LsmLower {
    tree: AnyTree,
    folder: Arc<PathBuf>,
    strategy: Arc<Leveled>,
    dead: DeadRanges,
}

impl LsmLower {
    /// Makes an empty folder the state of `owner`: its tree is made when it is opened for the first time.
    ///
    /// # Errors
    /// [`LowerError::Io`].
    pub fn format(path: &Path, owner: [u8; OWNER_BYTES]) -> Result<(), LowerError> {
        Manifest::new(owner).write(path)
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
        let folder = Arc::new(path.to_owned());
        Ok(Self { tree, folder, strategy: Arc::new(Leveled::default()), dead })
    }

    /// Lets the rows of a flushed keyspace go: whole tables at once, the rest when it is merged.
    fn drop_dead(&self, from: &[u8], to: &[u8]) -> Result<(), LowerError> {
        let failed =
            |error: lsm_tree::Error| LowerError::of_tree("dropping flushed rows", &self.folder, error);
        self.dead.add(from, to);
        self.tree.drop_range(from..to).map_err(failed)?;
        let is_empty = self.tree.range(from..to, ABOVE_ALL, None).next().is_none();
        let rewritten = self.tree.disk_space();
        if !is_empty && rewritten <= REWRITE_BYTES && self.free_bytes()? >= rewritten + MARGIN_BYTES {
            self.tree.major_compact(TABLE_BYTES, ABOVE_ALL).map_err(failed)?;
        }
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, LowerError> {
        let disk = rustix::fs::statvfs(self.folder.as_path())
            .map_err(|error| LowerError::io("asking for the room left in", &self.folder, &error.into()))?;
        Ok(disk.f_bavail * disk.f_frsize)
    }

    /// One merge, if there is one to do and room for what it may write: not more than is there, nor than one level's
    /// share of it.
    fn merge_once(&self) -> Result<bool, LowerError> {
        if self.free_bytes()? < self.tree.disk_space().min(MERGE_BYTES) + MARGIN_BYTES {
            return Ok(false);
        }
        let before = self.tree.current_version().id();
        self.tree
            .compact(Arc::clone(&self.strategy) as Arc<_>, ABOVE_ALL)
            .map_err(|error| LowerError::of_tree("a merge", &self.folder, error))?;
        Ok(self.tree.current_version().id() != before)
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

    fn ingest(&self, bytes: u64, rows: &mut dyn Iterator<Item = LowerRow>) -> Result<(), IngestError> {
        while self.tree.l0_run_count() > MAX_L0_RUNS && self.merge_once().map_err(IngestError::Failed)? {}
        let needed_bytes = bytes + bytes / 4 + MARGIN_BYTES;
        let free_bytes = self.free_bytes().map_err(IngestError::Failed)?;
        if free_bytes < needed_bytes {
            return Err(IngestError::NoRoom { needed_bytes, free_bytes });
        }
        let failed = |error: lsm_tree::Error| {
            IngestError::Failed(LowerError::of_tree("writing a hand-over", &self.folder, error))
        };
        let mut ingestion = self.tree.ingestion().map_err(failed)?;
        for (key, value) in rows {
            match value {
                Some(value) => ingestion.write(key, value).map_err(failed)?,
                None => ingestion.write_tombstone(key).map_err(failed)?,
            }
        }
        ingestion.finish().map_err(failed)
    }

    fn compact(&self, dead: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, LowerError> {
        for (from, to) in dead {
            self.drop_dead(from, to)?;
        }
        for _ in 0..COMPACTIONS_A_CALL {
            if !self.merge_once()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn stats(&self) -> LowerStats {
        LowerStats { disk_bytes: self.tree.disk_space(), tables: self.tree.table_count() as u64 }
    }
}
