//! The folder of a WAL: its lock, its slot files, and the blocking calls made while opening.
//!
//! Invariant: a file under its final name (`slot-000007.wal`) has its full size and was synced; anything half
//! made carries the suffix `.tmp` and is removed at opening.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::calls;
use super::lock::{FolderLock, LockError};
use super::{AlignedBuffer, BLOCK_BYTES, SlotId};

/// The mode of every file: what is in a log is for nobody else to read.
pub const PRIVATE_FILE: u32 = 0o600;
/// The mode of every folder.
pub const PRIVATE_FOLDER: u32 = 0o700;
/// The bits of a mode that let others in.
pub const OF_OTHERS: u32 = 0o077;

/// Why a WAL folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else holds it, or it cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file or the folder itself could not be opened, made or removed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system refuses O_DIRECT.
    #[error(
        "{path}: the file system refuses direct I/O (O_DIRECT); put the WAL on ext4, XFS or another file system that has it"
    )]
    NoDirectIo {
        /// The file that was tried.
        path: PathBuf,
    },
    /// The kernel refuses an io_uring.
    #[error(
        "io_uring is refused: {source}; allow it (sysctl kernel.io_uring_disabled=0, seccomp profile, kernel 5.15 or later) or have blocking writes used (wal.sync inline)"
    )]
    UringRefused {
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }
}

/// Whether files must bypass the page cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirectIo {
    /// Refuse to open where it is not to be had.
    Required,
    /// Go through the page cache where it is not to be had. Durable all the same, but slower.
    Preferred,
}

/// An open slot file.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) file: File,
    /// Its size, which never changes while it is open.
    pub(super) bytes: u64,
}

/// A locked folder and its open slots.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    dir: File,
    slots: BTreeMap<SlotId, Slot>,
    direct: bool,
    _lock: FolderLock,
}

/// The name of the manifest's file.
pub const MANIFEST_FILE: &str = "manifest.wal";

/// The name of a slot's file.
#[must_use]
pub fn slot_file_name(slot: SlotId) -> String {
    if slot == SlotId::MANIFEST { MANIFEST_FILE.to_owned() } else { format!("slot-{:06}.wal", slot.0) }
}

/// The slot that a file name stands for, if it is one of a slot.
#[must_use]
pub fn parse_slot_file_name(name: &str) -> Option<SlotId> {
    if name == MANIFEST_FILE {
        return Some(SlotId::MANIFEST);
    }
    let number = name.strip_prefix("slot-")?.strip_suffix(".wal")?.parse().ok()?;
    let slot = SlotId(number);
    (slot_file_name(slot) == name).then_some(slot)
}

/// Where a slot is made before it gets its name.
pub(super) fn temporary_path(folder: &Path, slot: SlotId) -> PathBuf {
    folder.join(slot_file_name(slot) + ".tmp")
}

/// Makes a folder, and those above it that are missing, for this user alone.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(path)
}

/// Options to open or make a slot file with, direct or not.
pub(super) fn slot_open_options(direct: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | if direct { libc::O_DIRECT } else { 0 };
    options.read(true).write(true).mode(PRIVATE_FILE).custom_flags(flags);
    options
}

impl Folder {
    /// Makes the folder if need be, locks it, finds out about direct I/O and removes half-made files.
    pub(super) fn open(path: &Path, direct: DirectIo) -> Result<Self, OpenError> {
        if !path.is_dir() {
            make_folder(path).map_err(OpenError::io("create the folder", path))?;
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = File::open(parent).and_then(|p| calls::sync_all(&p));
            synced.map_err(OpenError::io("sync the folder", parent))?;
        }
        let lock = FolderLock::acquire(path)?;
        let dir = File::open(path).map_err(OpenError::io("open the folder", path))?;
        let direct = Self::try_direct(path, direct)?;
        let folder = Self { path: path.to_owned(), dir, slots: BTreeMap::new(), direct, _lock: lock };
        folder.remove_temporaries()?;
        Ok(folder)
    }

