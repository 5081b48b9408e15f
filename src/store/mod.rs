//! The state of a shard's partitions: what an entry means, and where it goes.
//!
//! Read in this order: `op` (the operations and their outcomes) and `codec` (their bytes); `state` ([`Store`], the
//! state machine) and `restore` (what a start reads); `exec`, `dispatch`, `write`, `read`, `scan`, `listing`, `names`, `lcs` (the commands); `partition`, `table`, `row`, `shared` (the
//! upper level, in memory), `absent` (what WATCH knows of absent keys); `ledger` and `upkeep` (flushes, eviction, expiry), `space` (a disk that is full), `verify` (what is read to find damage), `check` (the invariants); `lookups`, `loads`, `pins`, `jobs`, `warm`
//! and `sweep` (questions to the disk level); `disk` (that level). Nothing here reads a clock, and only jobs block.

mod absent;
mod check;
mod codec;
mod disk;
mod dispatch;
mod encode;
mod exec;
mod float;
mod glob;
mod hash;
mod jobs;
mod kept;
mod lcs;
mod ledger;
mod listing;
mod loads;
mod lookups;
mod names;
mod number;
pub mod op;
mod pages;
mod partition;
mod pins;
mod prepare;
mod read;
mod restore;
mod row;
mod scan;
mod shared;
mod space;
mod state;
mod stats;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
mod upkeep;
mod verify;
mod warm;
mod weight;
mod write;

pub use codec::ListIter;
pub use disk::{
    Binding, Content, DiskError, DiskLevel, DiskRow, DiskStats, DumpedRow, Finding, Inspection, LsmLevel,
    LsmShared, MemLevel, OWNER_BYTES, Room, TableFacts, dump, inspect, is_state,
};
pub use exec::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
pub use float::LongDouble;
pub use glob::{Effort, glob};
pub use hash::HashSeed;
pub use jobs::{Job, JobDone};
pub use number::{is_infinity, is_long_double, parse_integer};
pub use op::{Condition, ErrorKind, Expiry, List, MAX_WALKS, Op, OpError, Outcome, SetReply, SetWhen};
pub use op::{Names, NamesIter, SharedBytes};
pub use scan::CURSOR_BITS;
pub use state::{Lookup, Options, Store};
pub use stats::{KeyspaceStats, StoreStats};
