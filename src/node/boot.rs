//! The start of a core: opens its shards, reports how it went, and drives them.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use corduroy_shards::ids::MemberId;
use corduroy_shards::runtime::{Endpoint, Listener};
use corduroy_shards::{Origin, PartitionId, Shard, ShardId, StorageId};
use corduroy_wal::device::{DiskDevice, Engine, UringOptions};
use corduroy_wal::{OWNER_BYTES, Recovered, Wal, WalError};

use super::core::Core;
use super::driver::Driver;
use super::error::{EXIT_IO, StartError, system};
use super::founding::{Founding, saved_members};
use super::front::Front;
use super::hosts::Hosts;
use super::hosts::host::NodeShard;
use super::identity::{Identity, IdentityError, Owner, binding_of, unbind};
use super::listen::Listening;
use super::log;
use super::message::Message;
use super::options::{block_cache_bytes, shard_options, store_options, sync_mode, wal_options};
use super::peers::Peers;
use super::shared::Shared;
use crate::config::Config;
use crate::store::{DiskError, LsmLevel, LsmShared, Store};

/// A core that has opened its shards.
#[derive(Debug)]
pub struct Booted {
    shards: Vec<Opened>,
}

#[derive(Debug)]
struct Opened {
    shard: ShardId,
    device: String,
    found: Recovered,
    took: Duration,
}

impl Booted {
    /// Logs what was found.
    pub fn log(&self) {
        for opened in &self.shards {
            let (found, took_ms) = (&opened.found, opened.took.as_millis() as u64);
            let segments = found.by_footer + found.scanned;
            tracing::info!(
                "shard {} opened in {took_ms} ms, after reading {segments} log file{} ({} from end to end); {}",
                opened.shard.0,
                if segments == 1 { "" } else { "s" },
                found.scanned,
                opened.device
            );
            if let Some(position) = found.torn_tail {
                tracing::info!(
                    shard = opened.shard.0,
                    "an unfinished write at {position} was cut; it was never acknowledged"
                );
            }
        }
    }
}

/// A core's main task.
pub fn run(
    shared: Arc<Shared>,
    mesh: Endpoint<Message>,
    listening: Vec<Listening>,
    peers: Option<Listener>,
    results: Sender<Result<Booted, StartError>>,
) {
    let opened = open_shards(&shared, mesh.core());
    let (shards, booted) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // The receiver waits for every core, so it is there.
            let _ = results.send(Err(error));
            return;
        }
    };
    let core = match Core::new(shared, mesh.core()) {
        Ok(core) => core,
        Err(source) => {
            let _ = results.send(Err(system("making what a core sleeps on")(source)));
            return;
        }
    };
    let hosts = Rc::new(Hosts::new(Rc::clone(&core), mesh, shards));
    let front = Front::new(Rc::clone(&core), Rc::clone(&hosts), listening);
    let peers = peers.zip(core.shared.peers());
    let peers = peers.map(|(listener, of)| Peers::new(Rc::clone(&core), Rc::clone(&hosts), of, listener));
    let peers = match peers.transpose() {
        Ok(peers) => peers,
        Err(source) => {
            let _ = results.send(Err(system("opening what numbers are drawn from")(source)));
            return;
        }
    };
    // The receiver waits for every core, so it is there.
    let report = move |founded: Result<(), StartError>| drop(results.send(founded.map(|()| booted)));
    let founding = Founding::new(report, hosts.core().mono_ns());
    if let Err(error) = Driver::new(core, hosts, front, peers, founding).run() {
        tracing::error!(%error, "a core cannot wait for its events");
        log::flush();
        std::process::exit(i32::from(EXIT_IO));
    }
}

type Shards = Vec<(ShardId, NodeShard)>;

/// Opens this core's shards. Blocking: recovery.
fn open_shards(shared: &Shared, core: usize) -> Result<(Shards, Booted), StartError> {
    let config = shared.config();
    let disk = LsmShared::new(block_cache_bytes(shared), shared.descriptors.tables_a_core);
    let mut shards = Vec::new();
    let mut opened = Vec::new();
    for shard in shared.layout.shards_of_core(core) {
        let (open, facts) = open_shard(shared, &config, &disk, shard)?;
        shards.push((shard, open));
        opened.push(facts);
    }
    Ok((shards, Booted { shards: opened }))
}

