//! The check of a data folder at start-up: does this disk and this kernel give what a durable log needs?
//!
//! Everything the devices rely on is tried for real on files of the probe's own, which are removed afterwards. A
//! failed check says what was refused, by what, and what to do.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{fstatfs, fstatvfs};
use rustix::process::{Resource, getrlimit};

use super::folder::{make_folder, slot_open_options};
use super::setup::refusal;
use super::sync::DiskFacts;
use super::{AlignedBuffer, BLOCK_BYTES};

/// Durable writes made to learn what one costs.
const TRIALS: usize = 8;

/// Lockable memory below which the log's buffers cannot all be registered with its ring.
const SMALL_MEMLOCK_BYTES: u64 = 8 << 20;

/// What to insist on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProbeOptions {
    /// Free bytes that there must be.
    pub min_free_bytes: u64,
    /// Refuse kernels without io_uring instead of falling back to blocking calls.
    pub require_uring: bool,
    /// Accept file systems that live in memory: for tests, where nothing needs to survive.
    pub allow_volatile: bool,
}

/// What was found; one line a fact when displayed.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// The folder.
    pub folder: PathBuf,
    /// The type of its file system, e.g. "ext4".
    pub file_system: String,
    /// The disk, where it is known.
    pub disk: Option<DiskFacts>,
    /// The quickest of a few aligned direct writes of 4 KiB with fdatasync; `None` if the disk is full: a node starts on
    /// it all the same, so that its owner can delete.
    pub durable_write: Option<Duration>,
    /// Bytes free for this user.
    pub free_bytes: u64,
    /// Why io_uring is not to be had; `None` where it is.
    pub uring_refused: Option<String>,
    /// Bytes that this user may lock in memory; `None` for no limit.
    pub memlock_bytes: Option<u64>,
}

/// A folder or kernel that will not do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The file system forgets everything at a restart of the machine.
    #[error(
        "{folder} is on {file_system}, which lives in memory: data would not survive; name a folder on a disk"
    )]
    Volatile {
        /// The folder.
        folder: PathBuf,
        /// Its type.
        file_system: String,
    },
    /// Something the log needs was tried and refused.
    #[error("{folder} ({file_system}): {step} failed: {source}; {remedy}")]
    Refused {
        /// The folder.
        folder: PathBuf,
        /// The type of its file system.
        file_system: String,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Too little room.
    #[error(
        "{folder}: {free_bytes} bytes free, at least {needed_bytes} needed; make room, or set smaller WAL segments"
    )]
    Full {
        /// The folder.
        folder: PathBuf,
        /// What there is.
        free_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
    },
    /// No io_uring, though it was insisted on.
    #[error(
        "io_uring is refused: {reason}; allow it (kernel 5.15 or later, sysctl kernel.io_uring_disabled=0, the container's seccomp profile) or have blocking writes used (wal.sync inline)"
    )]
    Uring {
        /// What the system said.
        reason: String,
    },
}

