//! One process a folder: the file `LOCK`, held by `flock` for as long as the device is open.
//!
//! Invariant: whoever holds a [`FolderLock`] is the only one to write files of that folder. Only the owner of the file can
//! open it, since whoever can open it can hold it; and a link in its stead is not followed, since what it leads to would be
//! written over.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::folder::{OF_OTHERS, PRIVATE_FILE};

/// Name of the lock file inside the folder.
pub const LOCK_FILE: &str = "LOCK";

/// A folder held. The kernel lets go of it when the value is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why a folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process (or another opening in this one) holds it.
    #[error("{folder} is in use by process {holder}; stop it, or name another folder")]
    Held {
        /// The folder.
        folder: PathBuf,
        /// The holder's process id as it wrote it, or "unknown".
        holder: String,
    },
    /// There is something else in the lock file's stead.
    #[error("{path} is no ordinary file (a symbolic link, for example); remove it, it is made anew")]
    NoFile {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file could not be made, locked or written.
    #[error("cannot lock {folder}: {source}; the folder must be writable by this user")]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FolderLock {
    /// Takes the lock of `folder` without waiting and writes this process's id into it.
    ///
    /// # Errors
    /// [`LockError::Held`] naming the holder, or [`LockError::Io`].
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        let failed = |source: io::Error| LockError::Io { folder: folder.to_owned(), source };
        let mut file = open(folder)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failed)?;
                let holder = text.trim();
                let holder = if holder.is_empty() { "unknown" } else { holder }.to_owned();
                return Err(LockError::Held { folder: folder.to_owned(), holder });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        file.set_len(0).map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Opens the lock file, or makes it. Nobody else may open it from then on.
fn open(folder: &Path) -> Result<File, LockError> {
    let path = folder.join(LOCK_FILE);
    let failed = |source: io::Error| LockError::Io { folder: folder.to_owned(), source };
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE_FILE)
        // Without waiting: in its stead there may be a pipe.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path);
    let file = match opened {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EISDIR | libc::ENXIO)) => {
            return Err(LockError::NoFile { path });
        }
        opened => opened.map_err(failed)?,
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(LockError::NoFile { path });
    }
    if found.permissions().mode() & OF_OTHERS != 0 {
        // Not every file system has modes, and the file may be another user's: it locks all the same.
        let _ = file.set_permissions(Permissions::from_mode(PRIVATE_FILE));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_not_followed_and_what_it_leads_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, b"precious").unwrap();
        let folder = dir.path().join("data");
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&victim, folder.join(LOCK_FILE)).unwrap();
        let refused = FolderLock::acquire(&folder).unwrap_err();
        assert!(matches!(&refused, LockError::NoFile { path } if path.ends_with("data/LOCK")), "{refused}");
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        std::fs::remove_file(folder.join(LOCK_FILE)).unwrap();
        std::fs::create_dir(folder.join(LOCK_FILE)).unwrap();
        assert!(matches!(FolderLock::acquire(&folder), Err(LockError::NoFile { .. })), "a folder");
    }

    #[test]
    fn the_file_is_its_owners_alone_also_if_it_was_not() {
        let dir = tempfile::tempdir().unwrap();
        let mode = || dir.path().join(LOCK_FILE).metadata().unwrap().permissions().mode() & 0o777;
        drop(FolderLock::acquire(dir.path()).unwrap());
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(dir.path().join(LOCK_FILE), Permissions::from_mode(0o666)).unwrap();
        drop(FolderLock::acquire(dir.path()).unwrap());
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn second_holder_is_refused_and_told_the_pid() {
        let dir = tempfile::tempdir().unwrap();
        let held = FolderLock::acquire(dir.path()).unwrap();
        let refused = FolderLock::acquire(dir.path()).unwrap_err();
        assert!(
            matches!(&refused, LockError::Held { holder, .. } if *holder == std::process::id().to_string()),
            "{refused}"
        );
        drop(held);
        FolderLock::acquire(dir.path()).expect("free again");
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let refused = FolderLock::acquire(&dir.path().join("nowhere")).unwrap_err();
        assert!(matches!(refused, LockError::Io { .. }));
    }
}
