//! What all cores of a node see: the configuration, the phase, and the figures that each publishes.
//!
//! Written rarely or by one core alone; no request waits for anything here.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use corduroy_shards::ids::NodeId;
use corduroy_shards::routing::Layout;
use corduroy_shards::runtime::{Doorbell, Pool, heap};
use corduroy_shards::{PartitionId, ShardId};

use super::budget::{Descriptors, clients_memory};
use super::clock::{boot_ns, wall_ms};
use super::contacts::Contacts;
use super::error::StartError;
use super::facts::{CoreFacts, Known};
use super::identity::{Identity, IdentityError, SharedLimits, argument_bytes};
use super::ledger::Ledger;
use super::log;
use super::notify;
use crate::config::Config;
use crate::config::knobs::percentiles;
use crate::config::peers::Peers;
use crate::config::redis::{Live, Refused};
use crate::config::value::Bytes;
use crate::resp::Hub;
use crate::resp::stats::Rate;

/// Whether the node starts, serves or stops.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Shards are being opened.
    Starting,
    /// Connections are accepted.
    Serving,
    /// No new connection or request; what is under way ends.
    Draining,
    /// A start that failed: everything is let go.
    Stopping,
}

/// See the file's head.
pub struct Shared {
    /// Who this is.
    pub identity: Identity,
    /// Which core has which shard, and which shard which partition.
    pub layout: Layout,
    /// All partitions, in the order of their slots.
    pub partitions: Vec<PartitionId>,
    /// Memory of the state, all shards together.
    pub memory: Bytes,
    /// What the node holds for its clients.
    pub ledger: Ledger,
    /// Who gets how many descriptors.
    pub descriptors: Descriptors,
    /// What the sessions share.
    pub hub: Arc<Hub>,
    /// The cores' doorbells.
    pub bells: Vec<Arc<Doorbell>>,
    /// The cores' figures.
    pub facts: Vec<CoreFacts>,
    /// The origin of the monotonic clock: the boot clock when the node started.
    pub started_ns: u64,
    /// The wall clock then, ms since 1970.
    pub started_ms: u64,
    /// Connections refused for want of room.
    pub refused: AtomicU64,
    /// Connections now, all cores.
    pub connections: AtomicUsize,
    /// Why the kernel allows no io_uring, if it does not: then cores run and the log is written without.
    pub uring_refused: Option<String>,
    /// What all replicas of the cluster take.
    pub limits: SharedLimits,
    /// This start is written down in the data folder.
    pub start_counted: AtomicBool,
    /// Cores that still have connections or requests while draining.
    pub busy: AtomicUsize,
    /// Between looks at INFO: bytes received and sent, passes, and their time in ns.
    pub rates: Mutex<[Rate; 4]>,
    /// Of each partition what is known of its group, as of the last time that figures were published. Of a node that is alone,
    /// nothing.
    pub known: Vec<Known>,
    /// How the nodes of members are reached that founded nothing.
    pub contacts: Mutex<Contacts>,
    /// The identity as it is in the data folder, once this start is counted.
    counted: Mutex<Option<Identity>>,
    peers: OnceLock<Peers>,
    config_file: OnceLock<String>,
    startup_bytes: OnceLock<u64>,
    live: RwLock<Live>,
    version: AtomicU64,
    phase: AtomicU8,
    drain_since: Mutex<Option<Instant>>,
    pool: OnceLock<Mutex<Option<Arc<Pool>>>>,
    said_ready: AtomicBool,
    failure: Mutex<Option<StartError>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("identity", &self.identity)
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

/// The lock's content, whoever panicked: a panic ends the process anyway.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The state of a node that starts.
    pub fn new(
        config: Config,
        identity: Identity,
        layout: Layout,
        memory: Bytes,
        descriptors: Descriptors,
        bells: Vec<Arc<Doorbell>>,
        uring_refused: Option<String>,
    ) -> Arc<Self> {
        let limits = identity.limits_with(&config);
        let cores = layout.cores();
        let hub = crate::resp::hub(cores);
        let led = if identity.founders.is_empty() { 0 } else { layout.partitions().len() };
        let known = (0..led).map(|_| Known::default()).collect();
        let shared = Self {
            identity,
            partitions: layout.partitions().collect(),
            layout,
            memory,
            ledger: Ledger::default(),
            descriptors,
            hub,
            bells,
            facts: (0..cores).map(|_| CoreFacts::default()).collect(),
            started_ns: boot_ns(),
            started_ms: wall_ms(),
            refused: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            uring_refused,
            start_counted: AtomicBool::new(false),
            busy: AtomicUsize::new(cores),
            rates: Mutex::default(),
            known,
            contacts: Mutex::default(),
            counted: Mutex::new(None),
            peers: OnceLock::new(),
            config_file: OnceLock::new(),
            startup_bytes: OnceLock::new(),
            live: RwLock::new(Live::new(config, memory.0).limited_to(argument_bytes(limits))),
            limits,
            version: AtomicU64::new(1),
            phase: AtomicU8::new(Phase::Starting as u8),
            drain_since: Mutex::new(None),
            pool: OnceLock::new(),
            said_ready: AtomicBool::new(false),
            failure: Mutex::new(None),
        };
        shared.apply(&shared.live());
        Arc::new(shared)
    }

