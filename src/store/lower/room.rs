//! The disk space that a tree may use, and its reserve: a preallocated file that only a tree without room gives up.
//!
//! What deletes (a flush of tombstones, the version that drops dead tables, a merge that leaves rows out) has to write
//! before anything goes. On a full disk the reserve is removed for it and made again as soon as there is space; until
//! then the state is short of room and takes deletes only. Invariant: a failed write leaves no file behind once no other
//! writer is at work.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lsm_tree::TableId;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// Left free on the disk by flushes and merges that do not have to go on at any price.
pub(super) const MARGIN_BYTES: u64 = 8 << 20;
/// What a use of the reserve leaves of it: for version files, and for what a file system adds.
const SLACK_BYTES: u64 = 512 << 10;
/// The reserve is this part of the disk, within these bounds.
const RESERVE_SHARE: u64 = 32;
const RESERVE_MIN_BYTES: u64 = 2 << 20;
const RESERVE_MAX_BYTES: u64 = 16 << 20;
/// Bytes zero-written at a time where the file system does not allocate in one piece.
const STEP_BYTES: usize = 256 << 10;

/// The name of the reserve's file in the tree's folder.
const RESERVE_FILE: &str = "reserve";
const TABLES_FOLDER: &str = "tables";

/// See the file's head.
#[derive(Debug)]
pub(super) struct DiskRoom {
    folder: PathBuf,
    reserve_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The reserve's file exists.
    in_hand: bool,
    /// Flushes and merges at work.
    writers: u32,
    /// One of them has failed: tables from this one on that no version names are leftovers.
    leftovers_from: Option<TableId>,
    /// Tables that versions have named since then.
    named: BTreeSet<TableId>,
}

/// A number of bytes that the disk does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lacking {
    pub(super) needed_bytes: u64,
    pub(super) free_bytes: u64,
}

