//! Reading rows by their keys.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use corduroy_shards::raft::guard::guarded;
use lsm_tree::table::filter::standard_bloom::Builder as FilterBuilder;
use lsm_tree::{
    AbstractTree, AnyTree, DescriptorTable, GlobalTableId, Guard, InternalValue, Table, UserValue,
};

use super::blocks::BlockReader;
use super::error::DiskError;
use super::guard;
use super::tree::{ABOVE_ALL, GuardedTree};
use super::view::View;
use super::{CoreRead, ReadRow, Sought};

/// The file of a table, which stays open for later.
fn open(descriptors: &DescriptorTable, tree: &AnyTree, table: &Table) -> io::Result<Arc<File>> {
    let id = GlobalTableId::from((tree.id(), table.id()));
    if let Some(file) = descriptors.access_for_table(&id) {
        return Ok(file);
    }
    let file = Arc::new(File::open(&*table.path)?);
    descriptors.insert_for_table(id, Arc::clone(&file));
    Ok(file)
}

/// The runs of a view, newest first, and how rows are read from them.
struct Runs<'v, F> {
    reader: BlockReader<F>,
    view: &'v View,
}

impl<F: Fn(&Table) -> io::Result<Arc<File>>> Runs<'_, F> {
    /// What is sought of a key's row.
    fn find(&mut self, key: &[u8], sought: Sought) -> lsm_tree::Result<Option<UserValue>> {
        let filter_hash = FilterBuilder::get_hash(key);
        let row = match sought {
            Sought::Values => self.find_newest(self.view.runs(), key, filter_hash, |_| true)?,
            Sought::Existence => self.find_any(key, filter_hash)?,
        };
        Ok(row.filter(|row| !row.is_tombstone()).map(|row| row.value))
    }

    /// The newest version of a row in the first `end` runs, in those of their tables that are `wanted`.
    fn find_newest(
        &mut self,
        end: usize,
        key: &[u8],
        filter_hash: u64,
        wanted: impl Fn(&Table) -> bool,
    ) -> lsm_tree::Result<Option<InternalValue>> {
        for run in 0..end {
            let row = self.find_in(run, key, filter_hash, &wanted)?;
            if row.is_some() {
                return Ok(row);
            }
        }
        Ok(None)
    }

    /// A version of a row that is no tombstone exactly if the newest one is none. Begins with the oldest run, where most rows
    /// are; above one that is no tombstone, only tables with tombstones matter.
    fn find_any(&mut self, key: &[u8], filter_hash: u64) -> lsm_tree::Result<Option<InternalValue>> {
        for run in (0..self.view.runs()).rev() {
            let Some(row) = self.find_in(run, key, filter_hash, |_| true)? else { continue };
            let is_deleted = row.is_tombstone();
            let matters = |table: &Table| is_deleted || table.tombstone_count() > 0;
            let newer = self.find_newest(run, key, filter_hash, matters)?;
            if !is_deleted && newer.as_ref().is_some_and(InternalValue::is_tombstone) {
                // It may have been written again since, by a flush that deleted nothing.
                return self.find_newest(run, key, filter_hash, |_| true);
            }
            return Ok(newer.or(Some(row)));
        }
        Ok(None)
    }

    /// The version of a row in a run, if the table that may have it is `wanted`.
    fn find_in(
        &mut self,
        run: usize,
        key: &[u8],
        filter_hash: u64,
        wanted: impl Fn(&Table) -> bool,
    ) -> lsm_tree::Result<Option<InternalValue>> {
        let viewed = self.view.table_of(run, key).filter(|viewed| wanted(&viewed.table));
        viewed.map_or(Ok(None), |viewed| self.reader.find(viewed, key, filter_hash))
    }
}

