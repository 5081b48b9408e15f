//! What can be wrong with the files of a state folder.
//!
//! Every error names the file or folder that it speaks of, so that whoever reads it can look at it, and every kind has
//! one answer: damage makes requests answer `-DAMAGED`, what the system refuses is tried again, what belongs to somebody
//! else is not opened.

use std::io;
use std::path::{Path, PathBuf};

use corduroy_shards::Unreadable;
pub use corduroy_wal::{Binding, OWNER_BYTES};

/// Why the state on the disk could not be read or written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiskError {
    /// A file is not as it was written.
    #[error("state: {} is damaged: {what}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The folder belongs to another shard or node.
    #[error("state: {} belongs to another shard or node; put the folder back that belongs here", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// The owner that its manifest names.
        found: Box<[u8; OWNER_BYTES]>,
    },
    /// A file is of a format that a later release writes.
    #[error("state: {} has format {version}, which this release does not know; start the release that wrote it", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format's number.
        version: u32,
    },
    /// A row is in a layout that this release does not know.
    #[error("state: {what} is in a layout that this release does not know")]
    Layout {
        /// What.
        what: String,
    },
    /// The system refused something.
    #[error("state: {what} {}: {text}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The kind of error.
        kind: io::ErrorKind,
        /// What the system said.
        text: String,
    },
    /// The library that keeps the tables panicked in the middle of a change; it is opened anew before the next one.
    #[error("state: {what} in {} ended in the middle: {why}", folder.display())]
    Panicked {
        /// What was done.
        what: &'static str,
        /// In which folder.
        folder: PathBuf,
        /// The panic's message.
        why: String,
    },
}

impl DiskError {
    /// Of a file that is not as it was written.
    pub fn damaged(file: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), what: what.into() }
    }

    /// Of a row in an unknown layout.
    pub fn layout(what: impl Into<String>) -> Self {
        Self::Layout { what: what.into() }
    }

    /// Of what the library said of its files in `folder` while it was doing `what`.
    pub fn of_tree(what: &'static str, folder: &Path, error: lsm_tree::Error) -> Self {
        match error {
            // A file that is shorter than it was is damaged: what is missing does not come back.
            lsm_tree::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::damaged(folder, format!("{what} failed: it is shorter than it was"))
            }
            lsm_tree::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::damaged(folder, format!("{what} failed: a file is missing"))
            }
            lsm_tree::Error::Io(error) => Self::io(what, folder, &error),
            other => Self::damaged(folder, format!("{what} failed: {}", in_words(&other))),
        }
    }

    /// Whether the disk, or its owner's share of it, is full.
    pub(super) fn is_no_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { kind: StorageFull | QuotaExceeded, .. })
    }

    /// Of something that the system refused.
    pub fn io(what: &'static str, path: &Path, error: &io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), kind: error.kind(), text: error.to_string() }
    }
}

/// What the library found wrong, for people.
fn in_words(error: &lsm_tree::Error) -> String {
    use lsm_tree::Error;
    match error {
        Error::ChecksumMismatch { .. } => "a block's checksum is not the one that was written".into(),
        Error::Decompress(_) => "a block cannot be decompressed".into(),
        Error::InvalidVersion(version) => format!("its format {version} is not known"),
        Error::Unrecoverable => "files that belong together do not agree".into(),
        Error::InvalidTag((name, tag)) => format!("{tag} is no {name}"),
        Error::InvalidTrailer => "a block does not end as one".into(),
        Error::InvalidHeader(name) => format!("a block does not begin as one ({name})"),
        Error::Utf8(error) => format!("a name in it is no text ({error})"),
        Error::Io(error) => error.to_string(),
        // The library says that more may follow.
        unknown => unknown.to_string(),
    }
}

impl From<DiskError> for Unreadable {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Io { .. } | DiskError::Panicked { .. } => Self::Refused(error.to_string()),
            DiskError::Damaged { .. }
            | DiskError::Foreign { .. }
            | DiskError::Newer { .. }
            | DiskError::Layout { .. } => Self::Damaged(error.to_string()),
        }
    }
}
