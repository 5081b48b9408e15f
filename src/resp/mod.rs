//! The Redis protocol: bytes to operations, outcomes to bytes.
//!
//! Sans-IO: a session is fed bytes and outcomes, and fills an output buffer.

use std::borrow::Cow;

pub mod clients;
pub mod commands;
pub mod errors;
#[cfg(test)]
mod fake;
mod inline;
pub mod parse;
pub mod reply;
pub mod session;
pub mod shares;
pub mod slowlog;
pub mod stats;

pub use clients::Hub;
pub use session::{Opening, Session};

use corduroy_shards::{Kind, PartitionId, Reply, StageStamps, Ticket};

use crate::store::Outcome;

/// What a session needs from the node it runs on. Implemented by `node.rs`, and by a fake in the tests.
///
/// All calls are cheap and never wait; a request's one outcome comes back through the session.
pub trait Backend {
    /// The partition of a hash slot (0 to 16383) of the default keyspace.
    fn partition_of_slot(&self, slot: u16) -> PartitionId;

    /// All partitions of the default keyspace, in slot order. One, unless the node was formatted with more.
    fn partitions(&self) -> &[PartitionId];

    /// Hands a request on. `op` is an encoded [`crate::store::Op`]. Its reply comes with the same ticket.
    fn submit(&self, ticket: Ticket, partition: PartitionId, kind: Kind, op: &[u8]);

    /// The short way for GET: if the partition lives on this core, leads, and has the answer in memory, calls `with`
    /// with the value (`None`: no such key) and returns true. Otherwise does nothing and returns false; then `submit`.
    /// Only to be used when the connection has no write under way in that partition.
    fn get_now(&self, partition: PartitionId, key: &[u8], with: &mut dyn FnMut(Option<&[u8]>)) -> bool;

    /// The wall clock, ms since 1970, as of this turn.
    fn now_ms(&self) -> u64;

    /// A monotonic clock in ns, for latency figures. Read at the time of the call, a few times a batch of requests.
    fn mono_ns(&self) -> u64;

    /// Sections of INFO that the node fills: (field, value) lines of `server`, `memory`, `persistence`, `shards`,
    /// `raft`, `cpu`, `replication`, `keyspace` ... `None` for a section that it does not know.
    fn info(&self, section: &str) -> Option<Vec<(Cow<'static, str>, String)>>;

    /// Settings that match a glob pattern, as (name, value), for CONFIG GET.
    fn config_get(&self, pattern: &[u8]) -> Vec<(String, String)>;

    /// Changes settings at run time: all, or none.
    ///
    /// # Errors
    /// The name of one that is at fault, and the text after `-ERR CONFIG SET failed ...`: it is not hot, its value is bad,
    /// or does not fit another setting's.
    fn config_set(&self, changes: &[(String, String)]) -> Result<(), (String, String)>;

    /// The password that AUTH wants, if one is configured.
    fn requires_password(&self) -> Option<String>;

    /// Makes the core of a connection look at [`Session::should_close`] soon: CLIENT KILL has hit it.
    fn wake_connection(&self, conn: u64);

    /// Begins to drain and end the process, as SIGTERM does.
    ///
    /// # Errors
    /// Why not: the text after `ERR `.
    fn shutdown(&self) -> Result<(), String>;

    /// When the request passed its stages whose reply is being handed to its session, on the clock of
    /// [`Backend::mono_ns`]; `None` if it was not logged, or if that is not known. Asked for only when the request was slow.
    fn stage_stamps(&self) -> Option<StageStamps> {
        None
    }
}

/// A reply on its way to a session.
pub type SessionReply = Reply<Outcome>;
