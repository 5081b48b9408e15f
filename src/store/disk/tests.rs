//! Folders that are not as they were left: each is refused by name, or every row is read as it was written.

use std::fs;
use std::path::{Path, PathBuf};

use lsm_tree::AbstractTree;

use super::folder::Change;
use super::manifest::{self, Manifest};
use super::room::DiskRoom;
use super::tree::Written;
use super::*;

pub(super) const OURS: Binding = Binding { owner: [7; OWNER_BYTES], may_adopt: false };
const OTHERS: Binding = Binding { owner: [8; OWNER_BYTES], may_adopt: true };

pub(super) type Rows = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) fn open(folder: &Path) -> Result<LsmLevel, DiskError> {
    LsmLevel::open(folder, &LsmShared::new(1 << 20, 32), &OURS)
}

fn row(number: u32, round: u32) -> DiskRow {
    let value = (round % 7 != number % 7).then(|| format!("value {number} of round {round}").into_bytes());
    (format!("key {number:05}").into_bytes(), value)
}

pub(super) fn ingest(disk: &LsmLevel, round: u32, numbers: impl Iterator<Item = u32>) {
    disk.ingest(1 << 10, false, &mut numbers.map(|number| row(number, round))).expect("there is room");
}

/// A formatted folder with a few tables in several levels.
pub(super) fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    LsmLevel::format(folder.path(), OURS.owner).expect("formats");
    let disk = open(folder.path()).expect("opens");
    for round in 0..6 {
        ingest(&disk, round, (0..400).filter(|number| number % (round + 1) == 0));
        if round == 3 {
            while disk.compact(&[]).expect("merges") {}
        }
    }
    folder
}

pub(super) fn rows(disk: &LsmLevel) -> Result<Rows, DiskError> {
    let mut rows = Vec::new();
    disk.scan(b"", b"z", &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        true
    })?;
    Ok(rows)
}

/// Every row is as `expected`, or its reading says what is damaged. Returns whether something is.
fn check_rows(disk: &LsmLevel, expected: &Rows, context: &str) -> bool {
    let mut damaged = false;
    match rows(disk) {
        Ok(found) => assert!(&found == expected, "{context}: a scan brought other rows"),
        Err(DiskError::Damaged { .. }) => damaged = true,
        Err(error) => panic!("{context}: {error}"),
    }
    for number in (0..401).step_by(13) {
        let key = row(number, 0).0;
        let value = expected.iter().find(|(at, _)| *at == key).map(|(_, value)| value.clone());
        match disk.get(&key) {
            Ok(found) => assert_eq!(found, value, "{context}: key {number}"),
            Err(DiskError::Damaged { .. }) => damaged = true,
            Err(error) => panic!("{context}: {error}"),
        }
    }
    damaged
}

pub(super) fn room(folder: &tempfile::TempDir) -> DiskRoom {
    DiskRoom::open(folder.path()).expect("room")
}

fn version_file(folder: &Path) -> PathBuf {
    let current = fs::read(folder.join("current")).expect("current");
    let version = u64::from_le_bytes(*current.first_chunk().expect("a number"));
    manifest::version_file(folder, version)
}

pub(super) fn tables(folder: &Path) -> Vec<PathBuf> {
    let named =
        Manifest::read(folder).expect("a manifest").expect("there is one").tree.expect("a tree").tables;
    named.iter().map(|table| manifest::table_file(folder, table.number)).collect()
}

fn remove_manifests(folder: &Path) {
    for name in manifest::COPIES {
        fs::remove_file(folder.join(name)).expect("removes");
    }
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("folder");
    fs::create_dir(to.path().join("tables")).expect("folder");
    for part in ["", "tables"] {
        for entry in fs::read_dir(from.join(part)).expect("lists") {
            let entry = entry.expect("an entry");
            if entry.path().is_file() {
                fs::copy(entry.path(), to.path().join(part).join(entry.file_name())).expect("copies");
            }
        }
    }
    to
}

