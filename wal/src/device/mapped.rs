//! Slot files mapped for reading, of a stopped log: for the offline tools, and for what makes a lost identity anew.
//!
//! Invariant: the folder's lock is held for as long as anything of it is mapped, so no process that keeps to the lock
//! writes to the files meanwhile.

#![allow(unsafe_code, reason = "maps files")]

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::{Advice, Mmap};

use super::SlotId;
use super::folder::{OpenError, parse_slot_file_name};
use super::lock::FolderLock;

/// A stopped WAL's folder.
#[derive(Debug)]
pub struct MappedFolder {
    slots: Vec<(SlotId, PathBuf)>,
    manifest: Option<PathBuf>,
    _lock: FolderLock,
}

/// A slot's bytes.
#[derive(Debug)]
pub struct MappedSlot<'a> {
    map: Mmap,
    _folder: &'a MappedFolder,
}

impl Deref for MappedSlot<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl MappedFolder {
    /// Locks the folder and lists its slots.
    ///
    /// # Errors
    /// [`OpenError::Lock`] naming the process that uses the folder, or what the file system says.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        // Asked for first: taking the lock would make a lock file in a folder that is none of ours.
        let entries = fs::read_dir(path).map_err(OpenError::io("list", path))?;
        let mut slots = Vec::new();
        for entry in entries {
            let entry = entry.map_err(OpenError::io("list", path))?;
            if let Some(slot) = entry.file_name().to_str().and_then(parse_slot_file_name) {
                slots.push((slot, entry.path()));
            }
        }
        if slots.is_empty() {
            let none = io::Error::new(
                io::ErrorKind::NotFound,
                "there are no files slot-*.wal and no manifest.wal in it",
            );
            return Err(OpenError::io("use as a WAL folder", path)(none));
        }
        slots.sort_unstable();
        let manifest = slots.pop_if(|(slot, _)| *slot == SlotId::MANIFEST).map(|(_, path)| path);
        Ok(Self { slots, manifest, _lock: FolderLock::acquire(path)? })
    }

    /// The bytes of the manifest, if there is one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn manifest(&self) -> Result<Option<Vec<u8>>, OpenError> {
        let read = |path: &PathBuf| fs::read(path).map_err(OpenError::io("read", path));
        self.manifest.as_ref().map(read).transpose()
    }

    /// The slots, by number.
    #[must_use]
    pub fn slots(&self) -> &[(SlotId, PathBuf)] {
        &self.slots
    }

    /// Maps one slot for reading from front to back.
    ///
    /// # Errors
    /// What the file system says.
    pub fn map(&self, path: &Path) -> Result<MappedSlot<'_>, OpenError> {
        let file = File::open(path).map_err(OpenError::io("open", path))?;
        // SAFETY: the folder's lock, held by `self` for longer than the map exists, keeps the only program that
        // writes these files out, and slot files are never truncated by anyone.
        let map = unsafe { Mmap::map(&file) }.map_err(OpenError::io("map", path))?;
        map.advise(Advice::Sequential).map_err(OpenError::io("map", path))?;
        Ok(MappedSlot { map, _folder: self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::folder::slot_file_name;
    use crate::device::lock::LockError;

    #[test]
    fn a_folder_in_use_is_refused_and_a_stopped_one_mapped() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(slot_file_name(SlotId(4))), b"bytes").unwrap();
        fs::write(dir.path().join("other"), b"no slot").unwrap();
        let lock = FolderLock::acquire(dir.path()).unwrap();
        let refused = MappedFolder::open(dir.path()).unwrap_err();
        assert!(matches!(refused, OpenError::Lock(LockError::Held { .. })), "{refused}");
        drop(lock);
        let folder = MappedFolder::open(dir.path()).unwrap();
        let [(slot, path)] = folder.slots() else { panic!("one slot: {folder:?}") };
        assert_eq!(*slot, SlotId(4));
        assert_eq!(&*folder.map(path).unwrap(), b"bytes");
    }

    #[test]
    fn a_folder_without_slots_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(MappedFolder::open(dir.path()).unwrap_err().to_string().contains("no files slot-"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
