//! Merges of the tree's tables, one at a time; beside damaged tables too.
//!
//! The library chooses what is due, by sizes, and stops at a damaged block each time it comes to one. It has no way
//! to leave a table out, and takes no choice made elsewhere; what it offers beside are merges and moves of whole levels.
//! So while a table is damaged, level 0 is merged into a level above that of the damage, and the levels from there on stay
//! as they are. Invariant: a row that is newer never comes below an older one of its key, so what goes down from level 0
//! passes empty levels only; and no damaged table is read by a merge, or left out of the tree.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lsm_tree::compaction::{CompactionStrategy, Leveled, MoveDown, PullDown};
use lsm_tree::{AbstractTree, AnyTree, Table};

use super::error::DiskError;
use super::lsm::LsmLevel;
use super::manifest::table_file;
use super::room::MARGIN_BYTES;
use super::scrub::find_damage;
use super::tree::{ABOVE_ALL, Written};

/// Tables in level 0 from which on it is merged, and as many as have the level that it is merged into grow.
const L0_TABLES: usize = 4;
const L0_TABLES_MOST: usize = 16;
/// What a table has at most, roughly. The level that level 0 is merged into may have as many of them as there are tables in
/// level 0, before another one is put between.
const TABLE_BYTES: u64 = 64 << 20;
/// How many times as large as level 0 a level may be for that to be merged into it, if there is an empty one above.
const GROWTH: u64 = 8;

/// The locks of a tree's changes.
#[derive(Default)]
pub(super) struct Turns {
    /// Held while tables are merged: what is to be merged must not be merged by another meanwhile.
    merging: Mutex<()>,
    /// Held while rows come in, and while level 0 must stay as it is.
    ingesting: Mutex<()>,
}

impl Turns {
    fn merge(&self) -> MutexGuard<'_, ()> {
        self.merging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ingest(&self) -> MutexGuard<'_, ()> {
        self.ingesting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A level, as far as it matters here.
#[derive(Clone, Copy, Default, Debug)]
struct Level {
    runs: usize,
    tables: usize,
    bytes: u64,
    is_damaged: bool,
}

/// What can be done beside damaged tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Beside {
    Nothing,
    /// Level 0 goes into that empty level, as it is, to make way for those to come.
    Move(usize),
    /// Level 0 is merged into that level.
    Merge(usize),
}

/// Chooses what to do in a tree with damage.
fn beside(levels: &[Level]) -> Beside {
    let Some((l0, deeper)) = levels.split_first() else { return Beside::Nothing };
    let filled = (1..).zip(deeper).find(|(_, level)| level.tables > 0);
    // The last of the empty levels below level 0; 0 if there is none.
    let free = filled.map_or(deeper.len(), |(number, _)| number - 1);
    if l0.is_damaged {
        // More than one run would not be one in another level.
        return if l0.runs == 1 && free > 0 { Beside::Move(free) } else { Beside::Nothing };
    }
    if l0.tables < L0_TABLES {
        return Beside::Nothing;
    }
    match filled {
        Some((number, level)) if !level.is_damaged && (free == 0 || level.bytes <= GROWTH * l0.bytes) => {
            Beside::Merge(number)
        }
        _ if free > 0 => Beside::Merge(free),
        _ => Beside::Nothing,
    }
}

impl LsmLevel {
    /// One merge, if there is one to do and room for what it may write: not more than is there, nor than one level's
    /// share of it.
    pub(super) fn merge_once(&self) -> Result<bool, DiskError> {
        let _merging = self.turns.merge();
        let before = self.version()?;
        if self.merged.load(Ordering::Relaxed) == before {
            return Ok(false);
        }
        let damage = self.tree.damage();
        if damage.is_empty() {
            let (strategy, most_bytes) = self.leveled()?;
            let is_merged = self.merge_by(before, Arc::new(strategy), most_bytes)?;
            if is_merged == Written::Done(false) {
                self.merged.store(before, Ordering::Relaxed);
            }
            return Ok(is_merged == Written::Done(true));
        }
        let ingesting = self.turns.ingest();
        let levels = self.levels(|table| {
            let file = table_file(self.tree.path(), table.id());
            damage.iter().any(|(damaged, _)| *damaged == file)
        })?;
        let bytes = |number: usize| levels.get(number).map_or(0, |level| level.bytes);
        let number = |number: usize| u8::try_from(number).expect("a tree has few levels");
        let merged = match beside(&levels) {
            Beside::Nothing => return Ok(false),
            Beside::Move(to) => self.merge_by(before, Arc::new(MoveDown(0, number(to))), 0)?,
            Beside::Merge(to) => {
                drop(ingesting);
                self.merge_by(before, Arc::new(PullDown(0, number(to))), bytes(0) + bytes(to))?
            }
        };
        Ok(merged == Written::Done(true))
    }

