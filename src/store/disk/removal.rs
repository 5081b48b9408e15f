//! Freeing the tables that a merge has replaced: bit by bit. A file system that frees a large file at once has the disk
//! discard all of it, and the log's next write waits for that.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use corduroy_shards::runtime::pool;
use lsm_tree::{AbstractTree, AnyTree, Table};

use super::manifest::table_file;
use super::pace::{Haste, Wait};

/// Bytes freed at a time.
const STEP_BYTES: u64 = 4 << 20;

/// How long, and how often in all, those that read a table are waited for: a job that reads rows ends in about a millisecond.
const READ_WAIT: Duration = Duration::from_millis(1);
const READ_WAITS: u32 = 20;

/// Files of tables that a change of a tree has left out.
#[derive(Default)]
pub(super) struct Removed(Vec<File>);

impl Removed {
    /// A file that has lost its name.
    pub(super) fn of(file: Option<File>) -> Self {
        Self(file.into_iter().collect())
    }

    /// Makes a change, and keeps hold of the files that it removes: they lose their names with it, as they would anyway,
    /// and nothing more.
    pub(super) fn by<T>(&mut self, tree: &AnyTree, folder: &Path, act: impl FnOnce(&AnyTree) -> T) -> T {
        // As long as it is held, so are its tables.
        let before = tree.current_version();
        let done = act(tree);
        let after: BTreeSet<u64> = tree.current_version().iter_tables().map(Table::id).collect();
        let removed = before.iter_tables().filter(|table| !after.contains(&table.id()));
        let files = removed.map(|table| table_file(folder, table.id()));
        self.0.extend(files.filter_map(|file| OpenOptions::new().write(true).open(file).ok()));
        done
    }

    /// Frees what the files take. One that cannot be shortened is freed at once when it is closed.
    pub(super) fn free(self, haste: &Haste) {
        let mut waits = 0..READ_WAITS;
        for file in self.0 {
            while file.metadata().is_ok_and(|metadata| metadata.nlink() > 0) && waits.next().is_some() {
                pool::pause(READ_WAIT);
            }
            let Ok(metadata) = file.metadata() else { continue };
            let mut bytes = metadata.len();
            // Somebody who still reads it removes it in the end.
            while metadata.nlink() == 0 && bytes > STEP_BYTES {
                bytes -= STEP_BYTES;
                let begun = Instant::now();
                if file.set_len(bytes).is_err() {
                    break;
                }
                pool::pause(haste.pause(Wait::Merge, begun.elapsed()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::DiskLevel;
    use super::super::error::DiskError;
    use super::super::folder::Change;
    use super::super::tests::{filled, ingest, open, room, rows, tables};
    use super::super::tree::ABOVE_ALL;
    use super::*;

    #[test]
    fn tables_lose_their_names_at_once_and_their_bytes_in_steps() {
        let folder = filled();
        let disk = open(folder.path()).expect("opens");
        let before = tables(folder.path());
        let mut removed = Removed::default();
        disk.tree
            .change("a merge", Change::Compaction, &room(&folder), |tree| {
                removed.by(tree, folder.path(), |tree| tree.major_compact(1 << 20, ABOVE_ALL))
            })
            .expect("merges");
        assert!(before.len() > 1 && before.iter().all(|file| !file.exists()), "{before:?}");
        assert_eq!(removed.0.len(), before.len());
        let files: Vec<File> = removed.0.iter().map(|file| file.try_clone().expect("clones")).collect();
        assert!(files.iter().all(|file| file.metadata().expect("looks").nlink() == 0));
        files[0].set_len(3 * STEP_BYTES + 1).expect("grows");
        removed.free(&Haste::default());
        let bytes = |file: &File| file.metadata().expect("looks").len();
        assert_eq!(bytes(&files[0]), 1, "the last step is that of its end");
        assert!(files[1..].iter().all(|file| (1..STEP_BYTES).contains(&bytes(file))));
        assert!(disk.get(b"key 00000").expect("reads").is_some());
    }

    #[test]
    fn tables_of_a_flushed_keyspace_lose_their_bytes_in_steps_too() {
        let folder = filled();
        let disk = open(folder.path()).expect("opens");
        let before = tables(folder.path());
        let file = OpenOptions::new().write(true).open(&before[0]).expect("opens");
        file.set_len(3 * STEP_BYTES + 1).expect("grows");
        disk.compact(&[(vec![0], vec![u8::MAX])]).expect("lets all go");
        assert!(before.iter().all(|file| !file.exists()), "{before:?}");
        assert_eq!(file.metadata().expect("looks").len(), 1);
    }

    #[test]
    fn what_somebody_still_reads_stays_whole() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("table");
        let file = File::create_new(&path).expect("creates");
        file.write_all_at(b"row", 2 * STEP_BYTES).expect("writes");
        Removed(vec![file.try_clone().expect("clones")]).free(&Haste::default());
        assert_eq!(file.metadata().expect("looks").len(), 2 * STEP_BYTES + 3);
        std::fs::remove_file(&path).expect("removes");
        Removed(vec![file.try_clone().expect("clones")]).free(&Haste::default());
        assert!(file.metadata().expect("looks").len() < STEP_BYTES);
    }

    #[test]
    fn a_tree_that_was_opened_anew_names_no_table_as_one_that_is_still_read() {
        let folder = filled();
        let disk = open(folder.path()).expect("opens");
        let reader = disk.tree.opened().tree.current_version();
        disk.compact(&[(vec![0], vec![u8::MAX])]).expect("lets all go");
        let ended =
            disk.tree.change("a change", Change::Compaction, &room(&folder), |_| -> lsm_tree::Result<()> {
                panic!("in the middle")
            });
        assert!(matches!(ended, Err(DiskError::Panicked { .. })), "{ended:?}");
        for round in 0..8 {
            ingest(&disk, round, 0..300);
        }
        let expected = rows(&disk).expect("reads");
        // Whoever reads last removes the tables.
        drop(reader);
        assert!(expected.len() > 200, "{}", expected.len());
        drop(disk);
        assert_eq!(rows(&open(folder.path()).expect("opens")), Ok(expected));
    }
}
