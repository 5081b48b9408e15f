//! The folders of shards: what they are called, and which are there; and what is done to any folder.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use corduroy_shards::ShardId;
use corduroy_wal::device::folder::PRIVATE_FOLDER;

use super::{Identity, IdentityError, LOST_AND_FOUND};

/// What the names of the shards' folders begin with.
pub(super) const SHARD: &str = "shard-";

impl Identity {
    /// The name of a shard's folder.
    #[must_use]
    pub fn shard_name(shard: u32) -> String {
        format!("{SHARD}{shard:04}")
    }

    /// The folder of a shard.
    #[must_use]
    pub fn shard_folder(data_dir: &Path, shard: ShardId) -> PathBuf {
        data_dir.join(Self::shard_name(shard.0))
    }
}

/// The number of the shard whose folder has this name.
pub(super) fn number_of(name: &str) -> Option<u32> {
    name.strip_prefix(SHARD)?.parse().ok().filter(|number| Identity::shard_name(*number) == name)
}

/// The shards whose folders are there, in order. That of a shard without a partition may have been removed; one that is
/// missed is reported when it is opened.
pub(super) fn shards_there(data_dir: &Path) -> Result<Vec<u32>, IdentityError> {
    let mut shards: Vec<_> = entries(data_dir)?.iter().filter_map(|name| number_of(name)).collect();
    shards.sort_unstable();
    Ok(shards)
}

/// Removes what an interrupted writing left; or a link, which would be followed.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A file's name as text; bytes that are no text are escaped.
fn shown(name: &OsStr) -> String {
    name.to_str().map_or_else(|| name.as_bytes().escape_ascii().to_string(), str::to_owned)
}

/// The names in a folder; without the one that the file system makes in it, if something is mounted there.
pub(super) fn entries(folder: &Path) -> Result<Vec<String>, IdentityError> {
    let failed = |source| IdentityError::Io { what: "listing", path: folder.into(), source };
    let names =
        fs::read_dir(folder).map_err(failed)?.map(|entry| entry.map(|entry| shown(&entry.file_name())));
    names
        .filter(|name| !name.as_ref().is_ok_and(|name| name == LOST_AND_FOUND))
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// Makes a folder, and those above it that are missing, durably.
pub(super) fn make_folder(path: &Path) -> Result<(), IdentityError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    };
    make_folder(parent)?;
    let made = DirBuilder::new()
        .mode(PRIVATE_FOLDER)
        .create(path)
        .and_then(|()| File::open(path)?.sync_all())
        .and_then(|()| File::open(parent)?.sync_all());
    made.map_err(|source| IdentityError::Io { what: "making", path: path.into(), source })
}
