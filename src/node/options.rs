//! What the configuration says, in the words of the log, the state and the shards.

use corduroy_shards::ids::NodeId;
use corduroy_shards::image::transfer::Process;
use corduroy_shards::raft::group::GroupOptions;
use corduroy_shards::raft::lease::Reads as GroupReads;
use corduroy_shards::raft::replica::Replication as RaftOn;
use corduroy_shards::{ImageOptions, Limits, ShardOptions, StorageId};
use corduroy_wal::device::SyncMode;
use corduroy_wal::{Binding, Options as WalOptions};

use super::identity::Identity;
use super::shared::Shared;
use crate::config::{Config, Reads, Replication, WalSync};
use crate::store::Options as StoreOptions;

/// Log that all shards together may hold before they hand their state over, in bytes, as far as whole segments allow:
/// overwrites of few keys make much log and little state. A start applies 200 to 300 MiB of small writes in a second.
const LOG_SOFT_BYTES: u64 = 256 << 20;

/// Bytes of outcomes that the reads of a turn bring or move, and its entries: little, so that turns are short whatever is
/// asked for.
const OUTCOME_BYTES: usize = 8 << 20;
/// Requests that may wait in a shard, bytes, where clients may hold less than that: two of the largest.
const WAITING_MIN_BYTES: usize = 64 << 20;
/// Ticks after which groups with nothing to do sleep: two seconds, twice an election timeout, so that what is asked now and then
/// finds them awake.
const SLEEP_TICKS: u16 = 20;

/// An eighth of the memory is for blocks of the disk level, the rest for rows. Seven eighths of it are for indexes and
/// filters of tables: enough for those of more than ten times as many rows as fit in memory, so that a row is read by one
/// look at the disk.
const CACHE_SHARE: u64 = 8;

/// The share of a core.
pub fn block_cache_bytes(shared: &Shared) -> u64 {
    shared.memory.0 / CACHE_SHARE / shared.layout.cores() as u64
}

/// How writes are made durable.
pub fn sync_mode(mode: WalSync) -> SyncMode {
    match mode {
        WalSync::Auto => SyncMode::Auto,
        WalSync::Dsync => SyncMode::Dsync,
        WalSync::Linked => SyncMode::Linked,
        WalSync::Inline => SyncMode::Inline,
    }
}

/// Of a log that belongs to this shard.
pub fn wal_options(config: &Config, seed: u64, binding: Binding) -> WalOptions {
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

/// Of a shard's state: its share of the memory.
pub fn store_options(shared: &Shared) -> StoreOptions {
    let rows = shared.memory.0 - shared.memory.0 / CACHE_SHARE;
    let share = rows / u64::from(shared.layout.used_shards().max(1));
    let hash_seed = shared.identity.hash_seed();
    StoreOptions {
        // One that a thread does, and one that it finds next.
        load_jobs: 2 * shared.config().pool_threads,
        max_value_bytes: usize::try_from(shared.limits.value_bytes).unwrap_or(usize::MAX),
        ..StoreOptions::with_memory(usize::try_from(share).unwrap_or(usize::MAX), hash_seed)
    }
}

/// Live segments of a shard's log, counted in full ones, above which it asks for a flush: a start after a crash
/// applies what they hold.
fn log_soft_segments(config: &Config, used_shards: u32) -> u64 {
    let share = LOG_SOFT_BYTES / u64::from(used_shards.max(1));
    (share / config.wal_segment_bytes.0).clamp(2, ShardOptions::default().log_soft_segments)
}

/// Bytes of requests that may wait in a shard, and of heavy ones that may wait before it.
pub fn waiting_bytes(shared: &Shared) -> usize {
    Limits::default().shard_bytes.min(shared.ledger.limit().max(WAITING_MIN_BYTES))
}

/// Of a shard, by what the log can take and what may wait.
pub fn shard_options(shared: &Shared, config: &Config) -> ShardOptions {
    let replication = match config.replication {
        Replication::Raft => RaftOn::On,
        Replication::Off => RaftOn::Off,
    };
    let reads = match config.reads {
        Reads::Quorum => GroupReads::Quorum,
        Reads::Lease => GroupReads::Lease,
    };
    // A record has to fit into half a segment.
    let half = usize::try_from(config.wal_segment_bytes.0 / 2).unwrap_or(usize::MAX);
    let waiting_bytes = waiting_bytes(shared);
    let defaults = Limits::default();
    // What this log would take beyond the cluster's limit, another replica's might not.
    let longest = usize::try_from(shared.limits.operation_bytes).unwrap_or(usize::MAX);
    let limits = Limits {
        op_bytes: defaults.op_bytes.min(half.saturating_sub(64 << 10)).min(longest),
        entry_bytes: defaults.entry_bytes.min(half / 4).min(longest),
        frame_bytes: defaults.frame_bytes.min(half / 2),
        outcome_bytes: OUTCOME_BYTES,
        shard_bytes: waiting_bytes,
        unapplied_bytes: defaults.unapplied_bytes.min(waiting_bytes),
        // Of the node, for all its logs.
        kept_bytes: defaults.kept_bytes / u64::from(shared.layout.used_shards().max(1)),
        ..defaults
    };
    let log_soft_segments = log_soft_segments(config, shared.layout.used_shards());
    let storage = StorageId(shared.identity.storage);
    // One that founded its cluster alone may be joined by others.
    let reaches_peers = !shared.identity.founders.is_empty();
    let stale_reads_ms = config.stale_reads_max_ms.0;
    let group = GroupOptions { reads, stale_reads_ms, sleep_ticks: SLEEP_TICKS, ..GroupOptions::default() };
    let process = process(&shared.identity);
    ShardOptions {
        replication,
        storage,
        reaches_peers,
        group,
        limits,
        log_soft_segments,
        images: ImageOptions { process, ..ImageOptions::default() },
        ..ShardOptions::default()
    }
}

/// What images are named by. This start is counted before anything is sent.
const fn process(identity: &Identity) -> Process {
    let Identity { node, incarnation, starts, .. } = *identity;
    Process { node: NodeId(node), incarnation, starts: starts + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::identity::SharedLimits;

    #[test]
    fn nothing_is_taken_beyond_the_limits_that_replicas_share() {
        let config = Config::default();
        let limits = SharedLimits { operation_bytes: 3 << 20, value_bytes: 2 << 20 };
        let shared = Shared::of_limited(1, config.clone(), limits);
        let taken = shard_options(&shared, &config).limits;
        assert_eq!((taken.op_bytes, taken.entry_bytes), (3 << 20, 3 << 20));
        assert_eq!(store_options(&shared).max_value_bytes, 2 << 20);
        assert_eq!(shared.setting("proto-max-bulk-len").as_deref(), Some("2097152"));
        assert_eq!(shared.hub.max_bulk_bytes(), 2 << 20);
        let more = shared.set(&[("proto-max-bulk-len".to_owned(), b"2097153".to_vec())]);
        assert!(more.is_err(), "it is not cut down in silence");
        shared.set(&[("max_bulk_bytes".to_owned(), b"1MiB".to_vec())]).expect("less is taken");
        assert_eq!(shared.hub.max_bulk_bytes(), 1 << 20);
    }
}
