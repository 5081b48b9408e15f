//! A file beside the tree for bytes that are read again before they count: the chunks of an image until it is installed.
//!
//! Its name begins with `.tmp`, so a start removes what a process that died left of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::lsm::LsmLevel;
use super::removal::Removed;
use super::{DiskError, Staging};

/// Names of files are not used again in a process.
static NEXT: AtomicU64 = AtomicU64::new(0);

pub(super) struct StagedFile {
    level: LsmLevel,
    path: PathBuf,
    file: Option<File>,
}

impl StagedFile {
    pub(super) fn new(level: LsmLevel) -> Result<Self, DiskError> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = level.tree.path().join(format!(".tmp-image-{number}"));
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let file = opened.map_err(|error| DiskError::io("making", &path, &error))?;
        Ok(Self { level, path, file: Some(file) })
    }

    fn with<T>(&self, what: &'static str, act: impl FnOnce(&File) -> io::Result<T>) -> Result<T, DiskError> {
        let file = self.file.as_ref().expect("it is open until it is dropped");
        act(file).map_err(|error| DiskError::io(what, &self.path, &error))
    }
}

impl Staging for StagedFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        if !self.level.claim(bytes.len() as u64, false)? {
            return self.with("writing", |_| Err(io::ErrorKind::StorageFull.into()));
        }
        self.with("writing", |mut file| file.write_all(bytes))
    }

    fn read(&mut self, at: u64, bytes: usize) -> Result<Vec<u8>, DiskError> {
        let mut read = vec![0; bytes];
        self.with("reading", |file| file.read_exact_at(&mut read, at))?;
        Ok(read)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("removing {}: {error}; the next start removes it", self.path.display());
        }
        Removed::of(self.file.take()).free(&self.level.tree.haste);
    }
}