fn open_shard(
    shared: &Shared,
    config: &Config,
    disk: &LsmShared,
    shard: ShardId,
) -> Result<(NodeShard, Opened), StartError> {
    let begun = Instant::now();
    let folder = Identity::shard_folder(&config.data_dir, shard);
    let (wal_folder, state_folder) = (folder.join("wal"), folder.join("state"));
    for folder in [&wal_folder, &state_folder] {
        let folder = folder.clone();
        std::fs::read_dir(&folder).map_err(|source| StartError::Missing { shard, folder, source })?;
    }
    let seed = shared.seed(shard);
    let options = UringOptions { sync: sync_mode(config.wal_sync), ..UringOptions::default() };
    // Asked once for the whole node: what the kernel refuses while it runs is an error then, and no reason to fall back.
    let engine = if shared.uring_refused.is_some() { Engine::File } else { Engine::Auto };
    let device = DiskDevice::open(&wal_folder, engine, options)
        .map_err(|source| StartError::Device { shard, source })?;
    let description = device.describe();
    let binding = binding_of(&shared.identity, shard);
    let (wal, found) = Wal::open(device, wal_options(config, seed, binding))
        .map_err(|source| log_error(&shared.identity, shard, &wal_folder, source))?;
    let state = |source| state_error(&shared.identity, shard, source);
    let disk = LsmLevel::open(&state_folder, disk, &binding).map_err(state)?;
    let logs: Vec<PartitionId> = wal.logs().iter().map(|log| PartitionId(log.0)).collect();
    let partitions: Vec<PartitionId> = shared.layout.partitions_of(shard).collect();
    let store = Store::open(disk, store_options(shared), &partitions).map_err(state)?;
    belongs_here(shared, shard, wal_folder, &logs)
        .and_then(|()| belongs_here(shared, shard, state_folder, &store.partitions()))
        // What was just taken over must not stay bound to the wrong shard.
        .inspect_err(|_| unbind(&shared.identity, &config.data_dir, shard))?;
    let shard_options = shard_options(shared, config);
    let stood_on =
        |partition| saved_members(&wal, partition).and_then(|saved| saved.storage(MemberId::FIRST));
    let origins = origins(&shared.identity, &partitions, shard, (&logs, &stood_on))?;
    let open = Shard::open(shard_options, wal, store, &origins, seed)
        .map_err(|source| StartError::Shard { shard, source })?;
    Ok((open, Opened { shard, device: description, found, took: begun.elapsed() }))
}

/// Where the replicas of a shard come from; `stood_on`: the storage of their first member, as saved. Of a cluster, what was founded
/// is there, or it is lost: peers rely on it. What a node that was alone has lost it may have lost before it founded the cluster,
/// and goes on without: that replica is stopped. A node that joins has what it was added to so far. A replica that could not be
/// started when its node, alone so far, founded its cluster, is taken along later.
fn origins(
    identity: &Identity,
    partitions: &[PartitionId],
    shard: ShardId,
    (logs, stood_on): (&[PartitionId], &dyn Fn(PartitionId) -> Option<StorageId>),
) -> Result<Vec<(PartitionId, Origin)>, StartError> {
    if identity.founders.is_empty() {
        return Ok(Origin::all_alone(partitions, StorageId(identity.storage)));
    }
    if identity.joins() {
        let has_joined = partitions.iter().filter(|partition| logs.contains(partition));
        return Ok(has_joined.map(|partition| (*partition, Origin::Restart)).collect());
    }
    let origin = |partition: PartitionId| match (identity.is_founded(), identity.former) {
        (true, Some(former)) if stood_on(partition) == Some(StorageId(former.storage)) => {
            Origin::AloneOn(StorageId(former.storage))
        }
        (true, _) => Origin::Restart,
        (false, Some(former)) => Origin::AloneOn(StorageId(former.storage)),
        (false, None) => Origin::Found(identity.founding_members()),
    };
    match partitions.iter().find(|partition| !logs.contains(partition)) {
        Some(&partition) if identity.is_founded() && identity.former.is_none() => {
            Err(StartError::LostReplica { shard, partition })
        }
        Some(_) | None => Ok(partitions.iter().map(|partition| (*partition, origin(*partition))).collect()),
    }
}