    fn live(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the configuration.
    #[must_use]
    pub fn config(&self) -> Config {
        self.live().config.clone()
    }

    /// Grows with each change of the configuration.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Settings for CONFIG GET, but for the hidden ones.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        self.live().all()
    }

    /// The setting of this name, hidden or not.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<String> {
        self.live().get(name)
    }

    /// Changes settings for all cores, and has each look at them.
    ///
    /// # Errors
    /// As [`Live::set_all`].
    pub fn set(&self, changes: &[(String, Vec<u8>)]) -> Result<(), Refused> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = live.clone();
        changed.set_all(changes)?;
        let most = self.descriptors.clients_max;
        if changed.config.max_clients > most.max(live.config.max_clients) {
            let named = |(name, _): &&(String, Vec<u8>)| name.to_ascii_lowercase().starts_with("max");
            let name = changes.iter().find(named).map_or("maxclients", |(name, _)| name);
            let why = format!(
                "The operating system is not able to handle the specified number of clients, try with {most}"
            );
            return Err(Refused::Unfit(name.to_owned(), why));
        }
        *live = changed;
        self.apply(&live);
        self.version.fetch_add(1, Ordering::Release);
        drop(live);
        self.ring_all();
        Ok(())
    }

    /// Hands settings on to where they are looked for.
    fn apply(&self, live: &Live) {
        let config = &live.config;
        self.hub.set_max_bulk_bytes(usize::try_from(live.argument_bytes()).unwrap_or(usize::MAX));
        let clients = clients_memory(config, self.memory);
        self.ledger.set_limit(clients);
        self.hub.shares.set_total(clients);
        self.hub.slowlog.set_slower_than_us(config.slowlog_slower_than_us);
        self.hub.slowlog.set_max_len(config.slowlog_max_len as u64);
        let knob = |name: &str| live.get(name).unwrap_or_default();
        let threshold_ms = knob("latency-monitor-threshold").parse();
        self.hub.latency.set_threshold_ms(threshold_ms.expect("settings are checked to be numbers"));
        self.hub.set_latency_tracking(knob("latency-tracking") == "yes");
        self.hub.set_percentiles(percentiles(&knob("latency-tracking-info-percentiles")).unwrap_or_default());
        self.hub.redirect.set(config.redirect);
        log::set_level(config.log_level);
    }

    /// Whether the node starts, serves or stops.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            2 => Phase::Draining,
            _ => Phase::Stopping,
        }
    }

    /// Moves on and wakes every core. Never goes back.
    pub fn set_phase(&self, phase: Phase) {
        if phase == Phase::Draining {
            lock(&self.drain_since).get_or_insert_with(Instant::now);
        }
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.ring_all();
    }

    /// Notes the identity as it is in the data folder now that this start is counted.
    pub fn set_counted(&self, identity: Identity) {
        *lock(&self.counted) = Some(identity);
        self.start_counted.store(true, Ordering::Relaxed);
    }

    /// Keeps durably which incarnation of a founder was first heard of; returns the one that is kept.
    ///
    /// # Errors
    /// [`IdentityError::Io`]: nothing is kept.
    pub fn meet(&self, founder: NodeId, incarnation: u64) -> Result<u64, IdentityError> {
        let mut counted = lock(&self.counted);
        let identity = counted.as_mut().expect("peers are heard after the start is counted");
        identity.meet(&self.config().data_dir, founder, incarnation)
    }

    /// Notes the cluster that the node is part of, before its cores start.
    pub fn set_peers(&self, peers: Peers) {
        let _ = self.peers.set(peers);
    }

    /// The cluster that the node is part of; `None`: it is alone.
    #[must_use]
    pub fn peers(&self) -> Option<&Peers> {
        self.peers.get()
    }

    /// Notes the file that settings came from.
    pub fn set_config_file(&self, path: String) {
        let _ = self.config_file.set(path);
    }

    /// The file that settings came from; empty if there was none.
    #[must_use]
    pub fn config_file(&self) -> &str {
        self.config_file.get().map_or("", String::as_str)
    }

    /// Bytes that were allocated when the node began to serve.
    #[must_use]
    pub fn startup_bytes(&self) -> u64 {
        self.startup_bytes.get().copied().unwrap_or(0)
    }

    /// The wall clock in seconds.
    #[must_use]
    pub fn wall_s(&self) -> u64 {
        wall_ms() / 1000
    }

    /// Lets the cores accept connections, unless the node was asked to stop meanwhile.
    pub fn begin_serving(&self) {
        let _ = self.startup_bytes.set(heap::in_use().in_use);
        self.set_phase(Phase::Serving);
    }

    /// A core cannot serve: the node drains, and reports why at its end. The first reason counts.
    pub fn fail(&self, why: StartError) {
        lock(&self.failure).get_or_insert(why);
        self.set_phase(Phase::Draining);
    }

    /// Why the node could not serve, if a core said so.
    #[must_use]
    pub fn take_failure(&self) -> Option<StartError> {
        lock(&self.failure).take()
    }

    /// What the chance of a shard's replicas comes of: it differs at every start, and for every shard.
    #[must_use]
    pub fn seed(&self, shard: ShardId) -> u64 {
        let now = u64::from(std::process::id()) ^ self.started_ms.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        now ^ self.identity.node.rotate_left(shard.0 % 64)
    }

    /// The monotonic clock, in ns since the node started.
    #[must_use]
    pub fn mono_ns(&self) -> u64 {
        boot_ns().saturating_sub(self.started_ns)
    }

    /// Since when the node drains.
    #[must_use]
    pub fn drain_since(&self) -> Option<Instant> {
        *lock(&self.drain_since)
    }

    /// Wakes every core, whether or not it is known to sleep.
    pub fn ring_all(&self) {
        self.bells.iter().for_each(|bell| bell.ring_always());
    }

    /// A core listens; the first to do so says it.
    pub fn say_ready(&self, address: std::net::SocketAddr) {
        if !self.said_ready.swap(true, Ordering::Relaxed) {
            tracing::info!("ready for connections on {address}");
            notify::say("READY=1");
        }
    }

    /// Hands the pool to the cores. Once.
    pub fn set_pool(&self, pool: Pool) {
        let _ = self.pool.set(Mutex::new(Some(Arc::new(pool))));
    }

    /// The pool, once there is one.
    #[must_use]
    pub fn pool(&self) -> Option<Arc<Pool>> {
        self.pool.get().and_then(|pool| lock(pool).clone())
    }

    /// Lets the pool end, after its last job.
    pub fn drop_pool(&self) {
        if let Some(pool) = self.pool.get() {
            drop(lock(pool).take());
        }
    }
}

#[cfg(test)]
impl Shared {
    /// Of a node of so many cores, with one shard that has one partition.
    pub fn of_test(cores: usize, config: Config) -> Arc<Self> {
        let limits = super::identity::limits_of(&config);
        Self::of_limited(cores, config, limits)
    }

    /// The same in a cluster of these limits.
    pub fn of_limited(cores: usize, config: Config, limits: SharedLimits) -> Arc<Self> {
        let identity = Identity {
            format: 3,
            generation: 1,
            cluster: 1,
            node: 1,
            storage: 1,
            storage_name: "disk".into(),
            incarnation: 1,
            starts: 0,
            pair: 1,
            shards: 1,
            partitions: 1,
            limits: Some(limits),
            founders: Vec::new(),
            met: std::collections::BTreeMap::new(),
            former: None,
        };
        let layout = identity.layout(cores);
        let bells = corduroy_shards::runtime::Mesh::doorbells(cores).expect("eventfds");
        let dealt =
            Descriptors { limit: 1024, reserved: 24, peers_a_core: 0, tables_a_core: 16, clients_max: 1000 };
        Self::new(config, identity, layout, Bytes(64 << 20), dealt, bells, None)
    }
}