impl GuardedTree {
    /// Reads a row.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        let mut row = Ok(None);
        self.get_each(&mut std::iter::once(key.to_vec()), Sought::Values, &mut |read| {
            row = read.map(|value| value.map(<[u8]>::to_vec));
            false
        });
        row
    }

    /// Reads rows, until `visit` returns false. What visits them is not the library's: its panics are not contained.
    pub(super) fn get_each(
        &self,
        keys: &mut dyn Iterator<Item = Vec<u8>>,
        sought: Sought,
        visit: &mut dyn FnMut(ReadRow<'_>) -> bool,
    ) {
        // As long as it is held, so are the files of its tables.
        let opened = self.usable().and_then(|opened| {
            let view =
                guard::reading("looking at the tree", self.path(), || Ok(self.latest.get(&opened.tree)));
            view.map(|view| (opened.tree, view))
        });
        let (tree, view) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                while keys.next().is_some() && visit(Err(error.clone())) {}
                return;
            }
        };
        let open = |table: &Table| open(&self.shared.descriptors, &tree, table);
        let reader = BlockReader::new(self.shared.budgets.clone(), open);
        let mut rows = Runs { reader, view: &view };
        for key in keys {
            let read = guard::reading("reading a row", self.path(), || rows.find(&key, sought));
            // What is wrong is found out by the library's own way.
            let read = read.or_else(|_| self.get_by_library(&key));
            if !visit(read.as_ref().map(Option::as_deref).map_err(Clone::clone)) {
                return;
            }
        }
    }

    /// Reads a row of which all that is needed is in memory.
    pub(super) fn get_now(&self, key: &[u8], row: &mut Vec<u8>) -> Option<CoreRead> {
        let filter_hash = FilterBuilder::get_hash(key);
        let mut read_bytes = 0;
        let found = self.latest.try_with(|view| {
            let find =
                || view.find(key, |viewed| self.page_cache.find(viewed, key, filter_hash, &mut read_bytes));
            guarded(find).ok()?.ok()
        })?;
        let found = found.filter(|found| !found.is_tombstone());
        if let Some(found) = &found {
            row.clear();
            row.extend_from_slice(&found.value);
        }
        Some(CoreRead { is_there: found.is_some(), read_bytes })
    }

    fn get_by_library(&self, key: &[u8]) -> Result<Option<UserValue>, DiskError> {
        // As it is now: it may have been opened anew meanwhile, and files that only its old version names removed.
        let tree = &self.usable()?.tree;
        match guard::reading("reading a row", self.path(), || tree.get(key, ABOVE_ALL)) {
            Ok(value) => Ok(value),
            // A filter may be what is damaged: the row can be read without it.
            Err(DiskError::Damaged { .. }) => self
                .get_unfiltered(tree, key)
                .map_err(|error| self.locate(tree, key, Bound::Included(key), error)),
            Err(error) => Err(self.locate(tree, key, Bound::Included(key), error)),
        }
    }

    fn get_unfiltered(&self, tree: &AnyTree, key: &[u8]) -> Result<Option<UserValue>, DiskError> {
        guard::reading("reading a row", self.path(), || {
            let item = tree.range(key..=key, ABOVE_ALL, None).next();
            let row = item.map(Guard::into_inner).transpose()?;
            Ok(row.map(|(_, value)| value))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use corduroy_shards::{KeyspaceId, PartitionId};

    use super::super::folder::Change;
    use super::super::format::{RowLocation, STORE_KEY, partition_key};
    use super::super::tests::{OURS, open, tables};
    use super::super::{DiskLevel, DiskRow, LsmLevel, LsmShared};
    use super::*;

    type Model = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    /// Rows of several keyspaces: most with a hash of their own, some with one that a hundred others have.
    fn row(number: u64, round: u64) -> DiskRow {
        let location = RowLocation {
            partition: PartitionId(number % 3),
            keyspace: if number.is_multiple_of(5) { KeyspaceId(7) } else { KeyspaceId::DEFAULT },
            flush_version: number % 2,
        };
        let hash =
            if number.is_multiple_of(4) { number / 400 } else { number.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        let key = location.key(hash, format!("key {number:06}").as_bytes());
        let value = format!("value {number} of round {round}, {}", "x".repeat(100)).into_bytes();
        (key, (round == 0 || !(number + round).is_multiple_of(11)).then_some(value))
    }

    fn ingest(disk: &LsmLevel, model: &mut Model, rows: impl Iterator<Item = DiskRow>) {
        let rows: Model = rows.collect();
        model.extend(rows.clone());
        disk.ingest(1 << 20, true, &mut rows.into_iter()).expect("there is room");
    }

    /// Rows in several levels, some of them deleted, and rows of no keyspace.
    fn filled(folder: &Path, shared: &LsmShared) -> (LsmLevel, Model) {
        LsmLevel::format(folder, OURS.owner).expect("formats");
        let disk = LsmLevel::open(folder, shared, &OURS).expect("opens");
        let mut model = Model::new();
        ingest(&disk, &mut model, (0..20_000).map(|number| row(number, 0)));
        disk.rewrite().expect("merges");
        for round in 1..4 {
            ingest(
                &disk,
                &mut model,
                (0..20_000).filter(|number| number % 7 == round).map(|number| row(number, round)),
            );
        }
        let others = [STORE_KEY.to_vec(), partition_key(PartitionId(1)), partition_key(PartitionId(2))];
        ingest(&disk, &mut model, others.into_iter().map(|key| (key, Some(b"other".to_vec()))));
        (disk, model)
    }

    /// Reads keys that there are, and as many that there are not. How many could not be read.
    fn compare(disk: &LsmLevel, model: &Model) -> usize {
        let absent = model.keys().map(|key| [key, &b"+"[..]].concat());
        let keys: Vec<Vec<u8>> = model.keys().cloned().chain(absent).collect();
        let (mut at, mut failed) = (keys.iter(), 0);
        disk.get_each(&mut keys.clone().into_iter(), Sought::Values, &mut |read| {
            let key = at.next().expect("one for each key");
            match read {
                Ok(found) => assert_eq!(found, model.get(key).and_then(Option::as_deref), "{key:?}"),
                Err(DiskError::Damaged { file, .. }) => {
                    assert!(file.parent().is_some_and(|folder| folder.ends_with("tables")), "{file:?}");
                    failed += 1;
                }
                Err(error) => panic!("{error}"),
            }
            true
        });
        assert!(at.next().is_none(), "all are visited");
        if failed == 0 {
            assert_eq!(
                existing(disk, &keys),
                keys.iter().filter(|key| lives(model, key)).collect::<Vec<_>>()
            );
        }
        failed
    }

    fn lives(model: &Model, key: &[u8]) -> bool {
        model.get(key).is_some_and(Option::is_some)
    }

    /// Of keys, those that exist.
    fn existing<'k>(disk: &LsmLevel, keys: &'k [Vec<u8>]) -> Vec<&'k Vec<u8>> {
        let (mut at, mut existing) = (keys.iter(), Vec::new());
        disk.get_each(&mut keys.iter().cloned(), Sought::Existence, &mut |read| {
            let key = at.next().expect("one for each key");
            existing.extend(read.expect("reads").map(|_| key));
            true
        });
        existing
    }

    #[test]
    fn whether_a_row_exists_is_what_its_newest_version_says() {
        const RUNS: u32 = 4;
        // What each of the runs has of a row: nothing, a value, or that it was deleted.
        let all = || (0..3_u32.pow(RUNS)).map(|number| (row(u64::from(number), 0).0, number));
        for indexed_bytes in [0, 4 << 20] {
            let folder = tempfile::tempdir().expect("folder");
            let shared = LsmShared::new(indexed_bytes, 32);
            LsmLevel::format(folder.path(), OURS.owner).expect("formats");
            let disk = LsmLevel::open(folder.path(), &shared, &OURS).expect("opens");
            let mut model = Model::new();
            for run in 0..RUNS {
                let rows = all().filter_map(|(key, number)| match number / 3_u32.pow(run) % 3 {
                    0 => None,
                    1 => Some((key, Some(b"value".to_vec()))),
                    _ => Some((key, None)),
                });
                ingest(&disk, &mut model, rows.collect::<Vec<_>>().into_iter());
            }
            for _ in 0..100 {
                assert_eq!(compare(&disk, &model), 0);
            }
            let living = model.values().filter(|value| value.is_some()).count();
            assert!((30..60).contains(&living), "{living}");
        }
    }

    /// A value, above it a table with its tombstone, and above that one without any, which has it again.
    #[test]
    fn what_was_written_again_behind_its_deletion_exists() {
        let folder = tempfile::tempdir().expect("folder");
        LsmLevel::format(folder.path(), OURS.owner).expect("formats");
        let disk = LsmLevel::open(folder.path(), &LsmShared::new(4 << 20, 32), &OURS).expect("opens");
        let mut model = Model::new();
        for (exists, keys) in [(true, [1, 2]), (false, [1, 2]), (true, [1, 1])] {
            let rows = keys.map(|key| (row(key, 0).0, exists.then(|| b"value".to_vec())));
            ingest(&disk, &mut model, BTreeMap::from(rows).into_iter());
        }
        assert_eq!((compare(&disk, &model), model.len()), (0, 2));
    }

    #[test]
    fn tables_with_an_index_bring_what_those_without_bring() {
        let folder = tempfile::tempdir().expect("folder");
        let shared = LsmShared::new(4 << 20, 32);
        let (disk, mut model) = filled(folder.path(), &shared);
        assert_eq!((compare(&disk, &model), compare(&disk, &model)), (0, 0));
        let indexed_bytes = shared.index_bytes();
        // A byte and a quarter a row for its filter with a quarter more, and 12 bytes for each 4 KiB.
        assert!((25_000..80_000).contains(&indexed_bytes), "{indexed_bytes}");
        let cached_bytes = shared.cached_bytes();
        assert_eq!(compare(&disk, &model), 0);
        assert_eq!(shared.cached_bytes(), cached_bytes, "nothing but blocks of rows is read any more");
        // Tables that are replaced take their indexes with them.
        for round in 4..12 {
            ingest(&disk, &mut model, (0..200).map(|number| row(number * 100 + round, round)));
            compare(&disk, &model);
        }
        disk.rewrite().expect("merges");
        assert_eq!((compare(&disk, &model), compare(&disk, &model)), (0, 0));
        assert!(shared.index_bytes() < 2 * indexed_bytes, "{}", shared.index_bytes());
        drop(disk);
        assert_eq!(shared.index_bytes(), 0);
    }

    #[test]
    fn indexes_take_no_more_than_there_is_for_them() {
        let folder = tempfile::tempdir().expect("folder");
        let shared = LsmShared::new(16 << 10, 32);
        let (disk, model) = filled(folder.path(), &shared);
        for _ in 0..3 {
            assert_eq!(compare(&disk, &model), 0);
            assert!((1..=12 << 10).contains(&shared.index_bytes()), "{}", shared.index_bytes());
        }
    }

    #[test]
    fn a_damaged_block_is_found_beside_an_index_and_hides_its_rows_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let shared = LsmShared::new(4 << 20, 32);
        let (disk, model) = filled(folder.path(), &shared);
        assert_eq!(compare(&disk, &model), 0);
        let largest =
            tables(folder.path()).into_iter().max_by_key(|table| table.metadata().expect("looks").len());
        let largest = largest.expect("a table");
        let file = File::options().read(true).write(true).open(&largest).expect("opens");
        // Not one of the first: the library keeps the blocks that it was asked for before there was an index.
        let (at, mut byte) = (file.metadata().expect("looks").len() / 2, [0]);
        file.read_exact_at(&mut byte, at).expect("reads");
        file.write_all_at(&[byte[0] ^ 1], at).expect("writes");
        let hidden = compare(&disk, &model);
        assert!((1..200).contains(&hidden), "{hidden}");
        assert_eq!(disk.stats().damaged_tables, 1);
        file.write_all_at(&byte, at).expect("writes");
        assert_eq!(compare(&disk, &model), 0);
        drop(disk);
        assert_eq!(compare(&open(folder.path()).expect("opens"), &model), 0);
    }

    /// Reads all keys on the core; how many can be.
    fn compare_now(disk: &LsmLevel, model: &Model) -> usize {
        let (mut read, mut row) = (0, Vec::new());
        for (key, value) in model {
            if let Some(found) = disk.get_now(key, &mut row) {
                assert_eq!(found.is_there.then_some(&row), value.as_ref(), "{key:?}");
                assert!(found.read_bytes > 0 || !found.is_there, "{key:?}");
                read += 1;
            }
        }
        read
    }

    #[test]
    fn a_core_reads_what_is_in_the_page_cache() {
        let folder = tempfile::tempdir().expect("folder");
        let (disk, model) = filled(folder.path(), &LsmShared::new(4 << 20, 32));
        let rows = model.len();
        assert_eq!(compare_now(&disk, &model), 0, "no table has an index");
        assert_eq!((compare(&disk, &model), compare(&disk, &model)), (0, 0));
        let read = compare_now(&disk, &model);
        assert!(read > rows - 10, "{read} of {rows}: all but those of no keyspace");
        drop(disk);
        // Where no file may stay open, all is left to jobs.
        let disk = LsmLevel::open(folder.path(), &LsmShared::new(4 << 20, 0), &OURS).expect("opens");
        assert_eq!((compare(&disk, &model), compare(&disk, &model)), (0, 0));
        assert_eq!(compare_now(&disk, &model), 0);
    }

    #[test]
    fn a_core_leaves_a_damaged_block_to_a_job() {
        let folder = tempfile::tempdir().expect("folder");
        let (disk, model) = filled(folder.path(), &LsmShared::new(4 << 20, 32));
        assert_eq!((compare(&disk, &model), compare(&disk, &model)), (0, 0));
        let before = compare_now(&disk, &model);
        let largest =
            tables(folder.path()).into_iter().max_by_key(|table| table.metadata().expect("looks").len());
        let file = File::options().read(true).write(true).open(largest.expect("a table")).expect("opens");
        let (at, mut byte) = (file.metadata().expect("looks").len() / 2, [0]);
        file.read_exact_at(&mut byte, at).expect("reads");
        file.write_all_at(&[byte[0] ^ 1], at).expect("writes");
        let after = compare_now(&disk, &model);
        assert!((1..200).contains(&(before - after)), "{after} of {before}");
        assert_eq!(disk.stats().damaged_tables, 0);
        assert!(compare(&disk, &model) > 0);
        assert_eq!(disk.stats().damaged_tables, 1);
        file.write_all_at(&byte, at).expect("writes");
        assert_eq!(compare_now(&disk, &model), before);
    }

    #[test]
    fn a_core_waits_for_no_change_and_reads_no_tree_that_is_to_be_opened_anew() {
        let folder = tempfile::tempdir().expect("folder");
        let (disk, model) = filled(folder.path(), &LsmShared::new(4 << 20, 32));
        assert_eq!((compare(&disk, &model), compare(&disk, &model)), (0, 0));
        let before = compare_now(&disk, &model);
        let tree = disk.tree.opened().tree;
        // As a change holds it while it syncs.
        let held = tree.get_version_history_lock();
        assert_eq!(compare_now(&disk, &model), before);
        drop(held);
        let room = super::super::tests::room(&folder);
        let ended = disk.tree.change("a change", Change::Compaction, &room, |_| -> lsm_tree::Result<()> {
            panic!("in the middle")
        });
        assert!(matches!(ended, Err(DiskError::Panicked { .. })), "{ended:?}");
        assert_eq!(compare_now(&disk, &model), 0);
        assert_eq!((compare(&disk, &model), compare(&disk, &model)), (0, 0));
        assert_eq!(compare_now(&disk, &model), before);
    }

    #[test]
    fn a_core_reads_on_while_tables_are_replaced_and_removes_none() {
        let folder = tempfile::tempdir().expect("folder");
        let (disk, mut model) = filled(folder.path(), &LsmShared::new(4 << 20, 32));
        assert_eq!((compare(&disk, &model), compare(&disk, &model)), (0, 0));
        let (expected, is_over) = (model.clone(), AtomicBool::new(false));
        let changed: Vec<u64> = (0..20_000).filter(|number| number % 97 == 0).collect();
        let keys: BTreeSet<Vec<u8>> = changed.iter().map(|number| row(*number, 0).0).collect();
        std::thread::scope(|scope| {
            let core = scope.spawn(|| {
                let (mut read, mut value) = (0_u64, Vec::new());
                while !is_over.load(Ordering::Relaxed) {
                    for (key, expected) in expected.iter().filter(|(key, _)| !keys.contains(*key)).step_by(7)
                    {
                        let Some(found) = disk.get_now(key, &mut value) else { continue };
                        assert_eq!(found.is_there.then_some(&value), expected.as_ref(), "{key:?}");
                        read += 1;
                    }
                }
                read
            });
            for round in 4..10 {
                let before = tables(folder.path());
                ingest(&disk, &mut model, changed.iter().map(|number| row(*number, round)));
                disk.rewrite().expect("merges");
                assert_eq!(compare(&disk, &model), 0);
                let after = tables(folder.path());
                let replaced = before.iter().filter(|table| !after.contains(table));
                assert_eq!(
                    replaced.filter(|table| table.exists()).count(),
                    0,
                    "whoever changes the tree removes"
                );
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(core.join().expect("reads what was written") > 0);
        });
        assert_eq!(compare(&disk, &model), 0);
        let read = compare_now(&disk, &model);
        assert!(read > model.len() - 10, "{read} of {}", model.len());
    }

    #[test]
    fn keys_are_read_until_the_visitor_has_enough() {
        let folder = tempfile::tempdir().expect("folder");
        let (disk, model) = filled(folder.path(), &LsmShared::new(1 << 20, 32));
        let (mut left, mut visited) = (model.keys().cloned(), 0);
        disk.get_each(&mut left, Sought::Values, &mut |_| {
            visited += 1;
            visited < 5
        });
        assert_eq!((visited, left.count()), (5, model.len() - 5));
    }
}