    /// How the library is to choose, and what the merge that it chooses writes at most, roughly.
    ///
    /// The more tables of flushes there are, the larger a level may be for them to be merged into it at once: it is written
    /// again for all of them together, where each few of them would have to be written twice, into a level between and then
    /// with that. Where the disk has little room, a level that is not much larger than they are is between.
    fn leveled(&self) -> Result<(Leveled, u64), DiskError> {
        let (disk_bytes, free_bytes) = (self.disk_space()?, self.free_bytes()?);
        let levels = self.levels(|_| false)?;
        let l0 = levels.first().copied().unwrap_or_default();
        let most_bytes = |tables: usize| disk_bytes.min(l0.bytes + TABLE_BYTES * tables as u64);
        let gathered = l0.tables.clamp(L0_TABLES, L0_TABLES_MOST);
        let is_roomy = free_bytes >= MARGIN_BYTES + 2 * most_bytes(gathered);
        let tables = if is_roomy { gathered } else { L0_TABLES };
        self.tree.haste.set_tight(!is_roomy);
        let threshold = u8::try_from(tables).expect("they are few");
        Ok((Leveled::default().with_l0_threshold(threshold), most_bytes(tables)))
    }

    /// Merges as `strategy` says, if there is room for so many bytes. Whether that changed anything.
    fn merge_by(
        &self,
        before: u64,
        strategy: Arc<dyn CompactionStrategy>,
        bytes: u64,
    ) -> Result<Written<bool>, DiskError> {
        if self.free_bytes()? < bytes + MARGIN_BYTES {
            return Ok(Written::NoRoom);
        }
        let merged = self.compaction("a merge", |tree| {
            tree.compact(strategy, ABOVE_ALL)?;
            Ok(tree.current_version().id() != before)
        });
        self.checked(merged)
    }

    /// After a merge that met damage: finds out in which table.
    pub(super) fn checked<T>(&self, merged: Result<Written<T>, DiskError>) -> Result<Written<T>, DiskError> {
        if let Err(DiskError::Damaged { .. } | DiskError::Panicked { .. }) = &merged {
            find_damage(&self.tree)?;
        }
        merged
    }

