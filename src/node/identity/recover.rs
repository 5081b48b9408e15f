//! Makes a lost identity of what the shards' folders say.
//!
//! Cards and manifests name everything that an identity holds. Folders of the first format name nothing: there the numbers
//! follow from the logs. Invariant: numbers that contradict what is there are refused, since keys would be looked for where
//! they are not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use corduroy_shards::raft::membership::{MemberId, Membership};
use corduroy_shards::routing::Layout;
use corduroy_shards::{ShardId, StorageId};
use corduroy_wal::LogState;
use corduroy_wal::device::mapped::MappedFolder;
use corduroy_wal::inspect::inspect;

use super::folders::shards_there;
use super::owner::{Card, Found};
use super::text::{UNLIMITED, Unreadable};
use super::{FOUNDED, Identity, IdentityError, Owner, SHARD_PARTS, entries, limits};
use crate::config::Config;
use crate::store::LsmLevel;

/// An owner that a folder names.
struct Witness {
    folder: PathBuf,
    owner: Owner,
    /// The start at which the folder was last used, where it says so.
    starts: Option<u64>,
}

/// The identity of a folder of a cluster, whose logs hold what it has promised to others: it is never founded again, and keeps
/// the incarnation by which they know it, and the limits that it was founded with. Whom it has met is heard anew.
pub(super) fn of_cluster(config: &Config) -> Result<Identity, IdentityError> {
    let folder = &config.data_dir;
    let contradiction = |why: String| IdentityError::Contradiction { folder: folder.clone(), why };
    let witnesses = witnesses(folder)?;
    let (Some(founded), Some((first, others))) = (founded(folder)?, witnesses.split_first()) else {
        let why = "no folder of a shard says whose it is and how its cluster was founded; restore the data folder from a backup, \
                   or add another node instead";
        return Err(contradiction(why.to_owned()));
    };
    let found = of_witnesses(folder, first, others)?;
    if Owner::of(&found, 0) != Owner::of(&founded, 0) {
        return Err(contradiction(format!("its shards are of {found}, and were founded as {founded}")));
    }
    let starts = match founded.former {
        // Nothing is known of its starts.
        Some(former) if found.starts < former.starts => former.starts + 1,
        Some(_) => found.starts,
        None => found.starts.max(1),
    };
    Ok(Identity { starts, ..founded })
}

/// The identity that a node's cluster was founded with, which all folders of its shards have that are whole; `None`: none has one.
fn founded(data_dir: &Path) -> Result<Option<Identity>, IdentityError> {
    let mut found: Option<(PathBuf, Identity)> = None;
    for shard in shards_there(data_dir)? {
        let shard_folder = Identity::shard_folder(data_dir, ShardId(shard));
        for path in SHARD_PARTS.map(|part| shard_folder.join(part).join(FOUNDED)) {
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(IdentityError::Io { what: "reading", path, source }),
            };
            let identity = match Identity::decode(&bytes) {
                Ok(identity) => identity,
                Err(Unreadable::Damaged(_)) => continue,
                Err(Unreadable::Newer(found)) => {
                    return Err(IdentityError::TooNew { folder: data_dir.into(), found });
                }
            };
            match &found {
                Some((other, before)) if *before != identity => {
                    let why = format!(
                        "{} and {} say that it was founded in two ways; move aside what does not belong here",
                        other.display(),
                        path.display()
                    );
                    return Err(IdentityError::Contradiction { folder: data_dir.into(), why });
                }
                Some(_) => {}
                None => found = Some((path, identity)),
            }
        }
    }
    Ok(found.map(|(_, identity)| identity))
}