/// Whether an error says that the disk, or its owner's share of it, is full.
pub(super) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl DiskRoom {
    /// The room of the tree in `folder`. Makes the reserve if it can, and removes what a process that died left of one.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let disk = statvfs(folder)?;
        let share = disk.f_blocks * disk.f_frsize / RESERVE_SHARE;
        let room = Self {
            folder: folder.to_owned(),
            reserve_bytes: share.clamp(RESERVE_MIN_BYTES, RESERVE_MAX_BYTES),
            state: Mutex::default(),
        };
        match fs::metadata(room.path()) {
            Ok(file) if file.len() >= room.reserve_bytes => room.state().in_hand = true,
            Ok(_) => fs::remove_file(room.path())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // A version's change that was cut off may have left the file that was to become `current`.
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(".tmp") {
                fs::remove_file(entry.path())?;
            }
        }
        room.restore()?;
        Ok(room)
    }

    fn path(&self) -> PathBuf {
        self.folder.join(RESERVE_FILE)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the disk has left.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let disk = statvfs(&self.folder)?;
        Ok(disk.f_bavail * disk.f_frsize)
    }

    /// What may be used at most: what is left, and the reserve.
    pub(super) fn usable_bytes(&self) -> io::Result<u64> {
        let reserve_bytes = if self.state().in_hand { self.reserve_bytes } else { 0 };
        Ok((self.free_bytes()? + reserve_bytes).saturating_sub(SLACK_BYTES))
    }

    /// Bytes that may be changed between two looks at the room, so that the reserve can take their flush.
    pub(super) const fn step_bytes(&self) -> u64 {
        self.reserve_bytes / 4
    }

    /// Makes sure of `bytes` for what has to go on, and gives the reserve up for it if need be.
    pub(super) fn claim(&self, bytes: u64) -> io::Result<Result<(), Lacking>> {
        let free_bytes = self.free_bytes()?;
        if free_bytes >= bytes + MARGIN_BYTES {
            return Ok(Ok(()));
        }
        if self.usable_bytes()? < bytes {
            return Ok(Err(Lacking { needed_bytes: bytes, free_bytes }));
        }
        self.release()?;
        Ok(Ok(()))
    }

    /// Gives the reserve up.
    pub(super) fn release(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.in_hand {
            fs::remove_file(self.path())?;
            state.in_hand = false;
        }
        Ok(())
    }

    /// Makes the reserve again if there is space for it, and says whether the tree has room: the reserve, and more.
    pub(super) fn restore(&self) -> io::Result<bool> {
        let mut state = self.state();
        let free_bytes = self.free_bytes()?;
        if state.in_hand {
            return Ok(free_bytes >= MARGIN_BYTES);
        }
        // While a writer is at work it may need what there is.
        if state.writers > 0 || free_bytes < self.reserve_bytes + 2 * MARGIN_BYTES {
            return Ok(false);
        }
        match self.make() {
            Ok(()) => state.in_hand = true,
            Err(error) => {
                fs::remove_file(self.path())?;
                return if is_no_room(&error) { Ok(false) } else { Err(error) };
            }
        }
        Ok(true)
    }

    fn make(&self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.path())?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.reserve_bytes) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(&mut file)?,
            Err(errno) => return Err(errno.into()),
        }
        file.sync_all()
    }

    fn write_zeros(&self, file: &mut File) -> io::Result<()> {
        let zeros = vec![0; STEP_BYTES];
        let mut left = self.reserve_bytes;
        while left > 0 {
            let (now, _) = zeros.split_at(usize::try_from(left).unwrap_or(STEP_BYTES).min(STEP_BYTES));
            file.write_all(now)?;
            left -= now.len() as u64;
        }
        Ok(())
    }

    /// A flush or a merge begins.
    pub(super) fn begin_write(&self) {
        self.state().writers += 1;
    }

    /// It has ended; `failed_from`: in an error, and this was the next table's number when it began. `named`: the tables
    /// of the present version, to be listed once no other writer can end. Removes what failed writers left, once none is
    /// at work.
    pub(super) fn end_write(
        &self,
        failed_from: Option<TableId>,
        named: impl FnOnce() -> Vec<TableId>,
    ) -> io::Result<()> {
        let mut state = self.state();
        state.writers -= 1;
        state.leftovers_from = state.leftovers_from.into_iter().chain(failed_from).min();
        let Some(from) = state.leftovers_from else { return Ok(()) };
        state.named.extend(named().into_iter().filter(|table| *table >= from));
        if state.writers > 0 {
            return Ok(());
        }
        for entry in fs::read_dir(self.folder.join(TABLES_FOLDER))? {
            let entry = entry?;
            let table = entry.file_name().to_str().and_then(|name| name.parse::<TableId>().ok());
            if table.is_some_and(|table| table >= from && !state.named.contains(&table)) {
                fs::remove_file(entry.path())?;
            }
        }
        (state.leftovers_from, state.named) = (None, BTreeSet::new());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_reserve_is_there_from_the_start_and_comes_back() {
        use std::os::unix::fs::MetadataExt;

        let folder = tempfile::tempdir().unwrap();
        let room = DiskRoom::open(folder.path()).unwrap();
        let reserve = fs::metadata(folder.path().join(RESERVE_FILE)).unwrap();
        assert!(reserve.blocks() * 512 >= room.reserve_bytes, "its blocks are its own");
        room.release().unwrap();
        assert_eq!(files(folder.path()), [""; 0]);
        room.begin_write();
        assert!(!room.restore().unwrap(), "not while somebody may need it");
        room.end_write(None, Vec::new).unwrap();
        assert!(room.restore().unwrap());
        assert_eq!(files(folder.path()), [RESERVE_FILE]);
        // Half of one is none.
        fs::write(folder.path().join(RESERVE_FILE), b"half").unwrap();
        fs::write(folder.path().join(".tmpAbC"), b"a current that never was").unwrap();
        DiskRoom::open(folder.path()).unwrap();
        assert_eq!(files(folder.path()), [RESERVE_FILE]);
        assert_eq!(
            fs::metadata(folder.path().join(RESERVE_FILE)).unwrap().len(),
            room.reserve_bytes,
            "made anew"
        );
    }

    #[test]
    fn what_a_failed_write_left_goes_when_no_other_is_at_work() {
        let folder = tempfile::tempdir().unwrap();
        let tables = folder.path().join(TABLES_FOLDER);
        fs::create_dir(&tables).unwrap();
        let room = DiskRoom::open(folder.path()).unwrap();
        let make = |table: u64| fs::write(tables.join(table.to_string()), b"rows").unwrap();
        make(1);
        room.begin_write();
        make(2);
        room.begin_write();
        make(3);
        room.end_write(Some(2), || vec![1]).unwrap();
        assert_eq!(files(&tables), ["1", "2", "3"], "one of them may be the other's");
        // It ends well, with table 3; a third one replaces that by table 4 before the next look.
        room.begin_write();
        room.end_write(None, || vec![1, 3]).unwrap();
        make(4);
        room.end_write(None, || vec![1, 4]).unwrap();
        assert_eq!(files(&tables), ["1", "3", "4"], "readers may still be at table 3");
    }

    #[test]
    fn errors_of_a_full_disk_are_told_apart() {
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            assert!(is_no_room(&errno.into()), "{errno}");
        }
        for errno in [Errno::IO, Errno::ACCESS, Errno::ROFS, Errno::FBIG] {
            assert!(!is_no_room(&errno.into()), "{errno}");
        }
    }
}
