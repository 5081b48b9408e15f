//! The state of a shard's partitions: what an entry means, and where it goes.
//!
//! Read in this order: `op` (the operations, their outcomes and their bytes); `state` ([`Store`], the state machine)
//! and `restore` (what a start reads); `exec` (the commands); `memory` (rows, tables, tombstones, and the accounts of
//! what they take); `lookups` and `jobs` (questions to the disk level, and the work that may block); `flush` (what a
//! store does by itself: flushes, eviction, expiry, verification, the steps of images); `images` (images of partitions, as
//! jobs make and take them over); `disk` (that level); `check` (the invariants); `text`
//! (numbers and patterns). Nothing here reads a clock, and only jobs block.

mod check;
mod disk;
mod exec;
mod flush;
mod hash;
mod images;
mod jobs;
mod lookups;
mod memory;
pub mod op;
mod restore;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod text;

pub use disk::{
    Binding, Content, DiskError, DiskLevel, DiskRow, DiskStats, DumpedRow, Finding, Inspection, LsmLevel,
    LsmShared, MemLevel, OWNER_BYTES, Room, TableFacts, dump, inspect, is_state,
};
pub use exec::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
pub use hash::HashSeed;
pub use jobs::{Job, JobDone};
pub use lookups::at_hand::Looked;
pub use lookups::pages::CURSOR_BITS;
pub use op::codec::ListIter;
pub use op::{Condition, ErrorKind, Expiry, List, MAX_WALKS, Op, OpError, Outcome, SetReply, SetWhen};
pub use op::{Names, NamesIter, PREFETCH_KEYS, SharedBytes};
pub use restore::seed as hash_seed;
pub use state::{Lookup, Options, Store};
pub use stats::{KeyspaceStats, StoreStats};
pub use text::float::LongDouble;
pub use text::glob::{Effort, glob};
pub use text::number::{is_infinity, is_long_double, parse_integer};
