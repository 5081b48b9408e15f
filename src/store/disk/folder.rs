//! A state folder as a whole: opened only as it was left, and noted in its manifest after every change of its tree.
//!
//! A change of the tree is the library's: it writes tables, then the file of a version, then renames `current`. Before it
//! begins, the manifest counts it as begun (durably); after it ended, the manifest names what came of it. So a crash in
//! between is neither taken for damage nor believed blindly: the version may be ahead of the manifest by as many changes
//! as had begun, and what they added is compared as a whole with the checksums that the version names. If the note after a
//! change cannot be written, the one before it still counts the change as begun; the next change writes it first, or is
//! not begun.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lsm_tree::{AbstractTree, AnyTree};
use xxhash_rust::xxh3::xxh3_128;

use super::check::{self, Present};
use super::error::{Binding, DiskError};
use super::manifest::{self, FileMark, Manifest, Read, TableMark, TreeMark, table_file};

/// What a change does to the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Adds tables.
    Ingestion,
    /// Merges, moves or drops tables.
    Compaction,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct StateFolder {
    path: PathBuf,
    noted: Mutex<Noted>,
}

#[derive(Debug)]
struct Noted {
    manifest: Manifest,
    /// The tree has changed since; what is on the disk still counts that change as begun.
    is_stale: bool,
    /// One of the copies on the disk is missing, bad or older.
    is_uneven: bool,
}

/// Looks at the tree and its files until both are of one version: other changes may end meanwhile.
const LOOKS: u32 = 100;

