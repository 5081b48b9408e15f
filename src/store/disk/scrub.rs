//! Reading in the background what opening a folder leaves out: every table as a whole, a bounded piece at a time, compared
//! with the checksum that its version names. Table after table; when all were read, a round has ended.
//!
//! Invariant: nothing is held between two pieces but a position in the walk, so that a table may go at any time; damage is
//! reported only of a table that is still part of the tree when it was found.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use lsm_tree::{AbstractTree, AnyTree, Table};
use xxhash_rust::xxh3::Xxh3Default;

use super::check::{ADVICE, NamedTable, hash_file};
use super::error::DiskError;
use super::gap;
use super::inspect::Opener;
use super::manifest::table_file;
use super::tree::GuardedTree;

/// Bytes that one piece reads.
pub(super) const PIECE_BYTES: usize = 4 << 20;
/// Bytes that are read at a time.
const READ_BYTES: usize = 256 << 10;

/// See the file's head.
#[derive(Default)]
pub(super) struct Scrub {
    walk: Mutex<Walk>,
    verified_bytes: AtomicU64,
    rounds: AtomicU64,
}

#[derive(Default)]
struct Walk {
    /// The last table that is done with in this round.
    after: Option<u64>,
    reading: Option<Reading>,
}

/// A table that was read in part.
struct Reading {
    table: NamedTable,
    offset: u64,
    hasher: Box<Xxh3Default>,
}

/// How reading a piece of a table has ended.
enum Piece {
    More,
    /// All of it was read; its checksum.
    End(u128),
}

impl Scrub {
    /// Bytes read since the start, and rounds that ended.
    pub(super) fn figures(&self) -> (u64, u64) {
        (self.verified_bytes.load(Ordering::Relaxed), self.rounds.load(Ordering::Relaxed))
    }

    /// Reads on. Returns whether a round has ended.
    pub(super) fn step(&self, tree: &GuardedTree) -> Result<bool, DiskError> {
        let mut walk = self.walk.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = tree.look(named)?;
        let is_present = |table: &NamedTable| tables.contains(table);
        let reading = match walk.reading.take().filter(|reading| is_present(&reading.table)) {
            Some(reading) => Some(reading),
            None => tables.iter().find(|table| Some(table.number) > walk.after).map(|table| Reading {
                table: *table,
                offset: 0,
                hasher: Box::default(),
            }),
        };
        let Some(mut reading) = reading else {
            walk.after = None;
            self.rounds.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        };
        let file = table_file(tree.path(), reading.table.number);
        let before = reading.offset;
        match reading.read(&file) {
            Ok(Piece::More) => {
                self.verified_bytes.fetch_add(reading.offset - before, Ordering::Relaxed);
                walk.reading = Some(reading);
            }
            Ok(Piece::End(checksum)) => {
                self.verified_bytes.fetch_add(reading.offset - before, Ordering::Relaxed);
                walk.after = Some(reading.table.number);
                if checksum != reading.table.checksum {
                    found_damaged(tree, &reading.table, &file)?;
                }
            }
            Err(error) => {
                walk.after = Some(reading.table.number);
                if tree.look(named)?.contains(&reading.table) {
                    if error.kind() == io::ErrorKind::NotFound {
                        tree.note_damage(&file, &format!("it is missing; {ADVICE}"));
                    } else {
                        let error = DiskError::io("verifying", &file, &error);
                        tracing::warn!("{error}; it is read again in the next round");
                    }
                }
            }
        }
        Ok(false)
    }
}

impl Reading {
    fn read(&mut self, path: &Path) -> io::Result<Piece> {
        let file = File::open(path)?;
        let mut buffer = vec![0; READ_BYTES];
        for _ in 0..PIECE_BYTES / READ_BYTES {
            let read = file.read_at(&mut buffer, self.offset)?;
            if read == 0 {
                return Ok(Piece::End(self.hasher.digest128()));
            }
            self.hasher.update(buffer.get(..read).unwrap_or_default());
            self.offset += read as u64;
        }
        Ok(Piece::More)
    }
}

/// The tables of the present version, by number.
fn named(tree: &AnyTree) -> Vec<NamedTable> {
    let version = tree.current_version();
    let of = |level: u8, table: &Table| NamedTable {
        number: table.id(),
        level,
        checksum: table.checksum().into_u128(),
        seqno: table.global_seqno(),
    };
    let levels = (0_u8..).zip(version.iter_levels());
    let mut tables: Vec<NamedTable> = levels
        .flat_map(|(level, runs)| {
            runs.iter().flat_map(|run| run.iter()).map(move |table| of(level, table)).collect::<Vec<_>>()
        })
        .collect();
    tables.sort_unstable_by_key(|table| table.number);
    tables
}

