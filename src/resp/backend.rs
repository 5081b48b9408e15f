//! What sessions need from the node that they run on.

use std::borrow::Cow;

use corduroy_shards::{Kind, PartitionId, Reply, StageStamps, Ticket};

use super::guesses::Report;
use crate::config::redis::Refused;
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
    /// `op` is an encoded GET. Only to be used when the connection `conn` has nothing under way.
    fn get_now(
        &self,
        partition: PartitionId,
        conn: u64,
        op: &[u8],
        with: &mut dyn FnMut(Option<&[u8]>),
    ) -> bool;

    /// The wall clock, ms since 1970, as of this turn.
    fn now_ms(&self) -> u64;

    /// The wall clock, µs since 1970, as of now.
    fn now_us(&self) -> u64;

    /// A monotonic clock in ns, for latency figures. Read at the time of the call, a few times a batch of requests.
    fn mono_ns(&self) -> u64;

    /// What the node adds to sections of INFO: (field, value) lines of `server`, `memory`, `persistence`, `shards`,
    /// `raft`, `cpu`, `replication`, `keyspace` ..., no field that the sessions have themselves. `None` for a section that
    /// it does not know.
    fn info(&self, section: &str) -> Option<Vec<(Cow<'static, str>, String)>>;

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

    /// Makes the core of a connection look at [`Session::should_close`] soon: CLIENT KILL has hit it.
    fn wake_connection(&self, conn: u64);

    /// Begins to drain and end the process, as SIGTERM does.
    ///
    /// # Errors
    /// Why not: the text after `ERR `.
    fn shutdown(&self) -> Result<(), String>;

    /// How long it took to carry out the request whose reply is being handed to its session, ns: its share of the turns that
    /// did.
    fn ran_ns(&self) -> u64 {
        0
    }

    /// Somebody does not know the password.
    fn report_guesses(&self, report: &Report);

    /// When the request passed its stages whose reply is being handed to its session, on the clock of
    /// [`Backend::mono_ns`]; `None` if it was not logged, or if that is not known. Asked for only when the request was slow.
    fn stage_stamps(&self) -> Option<StageStamps> {
        None
    }
}

/// A reply on its way to a session.
pub type SessionReply = Reply<Outcome>;
