//! What the node may take of the machine: memory for the state and for clients, and descriptors for files and connections.
//!
//! Invariant: what the log and the state need to go on is set aside first; clients get what is left.

use corduroy_shards::net::{Lane, PeerOptions};
use corduroy_shards::runtime::cpuset::CgroupLimits;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Config;
use crate::config::value::Bytes;

/// Memory that a node takes whatever it holds: code, heaps, buffers of the log.
const FIXED_MEMORY_BYTES: u64 = 96 << 20;
/// What clients get at least and at most where nothing is configured.
const CLIENTS_MIN_BYTES: u64 = 64 << 20;
const CLIENTS_MAX_BYTES: u64 = 4 << 30;

/// Descriptors of a process beside those of its cores and shards.
const BASE_DESCRIPTORS: usize = 32;
/// Of a core: what it sleeps on, its executor's rings, its listeners.
const CORE_DESCRIPTORS: usize = 16;
/// Of a shard: its log's ring, folders and open segments, and the files that a flush and a merge write.
const SHARD_DESCRIPTORS: usize = 64;
/// Connections of one shard with its like on another node, or of a core that does not know yet where that is: one a lane, but for
/// requests one of each node's.
const LANES: usize = Lane::ALL.len() + 1;
/// Tables of the state that a core may hold open, at most and at least.
const OPEN_TABLES_MAX: usize = 1024;
const OPEN_TABLES_MIN: usize = 16;

/// The state's memory: as configured, else half of what there is beside what every node takes.
pub fn state_memory(config: &Config, limits: CgroupLimits) -> Bytes {
    if config.memory_bytes.0 > 0 {
        return config.memory_bytes;
    }
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram as u64 * u64::from(machine.mem_unit);
    Bytes(half_beside_fixed(limits.memory_bytes.map_or(machine, |limit| limit.min(machine))))
}

fn half_beside_fixed(all: u64) -> u64 {
    (all.saturating_sub(FIXED_MEMORY_BYTES) / 2).max(all / 8)
}

/// What all clients together may make the node hold: as configured, else half as much as the state may.
pub fn clients_memory(config: &Config, state: Bytes) -> usize {
    let bytes = match config.clients_bytes.0 {
        0 => (state.0 / 2).clamp(CLIENTS_MIN_BYTES, CLIENTS_MAX_BYTES),
        configured => configured,
    };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Who gets how many descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptors {
    /// How many the process may have.
    pub limit: usize,
    /// Set aside for log, state, cores and peers, tables included.
    pub reserved: usize,
    /// Connections with peers that each core may have, those included that have proved nothing yet.
    pub peers_a_core: usize,
    /// Tables of the state that each core may hold open.
    pub tables_a_core: usize,
    /// Connections that there may be at most.
    pub clients_max: usize,
}

/// The process may not open as many files as every node needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "this process may have {limit} files open, and log, state and cores need {needed}, one client included: raise the limit \
     (ulimit -n; LimitNOFILE= of a unit), or use fewer cores (--cores)"
)]
pub struct TooFewDescriptors {
    /// How many the process may have.
    pub limit: usize,
    /// How many it needs at least.
    pub needed: usize,
}

impl Descriptors {
    /// Raises the process's limit as far as it may, and deals to so many cores and shards, and what goes on with so many other
    /// nodes.
    pub fn of_this_process(cores: usize, shards: u32, peers: usize) -> Self {
        let mut limit = getrlimit(Resource::Nofile);
        if limit.current < limit.maximum || limit.maximum.is_none() {
            limit.current = limit.maximum.or(Some(1 << 20));
            if let Err(error) = setrlimit(Resource::Nofile, limit) {
                tracing::warn!(%error, "the limit of open files stays as it is");
            }
        }
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
        Self::deal(usize::try_from(limit).unwrap_or(usize::MAX), cores, shards as usize, peers)
    }

    /// Deals so many descriptors.
    fn deal(limit: usize, cores: usize, shards: usize, peers: usize) -> Self {
        // Each side of a link may make a connection at once; and whoever does not know yet where a shard is asks any core.
        let links_a_core = peers * LANES * (2 * shards.div_ceil(cores.max(1)) + 1);
        let strangers = if peers > 0 { PeerOptions::default().strangers } else { 0 };
        let peers_a_core = links_a_core + strangers;
        let fixed = BASE_DESCRIPTORS + cores * (CORE_DESCRIPTORS + peers_a_core) + shards * SHARD_DESCRIPTORS;
        let tables = limit.saturating_sub(fixed) / 4 / cores.max(1);
        let tables_a_core = tables.clamp(OPEN_TABLES_MIN, OPEN_TABLES_MAX);
        let reserved = fixed + tables_a_core * cores;
        let clients_max = limit.saturating_sub(reserved).max(1);
        Self { limit, reserved, peers_a_core, tables_a_core, clients_max }
    }