/// Writes the identity of `config.data_dir` anew, both copies of which are bad.
pub(super) fn recover(config: &Config, said: impl Fn(&str) -> bool) -> Result<Identity, IdentityError> {
    let folder = &config.data_dir;
    if let Some(Identity { cluster, node, .. }) = founded(folder)? {
        return Err(IdentityError::OfCluster { folder: folder.clone(), cluster, node });
    }
    let witnesses = witnesses(folder)?;
    let identity = match witnesses.split_first() {
        Some((first, others)) => {
            let found = of_witnesses(folder, first, others)?;
            // Nobody else recorded limits. Those of a setting that nobody named need not be the node's: then the next start
            // records those of its settings.
            let limits = match said("wal.segment_bytes") {
                true => limits::adopted(config)?,
                false => None,
            };
            let found = Identity { limits, ..found };
            Identity { format: found.newest_format(), ..found }
        }
        None => of_logs(config, &said)?,
    };
    identity.check_layout(config, said)?;
    identity.write(folder)?;
    Ok(identity)
}

impl Identity {
    /// Refuses settings that name other numbers than the folder was formatted with. `said`: whether somebody named this
    /// setting; one that nobody did yields to the folder.
    pub(super) fn check_layout(
        &self,
        config: &Config,
        said: impl Fn(&str) -> bool,
    ) -> Result<(), IdentityError> {
        for (key, found, wanted) in
            [("shards", self.shards, config.shards), ("partitions", self.partitions, config.partitions)]
        {
            if said(key) && found != wanted {
                return Err(IdentityError::Differs { folder: config.data_dir.clone(), key, found, wanted });
            }
        }
        Ok(())
    }
}

fn witnesses(data_dir: &Path) -> Result<Vec<Witness>, IdentityError> {
    let mut witnesses = Vec::new();
    for shard in shards_there(data_dir)? {
        let shard_folder = Identity::shard_folder(data_dir, ShardId(shard));
        for folder in SHARD_PARTS.map(|part| shard_folder.join(part)) {
            let card = Card::read(&folder).map_err(|source| IdentityError::Io {
                what: "reading the owner of",
                path: folder.clone(),
                source,
            })?;
            let (bytes, starts) = match card {
                Found::Card(card) => (Some(card.owner), Some(card.starts)),
                // Its manifest knows too. One that is damaged says nothing here; opening it names the damage.
                Found::Damaged | Found::Absent => (LsmLevel::owner(&folder).unwrap_or_default(), None),
            };
            if let Some(owner) = bytes.and_then(|bytes| Owner::decode(&bytes).ok()) {
                witnesses.push(Witness { folder, owner, starts });
            }
        }
    }
    Ok(witnesses)
}

/// The identity that all witnesses agree on.
fn of_witnesses(data_dir: &Path, first: &Witness, others: &[Witness]) -> Result<Identity, IdentityError> {
    let Owner { cluster, node, storage, shard, shards, partitions, pair } = first.owner;
    let mut identity = Identity {
        format: UNLIMITED,
        generation: 1,
        cluster,
        node,
        storage,
        storage_name: Identity::name_of_storage(storage),
        incarnation: 2,
        starts: 0,
        pair: pair.wrapping_sub(u64::from(shard)),
        shards,
        partitions,
        limits: None,
        founders: Vec::new(),
        met: BTreeMap::new(),
        former: None,
    };
    let Some(layout) = Layout::checked(partitions, shards, 1) else {
        let why = format!(
            "{} says that there are {shards} shards and {partitions} partitions; no node has so many",
            first.folder.display()
        );
        return Err(IdentityError::Contradiction { folder: data_dir.into(), why });
    };
    let used = layout.used_shards();
    let mut starts = BTreeSet::new();
    for witness in std::iter::once(first).chain(others) {
        let index =
            (0..shards).find(|n| witness.folder.starts_with(Identity::shard_folder(data_dir, ShardId(*n))));
        let Some(index) = index else {
            let why = format!(
                "{} is there, and {} says that there are {shards} shards; move aside what does not belong here",
                witness.folder.display(),
                first.folder.display()
            );
            return Err(IdentityError::Contradiction { folder: data_dir.into(), why });
        };
        if let Some(why) = Owner::of(&identity, index).mistaken(&witness.owner.encode()) {
            let why = format!(
                "going by {}, {} {why}; move aside what does not belong here",
                first.folder.display(),
                witness.folder.display()
            );
            return Err(IdentityError::Contradiction { folder: data_dir.into(), why });
        }
        starts.extend(witness.starts.filter(|_| index < used));
    }
    // A crash may have left some of the cards one start ahead. Those that are further behind are refused at the start.
    let last = starts.last().copied().unwrap_or(0);
    identity.starts = if last > 0 && starts.contains(&(last - 1)) { last - 1 } else { last };
    Ok(identity)
}

