//! The lower level on crate `lsm-tree`: hand-overs come in by its ingestion interface; its memtable and its own
//! sequence numbers stay unused by us.
//!
//! Rules kept (each a trap of the crate): the watermark of a compaction is above every version, since nobody holds
//! snapshots; block cache and descriptor table are shared by all trees of a node; all calls are made from jobs; reads
//! name a sequence number above every version, so that they always find the latest one.

use std::path::Path;
use std::sync::Arc;

use lsm_tree::compaction::Leveled;
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, DescriptorTable, Guard, SeqNo, SequenceNumberCounter};

use super::{Lower, LowerRow, LowerStats};

/// Above every sequence number in use; the top bit is the crate's own.
const ABOVE_ALL: SeqNo = (1 << 63) - 1;
/// Merges in one call of `compact`.
const COMPACTIONS_A_CALL: u32 = 4;
/// Runs in level 0 above which an ingestion compacts first, so that reads do not have to look into ever more runs.
const MAX_L0_RUNS: usize = 16;

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

/// One shard's tree.
#[derive(Clone)]
pub struct LsmLower {
    tree: AnyTree,
    strategy: Arc<Leveled>,
}

impl LsmLower {
    /// Opens or creates the tree in the folder `path`.
    ///
    /// # Errors
    /// A text naming the folder and what is wrong with it.
    pub fn open(path: &Path, shared: &LsmShared) -> Result<Self, String> {
        let (sequence, visible) = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
        let tree = Config::new(path, sequence.clone(), visible.clone())
            .use_cache(Arc::clone(&shared.cache))
            .use_descriptor_table(Some(Arc::clone(&shared.descriptors)))
            .open()
            .map_err(|error| format!("state in {}: cannot be opened: {error:?}", path.display()))?;
        let next = tree.get_highest_seqno().map_or(1, |highest| highest + 1);
        sequence.set(next);
        visible.set(next);
        Ok(Self { tree, strategy: Arc::new(Leveled::default()) })
    }

    fn merge_once(&self) -> Result<bool, String> {
        let before = self.tree.current_version().id();
        self.tree
            .compact(Arc::clone(&self.strategy) as Arc<_>, ABOVE_ALL)
            .map_err(|error| format!("state: compaction failed: {error:?}"))?;
        Ok(self.tree.current_version().id() != before)
    }
}

impl Lower for LsmLower {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let value =
            self.tree.get(key, ABOVE_ALL).map_err(|error| format!("state: cannot be read: {error:?}"))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), String> {
        if from >= to {
            return Ok(());
        }
        for item in self.tree.range(from..to, ABOVE_ALL, None) {
            let (key, value) =
                item.into_inner().map_err(|error| format!("state: cannot be scanned: {error:?}"))?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn ingest(&self, rows: &mut dyn Iterator<Item = LowerRow>) -> Result<(), String> {
        while self.tree.l0_run_count() > MAX_L0_RUNS && self.merge_once()? {}
        let failed = |error: lsm_tree::Error| format!("state: a hand-over could not be written: {error:?}");
        let mut ingestion = self.tree.ingestion().map_err(failed)?;
        for (key, value) in rows {
            match value {
                Some(value) => ingestion.write(key, value).map_err(failed)?,
                None => ingestion.write_tombstone(key).map_err(failed)?,
            }
        }
        ingestion.finish().map_err(failed)
    }

    fn compact(&self, dead: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, String> {
        for (from, to) in dead {
            self.tree
                .drop_range(from.as_slice()..to.as_slice())
                .map_err(|error| format!("state: old rows could not be dropped: {error:?}"))?;
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
