//! The fence around the library that keeps the tables: its panics, on bytes that it did not expect, become damage.
//!
//! Reading changes nothing that a panic could leave half done: the library takes its locks only to copy what it reads
//! from. A panic in the middle of a change may leave its locks poisoned and tables marked as in use, so after one the tree
//! is opened anew from its files before the next change (`LsmLevel::change`).

use std::path::Path;

use corduroy_shards::raft::guard::guarded;

use super::error::DiskError;

/// Runs a call that reads. A panic is damage of a file in `folder`.
pub(super) fn reading<T>(
    what: &'static str,
    folder: &Path,
    work: impl FnOnce() -> lsm_tree::Result<T>,
) -> Result<T, DiskError> {
    match guarded(work) {
        Ok(result) => result.map_err(|error| DiskError::of_tree(what, folder, error)),
        Err(fault) => Err(DiskError::damaged(folder, format!("{what} ended in a panic: {}", fault.0))),
    }
}

/// Runs a call that changes the tree. After [`DiskError::Panicked`] the tree must not be changed again.
pub(super) fn changing<T>(
    what: &'static str,
    folder: &Path,
    work: impl FnOnce() -> Result<T, DiskError>,
) -> Result<T, DiskError> {
    guarded(work)
        .unwrap_or_else(|fault| Err(DiskError::Panicked { what, folder: folder.to_owned(), why: fault.0 }))
}
