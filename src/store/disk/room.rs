//! The disk space that a tree may use, and its reserve: a preallocated file that is given up only for what deletes.
//!
//! What deletes (a flush of tombstones, the version that drops dead tables, a merge that leaves rows out) has to write
//! before anything goes. On a full disk the reserve shrinks for it, and is made whole as soon as there is space; until
//! then the state is short of room and takes deletes only. Invariant: a failed write leaves no file behind once no other
//! writer is at work.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lsm_tree::TableId;
use rustix::fs::{FallocateFlags, StatVfs, fallocate, statvfs};
use rustix::io::Errno;

/// Left free on the disk by flushes and merges that do not have to go on at any price.
pub(super) const MARGIN_BYTES: u64 = 8 << 20;
/// Left of the reserve by what writes rows, for what lets all of a keyspace go: a flush without rows, and a version.
pub(super) const LAST_BYTES: u64 = 1 << 20;
/// What takes no more than this may have the last of the reserve.
pub(super) const HARDLY_ANY_BYTES: u64 = 128 << 10;

/// What a write of so many bytes leaves of the reserve.
pub(super) const fn left_by(bytes: u64) -> u64 {
    if bytes <= HARDLY_ANY_BYTES { 0 } else { LAST_BYTES }
}

/// What a use of the reserve takes beside what it writes: for version files, and for what a file system adds.
const SLACK_BYTES: u64 = 256 << 10;
/// What the reserve leaves of the room when it takes back what there is.
const LEFT_BYTES: u64 = 64 << 10;
/// The reserve is this part of the disk, within these bounds.
const RESERVE_SHARE: u64 = 32;
const RESERVE_MIN_BYTES: u64 = 2 << 20;
const RESERVE_MAX_BYTES: u64 = 16 << 20;
/// ext4 keeps one block of so many, and not more than so many blocks, from everyone: for what it has to write itself.
const KEPT_BLOCKS_SHARE: u64 = 50;
const KEPT_BLOCKS_MAX: u64 = 4096;
/// Bytes zero-written at a time where the file system does not allocate in one piece.
const STEP_BYTES: usize = 256 << 10;

/// The name of the reserve's file in the tree's folder.
const RESERVE_FILE: &str = "reserve";
const TABLES_FOLDER: &str = "tables";

