//! Who this node is, and how its data folder is laid out: written when the folder is formatted, and once at each start.
//!
//! Two checksummed copies with a generation. One bad copy is repaired from the other; two bad ones refuse the start.
//! `owner` says whose a shard's folders are, `bind` compares that at each start, `recover` makes a lost identity of it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use corduroy_shards::ShardId;
use corduroy_wal::device::folder::PRIVATE_FILE;
use corduroy_wal::device::lock::{FolderLock, LOCK_FILE};

use crate::config::Config;
use crate::store::{DiskError, LsmLevel};

mod bind;
mod cluster;
mod error;
#[cfg(test)]
mod example;
mod folders;
mod grow;
mod limits;
mod look;
mod owner;
mod process;
mod recover;
mod text;

pub use bind::{Bound, binding_of, check, unbind};
pub use cluster::{found, open_in};
pub use error::IdentityError;
pub use limits::{SharedLimits, argument_bytes, limits_of};
pub use look::{Ownership, ownership};
pub use owner::Owner;
pub use process::process_number;
pub use text::FORMAT_VERSION;

use folders::{SHARD, entries, make_folder, remove_if_there};
use owner::Card;
use text::{ALONE, UNBOUND, Unreadable};

/// The copies' names.
const COPIES: [&str; 2] = ["identity.0", "identity.1"];
/// The folders in each.
pub const SHARD_PARTS: [&str; 2] = ["wal", "state"];
/// The identity as it was when the node's cluster was founded, in each of those.
const FOUNDED: &str = "founded";
/// What formatting leaves in those: no data.
const OF_FORMAT: [&str; 9] = [
    owner::CARD,
    FOUNDED,
    "founded.new",
    "manifest",
    "manifest.new",
    "manifest.copy",
    "manifest.copy.new",
    "manifest.wal",
    "LOCK",
];
/// What a file system (ext4) makes in its uppermost folder, where it keeps what a check of it found: nobody's data.
pub const LOST_AND_FOUND: &str = "lost+found";
/// How the name of a file of a log ends that was being made: it holds nothing yet.
const HALF_MADE: &str = ".tmp";

/// What a data folder knows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The folder's format: in the first one, nothing but the identity says whose the shards' folders are.
    pub format: u32,
    /// Grows with each rewriting; the higher of two good copies counts.
    pub generation: u64,
    /// All nodes of a cluster share it.
    pub cluster: u128,
    /// This node.
    pub node: u64,
    /// This disk root.
    pub storage: u64,
    /// Its name, unique in the cluster.
    pub storage_name: String,
    /// Which line of history the storage is on: one more whenever a lost identity was recovered. Of a node of a cluster: when
    /// it was formatted, for ever.
    pub incarnation: u64,
    /// How often the node has started on this folder.
    pub starts: u64,
    /// Ties logs to states: each shard's pair number is this one and the shard's, added.
    pub pair: u64,
    /// Shards of the folder.
    pub shards: u32,
    /// Partitions of the default keyspace.
    pub partitions: u32,
    /// What all replicas take; `None`: nothing is recorded.
    pub limits: Option<SharedLimits>,
    /// The nodes that founded the cluster, ascending; none: the node is alone.
    pub founders: Vec<u64>,
    /// The other founders that were met, each with the incarnation that was first heard of it.
    pub met: BTreeMap<u64, u64>,
    /// Of a founder that was alone before: what it was called then.
    pub former: Option<Former>,
}

/// What a node was called as long as it was alone. What names the owner of its shards' folders does so ever after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Former {
    /// Its id.
    pub node: u64,
    /// Its storage's.
    pub storage: u64,
    /// How often it had started.
    pub starts: u64,
}

impl Identity {
    /// A new one.
    fn new(shards: u32, partitions: u32, limits: Option<SharedLimits>) -> Result<Self, IdentityError> {
        let mut random = [0; 40];
        let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
        read.map_err(|source| IdentityError::Io { what: "reading", path: "/dev/urandom".into(), source })?;
        let (words, _) = random.as_chunks::<8>();
        let word = |at: usize| words.get(at).copied().map_or(0, u64::from_le_bytes);
        Ok(Self {
            format: ALONE,
            generation: 1,
            cluster: u128::from(word(0)) << 64 | u128::from(word(1)),
            node: word(2),
            storage: word(3),
            storage_name: Self::name_of_storage(word(3)),
            incarnation: 1,
            starts: 0,
            pair: word(4),
            shards,
            partitions,
            limits,
            founders: Vec::new(),
            met: BTreeMap::new(),
            former: None,
        })
    }

    /// The name of a storage that nobody has named.
    fn name_of_storage(storage: u64) -> String {
        format!("storage-{storage:016x}")
    }