/// The error of a log that cannot be opened; of one that is somebody else's, with whose it is.
fn log_error(identity: &Identity, shard: ShardId, folder: &Path, source: WalError) -> StartError {
    match source {
        WalError::Foreign { found, .. } => foreign(identity, shard, folder.to_owned(), &found),
        source => StartError::Wal { shard, source },
    }
}

fn foreign(identity: &Identity, shard: ShardId, folder: PathBuf, found: &[u8; OWNER_BYTES]) -> StartError {
    let why = Owner::of(identity, shard.0).mistaken(found);
    let why = why.unwrap_or_else(|| "belongs to somebody else; restore it from a backup".into());
    StartError::Identity(IdentityError::Foreign { folder, why })
}

/// The error of a state that cannot be opened; of one that is somebody else's, with whose it is.
fn state_error(identity: &Identity, shard: ShardId, source: DiskError) -> StartError {
    match source {
        DiskError::Foreign { folder, found } => foreign(identity, shard, folder, &found),
        source => StartError::State { shard, source },
    }
}

/// Refuses a shard that holds a partition of another one: were it passed over, its keys would be missing.
fn belongs_here(
    shared: &Shared,
    shard: ShardId,
    part: PathBuf,
    found: &[PartitionId],
) -> Result<(), StartError> {
    let stranger = found.iter().find(|&&partition| shared.layout.shard_of(partition) != Some(shard));
    match stranger {
        None => Ok(()),
        Some(partition) => {
            let home = match shared.layout.shard_of(*partition) {
                Some(home) => format!("belongs to shard {}", home.0),
                None => "does not exist".to_owned(),
            };
            let why = format!(
                "holds partition {partition}, which {home} in a node of {} shards and {} partitions: put the folder back \
                 that was here, or restore it from a backup",
                shared.identity.shards, shared.identity.partitions
            );
            Err(StartError::Identity(IdentityError::Foreign { folder: part, why }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Former;
    use super::*;

    const P: [PartitionId; 3] = [PartitionId(2), PartitionId(3), PartitionId(4)];

    /// The first start of a node that was alone takes all along, and each later one what could not be started before.
    #[test]
    fn what_a_lone_node_had_is_taken_along_once() {
        let former = Former { node: 77, storage: 78, starts: 4 };
        let alone = Shared::of_test(1, Config::default());
        let started = |starts| Identity {
            node: 5,
            storage: 5,
            starts,
            founders: vec![5],
            former: Some(former),
            ..alone.identity.clone()
        };
        let stood_on = |partition| Some(StorageId(if partition == P[1] { 78 } else { 5 }));
        let of =
            |identity: &Identity, logs: &[PartitionId]| origins(identity, &P, ShardId(0), (logs, &stood_on));
        let (before, kept) = (Origin::AloneOn(StorageId(78)), Origin::Restart);
        let first = of(&started(4), &P[..2]).expect("what has nothing in it is founded");
        assert_eq!(first, P.map(|partition| (partition, before.clone())));
        let later = of(&started(5), &P).expect("all are there");
        let expected = [kept.clone(), before, kept];
        assert_eq!(later.into_iter().map(|(_, origin)| origin).collect::<Vec<_>>(), expected);
        // It may have been lost while the node was alone: it is stopped, and the others are served.
        let without = of(&started(5), &P[..2]).expect("the others are there");
        assert_eq!(without.last(), Some(&(P[2], Origin::Restart)));
        let founded = Identity { former: None, ..started(5) };
        assert!(matches!(of(&founded, &P[..2]), Err(StartError::LostReplica { .. })));
    }
}