    fn levels(&self, is_damaged: impl Fn(&Table) -> bool) -> Result<Vec<Level>, DiskError> {
        self.tree.look(|tree: &AnyTree| {
            let version = tree.current_version();
            let levels = version.iter_levels().map(|level| Level {
                runs: level.run_count(),
                tables: level.table_count(),
                bytes: level.size(),
                is_damaged: level.iter().flat_map(|run| run.iter()).any(&is_damaged),
            });
            levels.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::super::DiskLevel;
    use super::super::tests::{filled, open, tables};
    use super::*;

    fn levels(described: [(usize, u64, bool); 7]) -> Vec<Level> {
        let level = |(tables, bytes, is_damaged)| Level { runs: tables, tables, bytes, is_damaged };
        described.map(level).to_vec()
    }

    #[test]
    fn level_0_passes_empty_levels_only_and_no_damage_is_read() {
        const NONE: (usize, u64, bool) = (0, 0, false);
        let (few, many, large) = ((3, 30, false), (4, 40, false), (1, 321, false));
        let (bad, bads) = ((1, 10, true), (2, 20, true));
        let chosen = |described| beside(&levels(described));
        assert_eq!(chosen([few, NONE, NONE, NONE, NONE, NONE, bad]), Beside::Nothing, "there is no need yet");
        assert_eq!(chosen([many, NONE, NONE, NONE, NONE, NONE, bad]), Beside::Merge(5));
        assert_eq!(chosen([many, NONE, NONE, NONE, NONE, few, bad]), Beside::Merge(5));
        assert_eq!(chosen([many, NONE, NONE, NONE, few, bad, few]), Beside::Merge(4));
        assert_eq!(chosen([many, NONE, NONE, NONE, bad, few, few]), Beside::Merge(3));
        assert_eq!(
            chosen([many, NONE, NONE, NONE, NONE, large, bad]),
            Beside::Merge(4),
            "a level of its own"
        );
        assert_eq!(chosen([many, large, few, NONE, NONE, few, bad]), Beside::Merge(1), "there is no other");
        assert_eq!(chosen([many, bad, NONE, NONE, NONE, NONE, few]), Beside::Nothing);
        assert_eq!(chosen([bad, NONE, NONE, NONE, NONE, NONE, few]), Beside::Move(5));
        assert_eq!(chosen([bad, NONE, NONE, NONE, NONE, NONE, NONE]), Beside::Move(6));
        assert_eq!(chosen([bad, NONE, NONE, bad, NONE, NONE, few]), Beside::Move(2));
        assert_eq!(chosen([bad, few, NONE, NONE, NONE, NONE, NONE]), Beside::Nothing);
        assert_eq!(
            chosen([bads, NONE, NONE, NONE, NONE, NONE, few]),
            Beside::Nothing,
            "older and newer ones"
        );
    }

    type Model = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    fn key(number: u32) -> Vec<u8> {
        format!("key {number:05}").into_bytes()
    }

    /// A value that does not get much shorter, so that a block of each table lies before its end.
    fn value(number: u32, round: u32) -> Vec<u8> {
        let words = (0..20)
            .map(|word| xxhash_rust::xxh3::xxh3_64(&[number, round, word].map(u32::to_le_bytes).concat()));
        words.map(|word| format!("{word:x}.")).collect::<String>().into_bytes()
    }

    /// Writes a part of the last 300 keys in each round, and deletes some.
    fn flush(disk: &LsmLevel, model: &mut Model, round: u32) {
        let rows: Vec<_> = (100..400)
            .filter(|number| (number + round).is_multiple_of(7))
            .map(|number| (key(number), (!(number + round).is_multiple_of(3)).then(|| value(number, round))))
            .collect();
        model.extend(rows.clone());
        disk.ingest(10 << 10, false, &mut rows.into_iter()).expect("it is taken");
        while disk.compact(&[]).unwrap_or(false) {}
    }

    /// Compares every key: with `may_fail`, damage may hide those that were not written since. How many it hides.
    fn compare(disk: &LsmLevel, before: &Model, since: &Model, context: &str) -> usize {
        let mut hidden = 0;
        for number in 0..400 {
            let key = key(number);
            let wanted = since.get(&key).or_else(|| before.get(&key)).cloned().flatten();
            match disk.get(&key) {
                Ok(found) => assert_eq!(found, wanted, "{context}: key {number}"),
                Err(DiskError::Damaged { .. }) => {
                    assert!(!since.contains_key(&key), "{context}: key {number} was written since");
                    hidden += 1;
                }
                Err(error) => panic!("{context}: {error}"),
            }
        }
        hidden
    }

    fn runs(disk: &LsmLevel) -> usize {
        disk.levels(|_| false).expect("levels")[0].runs
    }

    /// Damages a byte of a table, and puts it back when it is called again.
    fn flip(table: &Path) {
        let mut bytes = fs::read(table).expect("reads");
        bytes[100] ^= 1;
        fs::write(table, bytes).expect("writes");
    }

    fn all(disk: &LsmLevel) -> Model {
        let mut rows = Model::new();
        (0..400).for_each(|number| _ = rows.insert(key(number), disk.get(&key(number)).expect("reads")));
        rows
    }

    /// 300 flushes beside a damaged table; then it is put back, and everything is merged.
    fn flushes_beside(folder: &Path, table: &Path, before: &Model) {
        flip(table);
        let disk = open(folder).expect("its end is sound");
        let mut since = Model::new();
        let hidden = compare(&disk, before, &since, "at first");
        assert!(hidden > 0 && disk.stats().damaged_tables == 1);
        for round in 0..300 {
            flush(&disk, &mut since, round);
            assert!(runs(&disk) <= L0_TABLES, "round {round}: {} runs", runs(&disk));
            if round % 30 == 0 {
                compare(&disk, before, &since, &format!("round {round}"));
            }
        }
        assert!(compare(&disk, before, &since, "in the end") > 0, "what cannot be read is not left out");
        assert_eq!(disk.stats().damaged_tables, 1);
        drop(disk);
        flip(table);
        let disk = open(folder).expect("opens");
        assert_eq!(compare(&disk, before, &since, "restored"), 0);
        for round in 300..320 {
            flush(&disk, &mut since, round);
            assert_eq!(compare(&disk, before, &since, "merged"), 0);
        }
        disk.rewrite().expect("merges all");
        assert_eq!(compare(&disk, before, &since, "rewritten"), 0);
        drop(disk);
        assert_eq!(compare(&open(folder).expect("opens"), before, &since, "opened again"), 0);
    }

    #[test]
    fn the_more_flushes_gather_the_larger_is_what_they_are_merged_into_if_there_is_room() {
        let folder = filled();
        let disk = open(folder.path()).expect("opens");
        disk.rewrite().expect("all of it in one table");
        let threshold = || {
            let (strategy, bytes) = disk.leveled().expect("looks");
            let config = strategy.get_config();
            let entry = config.into_iter().find(|(name, _)| **name == *b"leveled_l0_threshold");
            (entry.expect("it has one").1.first().copied(), bytes)
        };
        let mut l0_tables = 0;
        for (tables, wanted) in [(3, 4), (4, 4), (10, 10), (16, 16), (20, 16)] {
            while l0_tables < tables {
                let mut rows = (0..100).map(|number| (key(number), Some(value(number, l0_tables))));
                disk.ingest(10 << 10, false, &mut rows).expect("it is taken");
                l0_tables += 1;
            }
            assert_eq!(threshold(), (Some(wanted), disk.stats().disk_bytes), "{tables} tables");
        }
        let used_bytes = disk.room.reserve_bytes + disk.stats().disk_bytes;
        let room_for = |times: u64| {
            let bytes = used_bytes + times * disk.stats().disk_bytes + MARGIN_BYTES;
            disk.room.capacity_bytes.store(bytes, Ordering::Relaxed);
        };
        room_for(1);
        assert_eq!(threshold().0, Some(4), "what is merged lies there twice until it is done");
        room_for(100);
        assert_eq!(threshold().0, Some(16));
        while disk.compact(&[]).expect("merges") {}
        assert!(runs(&disk) < L0_TABLES);
    }

    #[test]
    fn flushes_go_on_being_merged_beside_a_damaged_table_of_the_last_level() {
        let folder = filled();
        let disk = open(folder.path()).expect("opens");
        disk.rewrite().expect("all of it in one table");
        let before = all(&disk);
        drop(disk);
        let [table] = tables(folder.path()).try_into().expect("one table");
        flushes_beside(folder.path(), &table, &before);
    }

    #[test]
    fn flushes_go_on_being_merged_beside_a_damaged_table_that_was_just_written() {
        let folder = filled();
        let disk = open(folder.path()).expect("opens");
        disk.rewrite().expect("all of it in one table");
        let mut rows =
            (0..400).step_by(2).map(|number| (key(number), (number % 4 > 0).then(|| value(number, 1000))));
        disk.ingest(1 << 16, true, &mut rows).expect("there is room");
        let before = all(&disk);
        drop(disk);
        let table = tables(folder.path()).pop().expect("the flush's");
        flushes_beside(folder.path(), &table, &before);
    }

    #[test]
    fn a_merge_that_meets_damage_finds_its_table_beside_others() {
        let folder = filled();
        let disk = open(folder.path()).expect("opens");
        disk.rewrite().expect("all of it in one table");
        let mut since = Model::new();
        (0..3).for_each(|round| flush(&disk, &mut since, round));
        let before = all(&disk);
        drop(disk);
        let files = tables(folder.path());
        assert!(files.len() > 2, "{files:?}");
        // One that is known, and one that nobody has read yet.
        let (known, unknown) = (&files[0], files.last().expect("a flush's"));
        flip(known);
        let disk = open(folder.path()).expect("its end is sound");
        assert!(disk.get(&key(0)).is_err());
        assert_eq!(disk.stats().damaged_tables, 1);
        flip(unknown);
        let mut since = Model::new();
        (10..20).for_each(|round| flush(&disk, &mut since, round));
        assert_eq!(disk.stats().damaged_tables, 2);
        compare(&disk, &before, &since, "beside two");
    }
}