    /// Whether O_DIRECT works here; tried on a file of its own, removed afterwards.
    fn try_direct(path: &Path, direct: DirectIo) -> Result<bool, OpenError> {
        let trial = path.join("direct-io.tmp");
        let opened = slot_open_options(true).create(true).truncate(true).open(&trial);
        let works = match opened {
            Ok(_) => true,
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => false,
            Err(e) => return Err(OpenError::io("create", &trial)(e)),
        };
        // A failing open with O_CREAT may have left the file behind.
        match fs::remove_file(&trial) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(OpenError::io("remove", &trial)(e)),
            _ => {}
        }
        if !works && direct == DirectIo::Required {
            return Err(OpenError::NoDirectIo { path: path.to_owned() });
        }
        Ok(works)
    }

    fn remove_temporaries(&self) -> Result<(), OpenError> {
        let entries = fs::read_dir(&self.path).map_err(OpenError::io("list", &self.path))?;
        for entry in entries {
            let path = entry.map_err(OpenError::io("list", &self.path))?.path();
            if path.extension().is_some_and(|e| e == "tmp") {
                fs::remove_file(&path).map_err(OpenError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the page cache is bypassed.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// A second handle on the folder, to sync it from another thread.
    pub(super) fn clone_dir(&self) -> io::Result<File> {
        self.dir.try_clone()
    }

    /// The open file of a slot, if `offset + len` lies within it and both are whole blocks.
    pub(super) fn checked(&self, slot: SlotId, offset: u32, len: u32) -> io::Result<&Slot> {
        let found = self.slots.get(&slot);
        check_range(slot, found.map(|open| open.bytes), offset, len)?;
        Ok(found.expect("its range was checked"))
    }

    /// The open slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        self.slots.iter().map(|(slot, open)| (*slot, open))
    }

    pub(super) fn insert(&mut self, slot: SlotId, opened: Slot) {
        let before = self.slots.insert(slot, opened);
        assert!(before.is_none(), "{} was made twice", slot_file_name(slot));
    }

    pub(super) fn take(&mut self, slot: SlotId) -> Option<Slot> {
        self.slots.remove(&slot)
    }

    /// Opens every slot of the folder that is not open yet; all of them with their sizes.
    pub(super) fn list(&mut self) -> io::Result<Vec<(SlotId, u64)>> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let Some(slot) = entry.file_name().to_str().and_then(parse_slot_file_name) else { continue };
            if !self.slots.contains_key(&slot) {
                let file = slot_open_options(self.direct).open(entry.path())?;
                let bytes = file.metadata()?.len();
                self.slots.insert(slot, Slot { file, bytes });
            }
        }
        Ok(self.slots.iter().map(|(slot, open)| (*slot, open.bytes)).collect())
    }

    /// Waits for writes that a process which has died left under way, syncs every slot's file, then the folder.
    pub(super) fn sync_all(&mut self) -> io::Result<()> {
        self.list()?;
        for open in self.slots.values().filter(|open| open.bytes > 0) {
            wait_for_direct_writes(open)?;
            calls::sync_all(&open.file)?;
        }
        calls::sync_all(&self.dir)
    }

    /// Makes a file with this content under a temporary name, and names it once it is durable.
    pub(super) fn create(&mut self, slot: SlotId, content: &[u8]) -> io::Result<()> {
        let named = self.path.join(slot_file_name(slot));
        if named.exists() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", named.display())));
        }
        let mut aligned = AlignedBuffer::zeroed(content.len());
        aligned.get_mut(..content.len()).expect("as large as asked for").copy_from_slice(content);
        let temporary = temporary_path(&self.path, slot);
        let file = slot_open_options(self.direct).create(true).truncate(true).open(&temporary)?;
        calls::write_all_at(&file, aligned.get(..content.len()).expect("as large as asked for"), 0)?;
        calls::sync_all(&file)?;
        calls::rename(&temporary, &named)?;
        calls::sync_all(&self.dir)?;
        self.insert(slot, Slot { file, bytes: content.len() as u64 });
        Ok(())
    }

    /// Reads exactly `buffer[..len]`.
    pub(super) fn read(
        &self,
        slot: SlotId,
        offset: u32,
        buffer: &mut AlignedBuffer,
        len: u32,
    ) -> io::Result<()> {
        let open = self.checked(slot, offset, len)?;
        let target = prefix_mut(buffer, len)?;
        open.file.read_exact_at(target, u64::from(offset))
    }

    /// Writes `buffer[..len]` in one call and makes it durable.
    pub(super) fn write(&self, slot: SlotId, offset: u32, buffer: &[u8], len: u32) -> io::Result<()> {
        let open = self.checked(slot, offset, len)?;
        let source = buffer.get(..len as usize).ok_or_else(|| beyond(buffer.len(), len))?;
        let written = loop {
            match calls::write_at(&open.file, source, u64::from(offset)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if written != source.len() {
            return Err(short("write", written, len));
        }
        calls::sync_data(&open.file)
    }
}

/// The error of an operation on a slot that is not there.
pub(super) fn no_file(slot: SlotId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {}", slot_file_name(slot)))
}

/// Whether `len` bytes at `offset` are whole blocks of a slot of this size; `None` stands for a slot that is not there.
pub(super) fn check_range(slot: SlotId, bytes: Option<u64>, offset: u32, len: u32) -> io::Result<()> {
    let Some(bytes) = bytes else {
        return Err(no_file(slot));
    };
    let range = || format!("{len} bytes at {offset} of {} ({bytes} bytes)", slot_file_name(slot));
    let aligned = [offset, len].iter().all(|n| (*n as usize).is_multiple_of(BLOCK_BYTES));
    if !aligned || len == 0 {
        let why = format!("{} are not whole blocks", range());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    if u64::from(offset) + u64::from(len) > bytes {
        let why = format!("{} end beyond the file", range());
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    Ok(())
}

/// Direct writes outlive their process, and a sync does not wait for them. Allocating does, and changes nothing here, since
/// a slot is allocated whole.
fn wait_for_direct_writes(open: &Slot) -> io::Result<()> {
    loop {
        match fallocate(&open.file, FallocateFlags::empty(), 0, open.bytes) {
            Err(Errno::INTR) => {}
            // Waited for as well: XFS sets room aside before it sees that none is needed, and the disk may be full.
            Err(Errno::NOSPC | Errno::DQUOT) => return Ok(()),
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The error of an operation that wants more than its buffer holds.
pub(super) fn beyond(have: usize, len: u32) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{len} bytes of a buffer of {have}"))
}

/// The error of a transfer that ended early.
pub(super) fn short(what: &str, done: usize, len: u32) -> io::Error {
    let kind = if what == "read" { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::WriteZero };
    io::Error::new(kind, format!("short {what}: {done} of {len} bytes"))
}

fn prefix_mut(buffer: &mut AlignedBuffer, len: u32) -> io::Result<&mut [u8]> {
    let have = buffer.len();
    buffer.get_mut(..len as usize).ok_or_else(|| beyond(have, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_left_alone() {
        for number in [0, 7, 999_999, 1_000_000, u32::MAX] {
            assert_eq!(parse_slot_file_name(&slot_file_name(SlotId(number))), Some(SlotId(number)));
        }
        for name in
            ["slot-7.wal", "slot-+00007.wal", "slot-000007.wal.tmp", "slot-.wal", "LOCK", "slot-00000a.wal"]
        {
            assert_eq!(parse_slot_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn half_made_files_go_at_opening() {
        let dir = tempfile::tempdir().unwrap();
        let half = temporary_path(dir.path(), SlotId(3));
        fs::write(&half, b"half").unwrap();
        let mut folder = Folder::open(dir.path(), DirectIo::Preferred).unwrap();
        assert!(!half.exists());
        assert_eq!(folder.list().unwrap(), vec![]);
    }

    #[test]
    fn a_new_folder_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        Folder::open(&path, DirectIo::Preferred).unwrap();
        assert!(path.join(super::super::lock::LOCK_FILE).exists());
    }
}
