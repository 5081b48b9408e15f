//! A core's beginning: opens its shards, tells how it went, and drives them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use corduroy_shards::raft::replica::Replication as RaftOn;
use corduroy_shards::runtime::Endpoint;
use corduroy_shards::{Limits, ShardOptions};
use corduroy_shards::{PartitionId, Shard, ShardId};
use corduroy_wal::device::{DiskDevice, Engine, UringOptions};
use corduroy_wal::{Binding, OWNER_BYTES, Options as WalOptions, Recovered, Wal, WalError};

use super::core::{Core, NodeShard, sync_mode};
use super::identity::{Identity, IdentityError, Owner, binding_of, unbind};
use super::listen::Listening;
use super::message::Message;
use super::shared::Shared;
use super::{EXIT_IO, StartError, driver, log, system};
use crate::config::{Config, Replication};
use crate::store::{HashSeed, LowerError, LsmLower, LsmShared, Options as StoreOptions, Store};

/// Log that all shards together may hold before they hand their state over, in bytes, as far as whole segments allow:
/// overwrites of few keys make much log and little state. A start applies 200 to 300 MiB of small writes in a second.
const LOG_SOFT_BYTES: u64 = 256 << 20;

/// Bytes of outcomes that the reads of a turn bring or move, and its entries: little, so that turns are short whatever is
/// asked for.
const OUTCOME_BYTES: usize = 8 << 20;
/// Requests that may wait in a shard, bytes, where clients may hold less than that: two of the largest.
const WAITING_MIN_BYTES: usize = 64 << 20;

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
    pub fn tell(&self) {
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
            if let Some(place) = found.torn_tail {
                tracing::info!(
                    shard = opened.shard.0,
                    "an unfinished write at {place} was cut; it was never acknowledged"
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
    tell: Sender<Result<Booted, StartError>>,
) {
    let opened = open_shards(&shared, mesh.core());
    let (shards, booted) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // The receiver waits for every core, so it is there.
            let _ = tell.send(Err(error));
            return;
        }
    };
    let core = match Core::new(shared, mesh, shards, listening) {
        Ok(core) => core,
        Err(source) => {
            let _ = tell.send(Err(system("making what a core sleeps on")(source)));
            return;
        }
    };
    let _ = tell.send(Ok(booted));
    drop(tell);
    if let Err(error) = driver::run(&core) {
        tracing::error!(%error, "a core cannot wait for its events");
        log::flush();
        std::process::exit(i32::from(EXIT_IO));
    }
}

type Shards = Vec<(ShardId, NodeShard)>;

/// Opens this core's shards. Blocking: recovery.
fn open_shards(shared: &Shared, core: usize) -> Result<(Shards, Booted), StartError> {
    let config = shared.config();
    let lower = LsmShared::new(block_cache_bytes(shared), shared.descriptors.tables_a_core);
    let mut shards = Vec::new();
    let mut opened = Vec::new();
    for shard in shared.layout.shards_of_core(core) {
        let (open, facts) = open_shard(shared, &config, &lower, shard)?;
        shards.push((shard, open));
        opened.push(facts);
    }
    Ok((shards, Booted { shards: opened }))
}

/// An eighth of the memory is for blocks of the lower level, the rest for rows: enough for the filters and indexes of about
/// ten times as many rows as fit in memory, so that a row is read by one look at the disk.
const CACHE_SHARE: u64 = 8;

fn block_cache_bytes(shared: &Shared) -> u64 {
    shared.memory.0 / CACHE_SHARE / shared.layout.cores() as u64
}

