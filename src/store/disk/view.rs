//! The tables that rows are read from: those of the tree's latest version, each with its index once it has one.
//!
//! Kept beside the tree, whose own lock a change holds while it syncs: no read waits for that. Whoever changes the tree
//! renews the view before anybody learns that it was changed. Invariant: a core only borrows a view. The last holder of a
//! table that no version names removes its file, so that is always a job.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use lsm_tree::{AbstractTree, AnyTree, Table};

use super::index::{Budgets, TableIndex};

/// Lookups in a table after which it is to have an index: to make it takes as long as some hundred of them.
const LOOKUPS: u32 = 64;

/// A table's index, once it has one.
#[derive(Debug, Default)]
struct Slot {
    lookups: AtomicU32,
    /// It is being made, or cannot be.
    is_taken: AtomicBool,
    index: OnceLock<TableIndex>,
}

/// A table of a view.
#[derive(Clone, Debug)]
pub(super) struct ViewedTable {
    pub(super) table: Table,
    slot: Arc<Slot>,
}

impl ViewedTable {
    /// Its index, if it has one.
    pub(super) fn index(&self) -> Option<&TableIndex> {
        self.slot.index.get()
    }

    /// Its index, which it may get by this. Blocks.
    pub(super) fn index_or_make(
        &self,
        budgets: &Budgets,
        open: impl FnOnce() -> std::io::Result<Arc<File>>,
    ) -> std::io::Result<Option<&TableIndex>> {
        let slot = &*self.slot;
        if let Some(index) = slot.index.get() {
            return Ok(Some(index));
        }
        let is_due = slot.lookups.fetch_add(1, Ordering::Relaxed) % LOOKUPS == LOOKUPS - 1;
        let fits = || budgets.index_bytes.has(TableIndex::expected_bytes(&self.table));
        if !is_due || !fits() || slot.is_taken.swap(true, Ordering::AcqRel) {
            return Ok(None);
        }
        // What the system refuses now, it may not refuse later.
        let file = open().inspect_err(|_| slot.is_taken.store(false, Ordering::Release))?;
        let index = TableIndex::read(&self.table, file, budgets);
        if index.is_none() && !fits() {
            slot.is_taken.store(false, Ordering::Release);
        }
        Ok(index.map(|index| slot.index.get_or_init(|| index)))
    }
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct View {
    /// In the order in which a lookup comes to them.
    runs: Vec<Vec<ViewedTable>>,
}

impl View {
    /// That of a tree's latest version; tables that are in the one before keep their indexes.
    fn of(tree: &AnyTree, before: Option<&Self>) -> Self {
        let known: HashMap<u64, &Arc<Slot>> = before
            .iter()
            .flat_map(|before| before.runs.iter().flatten())
            .map(|viewed| (viewed.table.id(), &viewed.slot))
            .collect();
        let viewed = |table: &Table| ViewedTable {
            table: table.clone(),
            slot: known.get(&table.id()).map_or_else(Arc::default, |slot| Arc::clone(slot)),
        };
        let version = tree.current_version();
        let runs = version.iter_levels().flat_map(|level| level.iter());
        Self { runs: runs.map(|run| run.iter().map(viewed).collect()).collect() }
    }

    /// What `look` finds first in the tables that may have a key, newest first.
    pub(super) fn find<T, E>(
        &self,
        key: &[u8],
        mut look: impl FnMut(&ViewedTable) -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        for run in 0..self.runs.len() {
            if let Some(viewed) = self.table_of(run, key)
                && let Some(found) = look(viewed)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// How many runs there are.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The table of a run that may have a key.
    pub(super) fn table_of(&self, run: usize, key: &[u8]) -> Option<&ViewedTable> {
        let run = self.runs.get(run)?;
        let at = run.partition_point(|viewed| **viewed.table.metadata.key_range.max() < *key);
        run.get(at).filter(|viewed| **viewed.table.metadata.key_range.min() <= *key)
    }
}

/// The latest view of a tree.
#[derive(Debug, Default)]
pub(super) struct Latest {
    /// None while the tree has to be opened anew. Locked to copy or to replace it alone.
    view: RwLock<Option<Arc<View>>>,
    renewal: Mutex<()>,
}

impl Latest {
    /// For jobs: the view, which is as new as the last change that was announced.
    pub(super) fn get(&self, tree: &AnyTree) -> Arc<View> {
        let latest = self.view.read().unwrap_or_else(PoisonError::into_inner).clone();
        latest.unwrap_or_else(|| Arc::new(View::of(tree, None)))
    }

    /// For cores: lends the view. `None`: there is none just now.
    pub(super) fn try_with<T>(&self, with: impl FnOnce(&View) -> Option<T>) -> Option<T> {
        with(self.view.try_read().ok()?.as_deref()?)
    }

    /// The tree was changed. For jobs.
    pub(super) fn renew(&self, tree: &AnyTree) {
        let _renewing = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.view.read().unwrap_or_else(PoisonError::into_inner).clone();
        let view = View::of(tree, before.as_deref());
        self.replace(Some(Arc::new(view)));
    }

    /// The tree has to be opened anew.
    pub(super) fn clear(&self) {
        self.replace(None);
    }

    fn replace(&self, view: Option<Arc<View>>) {
        let mut latest = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *latest, view);
        // Its tables may be removed by this: a core that comes now does not wait for that.
        drop(latest);
        drop(before);
    }
}