impl StateFolder {
    /// Compares the folder with its manifest, or takes over one that has none, if that is allowed.
    pub fn open(path: &Path, binding: &Binding) -> Result<Self, DiskError> {
        let mut is_uneven = false;
        let copies = Manifest::read_copies(path).map_err(|error| match error {
            DiskError::Damaged { file, what } => {
                DiskError::damaged(&file, format!("{what}; {}", check::ADVICE))
            }
            other => other,
        });
        let (manifest, is_unnamed) = match copies? {
            Some(Read { manifest, .. }) if manifest.owner != binding.owner => {
                let (folder, found) = (path.to_owned(), Box::new(manifest.owner));
                return Err(DiskError::Foreign { folder, found });
            }
            Some(Read { manifest, is_even, bad }) => {
                if let Some(bad) = bad {
                    tracing::warn!("{bad}; it is written anew of the other copy");
                }
                check::compare(path, &manifest)?;
                is_uneven = !is_even;
                (manifest, false)
            }
            // Whose it is stays unsaid until something is changed, or `LsmLevel::format` says it: whoever opened it may find
            // by what it holds that it does not belong here.
            None if binding.may_adopt => {
                check::compare_unnamed(path)?;
                (Manifest::new(binding.owner), true)
            }
            None => {
                let file = path.join(manifest::FILE);
                let what = "it is missing, or the folder is empty; restore the shard's folder from a backup";
                return Err(DiskError::damaged(&file, what));
            }
        };
        let noted = Mutex::new(Noted { manifest, is_stale: is_unnamed, is_uneven });
        Ok(Self { path: path.to_owned(), noted })
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the tree that was opened in it; changes of a process before are over.
    pub fn opened(&self, tree: &AnyTree) -> Result<(), DiskError> {
        let mut noted = self.noted();
        let mark = self.mark(&noted.manifest, tree)?;
        if noted.is_stale {
            noted.manifest.tree = Some(mark);
            return Ok(());
        }
        let is_uneven = std::mem::take(&mut noted.is_uneven);
        let manifest = &mut noted.manifest;
        if is_uneven
            || manifest.ingestions + manifest.compactions > 0
            || manifest.tree.as_ref() != Some(&mark)
        {
            (manifest.ingestions, manifest.compactions) = (0, 0);
            manifest.tree = Some(mark);
            self.write(manifest)?;
        }
        Ok(())
    }

    /// Notes that a change begins. Without an error, [`StateFolder::end`] must follow.
    pub fn begin(&self, change: Change, tree: &AnyTree) -> Result<(), DiskError> {
        let mut noted = self.noted();
        let mut manifest = noted.manifest.clone();
        if noted.is_stale {
            manifest.tree = Some(self.mark(&manifest, tree)?);
        }
        if manifest.ingestions + manifest.compactions == 0 {
            manifest.first_new = tree.next_table_id();
        }
        *begun(&mut manifest, change) += 1;
        self.write(&mut manifest)?;
        *noted = Noted { manifest, is_stale: false, is_uneven: false };
        Ok(())
    }

    /// Notes what came of a change, whether it was done or not.
    pub fn end(&self, change: Change, tree: &AnyTree) {
        let mut noted = self.noted();
        *begun(&mut noted.manifest, change) -= 1;
        let marked = self.mark(&noted.manifest, tree).and_then(|mark| {
            noted.manifest.tree = Some(mark);
            self.write(&mut noted.manifest)
        });
        noted.is_stale = marked.is_err();
        if let Err(error) = marked {
            tracing::warn!("{error}; the manifest is written with the next change");
        }
    }

    /// Whether the files name the version that the tree has in memory. After a change that failed they may not.
    pub fn agrees(&self, tree: &AnyTree) -> bool {
        (0..LOOKS)
            .any(|_| self.is_present(tree.current_version().id()).is_ok_and(|present| present.is_some()))
    }

    fn write(&self, manifest: &mut Manifest) -> Result<(), DiskError> {
        manifest.generation += 1;
        manifest.write(&self.path)
    }

    /// The version in the files, if it is this one.
    fn is_present(&self, version: u64) -> Result<Option<Present>, DiskError> {
        Ok(check::present(&self.path)?.filter(|present| present.version == version))
    }

    /// What the manifest has to say of the tree as it is.
    fn mark(&self, manifest: &Manifest, tree: &AnyTree) -> Result<TreeMark, DiskError> {
        let known: BTreeMap<u64, &TableMark> =
            manifest.tree.iter().flat_map(|tree| &tree.tables).map(|table| (table.number, table)).collect();
        let mut looks = (0..LOOKS).map(|_| tree.current_version());
        let (present, version) = loop {
            let Some(version) = looks.next() else {
                let what = "it does not name the version of the tree that is in use";
                return Err(DiskError::damaged(&self.path.join(check::CURRENT), what));
            };
            if let Some(present) = self.is_present(version.id())? {
                break (present, version);
            }
        };
        let mut tables = Vec::with_capacity(version.table_count());
        for (level, runs) in (0_u8..).zip(version.iter_levels()) {
            for table in runs.iter().flat_map(|run| run.iter()) {
                let (number, checksum) = (table.id(), table.checksum().into_u128());
                let found = known
                    .get(&number)
                    .filter(|known| known.file.checksum == checksum && !known.max.is_empty());
                let mark = match found {
                    Some(&known) => TableMark { level, ..known.clone() },
                    None => {
                        let (bytes, end) = check::read_end(&table_file(&self.path, number))?;
                        TableMark {
                            number,
                            level,
                            file: FileMark { bytes, checksum },
                            end_checksum: xxh3_128(&end),
                            seqno: table.global_seqno(),
                            min: table.metadata.key_range.min().to_vec(),
                            max: table.metadata.key_range.max().to_vec(),
                        }
                    }
                };
                tables.push(mark);
            }
        }
        tables.sort_unstable_by_key(|table| table.number);
        Ok(TreeMark { version: present.version, current: present.current, file: present.file, tables })
    }
}

fn begun(manifest: &mut Manifest, change: Change) -> &mut u8 {
    match change {
        Change::Ingestion => &mut manifest.ingestions,
        Change::Compaction => &mut manifest.compactions,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{filled, flips, open, rows};
    use super::*;

    #[test]
    fn one_bad_copy_of_the_manifest_is_made_anew_and_two_are_refused() {
        let folder = filled();
        let [one, two] = manifest::COPIES.map(|name| folder.path().join(name));
        let expected = rows(&open(folder.path()).expect("opens"));
        let sound = fs::read(&one).expect("reads");
        assert_eq!(sound, fs::read(&two).expect("reads"), "both say the same");
        for (number, flipped) in flips(&sound, (0..sound.len() * 8).step_by(7)).enumerate() {
            let (bad, good) = if number % 2 == 0 { (&one, &two) } else { (&two, &one) };
            fs::write(bad, &flipped).expect("writes");
            if number % 16 < 2 {
                assert_eq!(rows(&open(folder.path()).expect("one is good")), expected);
                assert_eq!(fs::read(bad).expect("reads"), fs::read(good).expect("reads"), "made anew");
            }
            fs::write(&one, &flipped).and_then(|()| fs::write(&two, &flipped)).expect("writes");
            let refused = open(folder.path()).err().expect("refused");
            assert!(matches!(refused, DiskError::Damaged { .. }), "{refused}");
            fs::write(&one, &sound).and_then(|()| fs::write(&two, &sound)).expect("writes");
        }
        // A missing one, and an older one, are as bad ones.
        fs::remove_file(&one).expect("removes");
        assert_eq!(rows(&open(folder.path()).expect("one is there")), expected);
        let mut older = Manifest::decode(&sound, &one).expect("reads");
        older.generation -= 1;
        // What it says is out of date too: the tree that it names had no table yet.
        older.tree.iter_mut().for_each(|tree| tree.tables.clear());
        for (old, new) in [(&one, &two), (&two, &one)] {
            fs::write(old, older.encode()).and_then(|()| fs::write(new, &sound)).expect("writes");
            assert_eq!(rows(&open(folder.path()).expect("one is the later")), expected);
        }
        assert_eq!(fs::read(&one).expect("reads"), fs::read(&two).expect("reads"));
    }
}