    /// Whether there are enough for log, state, cores and one client, known before any is opened.
    ///
    /// # Errors
    /// How many there have to be.
    pub fn check(&self) -> Result<(), TooFewDescriptors> {
        let needed = self.reserved + 1;
        if self.limit >= needed { Ok(()) } else { Err(TooFewDescriptors { limit: self.limit, needed }) }
    }

    /// Lowers the number of connections to what there are descriptors for, and logs it.
    pub fn fit(&self, config: &mut Config) {
        if config.max_clients > self.clients_max {
            tracing::warn!(
                "max_clients is lowered from {} to {}: this process may have {} files open, and {} of them are set aside for \
                 the log and the state; for so many clients raise the limit of open files (ulimit -n) to {}",
                config.max_clients,
                self.clients_max,
                self.limit,
                self.reserved,
                config.max_clients.saturating_add(self.reserved)
            );
            config.max_clients = self.clients_max;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_and_state_come_first() {
        let plenty = Descriptors::deal(1 << 20, 2, 8, 0);
        assert_eq!((plenty.tables_a_core, plenty.clients_max > 1_000_000), (OPEN_TABLES_MAX, true));
        for (limit, cores, shards) in [(1024, 2, 1), (1024, 8, 8), (256, 1, 1), (4096, 4, 8)] {
            let dealt = Descriptors::deal(limit, cores, shards, 0);
            assert_eq!(dealt.reserved + dealt.clients_max, limit, "{dealt:?}");
            assert!(dealt.tables_a_core >= OPEN_TABLES_MIN);
        }
    }

    #[test]
    fn fewer_than_every_node_needs_are_refused() {
        for (limit, cores, shards) in [(20, 1, 1), (160, 2, 1), (1024, 64, 1), (0, 1, 1)] {
            let dealt = Descriptors::deal(limit, cores, shards, 0);
            let refused = dealt.check().expect_err("too few");
            assert_eq!((refused.limit, refused.needed > limit), (limit, true), "{dealt:?}");
            assert_eq!(Descriptors::deal(refused.needed, cores, shards, 0).check(), Ok(()), "{refused}");
            assert_eq!(Descriptors::deal(refused.needed, cores, shards, 0).clients_max, 1);
        }
    }

    #[test]
    fn peers_keep_their_descriptors_whatever_clients_take() {
        let (limit, cores, shards) = (8192, 4, 8);
        let alone = Descriptors::deal(limit, cores, shards, 0);
        let with_peers = Descriptors::deal(limit, cores, shards, 2);
        // Two other nodes, four lanes, of which that for requests has two connections, two shards a core of which each side may dial,
        // and one of which nothing is known.
        assert_eq!((alone.peers_a_core, with_peers.peers_a_core), (0, 2 * 5 * 5 + 64));
        let fixed = BASE_DESCRIPTORS + cores * CORE_DESCRIPTORS + shards * SHARD_DESCRIPTORS;
        let of_peers = cores * with_peers.peers_a_core;
        assert!(with_peers.reserved >= fixed + cores * with_peers.tables_a_core + of_peers);
        assert_eq!(with_peers.reserved + with_peers.clients_max, limit);
        assert!(with_peers.clients_max < alone.clients_max);
    }

    #[test]
    fn max_clients_is_lowered_to_what_there_is() {
        let dealt = Descriptors::deal(1024, 2, 1, 0);
        let mut config = Config::default();
        dealt.fit(&mut config);
        assert_eq!(config.max_clients, dealt.clients_max);
        config.max_clients = 7;
        dealt.fit(&mut config);
        assert_eq!(config.max_clients, 7);
    }

    #[test]
    fn a_small_container_leaves_room_for_what_every_node_takes() {
        let state = half_beside_fixed(256 << 20);
        let clients = clients_memory(&Config::default(), Bytes(state)) as u64;
        assert!(state + clients + FIXED_MEMORY_BYTES <= 256 << 20, "{state} and {clients}");
        assert_eq!(half_beside_fixed(64 << 20), 8 << 20);
    }
}