/// Tries out `folder` (made if need be) and the kernel. Blocking; takes some milliseconds.
///
/// # Errors
/// [`ProbeError`]: the first thing that will not do.
pub fn probe(folder: &Path, options: ProbeOptions) -> Result<ProbeReport, ProbeError> {
    let trial = Trial { folder, file_system: "unknown file system".to_owned() };
    let step = trial.step("making the folder", "the folder must be writable by this user");
    make_folder(folder).map_err(step)?;
    let step = trial.step("opening the folder", "the folder must be readable by this user");
    let dir = File::open(folder).map_err(step)?;
    let step = trial.step("asking for the file system's type", "use a local file system such as ext4 or XFS");
    let kind = fstatfs(&dir).map_err(|e| step(e.into()))?.f_type;
    // The width and sign of the field differ between architectures; the magic numbers are of 32 bits.
    let file_system = file_system_name(kind as u32);
    if is_volatile(&file_system) && !options.allow_volatile {
        return Err(ProbeError::Volatile { folder: folder.to_owned(), file_system });
    }
    let trial = Trial { folder, file_system };
    let durable_write = trial.run(&dir)?;
    let step = trial.step("asking for the free space", "use a local file system such as ext4 or XFS");
    let space = fstatvfs(&dir).map_err(|e| step(e.into()))?;
    let free_bytes = space.f_bavail * space.f_frsize;
    if free_bytes < options.min_free_bytes {
        let (folder, needed_bytes) = (folder.to_owned(), options.min_free_bytes);
        return Err(ProbeError::Full { folder, free_bytes, needed_bytes });
    }
    let uring_refused = refusal().map(|e| e.to_string());
    if let Some(reason) = uring_refused.clone().filter(|_| options.require_uring) {
        return Err(ProbeError::Uring { reason });
    }
    Ok(ProbeReport {
        folder: folder.to_owned(),
        file_system: trial.file_system,
        disk: DiskFacts::of(folder),
        durable_write,
        free_bytes,
        uring_refused,
        memlock_bytes: getrlimit(Resource::Memlock).current,
    })
}

struct Trial<'a> {
    folder: &'a Path,
    file_system: String,
}

impl Trial<'_> {
    fn step(&self, step: &'static str, remedy: &'static str) -> impl FnOnce(io::Error) -> ProbeError {
        let (folder, file_system) = (self.folder.to_owned(), self.file_system.clone());
        move |source| ProbeError::Refused { folder, file_system, step, source, remedy }
    }

    /// A direct durable write, its reading back, a rename and a sync of the folder.
    fn run(&self, dir: &File) -> Result<Option<Duration>, ProbeError> {
        let (before, after) = (self.folder.join("probe.tmp"), self.folder.join("probed.tmp"));
        let result = Self::result(self.run_at(dir, &before, &after));
        // One of the two is there at most, and what stays is removed at the next opening.
        for path in [before, after] {
            let _ = fs::remove_file(path);
        }
        result
    }

    fn result(tried: Result<Duration, ProbeError>) -> Result<Option<Duration>, ProbeError> {
        match tried {
            Err(ProbeError::Refused { source, .. }) if is_full(&source) => Ok(None),
            tried => tried.map(Some),
        }
    }

    fn run_at(&self, dir: &File, before: &Path, after: &Path) -> Result<Duration, ProbeError> {
        let remedy =
            "use a file system that supports O_DIRECT (ext4, XFS); overlay and network ones often do not";
        let file = slot_open_options(true)
            .create(true)
            .truncate(true)
            .open(before)
            .map_err(self.step("creating a file for direct I/O (O_DIRECT)", remedy))?;
        let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
        block.fill(0xc5);
        let mut quickest = Duration::MAX;
        for _ in 0..TRIALS {
            let begun = Instant::now();
            let written = file.write_all_at(&block, 0).and_then(|()| file.sync_data());
            written.map_err(self.step("a direct write of 4 KiB with fdatasync", remedy))?;
            quickest = quickest.min(begun.elapsed());
        }
        let mut back = AlignedBuffer::zeroed(BLOCK_BYTES);
        let read = file.read_exact_at(&mut back, 0);
        read.map_err(self.step("a direct read of 4 KiB", remedy))?;
        if *back != *block {
            let lie = io::Error::new(io::ErrorKind::InvalidData, "other bytes were read than written");
            return Err(self.step("reading back a direct write", "replace the disk")(lie));
        }
        let remedy = "use a local file system such as ext4 or XFS";
        fs::rename(before, after).map_err(self.step("renaming a file", remedy))?;
        dir.sync_all().map_err(self.step("syncing the folder", remedy))?;
        Ok(quickest)
    }
}

/// Whether an error says that the disk, or its owner's share of it, is full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A file system's name from its magic number.
fn file_system_name(magic: u32) -> String {
    let known = match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0xf2f5_2010 => "f2fs",
        0x2fc1_2fc1 => "zfs",
        0xca45_1a4e => "bcachefs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "smb",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        0x00c3_6400 => "ceph",
        other => return format!("file system {other:#x}"),
    };
    known.to_owned()
}