fn open_shard(
    shared: &Shared,
    config: &Config,
    lower: &LsmShared,
    shard: ShardId,
) -> Result<(NodeShard, Opened), StartError> {
    let begun = Instant::now();
    let folder = Identity::shard_folder(&config.data_dir, shard);
    let (wal_folder, state_folder) = (folder.join("wal"), folder.join("state"));
    for folder in [&wal_folder, &state_folder] {
        let folder = folder.clone();
        std::fs::read_dir(&folder).map_err(|source| StartError::Missing { shard, folder, source })?;
    }
    let seed = seed(shared, shard);
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
    let lower = LsmLower::open(&state_folder, lower, &binding).map_err(state)?;
    let logs: Vec<PartitionId> = wal.logs().iter().map(|log| PartitionId(log.0)).collect();
    let partitions: Vec<PartitionId> = shared.layout.partitions_of(shard).collect();
    let store = Store::open(lower, store_options(shared), &partitions).map_err(state)?;
    belongs_here(shared, shard, wal_folder, &logs)
        .and_then(|()| belongs_here(shared, shard, state_folder, &store.partitions()))
        // What was just taken over must not stay bound to the wrong shard.
        .inspect_err(|_| unbind(&shared.identity, &config.data_dir, shard))?;
    let shard_options = shard_options(config, shared.layout.used_shards(), waiting_bytes(shared));
    let open = Shard::open(shard_options, wal, store, &partitions, seed)
        .map_err(|source| StartError::Shard { shard, source })?;
    Ok((open, Opened { shard, device: description, found, took: begun.elapsed() }))
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
fn state_error(identity: &Identity, shard: ShardId, source: LowerError) -> StartError {
    match source {
        LowerError::Foreign { folder, found } => foreign(identity, shard, folder, &found),
        source => StartError::State { shard, source },
    }
}

/// Refuses a shard in which a partition is kept that lives in another one: were it passed over, its keys would be missing.
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
                Some(home) => format!("lives in shard {}", home.0),
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

/// Differs at every opening and for every shard.
fn seed(shared: &Shared, shard: ShardId) -> u64 {
    let now = u64::from(std::process::id()) ^ shared.started_ms.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    now ^ shared.identity.node.rotate_left(shard.0 % 64)
}

fn wal_options(config: &Config, seed: u64, binding: Binding) -> WalOptions {
    WalOptions {
        segment_bytes: u32::try_from(config.wal_segment_bytes.0)
            .expect("the configuration allows 1 GiB at most"),
        spare_segments: config.wal_spare_segments,
        max_in_flight: config.wal_max_in_flight,
        max_segments: config.wal_max_segments,
        seed,
        binding,
        ..WalOptions::default()
    }
}

fn store_options(shared: &Shared) -> StoreOptions {
    let rows = shared.memory.0 - shared.memory.0 / CACHE_SHARE;
    let share = rows / u64::from(shared.layout.used_shards().max(1));
    let cluster = shared.identity.cluster;
    let hash_seed = HashSeed([cluster as u64, (cluster >> 64) as u64]);
    StoreOptions {
        // One that a thread does, and one that it finds next.
        load_jobs: 2 * shared.config().pool_threads,
        ..StoreOptions::with_memory(usize::try_from(share).unwrap_or(usize::MAX), hash_seed)
    }
}

/// Live segments of a shard's log, counted in full ones, above which it asks for a hand-over: a start after a crash
/// applies what they hold.
fn log_soft_segments(config: &Config, used_shards: u32) -> u64 {
    let share = LOG_SOFT_BYTES / u64::from(used_shards.max(1));
    (share / config.wal_segment_bytes.0).clamp(2, ShardOptions::default().log_soft_segments)
}

/// Bytes of requests that may wait in a shard, and of heavy ones that may wait before it.
pub fn waiting_bytes(shared: &Shared) -> usize {
    Limits::default().shard_bytes.min(shared.ledger.limit().max(WAITING_MIN_BYTES))
}

fn shard_options(config: &Config, used_shards: u32, waiting_bytes: usize) -> ShardOptions {
    let replication = match config.replication {
        Replication::Raft => RaftOn::On,
        Replication::Off => RaftOn::Off,
    };
    // A record has to fit into half a segment.
    let half = usize::try_from(config.wal_segment_bytes.0 / 2).unwrap_or(usize::MAX);
    let defaults = Limits::default();
    let limits = Limits {
        op_bytes: defaults.op_bytes.min(half.saturating_sub(64 << 10)),
        entry_bytes: defaults.entry_bytes.min(half / 4),
        frame_bytes: defaults.frame_bytes.min(half / 2),
        outcome_bytes: OUTCOME_BYTES,
        shard_bytes: waiting_bytes,
        unapplied_bytes: defaults.unapplied_bytes.min(waiting_bytes),
        ..defaults
    };
    let log_soft_segments = log_soft_segments(config, used_shards);
    ShardOptions { replication, limits, log_soft_segments, ..ShardOptions::default() }
}