    /// Writes both copies, one after the other, each durable before the next begins.
    fn write(&self, folder: &Path) -> Result<(), IdentityError> {
        COPIES.iter().try_for_each(|name| self.write_copy(folder, name))
    }

    fn write_copy(&self, folder: &Path, name: &str) -> Result<(), IdentityError> {
        let path = folder.join(name);
        let new = folder.join(format!("{name}.new"));
        let write = || {
            remove_if_there(&new)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&new)?;
            file.write_all(self.encode().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|source| IdentityError::Io { what: "writing", path: path.clone(), source })
    }

    /// Reads the identity of a folder; `None` if it has none and is empty. Repairs a bad copy.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn read(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let mut copies = Vec::with_capacity(2);
        let mut absent = 0;
        for name in COPIES {
            let path = folder.join(name);
            copies.push(match fs::read(&path) {
                Ok(bytes) => match Self::decode(&bytes) {
                    Ok(copy) => Ok(copy),
                    Err(Unreadable::Damaged(why)) => Err(format!("{name}: {why}")),
                    Err(Unreadable::Newer(found)) => {
                        return Err(IdentityError::TooNew { folder: folder.into(), found });
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    absent += 1;
                    Err(format!("{name} is not there"))
                }
                Err(source) => return Err(IdentityError::Io { what: "reading", path, source }),
            });
        }
        if absent == 2 && !has_shards(folder)? {
            return Ok(None);
        }
        let [first, second] = <[_; 2]>::try_from(copies).expect("there are two copies");
        let (good, repair) = match (first, second) {
            (Ok(first), Ok(second)) if first == second => return Ok(Some(first)),
            (Ok(first), Ok(second)) if !first.is_copy_of(&second) => {
                let (one, other) = (first.to_string(), second.to_string());
                return Err(IdentityError::TwoOwners { folder: folder.into(), one, other });
            }
            (Ok(first), Ok(second)) if first.generation > second.generation => (first, COPIES[1]),
            (Ok(_), Ok(second)) => (second, COPIES[0]),
            (Ok(first), Err(_)) => (first, COPIES[1]),
            (Err(_), Ok(second)) => (second, COPIES[0]),
            (Err(first), Err(second)) => {
                return Err(IdentityError::BothBad { folder: folder.into(), first, second });
            }
        };
        // A full disk must not keep a node from starting: the good copy is there, and is written over by no other.
        match good.write_copy(folder, repair) {
            Ok(()) => {
                tracing::warn!(copy = repair, "a copy of the identity was bad or old, and is written anew")
            }
            Err(error) => tracing::warn!("a copy of the identity is bad or old, and stays so: {error}"),
        }
        Ok(Some(good))
    }

    /// Whether a name in the data folder is one of those that are made there.
    #[must_use]
    pub fn owns(name: &str) -> bool {
        let copy = name.strip_suffix(".new").unwrap_or(name);
        name == LOCK_FILE || COPIES.contains(&copy) || name.starts_with(SHARD)
    }

    /// Whether two copies are of the same storage, one perhaps older; be it from before the node founded a cluster.
    fn is_copy_of(&self, other: &Self) -> bool {
        let named = |i: &Self| (i.node, i.storage, i.founders.clone());
        let grew = |from: &Self, to: &Self| from.founders.is_empty() && to.former.is_some();
        let is_one = named(self) == named(other) || grew(self, other) || grew(other, self);
        let is_limited_alike =
            self.limits.is_none_or(|one| other.limits.is_none_or(|another| one == another));
        Owner::of(self, 0) == Owner::of(other, 0)
            && is_one
            && is_limited_alike
            && self.generation != other.generation
    }

    /// Makes the folders of all shards, where they are missing, and writes into each whose it is. Before the identity is
    /// written: a shard's folder that is missing beside an identity was lost, and so was one that says nothing.
    fn make_shard_folders(&self, data_dir: &Path) -> Result<(), IdentityError> {
        for shard in 0..self.shards {
            let folder = Self::shard_folder(data_dir, ShardId(shard));
            let owner = Owner::of(self, shard).encode();
            for part in SHARD_PARTS.map(|part| folder.join(part)) {
                make_folder(&part)?;
                let written = Card { owner, starts: 0 }.write(&part);
                written.map_err(|source| IdentityError::Io {
                    what: "writing",
                    path: part.clone(),
                    source,
                })?;
                if !self.founders.is_empty() {
                    self.write_copy(&part, FOUNDED)?;
                }
            }
            bind::create_log(&folder.join("wal"), owner)?;
            let state = folder.join("state");
            LsmLevel::format(&state, owner).map_err(|error| of_state(&state, error))?;
        }
        Ok(())
    }
}

/// An error of a state's folder when its manifest is read or written.
fn of_state(state: &Path, error: DiskError) -> IdentityError {
    IdentityError::Io { what: "formatting", path: state.to_owned(), source: io::Error::other(error) }
}