/// Opens the folder after each change of a file; the change must be refused by the name of a file, or harmless.
fn check_each(folder: &Path, file: &Path, changes: impl Iterator<Item = Vec<u8>>) -> (u32, u32) {
    let disk = open(folder).expect("opens");
    let expected = rows(&disk).expect("reads");
    drop(disk);
    let sound = fs::read(file).expect("reads");
    let (mut refused, mut tried) = (0, 0);
    for (number, changed) in changes.enumerate() {
        tried += 1;
        fs::write(file, &changed).expect("writes");
        let context = format!("{}, change {number}", file.display());
        match open(folder) {
            Ok(disk) => _ = check_rows(&disk, &expected, &context),
            Err(error) => {
                assert!(matches!(error, DiskError::Damaged { .. }), "{context}: {error:?}");
                assert!(error.to_string().contains(folder.to_str().expect("text")), "{error}");
                refused += 1;
            }
        }
        fs::write(file, &sound).expect("writes");
    }
    let disk = open(folder).expect("opens");
    assert_eq!(rows(&disk), Ok(expected), "refusals change nothing");
    (tried, refused)
}

pub(super) fn flips(bytes: &[u8], bits: impl Iterator<Item = usize>) -> impl Iterator<Item = Vec<u8>> {
    bits.map(move |bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}

#[test]
fn no_flipped_bit_of_the_version_is_believed() {
    let folder = filled();
    for file in [version_file(folder.path()), folder.path().join("current")] {
        let bytes = fs::read(&file).expect("reads");
        let (tried, refused) = check_each(folder.path(), &file, flips(&bytes, 0..bytes.len() * 8));
        assert_eq!(tried, refused, "{}", file.display());
    }
}

#[test]
fn no_flipped_byte_of_a_table_gives_a_wrong_row() {
    let folder = filled();
    let table = tables(folder.path()).into_iter().next().expect("a table");
    let bytes = fs::read(&table).expect("reads");
    // Of each byte one bit, or all eight of them where `EVERY_BIT` is set, which takes a minute.
    let is_every = std::env::var_os("EVERY_BIT").is_some();
    let bits = (0..bytes.len() * 8).filter(|bit| is_every || bit % 8 == bit / 8 % 8);
    let (tried, refused) = check_each(folder.path(), &table, flips(&bytes, bits));
    assert!(refused > 0 && refused < tried, "{refused} of {tried}: blocks are read when they are needed");
}

#[test]
fn lengths_exchanges_and_absences_are_refused() {
    let folder = filled();
    let files = tables(folder.path());
    let [first, .., last] = files.as_slice() else { panic!("several tables: {files:?}") };
    let sound = fs::read(first).expect("reads");
    let changes = [
        Vec::new(),
        sound[..sound.len() - 1].to_vec(),
        sound[..sound.len() / 2].to_vec(),
        [&sound[..], &[0]].concat(),
        vec![0; sound.len()],
        fs::read(last).expect("reads"),
    ];
    let count = changes.len() as u32;
    assert_eq!(check_each(folder.path(), first, changes.into_iter()), (count, count));

    let swapped = copy(folder.path());
    let files = tables(swapped.path());
    let (a, b, aside) = (&files[0], files.last().expect("a table"), swapped.path().join("aside"));
    fs::rename(a, &aside)
        .and_then(|()| fs::rename(b, a))
        .and_then(|()| fs::rename(&aside, b))
        .expect("renames");
    assert!(matches!(open(swapped.path()), Err(DiskError::Damaged { .. })), "two tables exchanged");

    for file in [first.clone(), version_file(folder.path()), folder.path().join("current")] {
        let without = copy(folder.path());
        fs::remove_file(without.path().join(file.strip_prefix(folder.path()).expect("inside")))
            .expect("removes");
        let error = open(without.path()).err().expect("refused");
        let name = file.file_name().expect("a name").to_str().expect("text");
        assert!(error.to_string().contains(name) && matches!(error, DiskError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_table_of_the_same_number_from_another_shard_is_refused() {
    let (ours, theirs) = (filled(), tempfile::tempdir().expect("folder"));
    LsmLevel::format(theirs.path(), OTHERS.owner).expect("formats");
    let shared = LsmShared::new(1 << 20, 32);
    let other = LsmLevel::open(theirs.path(), &shared, &OTHERS).expect("opens");
    for round in 0..6 {
        ingest(&other, round + 1, 0..400);
    }
    drop(other);
    let theirs = theirs.path().join("tables");
    for table in tables(ours.path()) {
        let same = theirs.join(table.file_name().expect("a name"));
        if same.exists() {
            let sound = fs::read(&table).expect("reads");
            fs::copy(same, &table).expect("copies");
            let error = open(ours.path()).err().expect("refused");
            assert!(matches!(&error, DiskError::Damaged { file, .. } if *file == table), "{error}");
            fs::write(&table, sound).expect("writes");
        }
    }
}

#[test]
fn another_owners_folder_and_an_emptied_one_are_refused() {
    let folder = filled();
    let shared = LsmShared::new(1 << 20, 32);
    let foreign = LsmLevel::open(folder.path(), &shared, &OTHERS).err().expect("refused");
    assert!(matches!(foreign, DiskError::Foreign { .. }), "{foreign}");
    let empty = tempfile::tempdir().expect("folder");
    let missing = open(empty.path()).err().expect("refused");
    assert!(missing.to_string().contains("manifest is damaged: it is missing"), "{missing}");
    let emptied = copy(folder.path());
    fs::remove_dir_all(emptied.path().join("tables")).expect("removes");
    assert!(matches!(open(emptied.path()), Err(DiskError::Damaged { .. })));
}

#[test]
fn a_folder_without_a_manifest_is_taken_over_where_that_is_allowed() {
    let folder = filled();
    let disk = open(folder.path()).expect("opens");
    let expected = rows(&disk).expect("reads");
    drop(disk);
    remove_manifests(folder.path());
    assert!(matches!(open(folder.path()), Err(DiskError::Damaged { .. })));
    let adopt = Binding { may_adopt: true, ..OURS };
    let shared = LsmShared::new(1 << 20, 32);
    let version = version_file(folder.path());
    let sound = fs::read(&version).expect("reads");
    for flipped in flips(&sound, 0..sound.len() * 8) {
        fs::write(&version, flipped).expect("writes");
        let refused = LsmLevel::open(folder.path(), &shared, &adopt).err().expect("refused");
        assert!(matches!(refused, DiskError::Damaged { .. }), "{refused}");
    }
    fs::write(&version, sound).expect("writes");
    let disk = LsmLevel::open(folder.path(), &shared, &adopt).expect("is taken over");
    assert_eq!(rows(&disk), Ok(expected.clone()));
    drop(disk);
    assert!(open(folder.path()).is_err(), "opening does not say whose it is");
    LsmLevel::format(folder.path(), OURS.owner).expect("says it");
    let disk = open(folder.path()).expect("it has a manifest now");
    assert_eq!(rows(&disk), Ok(expected));
    let known = Manifest::read(folder.path()).expect("reads").expect("there is one").tree.expect("a tree");
    assert!(known.tables.iter().all(|table| !table.max.is_empty()), "the keys are known from now on");
    // A change says it as well.
    drop(disk);
    remove_manifests(folder.path());
    let disk = LsmLevel::open(folder.path(), &shared, &adopt).expect("is taken over");
    ingest(&disk, 3, 0..9);
    let after = rows(&disk);
    drop(disk);
    assert_eq!(rows(&open(folder.path()).expect("it has a manifest now")), after);
}

/// A change of the tree of which the manifest has the beginning only: a crash came before the note of its end.
fn cut_off(folder: &Path, change: Change, work: impl FnOnce(&lsm_tree::AnyTree)) {
    let disk = open(folder).expect("opens");
    let opened = disk.tree.opened();
    opened.folder.begin(change, &opened.tree).expect("notes");
    work(&opened.tree);
}

fn add(tree: &lsm_tree::AnyTree, round: u32) {
    let mut ingestion = tree.ingestion().expect("begins");
    for number in 0..50 {
        match row(number, round) {
            (key, Some(value)) => ingestion.write(key, value).expect("writes"),
            (key, None) => ingestion.write_tombstone(key).expect("writes"),
        }
    }
    ingestion.finish().expect("ends");
}

#[test]
fn a_crash_at_any_point_of_a_change_is_no_damage() {
    let folder = filled();
    let before = rows(&open(folder.path()).expect("opens")).expect("reads");
    cut_off(folder.path(), Change::Ingestion, |_| {});
    assert_eq!(rows(&open(folder.path()).expect("before the change")), Ok(before.clone()));

    cut_off(folder.path(), Change::Ingestion, |tree| add(tree, 9));
    let added = copy(folder.path());
    let after = rows(&open(folder.path()).expect("behind an ingestion")).expect("reads");
    assert_ne!(before, after);

    cut_off(folder.path(), Change::Compaction, |tree| tree.major_compact(1 << 20, 1 << 62).expect("merges"));
    assert_eq!(rows(&open(folder.path()).expect("behind a merge")), Ok(after.clone()));
    cut_off(folder.path(), Change::Compaction, |tree| tree.drop_range::<&[u8], _>(..).expect("drops"));
    assert_eq!(rows(&open(folder.path()).expect("behind a drop")), Ok(Vec::new()));

    // What such a change added is not believed blindly.
    let manifest = Manifest::read(added.path()).expect("reads").expect("there is one");
    let new = manifest::table_file(added.path(), manifest.first_new);
    let bytes = fs::read(&new).expect("the new table");
    for at in (0..bytes.len()).step_by(97) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        fs::write(&new, flipped).expect("writes");
        let refused = open(added.path()).err().expect("refused");
        assert!(matches!(&refused, DiskError::Damaged { file, .. } if *file == new), "byte {at}: {refused}");
    }
    fs::write(&new, bytes).expect("writes");
    assert_eq!(rows(&open(added.path()).expect("as it was")), Ok(after));
}

#[test]
fn a_version_ahead_of_the_manifest_is_refused_where_nothing_had_begun() {
    let folder = filled();
    let disk = open(folder.path()).expect("opens");
    add(&disk.tree.opened().tree, 3);
    drop(disk);
    let refused = open(folder.path()).err().expect("refused");
    assert!(refused.to_string().contains("after which 0 changes had begun"), "{refused}");
    // One ingestion may add, but not take away.
    let folder = filled();
    cut_off(folder.path(), Change::Ingestion, |tree| tree.drop_range::<&[u8], _>(..).expect("drops"));
    let refused = open(folder.path()).err().expect("refused");
    assert!(refused.to_string().contains("does not name table"), "{refused}");
    let folder = filled();
    cut_off(folder.path(), Change::Ingestion, |tree| {
        add(tree, 3);
        add(tree, 4);
    });
    assert!(open(folder.path()).is_err(), "two changes, and one had begun");
}

#[test]
fn an_older_version_put_back_is_refused() {
    let folder = filled();
    let old = copy(folder.path());
    let disk = open(folder.path()).expect("opens");
    ingest(&disk, 9, 0..10);
    drop(disk);
    let current = fs::read(old.path().join("current")).expect("reads");
    fs::write(folder.path().join("current"), current).expect("writes");
    let version = version_file(old.path());
    fs::copy(&version, folder.path().join(version.file_name().expect("a name"))).expect("copies");
    assert!(matches!(open(folder.path()), Err(DiskError::Damaged { .. })), "yesterday's version");
}

#[test]
fn damage_in_a_merge_neither_panics_nor_loses_rows() {
    let folder = filled();
    let disk = open(folder.path()).expect("opens");
    let expected = rows(&disk).expect("reads");
    drop(disk);
    let table = tables(folder.path()).into_iter().next().expect("a table");
    let mut bytes = fs::read(&table).expect("reads");
    bytes[100] ^= 1;
    fs::write(&table, &bytes).expect("writes");
    let disk = open(folder.path()).expect("its end is sound");
    let opened = disk.tree.opened();
    let merged = disk
        .tree
        .change("merging", Change::Compaction, &room(&folder), |tree| tree.major_compact(1 << 20, 1 << 62));
    assert!(matches!(merged, Err(DiskError::Damaged { .. })), "{merged:?}");
    assert!(check_rows(&disk, &expected, "after a merge that failed"));
    ingest(&disk, 5, 0..0);
    drop((disk, opened));
    bytes[100] ^= 1;
    fs::write(&table, &bytes).expect("writes");
    assert_eq!(rows(&open(folder.path()).expect("opens")), Ok(expected), "nothing was thrown away");
}

#[test]
fn after_a_panic_in_a_change_the_tree_is_opened_anew() {
    let folder = filled();
    let disk = open(folder.path()).expect("opens");
    let expected = rows(&disk).expect("reads");
    let ended =
        disk.tree.change("a change", Change::Compaction, &room(&folder), |tree| -> lsm_tree::Result<()> {
            let _lock = tree.get_version_history_lock();
            panic!("in the middle")
        });
    assert!(matches!(ended, Err(DiskError::Panicked { .. })), "{ended:?}");
    ingest(&disk, 0, 400..401);
    let mut after = expected.clone();
    after.push((row(400, 0).0, row(400, 0).1.expect("a value")));
    assert_eq!(rows(&disk), Ok(after));
}

#[test]
fn figures_wait_for_no_change_of_the_tree() {
    let folder = filled();
    let disk = open(folder.path()).expect("opens");
    let stats = disk.stats();
    assert!(stats.tables > 0 && stats.disk_bytes > 0, "{stats:?}");
    let during = disk.tree.change("a change", Change::Compaction, &room(&folder), |tree| {
        // A merge holds it while it syncs its last table.
        let _lock = tree.get_version_history_lock();
        let (disk, (found, asked)) = (disk.clone(), std::sync::mpsc::channel());
        std::thread::spawn(move || found.send(disk.stats()));
        Ok(asked.recv_timeout(std::time::Duration::from_secs(30)).ok())
    });
    assert_eq!(during, Ok(Written::Done(Some(stats))));
    ingest(&disk, 0, 400..401);
    assert_eq!(disk.stats().tables, stats.tables + 1);
}

#[test]
fn a_disk_that_takes_no_manifest_refuses_the_change() {
    let folder = filled();
    let disk = open(folder.path()).expect("opens");
    let expected = rows(&disk).expect("reads");
    // The name is taken by a folder: the manifest cannot be written, as on a read-only disk.
    let blocker = folder.path().join("manifest.new");
    fs::create_dir(&blocker).expect("folder");
    let refused = disk.ingest(1, false, &mut std::iter::once(row(3, 1)));
    assert!(matches!(refused, Err(IngestError::Failed(DiskError::Io { .. }))), "{refused:?}");
    assert_eq!(rows(&disk), Ok(expected));
    fs::remove_dir(&blocker).expect("removes");
    ingest(&disk, 1, 3..4);
    let after = rows(&disk).expect("reads");
    drop(disk);
    assert_eq!(rows(&open(folder.path()).expect("opens")), Ok(after));
}

#[test]
fn a_note_that_could_not_be_written_is_written_before_the_next_change() {
    let folder = filled();
    let disk = open(folder.path()).expect("opens");
    let opened = disk.tree.opened();
    let blocker = folder.path().join("manifest.new");
    opened.folder.begin(Change::Ingestion, &opened.tree).expect("notes");
    add(&opened.tree, 2);
    fs::create_dir(&blocker).expect("folder");
    opened.folder.end(Change::Ingestion, &opened.tree);
    fs::remove_dir(&blocker).expect("removes");
    let crashed = copy(folder.path());
    let expected = rows(&disk).expect("reads");
    assert_eq!(rows(&open(crashed.path()).expect("the change counts as begun")), Ok(expected));
    ingest(&disk, 3, 0..9);
    let after = rows(&disk).expect("reads");
    drop((disk, opened));
    assert_eq!(rows(&open(folder.path()).expect("opens")), Ok(after));
}

#[test]
fn two_changes_at_once_may_end_in_any_order() {
    let folder = filled();
    let disk = open(folder.path()).expect("opens");
    let opened = disk.tree.opened();
    opened.folder.begin(Change::Compaction, &opened.tree).expect("notes");
    ingest(&disk, 4, 0..20);
    let between = copy(folder.path());
    let expected = rows(&disk).expect("reads");
    opened.tree.major_compact(1 << 20, 1 << 62).expect("merges");
    let behind = copy(folder.path());
    assert_eq!(rows(&open(between.path()).expect("one ended")), Ok(expected.clone()));
    assert_eq!(rows(&open(behind.path()).expect("one is not noted")), Ok(expected));
}

#[test]
fn a_row_is_found_without_reading_what_grows_with_the_table() {
    const ROWS: u32 = 100_000;
    let folder = tempfile::tempdir().expect("folder");
    LsmLevel::format(folder.path(), OURS.owner).expect("formats");
    let disk = open(folder.path()).expect("opens");
    for round in 0..6 {
        ingest(&disk, round, 0..ROWS);
    }
    while disk.compact(&[]).expect("merges") {}
    drop(disk);
    let shared = LsmShared::new(4 << 20, 32);
    let disk = LsmLevel::open(folder.path(), &shared, &OURS).expect("opens");
    let before = shared.cached_bytes();
    let (key, value) = row(50_000, 5);
    assert_eq!(disk.get(&key).expect("reads"), value);
    let read = shared.cached_bytes() - before;
    assert!(read <= 64 << 10, "{read} bytes for one row of {ROWS}");
}