fn is_volatile(file_system: &str) -> bool {
    matches!(file_system, "tmpfs" | "ramfs")
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk.as_ref().map_or_else(|| "an unknown disk".to_owned(), ToString::to_string);
        writeln!(f, "{}: {} on {disk}", self.folder.display(), self.file_system)?;
        match self.durable_write.map(|took| took.as_micros()) {
            Some(micros) => write!(f, "a durable write of 4 KiB takes {micros} µs, ")?,
            None => write!(f, "the disk is full: no write could be tried, ")?,
        }
        writeln!(f, "{} MiB are free", self.free_bytes >> 20)?;
        match &self.uring_refused {
            None => write!(f, "io_uring is used")?,
            Some(reason) => {
                write!(f, "io_uring refused ({reason}): served without it, each log write blocks its core")?;
            }
        }
        match self.memlock_bytes {
            Some(bytes) if bytes < SMALL_MEMLOCK_BYTES => {
                write!(
                    f,
                    "; only {} KiB may be locked in memory, with more a log write costs less",
                    bytes >> 10
                )
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_disk() -> tempfile::TempDir {
        tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    #[test]
    fn a_good_folder_is_described_and_left_clean() {
        let dir = on_disk();
        let folder = dir.path().join("new");
        let report =
            probe(&folder, ProbeOptions { allow_volatile: true, ..ProbeOptions::default() }).unwrap();
        assert!(report.durable_write > Some(Duration::ZERO) && report.free_bytes > 0);
        assert_eq!(report.to_string().lines().count(), 3, "{report}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn too_little_room_is_told_in_numbers() {
        let dir = on_disk();
        let options =
            ProbeOptions { min_free_bytes: u64::MAX, allow_volatile: true, ..ProbeOptions::default() };
        let error = probe(dir.path(), options).unwrap_err();
        assert!(matches!(error, ProbeError::Full { needed_bytes: u64::MAX, .. }), "{error}");
    }

    #[test]
    fn a_full_disk_is_said_and_not_refused() {
        let dir = on_disk();
        let trial = Trial { folder: dir.path(), file_system: "ext4".to_owned() };
        let refused = |kind: io::ErrorKind| Trial::result(Err(trial.step("a write", "")(kind.into())));
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            assert_eq!(refused(kind).unwrap(), None);
        }
        refused(io::ErrorKind::InvalidInput).unwrap_err();
        let options = ProbeOptions { allow_volatile: true, ..ProbeOptions::default() };
        let report = ProbeReport { durable_write: None, ..probe(dir.path(), options).unwrap() };
        assert!(report.to_string().contains("the disk is full"), "{report}");
    }

    #[test]
    fn a_memory_file_system_is_refused() {
        let memory = Path::new("/dev/shm");
        let in_memory = fstatfs(File::open(memory).unwrap())
            .is_ok_and(|s| is_volatile(&file_system_name(s.f_type as u32)));
        if !in_memory {
            eprintln!("SKIPPED: /dev/shm is not a memory file system here");
            return;
        }
        let dir = tempfile::tempdir_in(memory).unwrap();
        let error = probe(dir.path(), ProbeOptions::default()).unwrap_err();
        assert!(error.to_string().contains("would not survive"), "{error}");
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = on_disk();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = probe(&file, ProbeOptions::default()).unwrap_err();
        assert!(error.to_string().contains(&*file.to_string_lossy()), "{error}");
        assert!(matches!(error, ProbeError::Refused { step: "making the folder", .. }), "{error}");
    }

    #[test]
    fn unknown_file_systems_show_their_number() {
        assert_eq!(file_system_name(0xef53), "ext4");
        assert_eq!(file_system_name(0x1234), "file system 0x1234");
    }
}
