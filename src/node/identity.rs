//! Who this node is, and how its data folder is laid out: written once, when the folder is formatted.
//!
//! Two checksummed copies with a generation. One bad copy is repaired from the other; two bad ones refuse the start.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use corduroy_shards::ShardId;

use crate::config::Config;

/// The version of the data folder's layout.
pub const FORMAT_VERSION: u32 = 1;

/// The copies' names.
const COPIES: [&str; 2] = ["identity.0", "identity.1"];
/// What the names of the shards' folders begin with.
const SHARD: &str = "shard-";
/// The folders in each.
pub const SHARD_PARTS: [&str; 2] = ["wal", "state"];

/// What a data folder knows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Grows with each rewriting; the higher of two good copies counts.
    pub generation: u64,
    /// All nodes of a cluster share it.
    pub cluster: u128,
    /// This node.
    pub node: u64,
    /// This disk root.
    pub storage: u64,
    /// Shards of the folder.
    pub shards: u32,
    /// Partitions of the default keyspace.
    pub partitions: u32,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The system refused.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither copy can be trusted.
    #[error(
        "both copies of the identity in {folder} are unusable ({first}; {second}); restore {} or {} from a backup, or run \
         `corduroy format --recover --data-dir {folder} --shards N --partitions N` with the numbers that the folder was \
         formatted with", COPIES[0], COPIES[1]
    )]
    BothBad {
        /// The data folder.
        folder: PathBuf,
        /// What is wrong with one.
        first: String,
        /// And with the other.
        second: String,
    },
    /// Written by a newer version.
    #[error(
        "{folder} has data format {found}, this binary knows up to {FORMAT_VERSION}; run the newer version"
    )]
    TooNew {
        /// The data folder.
        folder: PathBuf,
        /// Its format.
        found: u32,
    },
    /// There is one already.
    #[error("{0} is formatted already; remove it first if its data is to be destroyed")]
    Formatted(PathBuf),
    /// It holds something else.
    #[error("{folder} holds `{found}` and no identity: it is not a data folder; name an empty or new one")]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
        /// Something in it.
        found: String,
    },
    /// The configuration asks for another layout.
    #[error(
        "{folder} was formatted with {key} = {found} and the configuration says {wanted}; leave it out, or format a new folder"
    )]
    Differs {
        /// The data folder.
        folder: PathBuf,
        /// The setting.
        key: &'static str,
        /// As formatted.
        found: u32,
        /// As configured.
        wanted: u32,
    },
}

impl Identity {
    /// A new one.
    fn new(config: &Config) -> io::Result<Self> {
        let mut random = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let (cluster, rest) = random.split_at(16);
        let (node, storage) = rest.split_at(8);
        Ok(Self {
            generation: 1,
            cluster: u128::from_le_bytes(cluster.try_into().expect("16 bytes")),
            node: u64::from_le_bytes(node.try_into().expect("8 bytes")),
            storage: u64::from_le_bytes(storage.try_into().expect("8 bytes")),
            shards: config.shards,
            partitions: config.partitions,
        })
    }

    /// The bytes of a copy: lines, the last of which is the checksum of those before.
    fn encode(&self) -> String {
        let text = format!(
            "corduroy identity\nformat = {FORMAT_VERSION}\ngeneration = {}\ncluster = {:032x}\nnode = {:016x}\nstorage = \
             {:016x}\nshards = {}\npartitions = {}\n",
            self.generation, self.cluster, self.node, self.storage, self.shards, self.partitions
        );
        format!("{text}crc32 = {:08x}\n", crc32fast::hash(text.as_bytes()))
    }