/// The identity of a folder in which no card says whose it is: with new ids, but for the storage that its replicas name, and
/// numbers that fit the logs.
fn of_logs(config: &Config, said: &impl Fn(&str) -> bool) -> Result<Identity, IdentityError> {
    let data_dir = &config.data_dir;
    let contradiction = |why: String| IdentityError::Contradiction { folder: data_dir.clone(), why };
    let there = shards_there(data_dir)?;
    let count = u32::try_from(there.len()).unwrap_or(u32::MAX);
    if !there.iter().copied().eq(0..count) || count == 0 {
        let names: Vec<_> = there.iter().map(|shard| Identity::shard_name(*shard)).collect();
        let why = format!(
            "there are {}, with gaps: restore the folders that are missing (an unused shard's is `wal` and `state`, empty)",
            if names.is_empty() { "no folders of shards".to_owned() } else { names.join(", ") }
        );
        return Err(contradiction(why));
    }
    let (mut logs, mut storages) = (BTreeSet::new(), BTreeSet::new());
    for shard in there {
        for (log, storage) in logs_of(&Identity::shard_folder(data_dir, ShardId(shard)).join("wal"))? {
            logs.insert((log, shard));
            storages.extend(storage);
        }
    }
    if storages.len() > 1 {
        let why = "its logs are of several storages; put the folders of the others back where they were";
        return Err(contradiction(why.into()));
    }
    let found = u32::try_from(logs.len()).unwrap_or(u32::MAX);
    let partitions = if found == 0 && said("partitions") { config.partitions } else { found };
    if partitions == 0 {
        let why = "the logs hold no partition, so that their number is not known; name it by --partitions";
        return Err(contradiction(why.into()));
    }
    // Of the first format, so that the next start may take the folders over.
    let new = Identity::new(count, partitions, None)?;
    let storage = storages.first().map_or(new.storage, |named| named.0);
    let storage_name = Identity::name_of_storage(storage);
    let identity = Identity { storage, storage_name, ..new }.unbound();
    let layout = identity.layout(1);
    for (partition, shard) in logs {
        if layout.shard_of(corduroy_shards::PartitionId(partition)) != Some(ShardId(shard)) {
            let why = format!(
                "the log in {} holds partition {partition}, which is not in that shard with {count} shards and {found} \
                 partitions; were folders of shards exchanged, or do some lack their log?",
                Identity::shard_name(shard)
            );
            return Err(contradiction(why));
        }
    }
    Ok(identity)
}

/// The partitions in a shard's log, each with the storage that its configuration names; none in a folder without one.
fn logs_of(folder: &Path) -> Result<Vec<(u64, Option<StorageId>)>, IdentityError> {
    let has_log = entries(folder)?.iter().any(|name| name.starts_with("slot-"));
    if !has_log {
        return Ok(Vec::new());
    }
    let failed = |error| IdentityError::Contradiction {
        folder: folder.to_owned(),
        why: format!("its log cannot be read: {error}"),
    };
    let mapped = MappedFolder::open(folder).map_err(failed)?;
    let found = inspect(&mapped, &mut |_| {}).map_err(failed)?;
    let storage_of = |state: &LogState| {
        let membership = state.conf.as_deref().and_then(|conf| Membership::decode(conf).ok())?;
        membership.storage(MemberId::FIRST).filter(|storage| *storage != StorageId::UNKNOWN)
    };
    Ok(found.logs.iter().map(|(log, state)| (log.0, storage_of(state))).collect())
}
