//! The figures that each core publishes of itself and of its shards.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use corduroy_shards::{Counters, ReplicaStatus, Role, ShardId};
use corduroy_wal::WalStats;
use corduroy_wal::device::SyncMode;

use crate::store::StoreStats;

/// Replicas of a shard that are listed one by one for INFO.
pub const MAX_GROUPS: usize = 64;

/// A shard's figures for INFO.
#[derive(Clone, Debug)]
pub struct ShardFacts {
    /// Which.
    pub id: ShardId,
    /// Of the heart.
    pub counters: Counters,
    /// Of the log.
    pub wal: WalStats,
    /// Of the state.
    pub store: StoreStats,
    /// Of the replicas.
    pub groups: Groups,
    /// By how much stamps are ahead of the wall clock, in ms.
    pub ahead_ms: u64,
    /// Whether the log has room.
    pub has_space: bool,
    /// How its writes are made durable now.
    pub sync: SyncMode,
}

/// One core's published figures.
#[derive(Debug, Default)]
pub struct CoreFacts {
    /// Connections now.
    pub connections: AtomicUsize,
    /// Bytes received since the start.
    pub input_bytes: AtomicU64,
    /// Bytes sent since the start.
    pub output_bytes: AtomicU64,
    /// Passes of the driver since the start.
    pub passes: AtomicU64,
    /// Time that its passes took since the start, ns.
    pub pass_ns: AtomicU64,
    /// Reads of sockets that brought something, since the start.
    pub reads: AtomicU64,
    /// Writes to sockets that took something, since the start.
    pub writes: AtomicU64,
    /// Messages sent to other cores since the start.
    pub hops: AtomicU64,
    /// Its shards, as of the driver's last pass.
    pub shards: Mutex<Vec<ShardFacts>>,
}

/// Adds to a counter that only its core writes: no locked instruction is needed.
pub fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// The replicas of a shard in sum, and the first of them one by one.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// How many there are.
    pub replicas: usize,
    /// Those that lead.
    pub leaders: usize,
    /// Those that have led and served in this life and are not fenced.
    pub ready: usize,
    /// Those that are fenced or late.
    pub failed: usize,
    /// The sum of the highest entries applied.
    pub applied: u64,
    /// The first of them.
    pub first: Vec<ReplicaStatus>,
}

impl Groups {
    /// Sums up, keeping the first `kept` as they are.
    #[must_use]
    pub fn gather(replicas: impl Iterator<Item = ReplicaStatus>, kept: usize) -> Self {
        let mut groups = Self::default();
        for replica in replicas {
            groups.replicas += 1;
            groups.leaders += usize::from(replica.role == Role::Leader);
            groups.ready += usize::from(replica.is_ready);
            groups.failed += usize::from(replica.error.is_some());
            groups.applied += replica.applied.get();
            if groups.first.len() < kept {
                groups.first.push(replica);
            }
        }
        groups
    }
}