    /// Reads a copy. The outer error: of a newer format; the inner one: damaged.
    fn decode(text: &str) -> Result<Result<Self, String>, u32> {
        let Some((body, crc)) = text.trim_end_matches('\n').rsplit_once("\ncrc32 = ") else {
            return Ok(Err("no checksum".into()));
        };
        let body = format!("{body}\n");
        if u32::from_str_radix(crc, 16) != Ok(crc32fast::hash(body.as_bytes())) {
            return Ok(Err("the checksum does not match".into()));
        }
        let field = |name: &str| {
            body.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
                .ok_or_else(|| format!("`{name}` is missing"))
        };
        match field("format").map(str::parse::<u32>) {
            Ok(Ok(FORMAT_VERSION)) => {}
            Ok(Ok(newer)) => return Err(newer),
            _ => return Ok(Err("`format` is missing".into())),
        }
        let bad = |_| "a number cannot be read".to_owned();
        Ok((|| {
            Ok(Self {
                generation: field("generation")?.parse().map_err(bad)?,
                cluster: u128::from_str_radix(field("cluster")?, 16).map_err(bad)?,
                node: u64::from_str_radix(field("node")?, 16).map_err(bad)?,
                storage: u64::from_str_radix(field("storage")?, 16).map_err(bad)?,
                shards: field("shards")?.parse().map_err(bad)?,
                partitions: field("partitions")?.parse().map_err(bad)?,
            })
        })())
    }

    /// Writes both copies, one after the other, each durable before the next begins.
    fn write(&self, folder: &Path) -> Result<(), IdentityError> {
        COPIES.iter().try_for_each(|name| self.write_copy(folder, name))
    }

    fn write_copy(&self, folder: &Path, name: &str) -> Result<(), IdentityError> {
        let path = folder.join(name);
        let new = folder.join(format!("{name}.new"));
        let write = || {
            let mut file = File::create(&new)?;
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
                Ok(bytes) => Self::decode(&String::from_utf8_lossy(&bytes))
                    .map_err(|found| IdentityError::TooNew { folder: folder.into(), found })?
                    .map_err(|why| format!("{name}: {why}")),
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
            (Ok(first), Ok(second)) if first.generation > second.generation => (first, COPIES[1]),
            (Ok(_), Ok(second)) => (second, COPIES[0]),
            (Ok(first), Err(_)) => (first, COPIES[1]),
            (Err(_), Ok(second)) => (second, COPIES[0]),
            (Err(first), Err(second)) => {
                return Err(IdentityError::BothBad { folder: folder.into(), first, second });
            }
        };
        tracing::warn!(copy = repair, "a copy of the identity was bad or old, and is written anew");
        good.write_copy(folder, repair)?;
        Ok(Some(good))
    }

    /// The folder of a shard.
    #[must_use]
    pub fn shard_folder(data_dir: &Path, shard: ShardId) -> PathBuf {
        data_dir.join(format!("{SHARD}{:04}", shard.0))
    }

    /// Makes the folders of all shards, where they are missing. Before the identity is written: a shard's folder that is
    /// missing beside an identity was lost.
    fn make_shard_folders(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let shards = (0..self.shards).map(|shard| Self::shard_folder(data_dir, ShardId(shard)));
        shards
            .flat_map(|shard| SHARD_PARTS.map(|part| shard.join(part)))
            .try_for_each(|path| make_folder(&path))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cluster {:032x}, node {:016x}, storage {:016x}, {} shards, {} partitions, data format {FORMAT_VERSION}",
            self.cluster, self.node, self.storage, self.shards, self.partitions
        )
    }
}