/// See the file's head.
#[derive(Debug)]
pub(super) struct DiskRoom {
    folder: PathBuf,
    pub(super) reserve_bytes: u64,
    state: Mutex<State>,
    /// What the folder may take in a test; 0: what the disk has.
    #[cfg(test)]
    pub(super) capacity_bytes: std::sync::atomic::AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// What there is of the reserve.
    held_bytes: u64,
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
            #[cfg(test)]
            capacity_bytes: 0.into(),
        };
        match fs::metadata(room.path()) {
            // As much as is in blocks: a process that died may have made it in part.
            Ok(file) => room.state().held_bytes = file.len().min(file.blocks() * 512).min(room.reserve_bytes),
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
        #[cfg(test)]
        if let Some(free_bytes) = self.left_of_capacity()? {
            return Ok(free_bytes);
        }
        Ok(disk.f_bavail * disk.f_frsize)
    }

    #[cfg(test)]
    fn left_of_capacity(&self) -> io::Result<Option<u64>> {
        let capacity_bytes = self.capacity_bytes.load(std::sync::atomic::Ordering::Relaxed);
        if capacity_bytes == 0 {
            return Ok(None);
        }
        let mut used_bytes = 0;
        for folder in [self.folder.clone(), self.folder.join(TABLES_FOLDER)] {
            for entry in fs::read_dir(folder)? {
                // Another thread may remove it between the listing and the look.
                used_bytes += entry?.metadata().map_or(0, |found| found.len());
            }
        }
        Ok(Some(capacity_bytes.saturating_sub(used_bytes)))
    }

    /// What may be used at most: what is left, and the reserve.
    pub(super) fn usable_bytes(&self) -> io::Result<u64> {
        let held_bytes = self.state().held_bytes;
        Ok((self.free_bytes()? + held_bytes).saturating_sub(SLACK_BYTES))
    }

    /// Bytes that may be changed between two looks at the room, so that the reserve can take their flush.
    pub(super) const fn step_bytes(&self) -> u64 {
        self.reserve_bytes / 4
    }

    /// Makes sure of `bytes`; for what deletes, gives up as much of the reserve as that needs, but for the last of it,
    /// which only what writes hardly any bytes may have.
    pub(super) fn claim(&self, bytes: u64, deletes: bool) -> io::Result<Result<(), Lacking>> {
        let free_bytes = self.free_bytes()?;
        if free_bytes >= bytes + MARGIN_BYTES {
            return Ok(Ok(()));
        }
        // The last of it goes without slack: then there is nothing to lose.
        if !deletes || free_bytes + self.state().held_bytes < bytes + left_by(bytes) {
            return Ok(Err(Lacking { needed_bytes: bytes, free_bytes }));
        }
        self.release((bytes + SLACK_BYTES).saturating_sub(free_bytes))?;
        Ok(Ok(()))
    }

    /// Gives up so much of the reserve.
    pub(super) fn release(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        let left = state.held_bytes.saturating_sub(bytes);
        if left < state.held_bytes {
            self.cut(left)?;
            state.held_bytes = left;
        }
        Ok(())
    }

    /// Cuts the reserve's file off there.
    fn cut(&self, bytes: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path())?.set_len(bytes)
    }

    /// Takes back for the reserve what there is, until it is whole. Says whether the tree has room: the reserve, and more.
    pub(super) fn restore(&self) -> io::Result<bool> {
        let mut state = self.state();
        let missing_bytes = self.reserve_bytes - state.held_bytes;
        if missing_bytes == 0 {
            return Ok(self.free_bytes()? >= MARGIN_BYTES);
        }
        // While a writer is at work it may need what there is.
        if state.writers > 0 {
            return Ok(false);
        }
        let mut taken_bytes = missing_bytes.min(self.restorable_bytes()?.saturating_sub(LEFT_BYTES));
        while taken_bytes > 0 {
            match self.make(state.held_bytes, taken_bytes) {
                Ok(()) => {
                    state.held_bytes += taken_bytes;
                    return Ok(taken_bytes == missing_bytes && self.free_bytes()? >= MARGIN_BYTES);
                }
                Err(error) if is_no_room(&error) => {
                    self.cut(state.held_bytes)?;
                    taken_bytes = if taken_bytes > LEFT_BYTES { taken_bytes / 2 } else { 0 };
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// What the reserve may take. To a process of the administrator, who may write when there is nothing left for others,
    /// that is more than what is free: what was given up of the reserve is among it, and would not come back otherwise.
    fn restorable_bytes(&self) -> io::Result<u64> {
        let disk = statvfs(&self.folder)?;
        #[cfg(test)]
        if let Some(free_bytes) = self.left_of_capacity()? {
            return Ok(free_bytes);
        }
        Ok(restorable_blocks(&disk, rustix::process::geteuid().is_root()) * disk.f_frsize)
    }

    /// Makes more of the reserve.
    fn make(&self, held_bytes: u64, more_bytes: u64) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.path())?;
        file.set_len(held_bytes)?;
        match fallocate(&file, FallocateFlags::empty(), held_bytes, more_bytes) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(&mut file, held_bytes, more_bytes)?,
            Err(errno) => return Err(errno.into()),
        }
        file.sync_all()
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

fn restorable_blocks(disk: &StatVfs, is_administrator: bool) -> u64 {
    let kept = (disk.f_blocks / KEPT_BLOCKS_SHARE).min(KEPT_BLOCKS_MAX);
    let privileged = if is_administrator { disk.f_bfree.saturating_sub(kept) } else { 0 };
    disk.f_bavail.max(privileged)
}

fn write_zeros(file: &mut File, from: u64, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; STEP_BYTES];
    file.seek(io::SeekFrom::Start(from))?;
    let mut left = bytes;
    while left > 0 {
        let (now, _) = zeros.split_at(usize::try_from(left).unwrap_or(STEP_BYTES).min(STEP_BYTES));
        file.write_all(now)?;
        left -= now.len() as u64;
    }
    Ok(())
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
        let folder = tempfile::tempdir().unwrap();
        let room = DiskRoom::open(folder.path()).unwrap();
        let reserve = fs::metadata(folder.path().join(RESERVE_FILE)).unwrap();
        assert!(reserve.blocks() * 512 >= room.reserve_bytes, "its blocks are its own");
        let blocks = || fs::metadata(folder.path().join(RESERVE_FILE)).unwrap().blocks() * 512;
        room.release(1 << 20).unwrap();
        assert!((1..=room.reserve_bytes - (1 << 20)).contains(&blocks()), "the rest is kept");
        room.release(u64::MAX).unwrap();
        assert_eq!(blocks(), 0);
        room.begin_write();
        assert!(!room.restore().unwrap(), "not while somebody may need it");
        room.end_write(None, Vec::new).unwrap();
        assert!(room.restore().unwrap());
        assert!(blocks() >= room.reserve_bytes);
        // One that was half made is made whole, and one that is none but in name is none.
        let mut hollow = File::create(folder.path().join(RESERVE_FILE)).unwrap();
        hollow.set_len(room.reserve_bytes).unwrap();
        DiskRoom::open(folder.path()).unwrap();
        assert!(blocks() >= room.reserve_bytes);
        write_zeros(&mut hollow, 0, room.reserve_bytes).unwrap();
        assert_eq!(hollow.metadata().unwrap().len(), room.reserve_bytes);
        fs::write(folder.path().join(".tmpAbC"), b"a current that never was").unwrap();
        DiskRoom::open(folder.path()).unwrap();
        assert_eq!(files(folder.path()), [RESERVE_FILE]);
        assert!(blocks() >= room.reserve_bytes);
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
    fn what_lies_below_the_share_of_the_administrator_comes_back_to_his_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = statvfs(folder.path()).unwrap();
        (disk.f_blocks, disk.f_bfree, disk.f_bavail) = (100_000, 4_500, 0);
        assert_eq!(restorable_blocks(&disk, true), 2_500, "but for what nobody gets");
        assert_eq!(restorable_blocks(&disk, false), 0);
        (disk.f_bfree, disk.f_bavail) = (1_000, 0);
        assert_eq!(restorable_blocks(&disk, true), 0);
        (disk.f_blocks, disk.f_bfree, disk.f_bavail) = (10_000_000, 700_000, 200_000);
        assert_eq!(restorable_blocks(&disk, true), 700_000 - KEPT_BLOCKS_MAX);
        assert_eq!(restorable_blocks(&disk, false), 200_000);
    }

    #[test]
    fn rows_leave_the_last_of_the_reserve_to_what_has_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(TABLES_FOLDER)).unwrap();
        let room = DiskRoom::open(folder.path()).unwrap();
        room.capacity_bytes.store(room.reserve_bytes, std::sync::atomic::Ordering::Relaxed);
        let held = || room.state().held_bytes;
        let most = room.reserve_bytes - LAST_BYTES;
        assert!(room.claim(most + 1, true).unwrap().is_err());
        assert_eq!(held(), room.reserve_bytes, "nothing was given up");
        assert_eq!(room.claim(most, true).unwrap(), Ok(()));
        fs::write(folder.path().join(TABLES_FOLDER).join("1"), vec![0; most as usize]).unwrap();
        assert!(room.claim(HARDLY_ANY_BYTES + 1, true).unwrap().is_err());
        assert_eq!(room.claim(HARDLY_ANY_BYTES, true).unwrap(), Ok(()));
    }

    #[test]
    fn only_what_deletes_may_have_the_reserve() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(TABLES_FOLDER)).unwrap();
        let room = DiskRoom::open(folder.path()).unwrap();
        room.capacity_bytes.store(room.reserve_bytes + (1 << 20), std::sync::atomic::Ordering::Relaxed);
        let (left, wanted) = (room.free_bytes().unwrap(), 3 << 20);
        let lacking = Lacking { needed_bytes: wanted, free_bytes: left };
        assert_eq!(room.claim(wanted, false).unwrap(), Err(lacking));
        assert_eq!(room.free_bytes().unwrap(), left, "nothing was given up");
        assert_eq!(room.claim(wanted, true).unwrap(), Ok(()));
        assert!(room.free_bytes().unwrap() >= wanted);
        let too_much = room.usable_bytes().unwrap() + SLACK_BYTES + 1;
        assert!(room.claim(too_much, true).unwrap().is_err(), "more than there is at all");
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
