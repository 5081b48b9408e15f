//! The folders of shards: what they are called, and which are there.

use std::path::{Path, PathBuf};

use corduroy_shards::ShardId;

use super::{Identity, IdentityError, entries};

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