/// Whether a folder holds data of shards, not just folders for it.
fn has_shards(folder: &Path) -> Result<bool, IdentityError> {
    for shard in entries(folder)?.iter().filter(|name| name.starts_with(SHARD)) {
        let shard = folder.join(shard);
        for name in entries(&shard)? {
            let part = shard.join(&name);
            if !SHARD_PARTS.contains(&name.as_str()) || !part.is_dir() || !entries(&part)?.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The names in a folder.
fn entries(folder: &Path) -> Result<Vec<String>, IdentityError> {
    let failed = |source| IdentityError::Io { what: "listing", path: folder.into(), source };
    fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Reads the identity of `config.data_dir`, or formats the folder if it is empty. The folder must exist and be locked.
///
/// # Errors
/// [`IdentityError`].
pub fn open(config: &Config, said: impl Fn(&str) -> bool) -> Result<Identity, IdentityError> {
    let folder = &config.data_dir;
    let Some(identity) = Identity::read(folder)? else { return create(config) };
    for (key, found, wanted) in
        [("shards", identity.shards, config.shards), ("partitions", identity.partitions, config.partitions)]
    {
        if said(key) && found != wanted {
            return Err(IdentityError::Differs { folder: folder.clone(), key, found, wanted });
        }
    }
    Ok(identity)
}

/// Formats `config.data_dir`, which is made if it is not there. `recover`: writes a lost identity anew and keeps the data.
///
/// # Errors
/// [`IdentityError::Formatted`] if there is a good identity, and others.
pub fn format(config: &Config, recover: bool) -> Result<Identity, IdentityError> {
    let folder = &config.data_dir;
    make_folder(folder)?;
    match Identity::read(folder) {
        Ok(Some(_)) => Err(IdentityError::Formatted(folder.clone())),
        Err(IdentityError::BothBad { .. }) if recover => {
            let identity = Identity::new(config).map_err(|source| IdentityError::Io {
                what: "reading",
                path: "/dev/urandom".into(),
                source,
            })?;
            identity.make_shard_folders(folder)?;
            identity.write(folder)?;
            Ok(identity)
        }
        Ok(None) => create(config),
        Err(error) => Err(error),
    }
}

/// Formats a folder that holds nothing.
fn create(config: &Config) -> Result<Identity, IdentityError> {
    let folder = &config.data_dir;
    // Folders of shards are empty here: a format was cut short.
    let ours = |name: &str| matches!(name, "LOCK" | "lost+found") || name.starts_with(SHARD);
    let foreign = |name: &String| !ours(name) && !name.ends_with(".new");
    if let Some(found) = entries(folder)?.into_iter().find(foreign) {
        return Err(IdentityError::NotEmpty { folder: folder.clone(), found });
    }
    let identity = Identity::new(config).map_err(|source| IdentityError::Io {
        what: "reading",
        path: "/dev/urandom".into(),
        source,
    })?;
    identity.make_shard_folders(folder)?;
    identity.write(folder)?;
    Ok(identity)
}

/// Makes a folder, and those above it that are missing, durably.
fn make_folder(path: &Path) -> Result<(), IdentityError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    };
    make_folder(parent)?;
    let made = fs::create_dir(path)
        .and_then(|()| File::open(path)?.sync_all())
        .and_then(|()| File::open(parent)?.sync_all());
    made.map_err(|source| IdentityError::Io { what: "making", path: path.into(), source })
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
        assert!(matches!(format(&config, false), Err(IdentityError::Formatted(_))));
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
        open(&config, |_| false).expect("formatted");
        for name in COPIES {
            fs::write(dir.path().join(name), b"rubbish").expect("write");
        }
        let error = open(&config, |_| false).expect_err("both bad").to_string();
        assert!(error.contains("corduroy format --recover"), "{error}");
        assert!(matches!(format(&config, false), Err(IdentityError::BothBad { .. })));
        let anew = format(&config, true).expect("recovered");
        assert_eq!(open(&config, |_| true).expect("good again"), anew);
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
    fn a_format_that_was_cut_short_begins_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(dir.path().join("shard-0000/wal")).expect("folder");
        let config = config(dir.path());
        let made = open(&config, |_| false).expect("formatted");
        for shard in 0..made.shards {
            let shard = Identity::shard_folder(dir.path(), ShardId(shard));
            assert!(SHARD_PARTS.iter().all(|part| shard.join(part).is_dir()), "{}", shard.display());
        }
    }
}
