//! The node's figures, typed: those that each core publishes of itself and of its shards, and what is gathered of them for
//! whoever renders them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use corduroy_shards::forward::ForwardCounters;
use corduroy_shards::net::PeerCounters;
use corduroy_shards::runtime::heap::HeapUse;
use corduroy_shards::{Counters, ReplicaStatus, ShardId};
use corduroy_wal::WalStats;
use corduroy_wal::device::SyncMode;

use crate::store::StoreStats;

/// Replicas of a shard that are listed one by one for INFO.
pub const MAX_GROUPS: usize = 64;

/// A shard's figures for INFO.
#[derive(Clone, Debug)]
pub struct ShardFacts {
    /// Its id.
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
    /// What its connections to peers did since the start, and how many there are; of a node that is alone, nothing.
    pub peers: Mutex<Option<(PeerCounters, usize)>>,
    /// What became of its clients' requests for partitions that other nodes lead.
    pub forwarded: Mutex<ForwardCounters>,
    /// Its shards, as of the driver's last pass.
    pub shards: Mutex<Vec<ShardFacts>>,
}

/// Adds to a counter that only its core writes: no locked instruction is needed.
pub fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// What a node knows of a partition's group, to be shown to clients.
#[derive(Debug, Default)]
pub struct Known {
    /// The node that leads it; 0: nobody that is known.
    pub leader: AtomicU64,
    /// How many other members have, at least, all that was acknowledged.
    pub copies: AtomicUsize,
}

/// The replicas of a shard in sum, and the first of them one by one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Groups {
    /// How many there are.
    pub replicas: usize,
    /// Those that lead.
    pub leaders: usize,
    /// Those that have led and served since the start and are not fenced.
    pub ready: usize,
    /// Those whose groups have several members, and sleep.
    pub asleep: usize,
    /// Those that are fenced or late.
    pub failed: usize,
    /// The sum of the highest entries applied.
    pub applied: u64,
    /// The first of them.
    pub first: Vec<ReplicaStatus>,
}

/// All shards of the node, by their numbers, as their cores published them last.
#[derive(Clone, Debug, Default)]
pub struct Shards(pub Vec<OnCore>);

/// A shard and the core that it is on.
#[derive(Clone, Debug)]
pub struct OnCore {
    /// The core's number.
    pub core: usize,
    /// The shard's figures.
    pub shard: ShardFacts,
}

impl Shards {
    /// The figures of each.
    pub fn iter(&self) -> impl Iterator<Item = &ShardFacts> {
        self.0.iter().map(|on_core| &on_core.shard)
    }

    /// A figure, all shards together.
    pub fn total(&self, of: impl Fn(&ShardFacts) -> u64) -> u64 {
        self.iter().map(of).sum()
    }

    /// Whether a log has no room: then writes to its shard are refused.
    pub fn is_log_full(&self) -> bool {
        self.iter().any(|shard| !shard.has_space)
    }

    /// Whether a state has no room: then writes to its shard are refused.
    pub fn is_state_full(&self) -> bool {
        self.iter().any(|shard| shard.store.is_full)
    }
}

/// Which node this is, and how it runs.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// The wall clock, µs since 1970.
    pub now_us: u64,
    /// The wall clock when it started, ms since 1970.
    pub started_ms: u64,
    /// How long it has run.
    pub uptime_s: u64,
    /// The process's number.
    pub process_id: u32,
    /// Its file.
    pub executable: String,
    /// The file that settings came from; empty if there was none.
    pub config_file: String,
    /// The system: name, release and architecture.
    pub system: String,
    /// Why the kernel allows no io_uring, if it does not.
    pub uring_refused: Option<String>,
    /// The port that clients connect to.
    pub port: u16,
    /// The setting `hz`, which is only remembered.
    pub hz: String,
    /// Its cores.
    pub cores: usize,
    /// The cluster's id.
    pub cluster: u128,
    /// The node's id.
    pub node: u64,
}

/// Connections, and what the node holds for them.
#[derive(Clone, Debug)]
pub struct ClientFacts {
    /// Clients now.
    pub connected: usize,
    /// Of these on each core.
    pub connected_by_core: Vec<usize>,
    /// How many there may be.
    pub connected_max: usize,
    /// Those that wait in WAIT.
    pub blocked: usize,
    /// The largest input and output of one, bytes, of late.
    pub recent_max_bytes: (usize, usize),
    /// What the node holds for all of them.
    pub held_bytes: usize,
    /// What it may hold.
    pub held_bytes_max: usize,
}

/// Memory of the process and of the state.
#[derive(Clone, Debug)]
pub struct MemoryFacts {
    /// What is allocated.
    pub heap: HeapUse,
    /// Of that, what was when the node began to serve.
    pub startup_bytes: u64,
    /// Of that, rows of the state.
    pub dataset_bytes: u64,
    /// Keys in the state.
    pub keys: u64,
    /// Input and output of clients.
    pub buffered_bytes: usize,
    /// What the process has resident.
    pub resident_bytes: u64,
    /// The most it had.
    pub resident_peak_bytes: u64,
    /// What the machine has.
    pub machine_bytes: u64,
    /// What the state may take.
    pub state_bytes_max: u64,
}

impl MemoryFacts {
    /// What is allocated beside the rows.
    pub const fn overhead_bytes(&self) -> u64 {
        self.heap.in_use - self.dataset_bytes
    }
}

/// What the cores have done since the start, all together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Bytes received.
    pub input_bytes: u64,
    /// Bytes sent.
    pub output_bytes: u64,
    /// Reads of sockets that brought something.
    pub reads: u64,
    /// Writes to sockets that took something.
    pub writes: u64,
    /// Messages from core to core.
    pub hops: u64,
    /// Sleeping cores that were woken for one.
    pub wakes: u64,
    /// Passes of the drivers.
    pub passes: u64,
    /// Time that these took, ns.
    pub pass_ns: u64,
    /// Connections refused for want of room.
    pub refused: u64,
    /// Connections closed because all together held too much.
    pub evicted: u64,
}

/// How much of it there was in a second of late: see [`Rate`](crate::resp::stats::Rate).
#[derive(Clone, Copy, Debug, Default)]
pub struct TrafficRates {
    /// Bytes received.
    pub input_bytes: u64,
    /// Bytes sent.
    pub output_bytes: u64,
    /// Passes of the drivers.
    pub passes: u64,
    /// Time that these took, ns.
    pub pass_ns: u64,
    /// Commands carried out.
    pub commands: u64,
}

/// User and system time in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTime {
    /// In the program.
    pub user_s: f64,
    /// In the kernel.
    pub system_s: f64,
}

/// Of the process, and of the core that was asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuFacts {
    /// All threads.
    pub process: CpuTime,
    /// This one.
    pub thread: CpuTime,
}
