//! What sessions need of what lies below them, and what they want of who owns them.

use std::ops::Range;

use corduroy_shards::routing::slot_of;
use corduroy_shards::{Kind, PartitionId, Reply, StageStamps, StorageId, Ticket};

use super::guesses::Report;
use crate::config::redis::Refused;
use crate::store::Outcome;
#[cfg(doc)]
use crate::store::PREFETCH_KEYS;

/// What a session needs of what lies below it: the shards, and what the node knows. Implemented by `src/node/backend.rs`, and
/// by a fake in the tests.
///
/// All calls are cheap and never wait; a request's one outcome comes back through the session.
pub trait Backend {
    /// The partition of a hash slot (0 to 16383) of the default keyspace.
    fn partition_of_slot(&self, slot: u16) -> PartitionId;

    /// All partitions of the default keyspace, in slot order. One, unless the node was formatted with more.
    fn partitions(&self) -> &[PartitionId];

    /// Hands a request on. `op` is an encoded [`crate::store::Op`]. Its reply comes with the same ticket. `may_redirect`: where
    /// another node leads the partition, the client is to be sent there.
    fn submit(&self, ticket: Ticket, partition: PartitionId, kind: Kind, may_redirect: bool, op: &[u8]);

    /// The short way for GET: if the partition is on this core, leads, and has the answer in memory, calls `with`
    /// with the value (`None`: no such key) and returns true. Otherwise does nothing and returns false; then `submit`.
    /// `read`: its kind, and the encoded GET. Only to be used when the connection `conn` has nothing under way.
    fn get_now(
        &self,
        partition: PartitionId,
        conn: u64,
        read: (Kind, &[u8]),
        with: &mut dyn FnMut(Option<&[u8]>),
    ) -> bool;

    /// Has the CPU fetch the rows of keys that [`Backend::get_now`] is about to be asked for: so many together do not wait for
    /// memory one after the other. At most [`PREFETCH_KEYS`].
    fn prefetch(&self, keys: &[&[u8]]);

    /// The wall clock, ms since 1970, as of this turn.
    fn now_ms(&self) -> u64;

    /// The wall clock, µs since 1970, as of now.
    fn now_us(&self) -> u64;

    /// A monotonic clock in ns, for latency figures. Read at the time of the call, a few times a batch of requests.
    fn mono_ns(&self) -> u64;

    /// The reply to INFO with these words.
    fn info(&self, words: &[&[u8]]) -> String;

    /// The fields of MEMORY STATS, in their order.
    fn memory_stats(&self) -> Vec<(&'static str, Figure)>;

    /// All settings that CONFIG GET shows for patterns, as (name, value).
    fn settings(&self) -> Vec<(&'static str, String)>;

    /// The setting of this name, whatever its case, hidden or not.
    fn setting(&self, name: &str) -> Option<String>;

    /// Changes settings at run time: all, or none.
    ///
    /// # Errors
    /// Which one is at fault, and why.
    fn config_set(&self, changes: &[(String, Vec<u8>)]) -> Result<(), Refused>;

    /// The password that AUTH wants, if one is configured.
    fn requires_password(&self) -> Option<String>;

    /// The cluster that the node is part of; `None`: it is alone.
    fn topology(&self) -> Option<&dyn Topology> {
        None
    }
}

/// A node, as clients reach it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientNode {
    /// Its id.
    pub id: u64,
    /// The host that clients connect to, as a number.
    pub host: String,
    /// And the port.
    pub port: u16,
}

/// What sessions need to know of the cluster.
pub trait Topology {
    /// This node's id.
    fn id(&self) -> u64;

    /// All nodes, by their ids.
    fn nodes(&self) -> Vec<ClientNode>;

    /// The node that has this storage.
    fn node_of(&self, storage: StorageId) -> Option<ClientNode>;

    /// The hash slots of each partition, and the node that leads it as far as this one knows.
    fn slots(&self) -> Vec<(Range<u16>, Option<u64>)>;

    /// How many other nodes have, at least, what was acknowledged, in whichever partition.
    fn copies(&self) -> usize;

    /// The first hash slot of a partition.
    fn first_slot(&self, partition: PartitionId) -> u16;
}

/// A figure as a client is sent it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Figure {
    /// An integer.
    Whole(i64),
    /// A number with a fraction.
    Ratio(f64),
}

/// How a request was carried out, beside what came of it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Timing {
    /// How long that took, ns: its share of the turns that did it.
    pub ran_ns: u64,
    /// When it passed its stages, on the clock of [`Backend::mono_ns`]; `None` if it was not logged, or if that is not
    /// known.
    pub stages: Option<StageStamps>,
}

/// What a session wants of its owner, beside having its output sent: see
/// [`Session::take_wishes`](super::Session::take_wishes).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Look soon whether this connection is to be closed: CLIENT KILL has hit it.
    Look {
        /// Its number.
        conn: u64,
    },
    /// Log that somebody does not know the password.
    ReportGuesses(Report),
    /// Begin to drain and end the process, as SIGTERM does.
    ShutDown,
}

/// A reply on its way to a session.
pub type SessionReply = Reply<Outcome>;

/// The partition that a key is in.
#[must_use]
pub fn partition_of(key: &[u8], backend: &dyn Backend) -> PartitionId {
    match backend.partitions() {
        [only] => *only,
        _ => backend.partition_of_slot(slot_of(key)),
    }
}