/// Reads every table of which no damage is known, as a whole: a merge has met some, and did not say where.
pub(super) fn find_damage(tree: &GuardedTree) -> Result<(), DiskError> {
    let known = tree.damage();
    for table in tree.look(named)? {
        let file = table_file(tree.path(), table.number);
        if known.iter().any(|(damaged, _)| *damaged == file) {
            continue;
        }
        match hash_file(&file) {
            Ok(mark) if mark.checksum == table.checksum => {}
            Ok(_) => found_damaged(tree, &table, &file)?,
            Err(DiskError::Damaged { what, .. }) if tree.look(named)?.contains(&table) => {
                tree.note_damage(&file, &what);
            }
            Err(DiskError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A table is not as it was written: which of its rows cannot be read is found out, past the library's cache.
fn found_damaged(tree: &GuardedTree, table: &NamedTable, file: &Path) -> Result<(), DiskError> {
    if !tree.look(named)?.contains(table) {
        return Ok(());
    }
    let opener = Opener::new();
    let rows = match gap::open_table(tree.path(), table, &opener.cache, &opener.descriptors) {
        Ok(open) => {
            gap::find(&open).map_or_else(|| "all of its rows can be read".to_owned(), |gap| gap.in_words())
        }
        Err(_) => "what describes it is damaged, so that the node does not start with it again".to_owned(),
    };
    tree.note_damage(file, &format!("its checksum is not that of what was written; {rows}; {ADVICE}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{filled, open, tables};
    use super::super::{DiskLevel, DiskStats};
    use super::*;

    /// A round, and what came of it.
    fn round(disk: &impl DiskLevel) -> (u32, DiskStats) {
        let mut pieces = 1;
        while !disk.verify() {
            pieces += 1;
        }
        (pieces, disk.stats())
    }

    #[test]
    fn every_table_is_read_in_each_round_and_damage_is_found_without_a_reader() {
        let folder = filled();
        let disk = open(folder.path()).expect("opens");
        let files = tables(folder.path());
        let bytes: u64 = files.iter().map(|file| fs::metadata(file).expect("a table").len()).sum();
        let (pieces, stats) = round(&disk);
        assert_eq!(pieces as usize, files.len() + 1, "small tables are a piece each");
        assert_eq!((stats.verified_bytes, stats.verified_rounds, stats.damaged_tables), (bytes, 1, 0));
        // Behind the back of the process, in a block that nobody reads.
        let mut damaged = fs::read(&files[0]).expect("reads");
        damaged[100] ^= 1;
        fs::write(&files[0], damaged).expect("writes");
        let (_, stats) = round(&disk);
        assert_eq!((stats.verified_bytes, stats.verified_rounds, stats.damaged_tables), (2 * bytes, 2, 1));
        let (file, what) = disk.tree.damage().remove(0);
        assert_eq!(file, files[0]);
        assert!(what.contains("cannot be read") && what.contains("backup"), "{what}");
        fs::remove_file(&files[1]).expect("removes");
        let (_, stats) = round(&disk);
        assert_eq!(stats.damaged_tables, 2, "one that is missing is found too");
    }

    #[test]
    fn a_table_that_goes_while_it_is_read_is_no_damage() {
        let folder = filled();
        let disk = open(folder.path()).expect("opens");
        assert!(!disk.verify());
        let dead = [(b"a".to_vec(), b"z".to_vec())];
        disk.compact(&dead).expect("drops");
        let (_, stats) = round(&disk);
        assert_eq!((stats.damaged_tables, stats.verified_rounds), (0, 1));
    }

    #[test]
    fn a_large_table_is_read_in_pieces() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("table");
        fs::write(&file, vec![7; 2 * PIECE_BYTES + 5]).expect("writes");
        let table = NamedTable { number: 1, level: 0, checksum: 0, seqno: 0 };
        let mut reading = Reading { table, offset: 0, hasher: Box::default() };
        for piece in 1..=2 {
            assert!(matches!(reading.read(&file), Ok(Piece::More)));
            assert_eq!(reading.offset, (piece * PIECE_BYTES) as u64);
        }
        let whole = xxhash_rust::xxh3::xxh3_128(&fs::read(&file).expect("reads"));
        assert!(matches!(reading.read(&file), Ok(Piece::End(checksum)) if checksum == whole));
    }
}