/// Whether a file of a shard is one that formatting leaves, finished or cut short.
fn is_of_format(name: &str) -> bool {
    OF_FORMAT.contains(&name) || name.ends_with(HALF_MADE)
}

/// Whether a folder holds data of shards, not just folders for it.
fn has_shards(folder: &Path) -> Result<bool, IdentityError> {
    for shard in entries(folder)?.iter().filter(|name| name.starts_with(SHARD)) {
        let shard = folder.join(shard);
        for name in entries(&shard)? {
            let part = shard.join(&name);
            let is_part = SHARD_PARTS.contains(&name.as_str()) && part.is_dir();
            if !is_part || entries(&part)?.iter().any(|name| !is_of_format(name)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Reads the identity of `config.data_dir`, or formats the folder if it is empty. The folder must exist and be locked.
///
/// # Errors
/// [`IdentityError`].
pub fn open(config: &Config, said: impl Fn(&str) -> bool) -> Result<Identity, IdentityError> {
    let folder = &config.data_dir;
    let Some(identity) = Identity::read(folder)? else { return create(config) };
    if !identity.founders.is_empty() {
        let Identity { cluster, node, .. } = identity;
        return Err(IdentityError::OfCluster { folder: folder.clone(), cluster, node });
    }
    identity.check_layout(config, said)?;
    identity.with_limits(config)
}

/// Formats `config.data_dir`, which is made if it is not there. `recover`: makes a lost identity of what the shards'
/// folders say, and keeps the data; `said` holds which settings somebody chose.
///
/// # Errors
/// [`IdentityError::Formatted`] if there is a good identity, and others.
pub fn format(
    config: &Config,
    recover: bool,
    said: impl Fn(&str) -> bool,
) -> Result<Identity, IdentityError> {
    let folder = &config.data_dir;
    make_folder(folder)?;
    let _lock = FolderLock::acquire(folder)?;
    match Identity::read(folder) {
        Ok(Some(_)) => Err(IdentityError::Formatted(folder.clone())),
        Err(IdentityError::BothBad { .. }) if recover => recover::recover(config, said),
        Ok(None) => create(config),
        Err(error) => Err(error),
    }
}

/// Formats a folder that holds nothing, for a node that is alone.
fn create(config: &Config) -> Result<Identity, IdentityError> {
    check_empty(&config.data_dir)?;
    make(config, Identity::new(config.shards, config.partitions, Some(limits_of(config)))?)
}

/// Refuses a folder in which there is something.
fn check_empty(folder: &Path) -> Result<(), IdentityError> {
    // Folders of shards are empty here: a format was cut short.
    let ours = |name: &str| name == LOCK_FILE || name.starts_with(SHARD);
    let foreign = |name: &String| !ours(name) && !name.ends_with(".new");
    if let Some(found) = entries(folder)?.into_iter().find(foreign) {
        return Err(IdentityError::NotEmpty { folder: folder.to_owned(), found });
    }
    Ok(())
}

/// Makes what an identity speaks of, and then writes it.
fn make(config: &Config, identity: Identity) -> Result<Identity, IdentityError> {
    identity.make_shard_folders(&config.data_dir)?;
    identity.write(&config.data_dir)?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path) -> Config {
        Config { data_dir: folder.into(), shards: 4, partitions: 3, ..Config::default() }
    }

    #[test]
    fn a_new_folder_is_formatted_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = config(dir.path());
        let made = open(&config, |_| false).expect("formatted");
        assert_eq!((made.shards, made.partitions), (4, 3));
        assert_eq!(open(&config, |_| true).expect("read"), made);
        assert!(matches!(format(&config, false, |_| false), Err(IdentityError::Formatted(_))));
        let other = Config { shards: 5, ..config };
        assert!(matches!(
            open(&other, |_| true),
            Err(IdentityError::Differs { key: "shards", found: 4, wanted: 5, .. })
        ));
        assert_eq!(open(&other, |_| false).expect("nobody said 5"), made);
    }

    #[test]
    fn every_flipped_byte_of_one_copy_is_repaired() {
        let dir = tempfile::tempdir().expect("tempdir");
        let made = open(&config(dir.path()), |_| false).expect("formatted");
        for name in COPIES {
            let path = dir.path().join(name);
            let good = fs::read(&path).expect("copy");
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x01;
                fs::write(&path, &bad).expect("write");
                assert_eq!(
                    Identity::read(dir.path()).expect("repaired"),
                    Some(made.clone()),
                    "{name} byte {at}"
                );
                assert_eq!(fs::read(&path).expect("copy"), good, "{name} byte {at}");
            }
            fs::remove_file(&path).expect("remove");
            assert_eq!(Identity::read(dir.path()).expect("repaired"), Some(made.clone()));
        }
    }

    #[test]
    fn two_bad_copies_refuse_and_can_be_recovered() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = config(dir.path());
        let made = open(&config, |_| false).expect("formatted");
        for name in COPIES {
            fs::write(dir.path().join(name), b"rubbish").expect("write");
        }
        let error = open(&config, |_| false).expect_err("both bad").to_string();
        assert!(error.contains("corduroy format --recover"), "{error}");
        assert!(matches!(format(&config, false, |_| false), Err(IdentityError::BothBad { .. })));
        let other = Config { partitions: 8, ..config.clone() };
        let differs = format(&other, true, |key| key == "partitions").expect_err("3 is there, not 8");
        assert!(matches!(differs, IdentityError::Differs { found: 3, wanted: 8, .. }), "{differs}");
        let anew = format(&other, true, |_| false).expect("the numbers are those that are there");
        let format = text::UNLIMITED;
        assert_eq!(anew, Identity { incarnation: 2, format, limits: None, ..made.clone() });
        assert_eq!(open(&config, |_| true).expect("good again"), Identity { limits: made.limits, ..anew });
    }

    #[test]
    fn foreign_folders_and_newer_formats_are_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::write(dir.path().join("thesis.tex"), b"x").expect("write");
        let config = config(dir.path());
        assert!(matches!(open(&config, |_| false), Err(IdentityError::NotEmpty { .. })));
        fs::remove_file(dir.path().join("thesis.tex")).expect("remove");
        fs::create_dir_all(dir.path().join("shard-0000/wal")).expect("folder");
        fs::write(dir.path().join("shard-0000/wal/slot"), b"x").expect("write");
        assert!(
            matches!(open(&config, |_| false), Err(IdentityError::BothBad { .. })),
            "data without an identity"
        );
        let newer = "corduroy identity\nformat = 99\n";
        let text = format!("{newer}crc32 = {:08x}\n", crc32fast::hash(newer.as_bytes()));
        fs::write(dir.path().join(COPIES[0]), text).expect("write");
        assert!(matches!(open(&config, |_| false), Err(IdentityError::TooNew { found: 99, .. })));
    }

    #[test]
    fn a_copy_of_another_node_is_not_followed() {
        let (dir, other) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
        let made = open(&config(dir.path()), |_| false).expect("formatted");
        open(&config(other.path()), |_| false).expect("formatted");
        fs::copy(other.path().join(COPIES[1]), dir.path().join(COPIES[1])).expect("copy");
        let error = open(&config(dir.path()), |_| false).expect_err("two nodes");
        assert!(matches!(error, IdentityError::TwoOwners { .. }), "{error}");
        fs::remove_file(dir.path().join(COPIES[1])).expect("remove");
        assert_eq!(open(&config(dir.path()), |_| false).expect("the good one"), made);
    }

    #[test]
    fn a_format_may_be_cut_short_at_any_file_it_makes() {
        let half_made = [
            "wal/direct-io.tmp",
            "wal/manifest.wal.tmp",
            "wal/owner",
            "wal/LOCK",
            "state/owner",
            "state/manifest.new",
            "state/manifest.copy.new",
        ];
        // In the first shard there is, or behind one that was finished.
        for (name, shard) in half_made.iter().flat_map(|name| [(name, 0), (name, 1)]) {
            let dir = tempfile::tempdir().expect("tempdir");
            let config = config(dir.path());
            if shard > 0 {
                open(&config, |_| false).expect("formatted");
                COPIES.iter().for_each(|name| fs::remove_file(dir.path().join(name)).expect("remove"));
            }
            let cut_short = Identity::shard_folder(dir.path(), ShardId(shard));
            for part in SHARD_PARTS.map(|part| cut_short.join(part)) {
                let _ = fs::remove_dir_all(&part);
                fs::create_dir_all(part).expect("folder");
            }
            fs::write(cut_short.join(name), b"").expect("write");
            let made = open(&config, |_| false).unwrap_or_else(|error| panic!("{name}: {error}"));
            check(&made, dir.path(), 4).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!cut_short.join("wal/manifest.wal.tmp").exists(), "{name}");
        }
    }

    #[test]
    fn a_format_that_was_cut_short_begins_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(dir.path().join("shard-0000/wal")).expect("folder");
        let config = config(dir.path());
        let first = open(&config, |_| false).expect("formatted");
        for name in COPIES {
            fs::remove_file(dir.path().join(name)).expect("remove");
        }
        let made = open(&config, |_| false).expect("formatted again");
        assert_ne!(first, made);
        check(&made, dir.path(), 4).expect("the folders are of the second format");
        let made = open(&config, |_| false).expect("formatted");
        for shard in 0..made.shards {
            let shard = Identity::shard_folder(dir.path(), ShardId(shard));
            assert!(SHARD_PARTS.iter().all(|part| shard.join(part).is_dir()), "{}", shard.display());
        }
    }
}
